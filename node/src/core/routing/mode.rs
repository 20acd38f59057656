//! Whether a node serves the DHT.
//!
//! A node that nobody can dial makes every lookup that meets it slower, so it had better only ask. It goes only when
//! this was so for [`PATIENCE`], because one lost packet says "unreachable" too, and comes back with the first proof of
//! the contrary. Nodes that listen on this machine or in a local network only are never in the way of others.

use std::time::{Duration, Instant};

use crate::core::profile::NetworkProfile;

/// How long a node must be unreachable without a break before it stops serving.
pub const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// What was found out about the addresses of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// At least one can be dialled by others, or somebody just did.
    Reachable,
    /// None of those that others tried can be dialled.
    Unreachable,
    /// The same, and everything else that was found out agrees: there is a router or firewall that lets nobody in.
    Shut,
    /// Nobody has tried.
    None,
}

/// The rule.
#[derive(Debug)]
pub struct ModeRule {
    serves: bool,
    unreachable_since: Option<Instant>,
}

impl ModeRule {
    /// A node that begins by serving.
    pub fn new() -> Self {
        Self { serves: true, unreachable_since: None }
    }

    /// What is known now.
    pub fn on_proof(&mut self, profile: NetworkProfile, proof: Proof, now: Instant) {
        match proof {
            _ if profile != NetworkProfile::Public => self.serve(),
            Proof::Reachable => self.serve(),
            Proof::Shut => {
                self.serves = false;
                self.unreachable_since = None;
            }
            Proof::Unreachable if self.serves => {
                self.unreachable_since.get_or_insert(now);
            }
            Proof::Unreachable | Proof::None => {}
        }
        self.on_timeout(now);
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Instant) {
        if self.next_deadline().is_some_and(|at| at <= now) {
            self.serves = false;
            self.unreachable_since = None;
        }
    }

    /// When [`Self::on_timeout`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.unreachable_since.map(|since| since + PATIENCE)
    }

    /// Whether this node serves the DHT.
    pub fn serves(&self) -> bool {
        self.serves
    }

    fn serve(&mut self) {
        self.serves = true;
        self.unreachable_since = None;
    }
}

impl Default for ModeRule {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{ModeRule, NetworkProfile, Proof};

    /// Every ten minutes a proof: `+` reachable, `-` unreachable, `.` none, `l` unreachable while listening in a local
    /// network only. Answers `s` or `c` after each: serves, or is a client.
    fn draw(proofs: &str) -> String {
        let (mut rule, mut now) = (ModeRule::new(), Instant::now());
        let mut modes = String::new();
        for proof in proofs.chars() {
            let (profile, proof) = match proof {
                '+' => (NetworkProfile::Public, Proof::Reachable),
                '-' => (NetworkProfile::Public, Proof::Unreachable),
                '!' => (NetworkProfile::Public, Proof::Shut),
                'L' => (NetworkProfile::Private, Proof::Shut),
                'l' => (NetworkProfile::Private, Proof::Unreachable),
                _ => (NetworkProfile::Public, Proof::None),
            };
            rule.on_proof(profile, proof, now);
            modes.push(if rule.serves() { 's' } else { 'c' });
            now += Duration::from_secs(600);
            assert!(rule.next_deadline().is_none_or(|at| at >= now - Duration::from_secs(600)));
        }
        modes
    }

    #[test]
    fn only_who_is_unreachable_for_long_stops_and_the_first_proof_brings_it_back() {
        assert_eq!(draw("----"), "sssc");
        assert_eq!(draw("-..."), "sssc", "nothing has spoken against it");
        assert_eq!(draw("--+---+"), "sssssss");
        assert_eq!(draw("-----+-"), "sssccss");
    }

    #[test]
    fn behind_what_lets_nobody_in_it_stops_at_once() {
        assert_eq!(draw("!.-+!"), "cccsc");
        assert_eq!(draw("LL"), "ss", "neighbours can dial it");
    }

    #[test]
    fn a_local_network_is_always_served() {
        assert_eq!(draw("llllll"), "ssssss");
        assert_eq!(draw("----l"), "ssscs");
    }

    #[test]
    fn without_any_proof_a_node_serves() {
        assert_eq!(draw("......"), "ssssss");
    }
}
