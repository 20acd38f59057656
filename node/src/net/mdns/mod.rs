//! mDNS: packets ([`wire`]), interfaces ([`links`]) and sockets ([`socket`]). When something is said, and who is dialled, is
//! decided in [`crate::core::announce_lan`] and [`crate::core::neighbours`]; nothing that is heard is kept here.

pub mod links;
pub mod socket;
pub mod wire;
