//! Holders that were silent lately: whoever is to be told something that can wait does not wait for them each time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use libp2p::PeerId;

use crate::core::backoff::BackoffPolicy;

/// Holders remembered; the one whose rest ends first leaves.
const MAX_SILENT: usize = 1024;

/// How long a silent holder is left alone, doubling while it stays silent.
const REST: BackoffPolicy = BackoffPolicy::new(Duration::from_secs(2), Duration::from_secs(60));

/// Holders that were silent. See the module's documentation.
#[derive(Debug, Default)]
pub struct Silent {
    /// How often in a row, and until when it is left alone.
    holders: BTreeMap<PeerId, (u32, Instant)>,
}

impl Silent {
    /// Whether this holder is to be left alone now.
    pub fn rests(&self, holder: &PeerId, now: Instant) -> bool {
        self.holders.get(holder).is_some_and(|(_, until)| *until > now)
    }

    /// It did not answer.
    pub fn on_silent(&mut self, holder: PeerId, now: Instant) {
        let times = self.holders.get(&holder).map_or(0, |(times, _)| *times);
        self.holders.insert(holder, (times.saturating_add(1), now + REST.ceiling(times)));
        if self.holders.len() > MAX_SILENT {
            let first = self.holders.iter().min_by_key(|(_, (_, until))| *until).map(|(holder, _)| *holder);
            first.map(|holder| self.holders.remove(&holder));
        }
    }

    /// It answered.
    pub fn on_answer(&mut self, holder: &PeerId) {
        self.holders.remove(holder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_holder_rests_longer_each_time_and_not_after_an_answer() {
        let (mut silent, holder, other) = (Silent::default(), PeerId::random(), PeerId::random());
        let mut now = Instant::now();
        for rest in [2, 4, 8, 16, 32, 60, 60] {
            assert!(!silent.rests(&holder, now));
            silent.on_silent(holder, now);
            assert!(!silent.rests(&other, now));
            now += Duration::from_secs(rest);
            let before = now - Duration::from_millis(1);
            assert!(silent.rests(&holder, before) && !silent.rests(&holder, now), "{rest}");
        }
        silent.on_silent(holder, now);
        silent.on_answer(&holder);
        assert!(!silent.rests(&holder, now));
    }

    #[test]
    fn only_so_many_are_remembered() {
        let (mut silent, now) = (Silent::default(), Instant::now());
        let long = PeerId::random();
        silent.on_silent(long, now);
        silent.on_silent(long, now);
        for _ in 0..MAX_SILENT + 10 {
            silent.on_silent(PeerId::random(), now);
        }
        assert_eq!(silent.holders.len(), MAX_SILENT);
        assert!(silent.rests(&long, now));
    }
}
