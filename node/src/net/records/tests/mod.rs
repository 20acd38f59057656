//! The record store as a whole. Digests and peers are numbered, and time is in seconds since the start.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::cast_possible_truncation, reason = "the numbers are written down here, or wrap on purpose")]

mod admission;
mod ending;
mod flood;
mod journal;
mod kad;
mod model;
mod samples;

use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::kad::RecordKey;
use libp2p::multihash::Multihash;

use super::{Admission, Digest, IpGroup, Offer, Records};
use crate::net::limits::NetLimits;

/// Seconds a record lives.
const DAY: u64 = 24 * 60 * 60;

/// The digest with a number; they differ in every part that a hash could look at.
pub(crate) fn digest(n: u64) -> Digest {
    let mut digest = [0; 32];
    let mut x = n.wrapping_add(1);
    for bytes in digest.chunks_exact_mut(8) {
        x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (x >> 29);
        bytes.copy_from_slice(&x.to_be_bytes());
    }
    digest
}

/// The peer with a number.
pub(crate) fn peer(n: u64) -> PeerId {
    PeerId::from_multihash(Multihash::wrap(0x12, &digest(n)).unwrap()).unwrap()
}

/// The key of the digest with a number.
fn key(n: u64) -> RecordKey {
    RecordKey::from([&[0x12, 0x20][..], &digest(n)].concat())
}

/// The group with a number.
fn group(n: u8) -> Option<IpGroup> {
    Some(IpGroup::V4([n, 0]))
}

/// A peer of this machine.
fn local(n: u64) -> Offer {
    Offer::new(peer(n), &["/memory/1".parse().unwrap()], None)
}

/// A peer of a group.
fn from(n: u64, group: Option<IpGroup>) -> Offer {
    Offer::new(peer(n), &["/ip4/8.8.8.8/tcp/1".parse().unwrap()], group)
}

/// A store and its time.
struct Store {
    records: Records,
    start: Instant,
    now: Instant,
}

impl Store {
    fn new(change: impl FnOnce(&mut NetLimits)) -> Self {
        let mut limits = NetLimits::default();
        change(&mut limits);
        let start = tokio::time::Instant::now().into_std();
        Self { records: Records::new(peer(u64::MAX), &limits, 5, start), start, now: start }
    }

    fn at(&mut self, seconds: u64) -> &mut Self {
        self.now = self.start + Duration::from_secs(seconds);
        self
    }

    fn admit(&mut self, offer: &Offer, n: u64) -> Admission {
        self.records.admit(offer, digest(n), self.now)
    }

    /// Sweeps one whole round.
    fn sweep(&mut self) -> usize {
        let mut expired = 0;
        loop {
            let swept = self.records.sweep(self.now);
            expired += swept.expired;
            if swept.is_done {
                return expired;
            }
        }
    }

    /// Whether a peer's record of a key is here.
    fn holds(&self, n: u64, key: u64) -> bool {
        self.records.holds(&peer(n), &digest(key))
    }

    /// The providers named in an answer.
    fn answer(&self, key: u64) -> Vec<PeerId> {
        self.records.answer(&digest(key), self.now).into_iter().map(|found| found.peer).collect()
    }
}
