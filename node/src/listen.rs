//! Which addresses a node listens on: those it is told, those of its last run, or the defaults.

use dhtfs_store::Store;
use libp2p::{Multiaddr, multiaddr::Protocol};
use tracing::{info, warn};

use crate::{
    api::types::{ApiError, ErrorKind},
    env::StoreHandle,
    net::Client,
};

/// Port of the default addresses, TCP and UDP.
pub(crate) const DEFAULT_PORT: u16 = 4343;

/// Key under which the store keeps the addresses of the last run.
const SETTING: &str = "listen";

/// Most addresses remembered.
const MAX_SAVED: usize = 32;

/// What to do if an address cannot be bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfTaken {
    /// The user named exactly this one: say so and end.
    Fail,
    /// Any port will do.
    FreePort,
    /// Do without; not every machine has IPv6.
    Skip,
}

/// Listens, and remembers the ports for the next run.
///
/// # Errors
/// [`ErrorKind::Failed`] if an address that the user named cannot be listened on, or none at all can.
pub(crate) async fn listen(client: &Client, store: &StoreHandle, told: &[Multiaddr]) -> Result<(), ApiError> {
    let saved = store.call(load).await?;
    let plan = plan(told, &saved);
    let mut bound = Vec::new();
    let mut last_error = None;
    for (wanted, if_taken) in plan {
        match listen_on(client, &wanted, if_taken).await {
            Ok(addr) => bound.push(addr),
            Err(error) if if_taken == IfTaken::Skip => info!(addr = %wanted, %error, "not listening there"),
            Err(error) if if_taken == IfTaken::Fail => return Err(error),
            Err(error) => last_error = Some(error),
        }
    }
    if let (true, Some(error)) = (bound.is_empty(), last_error) {
        return Err(error);
    }
    let rows: Vec<String> = bound.iter().take(MAX_SAVED).map(Multiaddr::to_string).collect();
    let saved = store.call(move |s| s.set_setting(SETTING, rows.join("\n").as_bytes())).await?;
    if let Err(error) = saved {
        warn!(%error, "remembering the listen addresses failed; the next run may use other ports");
    }
    Ok(())
}

fn load(store: &Store) -> Vec<Multiaddr> {
    let Ok(Some(row)) = store.setting(SETTING) else { return Vec::new() };
    let text = String::from_utf8(row).unwrap_or_default();
    text.lines().take(MAX_SAVED).filter_map(|line| line.parse().ok()).collect()
}

/// What to listen on. Told addresses replace everything; a told port 0 takes the port of the last run if there
/// was one, so that others still find this node.
fn plan(told: &[Multiaddr], saved: &[Multiaddr]) -> Vec<(Multiaddr, IfTaken)> {
    if !told.is_empty() {
        let wanted = |addr: &Multiaddr| match port(addr) {
            Some(0) => {
                let before = saved.iter().find(|old| with_port(old, 0) == *addr);
                (before.unwrap_or(addr).clone(), IfTaken::FreePort)
            }
            _ => (addr.clone(), IfTaken::Fail),
        };
        return told.iter().map(wanted).collect();
    }
    if !saved.is_empty() {
        return saved.iter().map(|addr| (addr.clone(), IfTaken::FreePort)).collect();
    }
    let default = |text: String, if_taken| text.parse().ok().map(|addr: Multiaddr| (addr, if_taken));
    [
        default(format!("/ip4/0.0.0.0/tcp/{DEFAULT_PORT}"), IfTaken::FreePort),
        default(format!("/ip4/0.0.0.0/udp/{DEFAULT_PORT}/quic-v1"), IfTaken::FreePort),
        default(format!("/ip6/::/tcp/{DEFAULT_PORT}"), IfTaken::Skip),
        default(format!("/ip6/::/udp/{DEFAULT_PORT}/quic-v1"), IfTaken::Skip),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Listens on one address; returns it with the port that was bound.
async fn listen_on(client: &Client, wanted: &Multiaddr, if_taken: IfTaken) -> Result<Multiaddr, ApiError> {
    let failed = |error: &dyn std::error::Error| {
        ApiError::new(ErrorKind::Failed, format!("{error}; choose another with --listen"))
    };
    let error = match client.listen(wanted.clone()).await {
        Ok(bound) => return Ok(remembered(wanted, &bound)),
        Err(error) => error,
    };
    if if_taken != IfTaken::FreePort || port(wanted).is_none_or(|port| port == 0) {
        return Err(failed(&error));
    }
    let any = with_port(wanted, 0);
    info!(addr = %wanted, %error, "taken; using a free port");
    let bound = client.listen(any.clone()).await.map_err(|error| failed(&error))?;
    Ok(remembered(&any, &bound))
}

/// The address as it was asked for, with the port that was bound.
fn remembered(wanted: &Multiaddr, bound: &[Multiaddr]) -> Multiaddr {
    match bound.first().and_then(port) {
        Some(port) => with_port(wanted, port),
        None => wanted.clone(),
    }
}

fn port(addr: &Multiaddr) -> Option<u16> {
    addr.iter().find_map(|part| match part {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
        _ => None,
    })
}

fn with_port(addr: &Multiaddr, port: u16) -> Multiaddr {
    addr.iter()
        .map(|part| match part {
            Protocol::Tcp(_) => Protocol::Tcp(port),
            Protocol::Udp(_) => Protocol::Udp(port),
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn without_a_word_and_a_past_the_defaults_are_all_interfaces() {
        let plan = plan(&[], &[]);
        assert_eq!(plan.len(), 4);
        assert_eq!(plan.first().unwrap(), &(addr("/ip4/0.0.0.0/tcp/4343"), IfTaken::FreePort));
    }

    #[test]
    fn without_a_word_the_addresses_of_the_last_run_are_used() {
        let saved = [addr("/ip4/127.0.0.1/tcp/5005")];
        assert_eq!(plan(&[], &saved), [(saved.first().unwrap().clone(), IfTaken::FreePort)]);
    }

    #[test]
    fn a_told_address_replaces_those_of_the_last_run() {
        let told = [addr("/ip4/127.0.0.1/tcp/6000")];
        let saved = [addr("/ip4/127.0.0.1/tcp/5005")];
        assert_eq!(plan(&told, &saved), [(told.first().unwrap().clone(), IfTaken::Fail)]);
    }

    #[test]
    fn a_told_free_port_is_the_one_of_the_last_run() {
        let saved = [addr("/ip4/127.0.0.1/tcp/5005"), addr("/ip4/127.0.0.1/udp/5006/quic-v1")];
        let told = [addr("/ip4/127.0.0.1/udp/0/quic-v1"), addr("/ip4/10.0.0.1/tcp/0")];
        let expected = [
            (addr("/ip4/127.0.0.1/udp/5006/quic-v1"), IfTaken::FreePort),
            (addr("/ip4/10.0.0.1/tcp/0"), IfTaken::FreePort),
        ];
        assert_eq!(plan(&told, &saved), expected);
    }

    #[test]
    fn the_bound_port_is_remembered_in_the_form_that_was_asked_for() {
        let bound = [addr("/ip4/192.168.1.5/tcp/4010")];
        assert_eq!(remembered(&addr("/ip4/0.0.0.0/tcp/0"), &bound), addr("/ip4/0.0.0.0/tcp/4010"));
        assert_eq!(remembered(&addr("/memory/7"), &[addr("/memory/7")]), addr("/memory/7"));
    }
}
