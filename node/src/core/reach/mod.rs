//! Whether others can reach this node, and how.
//!
//! | file       | decides                                                            |
//! |------------|--------------------------------------------------------------------|
//! | `mod`      | what all that is known amounts to, since when, and why             |
//! | `observed` | what the addresses others see say about the NAT                    |
//! | `relays`   | which relays are asked for a place                                 |

mod observed;
mod relays;

use std::time::{Duration, Instant};

use libp2p::Multiaddr;

pub use self::{
    observed::{Mapping, Observed},
    relays::{Relays, RelaysAction, RelaysConfig},
};

/// How long a node that knows nobody on the internet waits for somebody before it says that it is in a local network.
const LOCAL_AFTER: Duration = Duration::from_secs(3);

/// How long a node that knows somebody on the internet waits for proof that it can be dialled before it asks relays.
const RELAYS_AFTER: Duration = Duration::from_secs(3);

/// How long others may take to find out whether they can dial this node.
const TESTED_WITHIN: Duration = Duration::from_secs(20);

/// How long it is waited for a second observer, and for a relay, before that is taken as an answer.
const FOUND_WITHIN: Duration = Duration::from_secs(12);

/// How others reach this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Way {
    /// Not known yet.
    #[default]
    Unknown,
    /// They dial an address that it listens on.
    Direct,
    /// They dial an address of a router, which hands the connection on.
    PortMapped,
    /// Not by themselves; a relay brings both together, and both dial at the same time.
    Punchable,
    /// A relay carries everything.
    Relayed,
    /// Not at all.
    Unreachable,
}

impl Way {
    /// Whether nobody gets here without help.
    pub fn needs_help(self) -> bool {
        matches!(self, Self::Punchable | Self::Relayed | Self::Unreachable)
    }

    /// In one word, as reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Direct => "direct",
            Self::PortMapped => "port-mapped",
            Self::Punchable => "punchable",
            Self::Relayed => "relayed",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether this node listens on an address of the internet.
    pub listens_publicly: bool,
    /// An address of the internet that somebody else has dialled.
    pub proven: Option<Multiaddr>,
    /// Whether this node listens on it.
    pub proven_is_own: bool,
    /// Whether nodes of the internet have come in by themselves, over the family of addresses that this node listens on publicly
    /// if it does.
    pub was_dialled: bool,
    /// Addresses that others could not dial.
    pub refuted: usize,
    /// Whether a peer of the internet was ever connected.
    pub knows_internet: bool,
    /// The NAT.
    pub mapping: Mapping,
    /// Relays that have given this node a place.
    pub relays: usize,
    /// Whether another one could be asked.
    pub is_hopeful: bool,
}

/// What it amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    /// How others reach this node.
    pub way: Way,
    /// Since when that is so.
    pub since: Instant,
    /// Whether there is nothing left to be found out for now.
    pub is_settled: bool,
    /// Why, in one sentence.
    pub why: String,
}

/// Keeps the assessment.
#[derive(Debug)]
pub struct Reach {
    started: Instant,
    /// When the first peer of the internet was connected.
    internet_since: Option<Instant>,
    assessment: Assessment,
    /// When that was last thought over.
    assessed: Instant,
}

impl Reach {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        let why = "nobody was asked yet".to_owned();
        let assessment = Assessment { way: Way::Unknown, since: now, is_settled: false, why };
        Self { started: now, internet_since: None, assessment, assessed: now }
    }

    /// This node listens somewhere else: everything is found out anew.
    pub fn on_moved(&mut self, now: Instant) {
        (self.started, self.assessed) = (now, now);
        self.internet_since = None;
        self.assessment.is_settled = false;
    }

    /// This is known now. Returns whether the way or whether it is settled has changed.
    pub fn on_facts(&mut self, facts: &Facts, now: Instant) -> bool {
        if facts.knows_internet && self.internet_since.is_none() {
            self.internet_since = Some(now);
        }
        self.assessed = now;
        let (way, is_settled, why) = self.assess(facts, now);
        let before = (self.assessment.way, self.assessment.is_settled);
        if way != self.assessment.way {
            self.assessment.since = now;
        }
        self.assessment = Assessment { way, since: self.assessment.since, is_settled, why };
        before != (way, is_settled)
    }

    /// Until when [`Self::on_facts`] has to be called again at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let limits = match self.internet_since {
            // Settled or not, relays may be wanted from then on.
            Some(since) if self.assessment.is_settled => vec![since + RELAYS_AFTER],
            Some(since) => vec![since + RELAYS_AFTER, since + FOUND_WITHIN, since + TESTED_WITHIN],
            None if self.assessment.is_settled => return None,
            None => vec![self.started + LOCAL_AFTER],
        };
        limits.into_iter().find(|at| *at > self.assessed)
    }

    /// The assessment.
    pub fn assessment(&self) -> &Assessment {
        &self.assessment
    }

    /// Whether places at relays are needed: nobody is known to get here by himself. Who has dialled back may have been let in
    /// only because this node had dialled him, unless there is no router between.
    pub fn wants_relays(&self, facts: &Facts, now: Instant) -> bool {
        let is_time = self.internet_since.is_some_and(|since| since + RELAYS_AFTER <= now);
        let is_sure = facts.was_dialled || (facts.proven.is_some() && facts.proven_is_own);
        facts.knows_internet && !is_sure && (is_time || facts.refuted > 0)
    }

    fn assess(&self, facts: &Facts, now: Instant) -> (Way, bool, String) {
        if let Some(proven) = &facts.proven {
            return match facts.proven_is_own {
                true => (Way::Direct, true, format!("another node has dialled {proven}")),
                false => (
                    Way::PortMapped,
                    true,
                    format!("another node has dialled {proven}, the router's address"),
                ),
            };
        }
        if is_proven(facts) {
            return (Way::Direct, true, "nodes on the internet have dialled this one".to_owned());
        }
        let Some(since) = self.internet_since else {
            let is_settled = now >= self.started + LOCAL_AFTER;
            let way = if is_settled { Way::Direct } else { Way::Unknown };
            return (
                way,
                is_settled,
                "no node on the internet is known; those nearby dial this one".to_owned(),
            );
        };
        let is_tested = facts.refuted > 0 || now >= since + TESTED_WITHIN;
        let has_looked = now >= since + FOUND_WITHIN;
        let is_observed = facts.mapping != Mapping::Unknown || has_looked;
        // A relay that refuses again and again leaves hope each time.
        let has_hope = facts.is_hopeful && now < since + TESTED_WITHIN;
        let is_placed = facts.relays > 0 || (has_looked && !has_hope);
        let is_settled = is_tested && is_observed && is_placed;
        let cause = match (facts.refuted, facts.mapping) {
            (0, _) => "no other node has dialled this one",
            (_, Mapping::Symmetric) => {
                "others cannot dial this node, and its router uses another port for each of them"
            }
            (_, Mapping::EndpointIndependent | Mapping::Unknown) => {
                "others cannot dial this node by themselves"
            }
        };
        let way = match (facts.relays, facts.mapping) {
            (0, _) if is_settled => Way::Unreachable,
            (0, _) => Way::Unknown,
            (_, Mapping::EndpointIndependent) => Way::Punchable,
            (_, Mapping::Symmetric | Mapping::Unknown) => Way::Relayed,
        };
        let how = match way {
            Way::Unreachable => ", and no relay is known".to_owned(),
            Way::Punchable | Way::Relayed => format!("; places at relays: {}", facts.relays),
            _ => String::new(),
        };
        (way, is_settled, format!("{cause}{how}"))
    }
}

fn is_proven(facts: &Facts) -> bool {
    facts.proven.is_some() || (facts.listens_publicly && facts.was_dialled)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "the addresses are written down here")]

    use proptest::prelude::*;

    use super::*;

    fn behind_nat() -> Facts {
        Facts { knows_internet: true, ..Facts::default() }
    }

    /// What it is after so many seconds of the same facts.
    fn after(facts: &Facts, secs: u64) -> Assessment {
        let start = Instant::now();
        let mut reach = Reach::new(start);
        reach.on_facts(facts, start);
        reach.on_facts(facts, start + Duration::from_secs(secs));
        reach.assessment().clone()
    }

    fn verdict(facts: &Facts, secs: u64) -> (Way, bool) {
        let assessment = after(facts, secs);
        assert!(!assessment.why.is_empty() && !assessment.why.contains('\n'));
        (assessment.way, assessment.is_settled)
    }

    #[test]
    fn who_was_dialled_at_an_address_is_reached_there_at_once() {
        let proven = Some("/ip4/9.9.9.9/tcp/4343".parse().unwrap());
        let own = Facts { proven: proven.clone(), proven_is_own: true, ..behind_nat() };
        assert_eq!(verdict(&own, 0), (Way::Direct, true));
        assert_eq!(verdict(&Facts { proven, ..behind_nat() }, 0), (Way::PortMapped, true));
        let public = Facts { listens_publicly: true, was_dialled: true, ..behind_nat() };
        assert_eq!(verdict(&public, 0), (Way::Direct, true));
        let behind = Facts { listens_publicly: false, ..public };
        assert_eq!(verdict(&behind, 0).0, Way::Unknown, "its own dial may have opened the way");
    }

    #[test]
    fn without_the_internet_neighbours_dial() {
        assert_eq!(verdict(&Facts::default(), 1), (Way::Unknown, false));
        assert_eq!(verdict(&Facts::default(), 3), (Way::Direct, true));
    }

    #[test]
    fn behind_a_nat_it_depends_on_the_ports_and_the_relays() {
        let refuted = Facts { refuted: 1, is_hopeful: true, ..behind_nat() };
        assert_eq!(verdict(&refuted, 1), (Way::Unknown, false));
        let punchable = Facts { mapping: Mapping::EndpointIndependent, relays: 1, ..refuted.clone() };
        assert_eq!(verdict(&punchable, 1), (Way::Punchable, true));
        let relayed = Facts { mapping: Mapping::Symmetric, ..punchable.clone() };
        assert_eq!(verdict(&relayed, 1), (Way::Relayed, true));
        let untested = Facts { refuted: 0, ..punchable };
        assert_eq!(verdict(&untested, 1), (Way::Punchable, false));
        assert_eq!(verdict(&untested, 20), (Way::Punchable, true));
        let alone = Facts { is_hopeful: false, ..refuted };
        assert_eq!(verdict(&alone, 1), (Way::Unknown, false));
        assert_eq!(verdict(&alone, 12), (Way::Unreachable, true));
    }

    #[test]
    fn relays_are_asked_when_there_is_no_proof_in_time() {
        let (start, mut reach) = (Instant::now(), Reach::new(Instant::now()));
        reach.on_facts(&behind_nat(), start);
        assert!(!reach.wants_relays(&behind_nat(), start));
        assert!(reach.wants_relays(&Facts { refuted: 1, ..behind_nat() }, start));
        let later = reach.next_deadline().unwrap();
        assert!(reach.wants_relays(&behind_nat(), later));
        let proven = Some("/ip4/9.9.9.9/tcp/4343".parse().unwrap());
        let mapped = Facts { proven, ..behind_nat() };
        assert!(reach.wants_relays(&mapped, later), "only whom it had dialled may get in");
        assert!(!reach.wants_relays(&Facts { proven_is_own: true, ..mapped.clone() }, later));
        assert!(!reach.wants_relays(&Facts { was_dialled: true, ..mapped.clone() }, later));
        let mut reach = Reach::new(start);
        reach.on_facts(&mapped, start);
        assert!(reach.assessment().is_settled && !reach.wants_relays(&mapped, start));
        let at = reach.next_deadline().unwrap();
        assert!(reach.wants_relays(&mapped, at), "nothing else has to happen");
    }

    #[test]
    fn since_when_is_since_the_way_has_changed() {
        let start = Instant::now();
        let (mut reach, second) = (Reach::new(start), Duration::from_secs(1));
        assert!(!reach.on_facts(&behind_nat(), start + second));
        let placed = Facts { relays: 1, ..behind_nat() };
        assert!(reach.on_facts(&placed, start + second * 2));
        assert!(reach.on_facts(&placed, start + second * 30), "settled");
        assert!(!reach.on_facts(&Facts { relays: 2, ..behind_nat() }, start + second * 40));
        assert_eq!(reach.assessment().since, start + second * 2);
    }

    proptest! {
        /// Whatever is known, it is settled in the end, without anybody calling in between but at the deadlines.
        #[test]
        fn it_is_settled_within_bounds(
            flags in any::<[bool; 5]>(), refuted in 0..3usize, relays in 0..3usize, mapping in 0..3u8,
        ) {
            let mapping = [Mapping::Unknown, Mapping::EndpointIndependent, Mapping::Symmetric][usize::from(mapping)];
            let [listens_publicly, was_dialled, knows_internet, proven_is_own, is_hopeful] = flags;
            let facts = Facts {
                listens_publicly, was_dialled, knows_internet, proven_is_own, is_hopeful, refuted, relays, mapping,
                ..Facts::default()
            };
            let start = Instant::now();
            let (mut reach, mut now) = (Reach::new(start), start);
            reach.on_facts(&facts, now);
            while let Some(at) = reach.next_deadline() {
                prop_assert!(at > now);
                now = at;
                reach.on_facts(&facts, now);
            }
            prop_assert!(reach.assessment().is_settled, "{:?}", facts);
            prop_assert!(now - start <= TESTED_WITHIN);
            prop_assert!(reach.assessment().way != Way::Unknown);
        }
    }
}
