//! Provider records of other nodes: what is checked before the store sees them, and their end.

use libp2p::kad::ProviderRecord;
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::addresses::plausible;
use super::counters::name;
use super::event_loop::EventLoop;
use super::limits::{SWEEP_INTERVAL, SWEEP_PAUSE};
use super::records::{Admission, Changes, Digest, Offer, Page, Restored, digest_of};

impl EventLoop {
    /// Takes a provider record that kad has received from its provider.
    pub(super) fn on_add_provider(&mut self, record: &ProviderRecord) {
        let Some(offer) = self.offer_of(record.provider, &record.addresses) else { return };
        let now = Instant::now();
        let (rate, burst) = (self.limits.kad_record_rate, self.limits.kad_record_burst);
        if self.peers.take_kad_record(&offer.peer(), rate, burst, now) {
            self.take_record(&offer, digest_of(&record.key), now);
        } else {
            self.counters.count(name::RECORDS_RATE);
        }
    }

    /// What a connected peer brings to each of its records: where it comes from, and those of the addresses it tells
    /// that it can have. `None` if it is not connected any more, or has said goodbye: what comes after that was sent
    /// before, on another stream.
    pub(super) fn offer_of(&mut self, peer: PeerId, addrs: &[Multiaddr]) -> Option<Offer> {
        let known = self.peers.get(&peer).filter(|known| !known.leaving)?;
        let kept = plausible(addrs, &peer, known.scope());
        let offer = Offer::new(peer, &kept.addrs, known.group());
        self.counters.add(name::ADDRS_DROPPED, kept.dropped + offer.dropped());
        Some(offer)
    }

    /// Takes one record of a connected peer, if it comes not too fast, is well formed, belongs here, and finds room.
    /// `digest` is that of its key, `None` if the key is of another form.
    pub(super) fn take_record(&mut self, offer: &Offer, digest: Option<Digest>, now: Instant) -> Admission {
        let (rate, burst) = (self.limits.record_rate, self.limits.record_burst);
        let admission = if !self.peers.take_record(&offer.peer(), rate, burst, now) {
            Admission::TooFast
        } else {
            match digest {
                None => Admission::BadKey,
                Some(digest) if !self.near.is_near(&digest, self.limits.max_closer_peers) => {
                    Admission::TooFar
                }
                Some(digest) => {
                    self.swarm.behaviour_mut().kad.store_mut().admit(offer, digest, now.into_std())
                }
            }
        };
        self.counters.count(match admission {
            Admission::Stored => name::RECORDS,
            Admission::Replaced => name::RECORDS_REPLACED,
            Admission::BadKey => name::RECORDS_BAD_KEY,
            Admission::TooFar => name::RECORDS_FAR,
            Admission::TooFast => name::RECORDS_RATE,
            Admission::Full => name::RECORDS_FULL,
            Admission::Quota => name::RECORDS_QUOTA,
            Admission::GroupQuota => name::RECORDS_GROUP,
            Admission::Providers => name::RECORDS_PROVIDERS,
        });
        if admission.is_held() {
            self.next_sweep.get_or_insert(now + SWEEP_INTERVAL);
        }
        admission
    }

    /// Does one step of the sweep. Between two rounds there is a long pause, between two steps a short one.
    pub(super) fn sweep_records(&mut self, now: Instant) {
        let records = self.swarm.behaviour_mut().kad.store_mut();
        let swept = records.sweep(now.into_std());
        let left = records.foreign_len();
        self.counters.add(name::RECORDS_EXPIRED, swept.expired);
        self.counters.add(name::RECORDS_FORGOTTEN, swept.forgotten);
        self.next_sweep = match swept.is_done {
            true => (left > 0).then(|| now + SWEEP_INTERVAL),
            false => Some(now + SWEEP_PAUSE),
        };
    }

    pub(super) fn take_record_changes(&mut self) -> Changes {
        self.swarm.behaviour_mut().kad.store_mut().take_changes(Instant::now().into_std())
    }

    pub(super) fn restore_records(&mut self, page: &Page) -> Restored {
        let now = Instant::now();
        let restored = self.swarm.behaviour_mut().kad.store_mut().restore(page, now.into_std());
        self.counters.add(name::RECORDS_RESTORED, restored.held);
        self.counters.add(name::RECORDS_NOT_RESTORED, restored.refused.len());
        if restored.held > 0 {
            self.next_sweep.get_or_insert(now + SWEEP_INTERVAL);
        }
        restored
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::time::Duration;

    use libp2p::core::ConnectedPoint;
    use libp2p::kad::{ProviderRecord, RecordKey};
    use libp2p::swarm::ConnectionId;
    use libp2p::{Multiaddr, PeerId};
    use tokio::time::Instant;

    use super::{Admission, EventLoop, SWEEP_INTERVAL};
    use crate::net::counters::name;
    use crate::net::kad::record_key;
    use crate::net::records::tests::{digest, peer};
    use crate::net::tests::{chunk, idle_loop, idle_loop_with};

    const LOCAL: &str = "/memory/1";
    const PUBLIC: &str = "/ip4/8.8.1.1/tcp/1";

    fn connect(event_loop: &mut EventLoop, peer: PeerId, addr: &str) {
        let endpoint = ConnectedPoint::Listener {
            local_addr: LOCAL.parse().unwrap(),
            send_back_addr: addr.parse().unwrap(),
        };
        event_loop.on_established(peer, ConnectionId::new_unchecked(1), &endpoint);
    }

    fn leave(event_loop: &mut EventLoop, peer: PeerId, key: u64) -> Admission {
        let offer = event_loop.offer_of(peer, &[PUBLIC.parse().unwrap()]).unwrap();
        event_loop.take_record(&offer, Some(digest(key)), Instant::now())
    }

    fn counter(event_loop: &EventLoop, name: &str) -> u64 {
        event_loop.counters.snapshot()[name]
    }

    #[tokio::test]
    async fn who_is_not_connected_leaves_nothing() {
        let mut event_loop = idle_loop();
        event_loop.on_add_provider(&ProviderRecord::new(record_key(chunk(1)), peer(1), Vec::new()));
        assert_eq!(event_loop.status().provider_records_held, 0);
        connect(&mut event_loop, peer(1), LOCAL);
        event_loop.on_add_provider(&ProviderRecord::new(record_key(chunk(1)), peer(1), Vec::new()));
        assert_eq!(event_loop.status().provider_records_held, 1);
    }

    #[tokio::test]
    async fn fewer_records_come_in_kad_messages_than_in_bulk() {
        let mut event_loop = idle_loop_with(|limits| {
            limits.kad_record_rate = 0;
            limits.kad_record_burst = 2;
        });
        connect(&mut event_loop, peer(1), LOCAL);
        for n in 1..=5 {
            event_loop.on_add_provider(&ProviderRecord::new(record_key(chunk(n)), peer(1), Vec::new()));
        }
        assert_eq!(event_loop.status().provider_records_held, 2);
        assert_eq!(counter(&event_loop, name::RECORDS_RATE), 3);
        for key in 0..5 {
            assert_eq!(leave(&mut event_loop, peer(1), key), Admission::Stored);
        }
    }

    #[tokio::test]
    async fn each_refusal_has_its_counter() {
        let mut event_loop = idle_loop_with(|limits| {
            limits.max_foreign_records = 6;
            limits.max_records_per_provider = 4;
            limits.max_records_per_group = 2;
            limits.max_record_providers = 3;
            limits.record_rate = 0;
            limits.record_burst = 5;
        });
        for (n, addr) in [(1, LOCAL), (2, PUBLIC), (3, LOCAL), (4, LOCAL)] {
            connect(&mut event_loop, peer(n), addr);
        }
        for key in 0..4 {
            assert_eq!(leave(&mut event_loop, peer(1), key), Admission::Stored);
        }
        assert_eq!(leave(&mut event_loop, peer(1), 4), Admission::Quota);
        assert_eq!(leave(&mut event_loop, peer(1), 4), Admission::TooFast);
        let bad = ProviderRecord::new(RecordKey::from(vec![7; 34]), peer(3), Vec::new());
        event_loop.on_add_provider(&bad);
        for key in 0..2 {
            assert_eq!(leave(&mut event_loop, peer(2), key), Admission::Stored);
        }
        assert_eq!(leave(&mut event_loop, peer(2), 2), Admission::GroupQuota);
        // 4 are far more than 1, but not than 2.
        assert_eq!(leave(&mut event_loop, peer(3), 0), Admission::Replaced);
        assert_eq!(leave(&mut event_loop, peer(3), 1), Admission::Full);
        assert_eq!(leave(&mut event_loop, peer(4), 1), Admission::Providers);
        for (name, times) in [
            (name::RECORDS, 6),
            (name::RECORDS_REPLACED, 1),
            (name::RECORDS_BAD_KEY, 1),
            (name::RECORDS_FULL, 1),
            (name::RECORDS_QUOTA, 1),
            (name::RECORDS_GROUP, 1),
            (name::RECORDS_PROVIDERS, 1),
            (name::RECORDS_RATE, 1),
        ] {
            assert_eq!(counter(&event_loop, name), times, "{name}");
        }
    }

    #[tokio::test]
    async fn records_of_distant_keys_are_refused_in_a_large_network() {
        let mut event_loop = idle_loop();
        connect(&mut event_loop, peer(1), LOCAL);
        let addr: Multiaddr = LOCAL.parse().unwrap();
        for n in 1_000..1_300 {
            event_loop.swarm.behaviour_mut().kad.add_address(&peer(n), addr.clone());
        }
        event_loop.routing_changed();
        assert!(event_loop.routing_len > 80);
        let taken = (0..400).filter(|key| leave(&mut event_loop, peer(1), *key).is_held()).count();
        assert!((20..300).contains(&taken), "{taken}");
        assert_eq!(counter(&event_loop, name::RECORDS_FAR), 400 - taken as u64);
        assert_eq!(event_loop.status().provider_records_held, taken);
    }

    #[tokio::test]
    async fn who_comes_back_is_named_again() {
        let mut event_loop = idle_loop();
        connect(&mut event_loop, peer(1), LOCAL);
        leave(&mut event_loop, peer(1), 1);
        let now = Instant::now().into_std();
        let named = |event_loop: &mut EventLoop| {
            event_loop.swarm.behaviour_mut().kad.store_mut().answer(&digest(1), now).len()
        };
        event_loop.swarm.behaviour_mut().kad.store_mut().away(&peer(1));
        assert_eq!(named(&mut event_loop), 0);
        connect(&mut event_loop, peer(1), LOCAL);
        assert_eq!(named(&mut event_loop), 1);
    }

    #[tokio::test]
    async fn expired_records_are_swept_as_long_as_there_are_records() {
        let mut event_loop = idle_loop();
        let day = Duration::from_secs(24 * 60 * 60);
        let now = Instant::now();
        for n in 1..=2u64 {
            connect(&mut event_loop, peer(n), LOCAL);
            let offer = event_loop.offer_of(peer(n), &[]).unwrap();
            let at = now + Duration::from_secs(n * 1_000);
            event_loop.take_record(&offer, Some(digest(n)), at);
        }
        assert_eq!(event_loop.next_sweep, Some(now + Duration::from_secs(1_000) + SWEEP_INTERVAL));
        let then = now + day + Duration::from_secs(1_500);
        event_loop.on_timeout(then);
        assert_eq!(counter(&event_loop, name::RECORDS_EXPIRED), 1);
        assert_eq!(event_loop.next_sweep, Some(then + SWEEP_INTERVAL));
        event_loop.on_timeout(then + Duration::from_secs(1_000));
        assert_eq!(event_loop.next_sweep, None);
        assert_eq!(counter(&event_loop, name::RECORDS_EXPIRED), 2);
    }

    #[tokio::test]
    async fn a_long_sweep_goes_on_after_a_short_pause() {
        let mut event_loop = idle_loop();
        connect(&mut event_loop, peer(1), LOCAL);
        for key in 0..5_000 {
            leave(&mut event_loop, peer(1), key);
        }
        event_loop.swarm.behaviour_mut().kad.store_mut().forget(&peer(1));
        let now = Instant::now() + SWEEP_INTERVAL;
        event_loop.on_timeout(now);
        assert_eq!(event_loop.next_sweep, Some(now + super::SWEEP_PAUSE));
        for n in 1..10 {
            event_loop.on_timeout(now + super::SWEEP_PAUSE * n);
        }
        assert_eq!(counter(&event_loop, name::RECORDS_FORGOTTEN), 5_000);
        assert_eq!(event_loop.next_sweep, None);
    }
}
