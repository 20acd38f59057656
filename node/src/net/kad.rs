//! How kad is set up for this network.

use std::time::{Duration, Instant};

use libp2p::kad::{Behaviour, BucketInserts, Caching, Config, Mode, RecordKey, StoreInserts};
use libp2p::{PeerId, StreamProtocol};

use dhtfs_store::ContentCid;

use super::agreed::Agreed;
use super::limits::{MAX_KAD_MESSAGE_LEN, NetLimits};
use super::records::{Digest, Records, SHA256_PREFIX};

/// kad over our own record store.
pub(crate) type Kad = Agreed<libp2p::kad::Behaviour<Records>>;

/// How long a query may take before it is answered as timed out. Shorter than the idle timeout of connections,
/// or the records sent at its end would be lost.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// How often the routing table refreshes itself, by a lookup for every bucket. libp2p's default of 5 minutes is
/// most of what an idle node sends: in a simulated network of 60 nodes 2,000 requests and 5 MB an hour.
const BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// Closest peers that a record is sent to, and providers in one answer: kad's replication parameter k.
pub(crate) const REPLICATION: usize = 20;

/// kad for the node `local`, in the mode asked for and never in an automatic one.
pub(crate) fn new(
    local: PeerId,
    protocol: StreamProtocol,
    server: bool,
    limits: &NetLimits,
    seed: u64,
    now: Instant,
) -> Kad {
    let mut config = Config::new(protocol);
    config
        .set_query_timeout(QUERY_TIMEOUT)
        .set_max_packet_size(MAX_KAD_MESSAGE_LEN)
        .set_kbucket_inserts(BucketInserts::Manual)
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_provider_record_ttl(Some(limits.record_life))
        // What is announced again and when is decided by the provide machine.
        .set_provider_publication_interval(None)
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_caching(Caching::Disabled)
        .set_periodic_bootstrap_interval(Some(BOOTSTRAP_INTERVAL));
    let mut kad = Behaviour::with_config(local, Records::new(local, limits, seed, now), config);
    kad.set_mode(Some(if server { Mode::Server } else { Mode::Client }));
    Agreed::all(kad)
}

/// The key under which providers of `cid` are recorded: the bytes of its multihash.
pub(crate) fn record_key(cid: ContentCid) -> RecordKey {
    RecordKey::new(&cid.multihash_bytes())
}

/// The same key, as kad looks it up.
pub(crate) fn digest_key(digest: &Digest) -> Vec<u8> {
    [&SHA256_PREFIX[..], digest].concat()
}

/// How many peers were sent a provider record, from the successes that kad counts for the whole announcement.
///
/// kad counts the peers that answered the walk and then, once more, the closest of them (at most
/// [`REPLICATION`]) that the record went to.
pub(crate) fn peers_told(successes: u32) -> usize {
    let successes = usize::try_from(successes).unwrap_or(usize::MAX);
    (successes / 2).min(REPLICATION)
}

#[cfg(test)]
mod tests {
    use super::peers_told;

    #[test]
    fn the_peers_that_were_told_are_counted_once() {
        // (answered the walk, were told)
        for (walk, told) in [(0u32, 0u32), (1, 1), (7, 7), (20, 20), (21, 20), (60, 20)] {
            assert_eq!(peers_told(walk + told), told as usize, "{walk} answered");
        }
    }
}
