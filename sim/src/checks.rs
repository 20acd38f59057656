//! What must hold, counted: how often it was looked at and how often it failed.

use std::cell::RefCell;

use crate::record::Check;

/// The checks that are on in every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// What a get wrote is what was added, byte for byte.
    DeliveredRight,
    /// After a crash a store holds no chunk whose bytes are wrong, and its database is consistent.
    StoresRight,
    /// After a crash everything that was acknowledged before is there.
    NothingLost,
    /// Every limit on connections, streams, requests, lookups, records and memory is kept.
    CapsKept,
    /// A get with a complete provider that was reachable all the time completes.
    ArrivesIfHeld,
    /// A get receives at most 1.05 times the length, plus a chunk for each hostile peer, plus what was in flight
    /// at each crash.
    ReceivesOnce,
    /// Ten minutes after the last fault every node that was up since then has 20 routing peers, or all there are.
    TablesRecover,
    /// Probes find a provider that is alive and reachable often enough.
    ProbesFind,
    /// Gets complete often enough.
    GetsComplete,
    /// What a scenario says of itself.
    Expected,
}

impl Promise {
    const ALL: [Self; 10] = [
        Self::DeliveredRight,
        Self::StoresRight,
        Self::NothingLost,
        Self::CapsKept,
        Self::ArrivesIfHeld,
        Self::ReceivesOnce,
        Self::TablesRecover,
        Self::ProbesFind,
        Self::GetsComplete,
        Self::Expected,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::DeliveredRight => "what is delivered has the right hash",
            Self::StoresRight => "no store holds a wrong chunk after a crash",
            Self::NothingLost => "nothing acknowledged is lost by a crash",
            Self::CapsKept => "caps are kept",
            Self::ArrivesIfHeld => "what one reachable peer holds whole arrives",
            Self::ReceivesOnce => "received bytes stay within 1.05 times the length",
            Self::TablesRecover => "routing tables recover within 10 min of a fault",
            Self::ProbesFind => "live providers are found",
            Self::GetsComplete => "gets complete",
            Self::Expected => "the scenario's own figures",
        }
    }
}

/// The state of all checks.
#[derive(Debug, Default)]
pub struct Checks(RefCell<[Check; Promise::ALL.len()]>);

impl Checks {
    /// Looks: `ok`, or why not. The words are made only for the first failure.
    pub fn look(&self, promise: Promise, ok: bool, why: impl FnOnce() -> String) {
        let mut checks = self.0.borrow_mut();
        let check = &mut checks[promise as usize];
        check.looked += 1;
        if !ok {
            check.failed += 1;
            check.first_failure.get_or_insert_with(why);
        }
    }

    /// Whether there was anything to look at.
    pub fn was_looked_at(&self, promise: Promise) -> bool {
        self.0.borrow()[promise as usize].looked > 0
    }

    /// Whether nothing has failed so far.
    pub fn all_held(&self) -> bool {
        self.0.borrow().iter().all(|check| check.failed == 0)
    }

    /// All that were looked at, in a fixed order.
    pub fn results(&self) -> Vec<Check> {
        let checks = self.0.borrow();
        let named = Promise::ALL.iter().zip(checks.iter());
        named
            .filter(|(_, check)| check.looked > 0)
            .map(|(promise, check)| Check { name: promise.name().to_owned(), ..check.clone() })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_kept_and_all_are_counted() {
        let checks = Checks::default();
        checks.look(Promise::CapsKept, true, || unreachable!("it held"));
        assert!(checks.all_held());
        checks.look(Promise::CapsKept, false, || "first".to_owned());
        checks.look(Promise::CapsKept, false, || "second".to_owned());
        assert!(!checks.all_held());
        let results = checks.results();
        assert_eq!(results.len(), 1, "only what was looked at is listed");
        assert_eq!((results[0].looked, results[0].failed), (3, 2));
        assert_eq!(results[0].first_failure.as_deref(), Some("first"));
    }

    #[test]
    fn promises_are_listed_in_the_order_of_their_numbers() {
        for (place, promise) in Promise::ALL.into_iter().enumerate() {
            assert_eq!(promise as usize, place);
        }
    }
}
