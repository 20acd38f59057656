//! What the limits did, and totals. Every counter exists from the start, so that a reader sees all of them.

use std::collections::BTreeMap;

/// Names of all counters with their meaning.
pub(crate) mod name {
    /// Incoming connections refused by a connection limit.
    pub(crate) const CONNECTIONS_REFUSED: &str = "net_connections_refused";
    /// Outgoing connections refused by a connection limit.
    pub(crate) const DIALS_REFUSED: &str = "net_dials_refused";
    /// Dials that failed for another reason.
    pub(crate) const DIALS_FAILED: &str = "net_dials_failed";
    /// Connections closed because the peer stopped answering pings.
    pub(crate) const PINGS_LOST: &str = "net_connections_closed_unresponsive";
    /// Connections through relays.
    pub(crate) const RELAYED: &str = "net_connections_relayed";
    /// Of these, those that were closed because there was a way past the relay.
    pub(crate) const RELAYED_LEFT: &str = "net_connections_relayed_left";
    /// Ways past a relay that were made by both dialling at the same time.
    pub(crate) const PUNCHED: &str = "net_holes_punched";
    /// Attempts at that which failed.
    pub(crate) const PUNCHES_FAILED: &str = "net_holes_not_punched";
    /// Dials past relays that others asked for and that were not made: too many, or to addresses of no concern of theirs.
    pub(crate) const PUNCHES_REFUSED: &str = "net_holes_refused";
    /// Places given to others that are reached through this node.
    pub(crate) const RELAY_PLACES: &str = "net_relay_reservations";
    /// Places refused.
    pub(crate) const RELAY_PLACES_REFUSED: &str = "net_relay_reservations_refused";
    /// Connections carried for others.
    pub(crate) const RELAY_CIRCUITS: &str = "net_relay_circuits";
    /// Connections not carried.
    pub(crate) const RELAY_CIRCUITS_REFUSED: &str = "net_relay_circuits_refused";
    /// Exchange requests sent.
    pub(crate) const REQUESTS: &str = "net_requests_sent";
    /// Exchange requests refused because the peer was not connected.
    pub(crate) const REQUESTS_NOT_CONNECTED: &str = "net_requests_refused_not_connected";
    /// Exchange requests refused because too many were in flight.
    pub(crate) const REQUESTS_REFUSED: &str = "net_requests_refused_limit";
    /// Answers whose caller had gone.
    pub(crate) const ANSWERS_DROPPED: &str = "net_answers_without_caller";
    /// Exchange requests received and handed on.
    pub(crate) const SERVED: &str = "net_requests_received";
    /// Exchange requests answered Busy because the event queue was full or nobody read it.
    pub(crate) const BUSY_QUEUE: &str = "net_requests_busy_queue_full";
    /// Exchange requests answered Busy because too many were open.
    pub(crate) const BUSY_OPEN: &str = "net_requests_busy_limit";
    /// Events that had to wait for the reader and were merged.
    pub(crate) const EVENTS_DELAYED: &str = "net_events_delayed";
    /// Lookups started.
    pub(crate) const LOOKUPS: &str = "net_lookups_started";
    /// Of these, lookups of single chunks: those that no connected peer is known to hold.
    pub(crate) const LOOKUPS_CHUNKS: &str = "net_lookups_of_chunks";
    /// Lookups refused because the queue was full.
    pub(crate) const LOOKUPS_REFUSED: &str = "net_lookups_refused";
    /// Lookups that found more providers than one may report.
    pub(crate) const LOOKUPS_FULL: &str = "net_lookups_full";
    /// Providers that could not be dialled and are offered last for some time.
    pub(crate) const PROVIDERS_UNREACHABLE: &str = "net_providers_unreachable";
    /// Providers found by lookups that were offered last: they failed lately, or have no address.
    pub(crate) const PROVIDERS_LATE: &str = "net_providers_offered_last";
    /// Lookups that asked more peers than usual, because too many lie around the key for the size of the network.
    pub(crate) const LOOKUPS_WIDE: &str = "net_lookups_wide";
    /// Questions to peers that waited because too many were under way.
    pub(crate) const ASKS_DELAYED: &str = "net_lookup_requests_delayed";
    /// Announcements started.
    pub(crate) const PROVIDES: &str = "net_provides_started";
    /// Requests that announcements have sent, the records themselves included.
    pub(crate) const PROVIDE_REQUESTS: &str = "net_provide_requests_sent";
    /// Announcements refused because too many ran or the own records were full.
    pub(crate) const PROVIDES_REFUSED: &str = "net_provides_refused";
    /// Lookups of the peers closest to a key that were started.
    pub(crate) const CLOSEST: &str = "net_closest_lookups_started";
    /// Requests that such lookups have sent.
    pub(crate) const CLOSEST_REQUESTS: &str = "net_closest_requests_sent";
    /// Lookups of the peers closest to a key that were refused because too many ran.
    pub(crate) const CLOSEST_REFUSED: &str = "net_closest_lookups_refused";
    /// Streams of provider records that were refused because too many were open.
    pub(crate) const PROVIDE_STREAMS_REFUSED: &str = "net_provide_streams_refused";
    /// Streams of any protocol of this program that came faster than they were taken.
    pub(crate) const STREAMS_REFUSED: &str = "net_streams_refused";
    /// Provider records that their providers took back.
    pub(crate) const RECORDS_WITHDRAWN: &str = "net_records_withdrawn";
    /// Peers that said they are about to end.
    pub(crate) const GOODBYES: &str = "net_goodbyes";
    /// Provider records of others accepted.
    pub(crate) const RECORDS: &str = "net_records_accepted";
    /// Provider records refused because the key is no SHA-256 multihash.
    pub(crate) const RECORDS_BAD_KEY: &str = "net_records_refused_key";
    /// Provider records refused because the store was full.
    pub(crate) const RECORDS_FULL: &str = "net_records_refused_full";
    /// Provider records refused because the provider had used up its share.
    pub(crate) const RECORDS_QUOTA: &str = "net_records_refused_quota";
    /// Provider records refused because the IP group of the provider had used up its share.
    pub(crate) const RECORDS_GROUP: &str = "net_records_refused_group";
    /// Provider records refused because there was no room for another provider.
    pub(crate) const RECORDS_PROVIDERS: &str = "net_records_refused_providers";
    /// Provider records refused because many known peers are closer to the key.
    pub(crate) const RECORDS_FAR: &str = "net_records_refused_distance";
    /// Provider records dropped because the peer left too many too fast.
    pub(crate) const RECORDS_RATE: &str = "net_records_dropped_rate";
    /// Provider records accepted for which another one had to go.
    pub(crate) const RECORDS_REPLACED: &str = "net_records_replaced";
    /// Provider records dropped because they were too old.
    pub(crate) const RECORDS_EXPIRED: &str = "net_records_expired";
    /// Provider records dropped because their provider is not wanted any more.
    pub(crate) const RECORDS_FORGOTTEN: &str = "net_records_forgotten";
    /// Provider records of an earlier run that were taken over.
    pub(crate) const RECORDS_RESTORED: &str = "net_records_restored";
    /// Provider records of an earlier run that had ended or found no room.
    pub(crate) const RECORDS_NOT_RESTORED: &str = "net_records_not_restored";
    /// Changes of provider records that were not written to disk because too many waited.
    pub(crate) const CHANGES_DROPPED: &str = "net_record_changes_dropped";
    /// Value records refused.
    pub(crate) const VALUES_REFUSED: &str = "net_value_records_refused";
    /// Addresses of peers and in records dropped: implausible, too long or too many.
    pub(crate) const ADDRS_DROPPED: &str = "net_addrs_dropped";
    /// Dials of peers that had left the routing table because they did not answer.
    pub(crate) const LOST_DIALLED: &str = "net_routing_lost_dialled";
    /// Peers removed from the routing table after failed dials.
    pub(crate) const ROUTING_DEAD: &str = "net_routing_removed_dead";
    /// Peers kept out of or removed from the routing table because they do not serve this DHT.
    pub(crate) const ROUTING_FOREIGN: &str = "net_routing_refused_foreign";
    /// Peers that found no place in the routing table.
    pub(crate) const ROUTING_FULL: &str = "net_routing_refused_full";
    /// Peers that found no place in the routing table and got one that became free.
    pub(crate) const ROUTING_LATER: &str = "net_routing_placed_later";
    /// Peers that found no place in the routing table because too many from their part of the internet are in it.
    pub(crate) const ROUTING_CROWDED: &str = "net_routing_refused_subnet";
    /// Peers that found no place in the routing table because they did not answer a question about the DHT.
    pub(crate) const ROUTING_SILENT: &str = "net_routing_refused_silent";
    /// Peers that were not probed for the routing table because too many were.
    pub(crate) const ROUTING_PROBES_REFUSED: &str = "net_routing_refused_probes";
    /// Peers of the routing table that were asked whether they are still there.
    pub(crate) const ROUTING_PROBES: &str = "net_routing_probed";
    /// Times this node stopped serving the DHT because nobody could dial it.
    pub(crate) const MODE_CLIENT: &str = "net_mode_client";
    /// Times it began to serve it again.
    pub(crate) const MODE_SERVER: &str = "net_mode_server";
    /// External address candidates that were not tested: implausible or too many.
    pub(crate) const NAT_CANDIDATES_DROPPED: &str = "net_nat_candidates_dropped";
    /// Dial-backs for others that were refused.
    pub(crate) const DIAL_BACKS_REFUSED: &str = "net_dial_backs_refused";
    /// Callers refused because too many waited for dials.
    pub(crate) const DIAL_WAITERS_REFUSED: &str = "net_dial_waiters_refused";

    /// All of them.
    pub(super) const ALL: &[&str] = &[
        CONNECTIONS_REFUSED,
        DIALS_REFUSED,
        DIALS_FAILED,
        PINGS_LOST,
        REQUESTS,
        REQUESTS_NOT_CONNECTED,
        REQUESTS_REFUSED,
        ANSWERS_DROPPED,
        SERVED,
        BUSY_QUEUE,
        BUSY_OPEN,
        EVENTS_DELAYED,
        LOOKUPS,
        LOOKUPS_CHUNKS,
        LOOKUPS_REFUSED,
        LOOKUPS_FULL,
        PROVIDERS_UNREACHABLE,
        PROVIDERS_LATE,
        LOOKUPS_WIDE,
        ASKS_DELAYED,
        PROVIDES,
        PROVIDE_REQUESTS,
        PROVIDES_REFUSED,
        CLOSEST,
        CLOSEST_REQUESTS,
        CLOSEST_REFUSED,
        PROVIDE_STREAMS_REFUSED,
        STREAMS_REFUSED,
        RECORDS_WITHDRAWN,
        GOODBYES,
        RECORDS,
        RECORDS_BAD_KEY,
        RECORDS_FULL,
        RECORDS_QUOTA,
        RECORDS_GROUP,
        RECORDS_PROVIDERS,
        RECORDS_FAR,
        RECORDS_RATE,
        RECORDS_REPLACED,
        RECORDS_EXPIRED,
        RECORDS_FORGOTTEN,
        RECORDS_RESTORED,
        RECORDS_NOT_RESTORED,
        CHANGES_DROPPED,
        VALUES_REFUSED,
        ADDRS_DROPPED,
        ROUTING_DEAD,
        LOST_DIALLED,
        ROUTING_FOREIGN,
        ROUTING_FULL,
        ROUTING_LATER,
        ROUTING_CROWDED,
        ROUTING_SILENT,
        ROUTING_PROBES_REFUSED,
        ROUTING_PROBES,
        MODE_CLIENT,
        MODE_SERVER,
        NAT_CANDIDATES_DROPPED,
        DIAL_BACKS_REFUSED,
        DIAL_WAITERS_REFUSED,
    ];
}

/// The counters of one event loop.
#[derive(Debug)]
pub(crate) struct Counters(BTreeMap<&'static str, u64>);

impl Counters {
    /// All counters at zero.
    pub(crate) fn new() -> Self {
        Self(name::ALL.iter().map(|name| (*name, 0)).collect())
    }

    /// Adds one.
    pub(crate) fn count(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// Adds `n`.
    pub(crate) fn add(&mut self, name: &'static str, n: usize) {
        let counter = self.0.entry(name).or_insert(0);
        *counter = counter.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
    }

    /// A copy of all.
    pub(crate) fn snapshot(&self) -> BTreeMap<&'static str, u64> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::{Counters, name};

    #[test]
    fn all_counters_exist_from_the_start_under_distinct_names() {
        let counters = Counters::new();
        assert_eq!(counters.snapshot().len(), name::ALL.len());
        assert!(counters.snapshot().values().all(|n| *n == 0));
    }

    #[test]
    fn counting_adds_up() {
        let mut counters = Counters::new();
        counters.count(name::REQUESTS);
        counters.add(name::REQUESTS, 4);
        assert_eq!(counters.snapshot()[name::REQUESTS], 5);
    }
}
