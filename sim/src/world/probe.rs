//! Lookups of providers by real nodes, compared with the truth.

use std::time::Duration;

use dhtfs_node::api::types::{NetworkHints, Provider, ProviderState, ProvidersRequest};
use libp2p::PeerId;
use tokio::{sync::mpsc, time::Instant};

use super::{NodeIndex, World};
use crate::record::Probe;

/// Providers that may wait to be looked at.
const QUEUE: usize = 64;

impl World {
    /// Looks up the providers of a content at a node, and records what came of it. A lookup whose asker dies is
    /// only counted. With `dials` the providers of a second lookup are dialled.
    pub async fn probe(&self, (from, number): (NodeIndex, usize), dials: bool, timeout: Duration) {
        let Some(up) = self.up(from) else { return };
        let alive_before = self.live_holders(number, from);
        let (begun, at) = (Instant::now(), self.now());
        let (found_out, mut found) = mpsc::channel(QUEUE);
        let hints = NetworkHints { timeout_secs: Some(timeout.as_secs_f64()), ..NetworkHints::default() };
        let request = ProvidersRequest { cid: self.contents[number].cid(), check: false, hints };
        let mut probe = Probe { at, node: from, content: number, ..Probe::default() };
        let looking = async {
            let mut watching = Probe::default();
            let listen = async {
                while let Some(provider) = found.recv().await {
                    self.judge(&provider, (from, number), begun, &mut watching);
                }
            };
            let (report, ()) = tokio::join!(up.node.api().providers(request, found_out), listen);
            (report, watching)
        };
        let Some((report, watched)) = up.run(looking).await else {
            self.record.borrow_mut().probes_dropped += 1;
            return;
        };
        let alive_after = self.live_holders(number, from);
        probe.provider_alive = alive_before.iter().any(|holder| alive_after.contains(holder));
        probe.found = watched.found;
        probe.first_secs = watched.first_secs;
        probe.returned = watched.returned;
        probe.stale = watched.stale;
        probe.total_secs = begun.elapsed().as_secs_f64();
        if let Ok(report) = report {
            probe.requests = report.requests;
            probe.hops = report.hops;
        }
        if dials && let Some(handed) = self.dial_providers((from, number), timeout).await {
            (probe.answered, probe.answered_stale) = handed;
        }
        self.note(&format!(
            "probe {from} {number} found {} of {} after {:?}",
            probe.returned - probe.stale,
            probe.returned,
            probe.first_secs
        ));
        self.record.borrow_mut().probes.push(probe);
    }

    /// Looks up once more and dials whom it finds, as a fetch does. How many answered, and how many of them are not
    /// running or cannot be reached once that is known; `None` if the asker died over it.
    async fn dial_providers(
        &self,
        (from, number): (NodeIndex, usize),
        timeout: Duration,
    ) -> Option<(usize, usize)> {
        let up = self.up(from)?;
        let (found_out, mut found) = mpsc::channel::<Provider>(QUEUE);
        let hints = NetworkHints { timeout_secs: Some(timeout.as_secs_f64()), ..NetworkHints::default() };
        let request = ProvidersRequest { cid: self.contents[number].cid(), check: true, hints };
        let looking = async {
            let listen = async {
                let (mut answered, mut stale) = (0, 0);
                while let Some(provider) = found.recv().await {
                    let state = provider.check.as_ref().map(|check| check.state);
                    if matches!(state, Some(ProviderState::Live | ProviderState::Relayed)) {
                        answered += 1;
                        stale += usize::from(!self.is_reached(from, &provider));
                    }
                }
                (answered, stale)
            };
            tokio::join!(up.node.api().providers(request, found_out), listen).1
        };
        up.run(looking).await
    }

    fn is_reached(&self, from: NodeIndex, provider: &Provider) -> bool {
        let index = provider.peer.parse::<PeerId>().ok().and_then(|peer| self.index_of(&peer));
        index.is_some_and(|index| self.reaches(from, index))
    }

    fn judge(
        &self,
        provider: &Provider,
        (from, number): (NodeIndex, usize),
        begun: Instant,
        seen: &mut Probe,
    ) {
        if provider.this_node {
            return;
        }
        seen.returned += 1;
        let index = provider.peer.parse::<PeerId>().ok().and_then(|peer| self.index_of(&peer));
        if !self.is_reached(from, provider) {
            seen.stale += 1;
            return;
        }
        let is_real = index.is_some_and(|index| self.hold(index, number).is_some());
        if is_real && !seen.found {
            seen.found = true;
            seen.first_secs = Some(begun.elapsed().as_secs_f64());
        }
    }
}
