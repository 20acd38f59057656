//! `dhtfs status`: how this node is, or how much of a CID is here.

use std::time::Duration;

use dhtfs_node::{
    Role,
    api::types::{
        AnnounceScope, AnnounceStatus, Announced, ContentStatus, Findable, ReachabilityInfo, Status,
    },
};
use serde_json::json;

use super::{findable, limits, net};
use crate::{
    args::StatusArgs,
    context::{Context, check_cid},
    error::Result,
    format,
    output::labelled,
};

pub(crate) async fn run(context: &Context, args: &StatusArgs) -> Result<()> {
    if let Some(cid) = &args.cid {
        let cid = check_cid(cid)?;
        let node = context.connect(Role::Offline).await?;
        let status: ContentStatus = node.post("/v0/status-of", &json!({ "cid": cid })).await?;
        let is_daemon = node.is_daemon();
        return context.out.either(&status, |status| content_lines(status, is_daemon));
    }
    let node = context.connect(Role::Offline).await?;
    let status: Status = node.get("/v0/status").await?;
    let is_daemon = node.is_daemon();
    context.out.either(&status, |status| lines(status, is_daemon))
}

fn lines(status: &Status, is_daemon: bool) -> Vec<String> {
    let one = |text: String| vec![text];
    let clean = |addrs: &[String]| addrs.iter().map(|addr| format::clean(addr)).collect::<Vec<_>>();
    let uptime = format::duration(Duration::from_secs(status.uptime_secs));
    let daemon = if is_daemon {
        format!("running, process {}, version {}, for {uptime}", status.pid, status.version)
    } else {
        "not running; nobody can fetch from here until `dhtfs daemon` runs".to_owned()
    };
    let mut rows = vec![
        ("daemon", one(daemon)),
        ("data", one(status.data_dir.display().to_string())),
        ("peer", one(status.peer_id.clone())),
        ("network", one(format!("{} ({})", status.network, status.profile))),
        (
            "shares",
            one(format!("{}, {}", format::thousands(status.shares), format::bytes(status.shares_len))),
        ),
    ];
    if status.online {
        rows.push(("listening", clean(&status.listen)));
        rows.push(("told others", clean(&status.external)));
        if let Some(net) = &status.net {
            rows.push(("reachable", net::way(net)));
        }
        rows.push(("tested", reachability(&status.reachability)));
        let (connected, routing) =
            (format::thousands(status.connected), format::thousands(status.routing_peers));
        rows.push(("peers", one(format!("{connected} connected, {routing} in the routing table"))));
        rows.push(("announced", one(announced(status))));
    }
    if status.limits.is_any() {
        rows.push(("limits", limits::lines(&status.limits)));
    }
    let counted =
        |(name, count): (&String, &u64)| format!("{} {}", format::clean(name), format::thousands(*count));
    let counters = status.counters.iter().filter(|(_, count)| **count > 0);
    rows.push(("counters", counters.map(counted).collect()));
    labelled(&rows)
}

fn announced(status: &Status) -> String {
    let provide = &status.provide;
    let mut text =
        format!("{} of {}", format::thousands(provide.announced), format::count(provide.keys, "key"));
    for (number, what) in [
        (provide.pending, "to do"),
        (provide.failed, if provide.failed == 1 { "failed attempt" } else { "failed attempts" }),
        (provide.withdrawing, "being withdrawn"),
        (provide.not_withdrawn, "not withdrawn"),
    ] {
        if number > 0 {
            text.push_str(&format!(", {} {what}", format::thousands(number)));
        }
    }
    text
}

fn reachability(found: &ReachabilityInfo) -> Vec<String> {
    let tested = found.addrs.iter().map(|tested| {
        let verdict = if tested.reachable { "reachable" } else { "not reachable" };
        format!("{} {verdict}, tested by {}", format::clean(&tested.addr), format::clean(&tested.tested_by))
    });
    tested.collect()
}

fn content_lines(status: &ContentStatus, is_daemon: bool) -> Vec<String> {
    let here = match (status.state.as_str(), status.len) {
        ("none", _) => "nothing of it is here".to_owned(),
        ("changed", _) => "the file was changed after it was added and is no longer served".to_owned(),
        ("complete", Some(len)) => format!("complete, {}", format::bytes(len)),
        (state, Some(len)) => {
            format!("{state}, {} of {}", format::bytes(status.have_len), format::bytes(len))
        }
        (state, None) => format!("{state}, {}", format::bytes(status.have_len)),
    };
    let optional = |text: Option<String>| text.into_iter().map(|text| format::clean(&text)).collect();
    labelled(&[
        (status.kind.as_str(), vec![status.cid.clone()]),
        ("here", vec![here]),
        ("name", optional(status.name.clone())),
        ("path", optional(status.path.as_ref().map(|path| path.display().to_string()))),
        (
            "announced",
            status.announce.as_ref().map(|announce| announced_lines(announce, is_daemon)).unwrap_or_default(),
        ),
    ])
}

/// Said of what is announced if nobody goes on announcing and serving it.
const NO_DAEMON: &str =
    "no daemon runs here: nobody can fetch it from here or renews its records until `dhtfs daemon` runs";

/// How far the announcement of a CID is: numbers first, then times.
fn announced_lines(status: &AnnounceStatus, is_daemon: bool) -> Vec<String> {
    let keys = &status.keys;
    let expired = status.expires_unix.filter(|expires| *expires <= status.now_unix);
    let first = match &status.findable {
        Some(found) if found.scope == AnnounceScope::None && keys.keys == 0 => {
            return vec!["no (--announce none)".to_owned()];
        }
        Some(found) => share_line(found, expired.is_some(), is_daemon),
        None if expired.is_some() => "no longer: its record has run out".to_owned(),
        None => key_line(keys),
    };
    let times = keys.oldest_unix.zip(status.next_unix).map(|(oldest, next)| {
        // The times are whole seconds, so nothing is shown below them.
        let span = |secs| match secs {
            0..10 => format!("{secs} s"),
            _ => format::duration(Duration::from_secs(secs)),
        };
        let ago = span(status.now_unix.saturating_sub(oldest));
        let what = if keys.announced > 1 { "the oldest " } else { "" };
        let next = match next.checked_sub(status.now_unix) {
            Some(left) => format!("again in {}", span(left)),
            None => format!("again due for {}", span(status.now_unix.saturating_sub(next))),
        };
        format!("{what}{ago} ago, {next}")
    });
    let daemon = (!is_daemon).then(|| NO_DAEMON.to_owned());
    std::iter::once(first).chain(times).chain(daemon).collect()
}

/// The same as at the end of `add --wait`.
fn share_line(found: &Findable, is_expired: bool, is_daemon: bool) -> String {
    let counts = findable::counts(found);
    let sum = |count: fn(&Announced) -> u64| count(&found.manifests) + count(&found.chunks);
    let (keys, done) = (sum(|of| of.keys), sum(|of| of.announced));
    let nobody = if found.dht_nodes == 0 && is_daemon { "; no other node is known now" } else { "" };
    match (found.scope, found.findable) {
        // Nothing, except what another share asks for.
        (AnnounceScope::None, _) => {
            format!("no (--announce none), but other shares have parts of it: {counts}")
        }
        (_, true) => format!("findable: {counts}"),
        _ if done == 0 => format!("not yet: {counts}{nobody}"),
        _ if is_expired => format!("no longer: records have run out: {counts}{nobody}"),
        _ if done < keys => format!("in part: {counts}{nobody}"),
        // Without a network it is not known on how many nodes it should be.
        _ if found.dht_nodes == 0 => format!("{counts}{nobody}"),
        _ => format!("not findable yet, on too few nodes: {counts}"),
    }
}

/// Of a single key.
fn key_line(key: &Announced) -> String {
    match key.min_holders {
        Some(holders) => format!("on {}", format::count(holders, "node")),
        None => "not yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use dhtfs_node::api::types::{Announced, LimitsInfo, ProvideInfo, TestedAddr};

    use super::*;

    fn status() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            pid: 42,
            data_dir: "/d".into(),
            peer_id: "12D3".to_owned(),
            network: "main".to_owned(),
            online: true,
            uptime_secs: 7_500,
            listen: vec!["/ip4/10.0.0.1/tcp/1".to_owned(), "/ip4/10.0.0.1/udp/1/quic-v1".to_owned()],
            external: vec![],
            profile: "private".to_owned(),
            reachability: ReachabilityInfo {
                verdict: "reachable".to_owned(),
                addrs: vec![TestedAddr {
                    addr: "/a".to_owned(),
                    reachable: true,
                    tested_by: "12D4".to_owned(),
                }],
            },
            net: Some(dhtfs_node::api::types::NetInfo {
                reachability: "direct".to_owned(),
                settled: true,
                since_unix: u64::MAX,
                why: "nodes have dialled this one".to_owned(),
                ..Default::default()
            }),
            connected: 3,
            connections: 6,
            routing_peers: 20,
            records_held: 40,
            requests_open: 0,
            shares: 2,
            shares_len: 3 << 30,
            provide: ProvideInfo {
                keys: 1_026,
                announced: 1_024,
                pending: 2,
                withdrawing: 1_500,
                ..ProvideInfo::default()
            },
            limits: LimitsInfo::default(),
            counters: [("busy".to_owned(), 0), ("served-len".to_owned(), 1_048_576)].into_iter().collect(),
        }
    }

    #[test]
    fn a_running_daemon_tells_everything_that_counts() {
        let expected = [
            "daemon     running, process 42, version 0.1.0, for 2 h 5 min",
            "data       /d",
            "peer       12D3",
            "network    main (private)",
            "shares     2, 3.0 GiB",
            "listening  /ip4/10.0.0.1/tcp/1",
            "           /ip4/10.0.0.1/udp/1/quic-v1",
            "reachable  direct, for 0.0 s",
            "           nodes have dialled this one",
            "tested     /a reachable, tested by 12D4",
            "peers      3 connected, 20 in the routing table",
            "announced  1,024 of 1,026 keys, 2 to do, 1,500 being withdrawn",
            "counters   served-len 1,048,576",
        ];
        assert_eq!(lines(&status(), true), expected);
    }

    #[test]
    fn limits_are_told_if_there_are_any() {
        let limits = LimitsInfo { up: "2MB/s".parse().unwrap_or_default(), ..LimitsInfo::default() };
        let told = lines(&Status { limits, ..status() }, true);
        let place = told.iter().position(|line| line == "limits     up 2 MB/s");
        assert!(place.is_some(), "{told:?}");
    }

    #[test]
    fn one_failed_attempt_is_one() {
        let said = |failed| {
            let provide = ProvideInfo { keys: 3, announced: 2, failed, ..ProvideInfo::default() };
            announced(&Status { provide, ..status() })
        };
        assert_eq!(said(1), "2 of 3 keys, 1 failed attempt");
        assert_eq!(said(2), "2 of 3 keys, 2 failed attempts");
    }

    #[test]
    fn without_a_daemon_it_says_what_that_means() {
        let offline = lines(&Status { online: false, ..status() }, false);
        assert!(offline[0].contains("nobody can fetch from here until `dhtfs daemon` runs"), "{offline:?}");
        assert!(!offline.iter().any(|line| line.starts_with("peers")), "{offline:?}");
    }

    #[test]
    fn a_cid_tells_what_of_it_is_here() {
        let content = |state: &str, len: Option<u64>| ContentStatus {
            cid: "bafy".to_owned(),
            kind: "manifest".to_owned(),
            state: state.to_owned(),
            name: Some("n".to_owned()),
            len,
            have_len: 1 << 20,
            path: Some("/d/n".into()),
            announce: None,
        };
        let expected =
            ["manifest  bafy", "here      partial, 1.0 MiB of 2.0 MiB", "name      n", "path      /d/n"];
        assert_eq!(content_lines(&content("partial", Some(2 << 20)), true), expected);
        let none = ContentStatus { name: None, path: None, ..content("none", None) };
        assert_eq!(content_lines(&none, true), ["manifest  bafy", "here      nothing of it is here"]);
    }

    #[test]
    fn a_share_tells_how_far_its_announcement_is_and_when_it_is_renewed() {
        let hours = |hours: u64| 1_000_000 + hours * 3600;
        let keys =
            Announced { keys: 1_025, announced: 1_024, min_holders: Some(18), oldest_unix: Some(hours(0)) };
        let found = Findable {
            findable: true,
            dht_nodes: 500,
            target: 20,
            root_holders: 20,
            manifests: Announced { keys: 1, announced: 1, ..keys },
            chunks: Announced { keys: 1_024, announced: 1_023, ..keys },
            ..Findable::default()
        };
        let status = AnnounceStatus {
            findable: Some(found.clone()),
            keys,
            next_unix: Some(hours(12)),
            expires_unix: Some(hours(24)),
            now_unix: hours(3) + 120,
        };
        let lines = |found: Findable| {
            announced_lines(&AnnounceStatus { findable: Some(found), ..status.clone() }, true)
        };
        let counts = "manifest on 20 of 20, chunks 1,023 of 1,024 on >= 18";
        let times = "the oldest 3 h 2 min ago, again in 8 h 58 min";
        assert_eq!(lines(found.clone()), [format!("findable: {counts}"), times.to_owned()]);
        let part = Findable { findable: false, ..found.clone() };
        assert_eq!(lines(part.clone())[0], format!("in part: {counts}"));
        let few = Findable { chunks: Announced { announced: 1_024, ..part.chunks }, ..part.clone() };
        assert!(lines(few)[0].starts_with("not findable yet, on too few nodes: manifest on 20"));
        let fresh = Announced { keys: 2, ..Announced::default() };
        let new = Findable { manifests: fresh, chunks: fresh, root_holders: 0, ..part.clone() };
        assert!(lines(new)[0].starts_with("not yet: manifest on 0 of 20, "));
        let old = AnnounceStatus { findable: Some(part.clone()), now_unix: hours(24), ..status.clone() };
        assert_eq!(announced_lines(&old, true)[0], format!("no longer: records have run out: {counts}"));
        let alone = Findable { dht_nodes: 0, target: 0, ..part.clone() };
        let alone = AnnounceStatus { findable: Some(alone), ..status.clone() };
        let said = announced_lines(&alone, false);
        assert_eq!(said[0], "in part: manifest on 20, chunks 1,023 of 1,024 on >= 18");
        assert_eq!(said[2], NO_DAEMON);
        let offline = Findable { dht_nodes: 0, target: 0, ..part };
        assert_eq!(
            lines(offline)[0],
            "in part: manifest on 20, chunks 1,023 of 1,024 on >= 18; no other node is known now"
        );
        let others = Findable { scope: AnnounceScope::None, ..found };
        assert!(lines(others)[0].starts_with("no (--announce none), but other shares"));
        let late = AnnounceStatus { now_unix: hours(13), ..status.clone() };
        assert_eq!(announced_lines(&late, true)[1], "the oldest 13 h 0 min ago, again due for 1 h 0 min");
        let none = Findable { scope: AnnounceScope::None, ..Findable::default() };
        let none = AnnounceStatus { findable: Some(none), ..AnnounceStatus::default() };
        assert_eq!(announced_lines(&none, false), ["no (--announce none)"]);
    }

    #[test]
    fn a_single_key_tells_on_how_many_nodes_it_is() {
        let key = Announced { keys: 1, announced: 1, min_holders: Some(1), oldest_unix: Some(1_000) };
        let status = AnnounceStatus {
            keys: key,
            next_unix: Some(4_600),
            expires_unix: Some(9_000),
            now_unix: 1_120,
            findable: None,
        };
        let times = "2 min 0 s ago, again in 58 min 0 s";
        assert_eq!(announced_lines(&status, true), ["on 1 node", times]);
        assert_eq!(announced_lines(&status, false), ["on 1 node", times, NO_DAEMON]);
        let old = AnnounceStatus { now_unix: 9_000, ..status };
        assert_eq!(announced_lines(&old, true)[0], "no longer: its record has run out");
        let fresh = AnnounceStatus {
            keys: Announced { keys: 1, ..Announced::default() },
            ..AnnounceStatus::default()
        };
        assert_eq!(announced_lines(&fresh, true), ["not yet"]);
    }
}
