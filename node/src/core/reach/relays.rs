//! Relays: which of the peers that offer it are asked to forward to this node, and when again.
//!
//! A node that nobody can dial takes places at a few relays (circuit relay v2, libp2p specs/relay) and tells others to come
//! through these. Relays go, refuse, or forget: then another takes its place.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::super::backoff::BackoffPolicy;

/// How many times more another relay has to carry for one not to be told to others.
const FAR_MORE: u64 = 16;

/// Bounds and times.
#[derive(Debug, Clone, Copy)]
pub struct RelaysConfig {
    /// Places that are wanted.
    pub wanted: usize,
    /// Offers that are remembered.
    pub max_offers: usize,
    /// Pauses before a relay is asked again that has refused, or has gone.
    pub retry: BackoffPolicy,
    /// How long a relay may take to answer.
    pub answer: Duration,
    /// How long a place has to last for the relay to have kept its word.
    pub held: Duration,
}

impl Default for RelaysConfig {
    fn default() -> Self {
        Self {
            wanted: 2,
            max_offers: 64,
            retry: BackoffPolicy::new(Duration::from_secs(4), Duration::from_secs(10 * 60)),
            answer: Duration::from_secs(20),
            held: Duration::from_secs(10 * 60),
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelaysAction {
    /// Ask for a place at the relay.
    Reserve {
        /// The relay.
        peer: PeerId,
        /// Where it is, without `/p2p/`.
        addr: Multiaddr,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// May be asked from then on.
    From(Instant),
    /// Was asked and has not answered.
    Asked(Instant),
    /// This node has a place there, since then.
    Reserved(Instant),
}

impl State {
    fn is_reserved(self) -> bool {
        matches!(self, Self::Reserved(_))
    }
}

#[derive(Debug)]
struct Offer {
    addr: Multiaddr,
    ip: Option<IpAddr>,
    state: State,
    /// Refusals and losses in a row.
    failures: u32,
    /// How much of a connection it carries, in bytes each way; as much as there is until it says so.
    carries: u64,
    /// Chance decides between equals.
    lot: u32,
}

/// The machine.
#[derive(Debug)]
pub struct Relays {
    config: RelaysConfig,
    offers: BTreeMap<PeerId, Offer>,
    is_wanted: bool,
    rng: StdRng,
    now: Instant,
}

impl Relays {
    /// No relay is known, and none wanted.
    pub fn new(config: RelaysConfig, seed: u64, now: Instant) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { config, offers: BTreeMap::new(), is_wanted: false, rng, now }
    }

    /// A peer at `addr` offers to relay.
    pub fn on_offer(&mut self, peer: PeerId, addr: Multiaddr, ip: Option<IpAddr>, now: Instant) {
        self.now = now;
        if let Some(known) = self.offers.get_mut(&peer) {
            if matches!(known.state, State::From(_)) {
                known.addr = addr;
                known.ip = ip;
            }
            return;
        }
        if self.offers.len() >= self.config.max_offers {
            let worst = self.offers.iter().filter(|(_, offer)| matches!(offer.state, State::From(_)));
            let Some(worst) =
                worst.max_by_key(|(_, offer)| (offer.failures, offer.lot)).map(|(peer, _)| *peer)
            else {
                return;
            };
            self.offers.remove(&worst);
        }
        let lot = self.rng.random();
        let state = State::From(now);
        self.offers.insert(peer, Offer { addr, ip, state, failures: 0, carries: u64::MAX, lot });
    }

    /// A peer does not offer it any more, or has gone. A place there ends by itself.
    pub fn on_withdrawn(&mut self, peer: &PeerId, now: Instant) {
        self.now = now;
        let is_idle = |offer: &Offer| matches!(offer.state, State::From(_)) && offer.failures == 0;
        if self.offers.get(peer).is_some_and(is_idle) {
            self.offers.remove(peer);
        }
    }

    /// A relay does what no relay should: it is asked as late as can be.
    pub fn on_misbehaved(&mut self, peer: &PeerId) {
        if let Some(offer) = self.offers.get_mut(peer) {
            offer.failures = offer.failures.saturating_add(16);
        }
    }

    /// Whether this node needs relays. Places that it has stay while they last.
    pub fn on_wanted(&mut self, is_wanted: bool, now: Instant) {
        self.now = now;
        self.is_wanted = is_wanted;
    }

    /// The relay has given this node a place.
    pub fn on_reserved(&mut self, peer: &PeerId, now: Instant) {
        self.now = now;
        if let Some(offer) = self.offers.get_mut(peer) {
            offer.state = State::Reserved(now);
        }
    }

    /// The relay says how much of a connection it carries, in bytes each way; `None` for as much as there is.
    pub fn on_limit(&mut self, peer: &PeerId, carries: Option<u64>) {
        if let Some(offer) = self.offers.get_mut(peer) {
            offer.carries = carries.unwrap_or(u64::MAX);
        }
    }

    /// There is no place at the relay, or no longer.
    pub fn on_closed(&mut self, peer: &PeerId, now: Instant) {
        self.now = now;
        let Some(offer) = self.offers.get_mut(peer) else { return };
        // Who has kept its word for long is asked again soon.
        let has_held = matches!(offer.state, State::Reserved(since) if since + self.config.held <= now);
        let attempt = if has_held { 0 } else { offer.failures };
        offer.failures = attempt.saturating_add(1);
        offer.state = State::From(now + self.config.retry.delay(attempt, &mut self.rng));
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Instant) {
        self.now = now;
        let late =
            |offer: &Offer| matches!(offer.state, State::Asked(since) if since + self.config.answer <= now);
        let late: Vec<PeerId> =
            self.offers.iter().filter(|(_, offer)| late(offer)).map(|(peer, _)| *peer).collect();
        for peer in late {
            self.on_closed(&peer, now);
        }
    }

    /// What is to be done now; `None` when there is nothing more.
    pub fn next_action(&mut self) -> Option<RelaysAction> {
        let used = |offer: &Offer| !matches!(offer.state, State::From(_));
        if !self.is_wanted || self.offers.values().filter(|offer| used(offer)).count() >= self.config.wanted {
            return None;
        }
        let ips: Vec<IpAddr> =
            self.offers.values().filter(|offer| used(offer)).filter_map(|offer| offer.ip).collect();
        let now = self.now;
        let (peer, best) = self
            .offers
            .iter_mut()
            .filter(|(_, offer)| matches!(offer.state, State::From(at) if at <= now))
            // One machine, or the router before several, goes at once.
            .min_by_key(|(_, offer)| {
                (offer.ip.is_some_and(|ip| ips.contains(&ip)), offer.failures, offer.lot)
            })?;
        best.state = State::Asked(now);
        Some(RelaysAction::Reserve { peer: *peer, addr: best.addr.clone() })
    }

    /// When something is to be done that is not yet.
    pub fn next_deadline(&self) -> Option<Instant> {
        let used = self.offers.values().filter(|offer| !matches!(offer.state, State::From(_))).count();
        let is_short = self.is_wanted && used < self.config.wanted;
        let at = |offer: &Offer| match offer.state {
            State::From(at) => is_short.then_some(at),
            State::Asked(since) => Some(since + self.config.answer),
            State::Reserved(_) => None,
        };
        self.offers.values().filter_map(at).min()
    }

    /// The relays that have given this node a place, with their addresses.
    pub fn reserved(&self) -> impl Iterator<Item = (&PeerId, &Multiaddr)> {
        let reserved = self.offers.iter().filter(|(_, offer)| offer.state.is_reserved());
        reserved.map(|(peer, offer)| (peer, &offer.addr))
    }

    /// Whether others should come through this relay: not if another one carries far more. For them one is as good as the other
    /// until it cuts them off.
    pub fn is_worth_telling(&self, peer: &PeerId) -> bool {
        let reserved = self.offers.values().filter(|offer| offer.state.is_reserved());
        let most = reserved.map(|offer| offer.carries).max().unwrap_or(0);
        self.offers.get(peer).is_some_and(|offer| offer.carries >= most / FAR_MORE)
    }

    /// Whether a relay could be asked, or was and has not answered.
    pub fn is_hopeful(&self) -> bool {
        self.is_wanted
            && self.offers.values().any(|offer| match offer.state {
                State::From(at) => at <= self.now,
                State::Asked(_) => true,
                State::Reserved(_) => false,
            })
    }

    /// Peers that offer it.
    pub fn len(&self) -> usize {
        self.offers.len()
    }

    /// Whether nobody does.
    pub fn is_empty(&self) -> bool {
        self.offers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use proptest::prelude::*;

    use super::*;

    fn addr(n: u8) -> Multiaddr {
        format!("/ip4/9.9.9.{n}/tcp/4343").parse().unwrap()
    }

    fn ip(n: u8) -> Option<IpAddr> {
        Some(IpAddr::from([9, 9, 9, n]))
    }

    fn peers(count: usize) -> Vec<PeerId> {
        (0..count).map(|_| PeerId::random()).collect()
    }

    /// With `count` offers, from addresses `0..count`.
    fn machine(peers: &[PeerId], now: Instant) -> Relays {
        let mut machine = Relays::new(RelaysConfig::default(), 1, now);
        for (n, peer) in (0..).zip(peers) {
            machine.on_offer(*peer, addr(n), ip(n), now);
        }
        machine
    }

    fn asked(machine: &mut Relays) -> Vec<PeerId> {
        let actions = std::iter::from_fn(|| machine.next_action());
        actions
            .map(|action| {
                let RelaysAction::Reserve { peer, .. } = action;
                peer
            })
            .collect()
    }

    #[test]
    fn as_many_are_asked_as_are_wanted_and_another_when_one_goes() {
        let (now, peers) = (Instant::now(), peers(5));
        let mut machine = machine(&peers, now);
        assert_eq!(asked(&mut machine), [], "nobody wants one");
        machine.on_wanted(true, now);
        let first = asked(&mut machine);
        assert_eq!(first.len(), 2);
        first.iter().for_each(|peer| machine.on_reserved(peer, now));
        assert_eq!((machine.reserved().count(), machine.next_deadline()), (2, None));
        machine.on_closed(&first[0], now);
        let next = asked(&mut machine);
        assert_eq!(next.len(), 1);
        assert!(!first.contains(&next[0]));
    }

    #[test]
    fn who_refuses_is_asked_less_and_less() {
        let (mut now, peers) = (Instant::now(), peers(1));
        let mut machine = machine(&peers, now);
        machine.on_wanted(true, now);
        let mut before = Duration::ZERO;
        for _ in 0..6 {
            assert_eq!(asked(&mut machine), peers);
            machine.on_closed(&peers[0], now);
            assert_eq!(asked(&mut machine), []);
            let pause = machine.next_deadline().unwrap() - now;
            assert!(pause > before, "{pause:?}");
            before = pause;
            now += pause;
            machine.on_timeout(now);
        }
        assert_eq!(asked(&mut machine), peers);
        machine.on_reserved(&peers[0], now);
        machine.on_closed(&peers[0], now);
        assert!(machine.next_deadline().unwrap() - now > Duration::from_secs(60), "it gives and takes");
        now = machine.next_deadline().unwrap();
        machine.on_timeout(now);
        assert_eq!(asked(&mut machine), peers);
        machine.on_reserved(&peers[0], now);
        now += RelaysConfig::default().held;
        machine.on_closed(&peers[0], now);
        assert!(machine.next_deadline().unwrap() - now <= Duration::from_secs(4), "it had kept its word");
    }

    #[test]
    fn who_does_not_answer_has_refused() {
        let (now, peers) = (Instant::now(), peers(1));
        let mut machine = machine(&peers, now);
        machine.on_wanted(true, now);
        assert_eq!(asked(&mut machine), peers);
        assert!(machine.is_hopeful());
        let later = machine.next_deadline().unwrap();
        machine.on_timeout(later);
        assert!(!machine.is_hopeful());
        assert!(machine.next_deadline().unwrap() > later);
    }

    #[test]
    fn relays_on_one_address_are_not_taken_together_if_there_are_others() {
        let (now, peers) = (Instant::now(), peers(8));
        let mut machine = Relays::new(RelaysConfig::default(), 1, now);
        for peer in &peers[1..] {
            machine.on_offer(*peer, addr(7), ip(7), now);
        }
        machine.on_offer(peers[0], addr(1), ip(1), now);
        machine.on_wanted(true, now);
        assert!(asked(&mut machine).contains(&peers[0]));
    }

    #[test]
    fn places_that_are_not_wanted_any_more_stay_while_they_last() {
        let (now, peers) = (Instant::now(), peers(3));
        let mut machine = machine(&peers, now);
        machine.on_wanted(true, now);
        let asked = asked(&mut machine);
        machine.on_reserved(&asked[0], now);
        machine.on_wanted(false, now);
        machine.on_closed(&asked[1], now);
        assert_eq!(machine.next_action(), None);
        assert_eq!(machine.reserved().count(), 1);
    }

    #[test]
    fn others_are_told_of_the_relays_that_carry_most() {
        let (now, peers) = (Instant::now(), peers(2));
        let mut machine = machine(&peers, now);
        machine.on_wanted(true, now);
        asked(&mut machine).iter().for_each(|peer| machine.on_reserved(peer, now));
        machine.on_limit(&peers[0], Some(4 << 20));
        machine.on_limit(&peers[1], Some(8 << 20));
        assert!(peers.iter().all(|peer| machine.is_worth_telling(peer)), "not much more");
        machine.on_limit(&peers[1], None);
        assert!(!machine.is_worth_telling(&peers[0]) && machine.is_worth_telling(&peers[1]));
        machine.on_closed(&peers[1], now);
        assert!(machine.is_worth_telling(&peers[0]), "it is the only one left");
    }

    #[derive(Debug, Clone)]
    enum Input {
        Offer(u8),
        Withdrawn(u8),
        Wanted(bool),
        Reserved(usize),
        Closed(usize),
        Passes(u16),
    }

    fn input() -> impl Strategy<Value = Input> {
        prop_oneof![
            4 => (0..12u8).prop_map(Input::Offer),
            1 => (0..12u8).prop_map(Input::Withdrawn),
            1 => any::<bool>().prop_map(Input::Wanted),
            3 => any::<usize>().prop_map(Input::Reserved),
            2 => any::<usize>().prop_map(Input::Closed),
            2 => (0..60_000u16).prop_map(Input::Passes),
        ]
    }

    proptest! {
        /// Whatever happens: never more places than wanted, no relay asked twice at once, bounds hold, and as long as
        /// somebody could be asked nothing is left undone.
        #[test]
        fn whatever_relays_do_the_bounds_hold(inputs in prop::collection::vec(input(), 1..150)) {
            let (mut now, peers) = (Instant::now(), peers(12));
            let config = RelaysConfig { max_offers: 6, ..RelaysConfig::default() };
            let mut machine = Relays::new(config, 7, now);
            let mut open: Vec<PeerId> = Vec::new();
            for input in inputs {
                match input {
                    Input::Offer(n) => machine.on_offer(peers[usize::from(n)], addr(n), ip(n / 2), now),
                    Input::Withdrawn(n) => machine.on_withdrawn(&peers[usize::from(n)], now),
                    Input::Wanted(is_wanted) => machine.on_wanted(is_wanted, now),
                    Input::Reserved(n) if !open.is_empty() => machine.on_reserved(&open[n % open.len()], now),
                    Input::Closed(n) if !open.is_empty() => {
                        let peer = open.swap_remove(n % open.len());
                        machine.on_closed(&peer, now);
                    }
                    Input::Reserved(_) | Input::Closed(_) => {}
                    Input::Passes(millis) => {
                        now += Duration::from_millis(millis.into());
                        machine.on_timeout(now);
                        open.retain(|peer| !matches!(machine.offers.get(peer).map(|offer| offer.state), Some(State::From(_)) | None));
                    }
                }
                while let Some(action) = machine.next_action() {
                    let RelaysAction::Reserve { peer, .. } = action;
                    prop_assert!(!open.contains(&peer));
                    open.push(peer);
                }
                prop_assert!(open.len() <= config.wanted);
                prop_assert!(machine.len() <= config.max_offers);
                prop_assert!(machine.next_deadline().is_none_or(|at| at > now));
            }
        }
    }
}
