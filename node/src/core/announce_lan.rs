//! When something is said in the local network: questions, announcements, the goodbye. RFC 6762, sections 5.2, 6, 8.3 and 10.1.
//!
//! A [`Link`] is one address of an interface, from which packets are sent. Each has a timetable of its own.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// One address of an interface of the local network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Index of the interface.
    pub index: u32,
    /// The address; of IPv6 only link-local ones.
    pub ip: IpAddr,
}

/// Ports that are listened on at the address of a link. Without any, nothing is announced there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// For TCP.
    pub tcp: Option<u16>,
    /// For QUIC.
    pub quic: Option<u16>,
}

impl Ports {
    /// Whether nothing is listened on.
    pub fn is_none(&self) -> bool {
        self.tcp.is_none() && self.quic.is_none()
    }
}

/// Times.
#[derive(Debug, Clone, Copy)]
pub struct AnnounceConfig {
    /// When it is asked who is there, after a link has come or changed.
    pub first_queries: [Duration; 3],
    /// The pause between later questions; a tenth more or less by chance, so that one asks for all.
    pub query_every: Duration,
    /// Questions in a row that are left out because somebody else asked.
    pub max_skipped: u32,
    /// When a link that has come or changed is announced.
    pub announcements: [Duration; 2],
    /// How long an answer waits at least, and at most: many answer the same question.
    pub answer_after: (Duration, Duration),
    /// The least time between two announcements on one link.
    pub announce_every: Duration,
    /// The pause between the two goodbyes.
    pub goodbye_every: Duration,
}

impl Default for AnnounceConfig {
    fn default() -> Self {
        Self {
            first_queries: [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3)],
            query_every: Duration::from_secs(5 * 60),
            max_skipped: 5,
            announcements: [Duration::ZERO, Duration::from_secs(1)],
            answer_after: (Duration::from_millis(20), Duration::from_millis(120)),
            announce_every: Duration::from_secs(1),
            goodbye_every: Duration::from_millis(100),
        }
    }
}

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// Who is there?
    Query(Link),
    /// This node is here.
    Announce(Link),
    /// It was.
    Goodbye(Link),
}

#[derive(Debug)]
struct Timetable {
    ports: Ports,
    /// When the first questions are due.
    queries: VecDeque<Instant>,
    /// When the next one after them is.
    next_query: Instant,
    /// Whether somebody else has asked since the last question.
    is_asked: bool,
    skipped: u32,
    /// When announcements are due, in order.
    announcements: VecDeque<Instant>,
    announced: Option<Instant>,
}

/// The timetables.
#[derive(Debug)]
pub struct Announcer {
    config: AnnounceConfig,
    links: BTreeMap<Link, Timetable>,
    /// Goodbyes that are due, once the end has come.
    goodbyes: Option<VecDeque<(Instant, Link)>>,
    rng: StdRng,
    now: Instant,
}

impl Announcer {
    /// Without links nothing is said.
    pub fn new(config: AnnounceConfig, seed: u64, now: Instant) -> Self {
        Self { config, links: BTreeMap::new(), goodbyes: None, rng: StdRng::seed_from_u64(seed), now }
    }

    /// These are the links now. Those that are new or have other ports begin from the start, the others go on.
    pub fn on_links(&mut self, links: &BTreeMap<Link, Ports>, now: Instant) {
        self.now = now;
        self.links.retain(|link, _| links.contains_key(link));
        for (link, ports) in links {
            let old = self.links.get(link);
            if old.is_some_and(|old| old.ports == *ports) {
                continue;
            }
            let announced = old.and_then(|old| old.announced);
            let not_before = announced.map_or(now, |at| now.max(at + self.config.announce_every));
            let after = |delays: &[Duration], from| delays.iter().map(|delay| from + *delay).collect();
            let announcements = match ports.is_none() {
                true => VecDeque::new(),
                false => after(&self.config.announcements, not_before),
            };
            let timetable = Timetable {
                ports: *ports,
                queries: after(&self.config.first_queries, now),
                next_query: now + query_pause(&self.config, &mut self.rng),
                is_asked: false,
                skipped: 0,
                announcements,
                announced,
            };
            self.links.insert(*link, timetable);
        }
    }

    /// Somebody else asks on this link who is there; `knows`: it says that it knows of this node.
    pub fn on_query(&mut self, link: &Link, knows: bool, now: Instant) {
        self.now = now;
        let (least, most) = self.config.answer_after;
        let Some(table) = self.links.get_mut(link) else { return };
        table.is_asked = true;
        if knows || table.ports.is_none() {
            return;
        }
        let delay = Duration::from_micros(self.rng.random_range(micros(least)..=micros(most)));
        let not_before = table.announced.map(|at| at + self.config.announce_every);
        let at = not_before.map_or(now + delay, |at| at.max(now + delay));
        // What is due by then answers as well.
        if table.announcements.front().is_none_or(|next| *next > at) {
            table.announcements.push_front(at);
        }
    }

    /// The node ends: all that is left to say is goodbye.
    pub fn on_end(&mut self, now: Instant) {
        self.now = now;
        if self.goodbyes.is_none() {
            // Who was never announced need not say goodbye.
            let links =
                || self.links.iter().filter(|(_, table)| table.announced.is_some()).map(|(link, _)| *link);
            let again = now + self.config.goodbye_every;
            self.goodbyes =
                Some(links().map(|link| (now, link)).chain(links().map(|link| (again, link))).collect());
            self.links.clear();
        }
    }

    /// Whether all has been said.
    pub fn has_ended(&self) -> bool {
        self.goodbyes.as_ref().is_some_and(VecDeque::is_empty)
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Instant) {
        self.now = now;
    }

    /// What is to be sent now; `None` when there is nothing more.
    pub fn next_action(&mut self) -> Option<Say> {
        let now = self.now;
        if let Some(goodbyes) = &mut self.goodbyes {
            let (_, link) = *goodbyes.front().filter(|(at, _)| *at <= now)?;
            goodbyes.pop_front();
            return Some(Say::Goodbye(link));
        }
        let every = self.config.announce_every;
        for (link, table) in &mut self.links {
            if pop_due(&mut table.announcements, now) {
                table.announced = Some(now);
                // One is enough for what has come together.
                let late = table.announcements.iter().take_while(|at| **at < now + every).count();
                table.announcements.drain(..late);
                if late > 0 {
                    table.announcements.push_front(now + every);
                }
                return Some(Say::Announce(*link));
            }
            if pop_due(&mut table.queries, now) {
                table.is_asked = false;
                return Some(Say::Query(*link));
            }
            if table.next_query <= now {
                table.next_query = now + query_pause(&self.config, &mut self.rng);
                let is_asked = std::mem::take(&mut table.is_asked);
                if !is_asked || table.skipped >= self.config.max_skipped {
                    table.skipped = 0;
                    return Some(Say::Query(*link));
                }
                table.skipped += 1;
            }
        }
        None
    }

    /// When something is to be said that is not yet.
    pub fn next_deadline(&self) -> Option<Instant> {
        if let Some(goodbyes) = &self.goodbyes {
            return goodbyes.front().map(|(at, _)| *at);
        }
        let of = |table: &Timetable| {
            let first = table.queries.front().into_iter().chain(table.announcements.front()).min();
            first.copied().map_or(table.next_query, |at| at.min(table.next_query))
        };
        self.links.values().map(of).min()
    }
}

/// The pause to the next question.
fn query_pause(config: &AnnounceConfig, rng: &mut StdRng) -> Duration {
    let tenth = config.query_every / 10;
    config.query_every - tenth + Duration::from_micros(rng.random_range(0..=2 * micros(tenth)))
}

/// Takes the first one out if it is due.
fn pop_due(queue: &mut VecDeque<Instant>, now: Instant) -> bool {
    queue.front().is_some_and(|at| *at <= now) && queue.pop_front().is_some()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
