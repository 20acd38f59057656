//! `dhtfs net`: how others reach this node.

use std::time::{Duration, SystemTime};

use dhtfs_node::{Role, api::types::NetInfo};

use crate::{context::Context, error::Result, format, output::labelled};

pub(crate) async fn run(context: &Context) -> Result<()> {
    let node = context.connect(Role::Offline).await?;
    if !node.is_daemon() {
        context.out.note("nobody reaches this node until `dhtfs daemon` runs");
    }
    let net: NetInfo = node.get("/v0/net").await?;
    context.out.either(&net, lines)
}

/// How, since when, and why.
pub(super) fn way(net: &NetInfo) -> Vec<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let age = format::duration(Duration::from_secs(now.saturating_sub(net.since_unix)));
    let unsettled = if net.settled { "" } else { " (still looking)" };
    vec![format!("{}, for {age}{unsettled}", net.reachability), format::clean(&net.why)]
}

fn lines(net: &NetInfo) -> Vec<String> {
    let clean = |addrs: &[String]| addrs.iter().map(|addr| format::clean(addr)).collect::<Vec<_>>();
    let router = match net.mapping.as_str() {
        "endpoint-independent" => "uses one port for all destinations",
        "symmetric" => "uses another port for each destination",
        _ => "not enough peers have told yet",
    };
    let tested = net.tested.iter().map(|tested| {
        let verdict = if tested.reachable { "reachable" } else { "not reachable" };
        format!("{} {verdict}, tested by {}", format::clean(&tested.addr), format::clean(&tested.tested_by))
    });
    let places = net.relays.iter().map(|relay| format!("{} at {}", relay.peer, format::clean(&relay.addr)));
    let known = format!("{} known", format::thousands(net.relays_known));
    labelled(&[
        ("reachable", way(net)),
        ("listening", clean(&net.listen)),
        ("told others", clean(&net.external)),
        ("tested", tested.collect()),
        ("router", vec![router.to_owned()]),
        ("relays", places.chain([known]).collect()),
        ("relaying", vec![if net.is_relay { "for others" } else { "no" }.to_owned()]),
        ("DHT", vec![if net.serves_dht { "serves" } else { "asks only" }.to_owned()]),
    ])
}

#[cfg(test)]
mod tests {
    use dhtfs_node::api::types::RelayPlace;

    use super::*;

    #[test]
    fn the_way_comes_first_with_its_reason() {
        let net = NetInfo {
            reachability: "punchable".to_owned(),
            settled: true,
            why: "others cannot dial this node by themselves; places at relays: 1".to_owned(),
            mapping: "endpoint-independent".to_owned(),
            relays: vec![RelayPlace { peer: "12D3".to_owned(), addr: "/ip4/9.9.9.9/tcp/1".to_owned() }],
            relays_known: 2,
            ..NetInfo::default()
        };
        let lines = lines(&net);
        assert!(lines[0].starts_with("reachable  punchable, for "), "{lines:?}");
        assert!(lines[1].trim_start().starts_with("others cannot dial"));
        assert!(lines.iter().any(|line| line == "relays     12D3 at /ip4/9.9.9.9/tcp/1"), "{lines:?}");
        assert!(!lines[0].contains("still looking"));
        assert!(way(&NetInfo { settled: false, ..net })[0].ends_with("(still looking)"));
    }
}
