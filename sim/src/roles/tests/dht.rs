//! Harm done through the DHT.
