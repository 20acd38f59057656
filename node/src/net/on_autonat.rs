//! AutoNAT: what others found out about our addresses.

use libp2p::autonat::v2::{client, server};
use libp2p::{Multiaddr, PeerId};

use super::addresses::without_peer;
use super::event_loop::EventLoop;
use super::limits::MAX_NAT_VERDICTS;
use super::report::{Reachability, TestedAddr, Verdict};

impl EventLoop {
    /// A peer has tried to dial one of our addresses.
    pub(super) fn on_tested(&mut self, event: &client::Event) {
        let reachable = event.result.is_ok();
        tracing::debug!(addr = %event.tested_addr, server = %event.server, reachable, "AutoNAT verdict");
        let Some(addr) = without_peer(&event.tested_addr, &self.local) else { return };
        self.verdicts.insert(addr, (reachable, event.server));
        while self.verdicts.len() > MAX_NAT_VERDICTS {
            // What failed is of least use; then any.
            let failed = self.verdicts.iter().find(|(_, (reachable, _))| !reachable);
            let Some(addr) = failed.or_else(|| self.verdicts.iter().next()).map(|(addr, _)| addr.clone())
            else {
                return;
            };
            self.verdicts.remove(&addr);
        }
        self.update_mode();
        self.update_reach();
    }

    /// An address was confirmed: connected peers should know it.
    pub(super) fn on_external_confirmed(&mut self, addr: &Multiaddr) {
        tracing::debug!(%addr, "external address confirmed");
        let connected: Vec<PeerId> = self.peers.iter().map(|(peer, _)| *peer).collect();
        if !self.announced.contains(addr) {
            self.swarm.behaviour_mut().identify.push(connected);
        }
        self.update_reach();
    }

    /// An address holds no longer: connected peers should know that.
    pub(super) fn on_external_expired(&mut self, addr: &Multiaddr) {
        tracing::debug!(%addr, "external address gone");
        let connected: Vec<PeerId> = self.peers.iter().map(|(peer, _)| *peer).collect();
        self.swarm.behaviour_mut().identify.push(connected);
        self.update_reach();
    }

    /// We have dialled a peer back.
    pub(super) fn on_dialled_back(&mut self, event: &server::Event) {
        tracing::debug!(client = %event.client, addr = %event.tested_addr, result = ?event.result, "dialled back");
    }

    /// The verdict over all tested addresses.
    pub(super) fn reachability(&self) -> Reachability {
        let addrs: Vec<TestedAddr> = self
            .verdicts
            .iter()
            .map(|(addr, (reachable, tested_by))| TestedAddr {
                addr: addr.clone(),
                reachable: *reachable,
                tested_by: *tested_by,
            })
            .collect();
        let verdict = if addrs.iter().any(|tested| tested.reachable) {
            Verdict::Reachable
        } else if addrs.is_empty() {
            Verdict::Unknown
        } else {
            Verdict::Unreachable
        };
        Reachability { verdict, addrs }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use libp2p::PeerId;
    use libp2p::autonat::v2::client::Event;

    use crate::net::Verdict;
    use crate::net::limits::MAX_NAT_VERDICTS;
    use crate::net::tests::idle_loop;

    #[tokio::test]
    async fn only_so_many_verdicts_are_remembered_and_good_ones_longest() {
        let mut event_loop = idle_loop();
        assert_eq!(event_loop.reachability().verdict, Verdict::Unknown);
        let addr = |n: usize| format!("/ip4/10.0.0.1/tcp/{n}").parse::<libp2p::Multiaddr>().unwrap();
        for n in 1..=MAX_NAT_VERDICTS {
            event_loop.verdicts.insert(addr(n), (false, PeerId::random()));
        }
        assert_eq!(event_loop.reachability().verdict, Verdict::Unreachable);
        for n in 101..=100 + 2 * MAX_NAT_VERDICTS {
            let tested_addr = addr(n);
            event_loop.on_tested(&Event {
                tested_addr,
                bytes_sent: 0,
                server: PeerId::random(),
                result: Ok(()),
            });
            assert_eq!(event_loop.verdicts.len(), MAX_NAT_VERDICTS);
            assert!(event_loop.verdicts.contains_key(&addr(101)) || n > 100 + MAX_NAT_VERDICTS);
        }
        let reachability = event_loop.reachability();
        assert_eq!(reachability.verdict, Verdict::Reachable);
        assert!(reachability.addrs.iter().all(|tested| tested.reachable));
    }
}
