//! `dhtfs peers`: who is connected.

use dhtfs_node::{Role, api::types::PeerEntry};

use crate::{context::Context, error::Result, format, output::table};

pub(crate) async fn run(context: &Context) -> Result<()> {
    let node = context.connect(Role::Client).await?;
    let peers: Vec<PeerEntry> = node.get("/v0/peers").await?;
    let out = &context.out;
    if out.is_json() {
        return peers.iter().try_for_each(|peer| out.json(peer));
    }
    if peers.is_empty() {
        let why = if node.is_daemon() {
            "join with `dhtfs daemon --bootstrap MULTIADDR`"
        } else {
            "no daemon is running"
        };
        out.note(format!("no peers connected; {why}"));
    }
    lines(&peers).iter().try_for_each(|line| out.line(line))
}

fn lines(peers: &[PeerEntry]) -> Vec<String> {
    let row = |peer: &PeerEntry| {
        let rtt = peer.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms"));
        let routing = if peer.routing { "routing" } else { "-" };
        let agent = peer.agent.as_deref().map_or_else(|| "-".to_owned(), format::clean);
        let addrs: Vec<_> = peer.addrs.iter().map(|addr| format::clean(addr)).collect();
        vec![peer.peer.clone(), peer.direction.clone(), rtt, routing.to_owned(), agent, addrs.join(" ")]
    };
    table(&peers.iter().map(row).collect::<Vec<_>>(), &[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_a_line_and_what_it_calls_itself_cannot_steer_the_terminal() {
        let peer = PeerEntry {
            peer: "12D3".to_owned(),
            addrs: vec!["/ip4/10.0.0.1/tcp/1".to_owned()],
            agent: Some("dhtfs/0.1.0\u{1b}[2J".to_owned()),
            rtt_ms: Some(12.34),
            routing: true,
            direction: "out".to_owned(),
        };
        let bare = PeerEntry {
            agent: None,
            rtt_ms: None,
            routing: false,
            direction: "in".to_owned(),
            ..peer.clone()
        };
        let expected = [
            "12D3  out  12.3 ms  routing  dhtfs/0.1.0\\u{1b}[2J  /ip4/10.0.0.1/tcp/1",
            "12D3  in         -  -        -                     /ip4/10.0.0.1/tcp/1",
        ];
        assert_eq!(lines(&[peer, bare]), expected);
    }
}
