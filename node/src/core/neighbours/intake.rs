//! How many packets are looked at: so many a second in all, half of them for addresses that have been silent.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::Source;

/// Addresses of which it is known when they were heard last; the one that has been silent for longest is forgotten.
const MAX_SOURCES: usize = 256;

/// How long an address has to have been silent.
const SILENCE: Duration = Duration::from_secs(1);

/// Bounds.
#[derive(Debug, Clone, Copy)]
pub struct IntakeConfig {
    /// Packets a second, and at once after a pause, from addresses that have been silent: whoever floods takes nothing of it.
    pub silent_per_second: u32,
    /// All others together. 50 nodes of one machine that start at the same time send about as many.
    pub others_per_second: u32,
}

impl Default for IntakeConfig {
    fn default() -> Self {
        Self { silent_per_second: 100, others_per_second: 100 }
    }
}

/// Lets packets in.
#[derive(Debug)]
pub struct Intake {
    silent: Bucket,
    others: Bucket,
    heard: BTreeMap<Source, Instant>,
    dropped: u64,
}

impl Intake {
    /// Nothing has come yet.
    pub fn new(config: IntakeConfig, now: Instant) -> Self {
        let bucket = |most| Bucket { most, left: most, filled: now };
        Self {
            silent: bucket(config.silent_per_second),
            others: bucket(config.others_per_second),
            heard: BTreeMap::new(),
            dropped: 0,
        }
    }

    /// Whether a packet of `source` is to be read; else it is dropped and counted.
    pub fn takes(&mut self, source: Source, now: Instant) -> bool {
        let last = self.heard.insert(source, now);
        if self.heard.len() > MAX_SOURCES
            && let Some((silent, _)) = self.heard.iter().min_by_key(|(_, at)| **at)
        {
            let silent = *silent;
            self.heard.remove(&silent);
        }
        let is_silent = last.is_none_or(|last| last + SILENCE <= now);
        let takes = is_silent && self.silent.takes(now) || self.others.takes(now);
        self.dropped = self.dropped.saturating_add(u64::from(!takes));
        takes
    }

    /// Packets that were not read.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Fills within a second.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    most: u32,
    left: u32,
    filled: Instant,
}

impl Bucket {
    fn takes(&mut self, now: Instant) -> bool {
        let every = Duration::from_secs(1) / self.most.max(1);
        while self.left < self.most && self.filled + every <= now {
            self.left += 1;
            self.filled += every;
        }
        if self.left == self.most {
            self.filled = now;
        }
        let takes = self.left > 0;
        self.left = self.left.saturating_sub(1);
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> Source {
        Source { ip: std::net::Ipv4Addr::from(n).into(), zone: 0 }
    }

    #[test]
    fn a_flood_takes_nothing_from_those_that_were_silent() {
        let now = Instant::now();
        let mut intake = Intake::new(IntakeConfig::default(), now);
        let mut taken = 0_u32;
        for millis in 0..10_000 {
            let at = now + Duration::from_millis(millis);
            for flooder in 0..50 {
                taken += u32::from(intake.takes(source(flooder), at));
            }
            if millis % 2_000 == 999 {
                assert!(intake.takes(source(99), at), "after {millis} ms");
            }
        }
        assert!((1_000..=1_300).contains(&taken), "{taken} in ten seconds");
        assert_eq!(intake.dropped(), u64::from(500_000 - taken));
    }

    #[test]
    fn one_address_takes_as_many_as_all_that_are_not_silent() {
        let now = Instant::now();
        let mut intake = Intake::new(IntakeConfig::default(), now);
        let mut taken = |after: u64| {
            let at = now + Duration::from_millis(after);
            (0..1_000).filter(|_| intake.takes(source(1), at)).count()
        };
        assert_eq!((taken(0), taken(100), taken(5_000)), (101, 10, 101), "no more is saved up");
    }

    #[test]
    fn any_number_of_addresses_is_remembered_by_a_bounded_number_and_takes_no_more() {
        let now = Instant::now();
        let mut intake = Intake::new(IntakeConfig::default(), now);
        let mut taken = 0_u32;
        for n in 0..50_000_u32 {
            let at = now + Duration::from_micros(u64::from(n) * 100);
            taken += u32::from(intake.takes(source(n % 5_000), at));
            assert!(intake.heard.len() <= MAX_SOURCES);
        }
        assert!((1_150..=1_200).contains(&taken), "{taken} in five seconds");
    }
}
