//! What is announced, how a user learns how far that is, and who of those that announce something can be reached.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{fs, path::Path, time::Duration};

use common::{
    CHUNK_LEN, Daemon, LONG, PATIENCE, Process, Scratch, args, chunk_cid, dhtfs, noise, run, run_in,
    wait_until,
};
use dhtfs_node::api::types::{Added, AnnounceScope, AnnounceStatus, Findable, Have, Provider, ProviderState};
use serde::Deserialize;

/// Chunks of the files of these tests.
const CHUNKS: usize = 4;

/// Keys of a share of such a file: its manifest and its chunks.
const KEYS: u64 = 1 + CHUNKS as u64;

/// Holders forget at once what is withdrawn; this long allows for a busy machine, and is far from the day after which
/// they would forget it anyway.
const SOON: Duration = Duration::from_secs(10);

fn content(seed: u64) -> Vec<u8> {
    noise(seed, CHUNKS * CHUNK_LEN)
}

/// What `add --wait --json` prints.
#[derive(Debug, Deserialize)]
struct Waited {
    #[serde(flatten)]
    added: Added,
    findable: Findable,
}

fn announce_of(daemon: &Daemon, cid: &str) -> AnnounceStatus {
    daemon.status_of(cid).announce.unwrap()
}

fn scope(status: &AnnounceStatus) -> Option<AnnounceScope> {
    status.findable.as_ref().map(|found| found.scope)
}

/// Waits until every key of a share is announced.
fn wait_share(daemon: &Daemon, cid: &str, keys: u64) -> AnnounceStatus {
    wait_until("the share is announced", LONG, || {
        let status = announce_of(daemon, cid);
        (status.keys.keys == keys && status.keys.announced == keys).then_some(status)
    })
}

#[test]
fn a_share_announces_what_its_scope_says_and_keeps_it() {
    let scratch = Scratch::new();
    let hub = Daemon::start(&scratch.path("hub"), &[]);
    let node = Daemon::start(&scratch.path("node"), &[&hub]);
    let bytes = content(1);
    let (file, chunk) = (scratch.file("file", &bytes), chunk_cid(&bytes[..CHUNK_LEN]));
    let add = |scope: &str| -> Added {
        node.run(args!["add", "--json", "--announce", scope, "--wait", file]).ok().json()
    };
    let cid = add("roots").cid;
    let status = announce_of(&node, &cid);
    assert_eq!((scope(&status), status.keys.keys, status.keys.announced), (Some(AnnounceScope::Roots), 1, 1));
    assert_eq!(hub.providers(&cid).len(), 1);
    assert!(hub.providers(&chunk).is_empty() && node.providers(&chunk).is_empty(), "no chunk is announced");

    assert_eq!(node.add(&file).cid, cid);
    assert_eq!(scope(&announce_of(&node, &cid)), Some(AnnounceScope::Roots), "left out, it stays as it is");
    add("all");
    assert_eq!(announce_of(&node, &cid).keys.keys, KEYS);
    assert_eq!(hub.providers(&chunk).len(), 1);

    add("roots");
    wait_until("the hub forgets the chunks", SOON, || {
        (hub.providers(&chunk).is_empty() && hub.providers(&cid).len() == 1).then_some(())
    });
    node.run(args!["add", "--announce", "none", file]).ok();
    wait_until("the hub forgets all of it", SOON, || hub.providers(&cid).is_empty().then_some(()));
    let status = announce_of(&node, &cid);
    assert_eq!((scope(&status), status.keys.keys), (Some(AnnounceScope::None), 0));
    assert_eq!(node.status().provide.keys, 0);
    let shown = node.run(args!["status", cid]).ok();
    assert!(shown.text().contains("announced  no (--announce none)"), "{}", shown.text());
    let out = scratch.path("out");
    hub.run(args!["get", cid, "-o", out, "--peer", node.addr()]).ok();
    assert_eq!(fs::read(&out).unwrap(), bytes, "it is served to who knows this node");
}

#[test]
fn what_makes_no_sense_is_a_usage_mistake() {
    let scratch = Scratch::new();
    let (dir, file) = (scratch.path("data"), scratch.file("file", "x"));
    for line in [
        args!["add", "--announce", "some", file],
        args!["add", "--timeout", "3", file],
        args!["add", "--wait", "--timeout", "0", file],
        args!["add", "--wait", "--announce", "none", file],
    ] {
        let output = run(&dir, line);
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
    assert!(!dir.exists(), "nothing was begun");
}

#[test]
fn waiting_ends_with_one_line_that_says_on_how_many_nodes_the_records_are() {
    let scratch = Scratch::new();
    let hub = Daemon::start(&scratch.path("hub"), &[]);
    let other = Daemon::start(&scratch.path("other"), &[&hub]);
    let node = Daemon::start(&scratch.path("node"), &[&hub, &other]);
    node.wait_routing(2);
    let output = node.run(args!["add", "--wait", scratch.file("one", content(1))]).ok();
    let cid = output.line().to_owned();
    let said = output.stderr.strip_suffix('\n').unwrap();
    assert!(said.starts_with("findable: manifest on ") && !said.contains('\n'), "{said}");
    assert!(said.contains(" of 2, chunks 4 of 4 on >= "), "{said}");
    assert_eq!(hub.providers(&cid).len(), 1, "others find it at once");

    let waited: Waited =
        node.run(args!["add", "--wait", "--json", scratch.file("two", content(2))]).ok().json();
    let found = waited.findable;
    assert_eq!((found.cid.as_str(), found.findable), (waited.added.cid.as_str(), true));
    assert_eq!((found.target, found.manifests.keys, found.chunks.announced), (2, 1, CHUNKS as u64));
    assert!(
        found.root_holders >= found.enough && found.chunks.min_holders >= Some(found.enough),
        "{found:?}"
    );

    let input = run_in(node.dir(), args!["add", "-", "--wait", "--announce", "roots"], &content(3)).ok();
    assert!(input.stderr.contains("(announced by its root only)"), "{}", input.stderr);
    assert_eq!(announce_of(&node, input.line()).keys.keys, 1);
}

#[test]
fn waiting_without_a_network_ends_after_the_timeout_and_says_why() {
    let scratch = Scratch::new();
    let alone = Daemon::start(&scratch.path("alone"), &[]);
    let file = scratch.file("file", content(1));
    let output = alone.run(args!["add", "--wait", "--timeout", "0.3", file]);
    assert_eq!(output.code, Some(4), "{output:?}");
    assert!(output.line().starts_with("bafyrei"), "the share is there: {output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    assert!(output.stderr.contains("not findable after 0.3 s: no other node is known"), "{output:?}");

    let output = alone.run(args!["add", "--wait", "--json", "--timeout", "0.3", file]);
    assert_eq!(output.code, Some(4), "{output:?}");
    let waited: Waited = output.json();
    assert!(!waited.findable.findable, "{waited:?}");
    assert_eq!((waited.findable.dht_nodes, waited.findable.chunks.keys), (0, CHUNKS as u64));
}

#[test]
fn whoever_waits_is_woken_when_a_network_comes() {
    let scratch = Scratch::new();
    let alone = Daemon::start(&scratch.path("alone"), &[]);
    let file = scratch.file("file", content(1));
    let waiting = Process::spawn(dhtfs(alone.dir()).args(args!["add", "--wait", "--timeout", "100", file]));
    wait_until("it is added", PATIENCE, || waiting.stdout_so_far().contains('\n').then_some(()));
    let _other = Daemon::start(&scratch.path("other"), &[&alone]);
    let output = waiting.wait(LONG).ok();
    assert!(output.stderr.starts_with("findable: manifest on 1 of 1"), "{}", output.stderr);
}

#[test]
fn without_a_daemon_the_command_announces_by_itself() {
    let scratch = Scratch::new();
    let hub = Daemon::start(&scratch.path("hub"), &[]);
    let config = scratch.file(
        "config.toml",
        format!("listen = [\"/ip4/127.0.0.1/tcp/0\"]\nbootstrap = [\"{}\"]\n", hub.addr()),
    );
    let dir = scratch.path("data");
    let file = scratch.file("file", content(1));
    let output = run(&dir, args!["--config", config, "add", "--wait", file]).ok();
    output.line();
    assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    assert!(
        output.stderr.starts_with("findable: manifest on 1 of 1, chunks 4 of 4 on >= 1"),
        "{}",
        output.stderr
    );
    assert!(output.stderr.contains("`dhtfs daemon`"), "nobody serves it now: {}", output.stderr);
}

#[test]
fn the_status_of_a_share_says_how_far_its_announcement_is_and_when_it_is_renewed() {
    let scratch = Scratch::new();
    let hub = Daemon::start(&scratch.path("hub"), &[]);
    let node = Daemon::start(&scratch.path("node"), &[&hub]);
    let bytes = content(1);
    let cid = node.add(&scratch.file("file", &bytes)).cid;
    let status = wait_share(&node, &cid, KEYS);
    assert_eq!((scope(&status), status.keys.min_holders), (Some(AnnounceScope::All), Some(1)));
    let oldest = status.keys.oldest_unix.unwrap();
    assert_eq!(status.next_unix, Some(oldest + 12 * 3600));
    let shown = node.run(args!["status", cid]).ok();
    assert!(
        shown.text().contains("announced  findable: manifest on 1 of 1, chunks 4 of 4 on >= 1\n"),
        "{}",
        shown.text()
    );
    assert!(shown.text().contains(" ago, again in 1"), "{}", shown.text());
    let chunk = announce_of(&node, &chunk_cid(&bytes[..CHUNK_LEN]));
    assert_eq!((scope(&chunk), chunk.keys.keys, chunk.keys.announced), (None, 1, 1));
    assert!(hub.status_of(&cid).announce.is_none(), "the hub shares nothing");
}

/// A share on `node` that both others keep the records of; its CID and that of its first chunk.
fn known_to(node: &Daemon, others: &[&Daemon], file: &Path, bytes: &[u8]) -> (String, String) {
    let cid = node.run(args!["add", "--wait", file]).ok().line().to_owned();
    for other in others {
        wait_until("it keeps the records", LONG, || (other.status().records_held == KEYS).then_some(()));
    }
    (cid, chunk_cid(&bytes[..CHUNK_LEN]))
}

/// Waits until these nodes keep no record any more and name nobody.
fn wait_forgotten(others: &[&Daemon], cids: &[&str]) {
    for other in others {
        wait_until("the records are forgotten", SOON, || (other.status().records_held == 0).then_some(()));
        for cid in cids {
            assert!(other.providers(cid).is_empty(), "nobody is named");
        }
    }
}

#[test]
fn what_is_no_longer_shared_is_taken_back_from_those_who_hold_its_records() {
    let scratch = Scratch::new();
    let hub = Daemon::start(&scratch.path("hub"), &[]);
    let other = Daemon::start(&scratch.path("other"), &[&hub]);
    let node = Daemon::start(&scratch.path("node"), &[&hub, &other]);
    node.wait_routing(2);
    let bytes = content(1);
    let file = scratch.file("file", &bytes);
    let (cid, chunk) = known_to(&node, &[&hub, &other], &file, &bytes);
    let output = node.run(args!["rm", cid]).ok();
    assert!(output.stderr.contains("telling others for 5 keys"), "{}", output.stderr);
    wait_forgotten(&[&hub, &other], &[&cid, &chunk]);
    assert!(node.providers(&cid).is_empty());
    wait_until("nothing is left to do", SOON, || {
        let provide = node.status().provide;
        (provide.withdrawing == 0 && provide.withdrawn == KEYS && provide.not_withdrawn == 0).then_some(())
    });

    // A file that is gone is noticed when somebody asks for it.
    assert_eq!(known_to(&node, &[&hub, &other], &file, &bytes).0, cid);
    fs::remove_file(&file).unwrap();
    let out = scratch.path("out");
    assert_eq!(hub.run(args!["get", cid, "-o", out, "--timeout", "5"]).code, Some(4));
    wait_until("the chunks are forgotten", SOON, || hub.providers(&chunk).is_empty().then_some(()));
}

#[test]
fn what_is_removed_and_shared_again_at_once_is_found() {
    let scratch = Scratch::new();
    let hub = Daemon::start(&scratch.path("hub"), &[]);
    let node = Daemon::start(&scratch.path("node"), &[&hub]);
    let bytes = content(1);
    let file = scratch.file("file", &bytes);
    let (cid, chunk) = known_to(&node, &[&hub], &file, &bytes);
    for _ in 0..5 {
        node.run(args!["rm", cid]).ok();
        assert_eq!(node.add(&file).cid, cid);
    }
    wait_until("all is done", LONG, || {
        let provide = node.status().provide;
        (provide.withdrawing == 0 && provide.keys == KEYS && provide.pending == 0).then_some(())
    });
    for cid in [&cid, &chunk] {
        assert_eq!(hub.providers(cid).len(), 1);
    }
    assert_eq!(hub.status().records_held, KEYS);
}

#[test]
fn a_share_that_is_removed_without_a_daemon_says_that_others_may_still_name_it() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let added: Added = run(&dir, args!["add", "--json", scratch.file("file", content(1))]).ok().json();
    let output = run(&dir, args!["rm", added.cid]).ok();
    assert!(output.stderr.contains("no daemon runs here to tell others"), "{}", output.stderr);
}

fn check<'a>(found: &'a [Provider], peer: &str) -> &'a dhtfs_node::api::types::ProviderCheck {
    found.iter().find(|provider| provider.peer == peer).unwrap().check.as_ref().unwrap()
}

#[test]
fn providers_are_shown_with_whether_they_can_be_reached_and_have_the_manifest() {
    let scratch = Scratch::new();
    let hub = Daemon::start(&scratch.path("hub"), &[]);
    let start = |name: &str| Daemon::start(&scratch.path(name), &[&hub]);
    let (live, dead) = (start("live"), start("dead"));
    let bytes = content(1);
    let file = scratch.file("file", &bytes);
    let add = |node: &Daemon, file: &Path| node.run(args!["add", "--wait", file]).ok().line().to_owned();
    let cid = add(&live, &file);
    assert_eq!(add(&dead, &file), cid);
    let gone = dead.peer_id().to_owned();
    dead.kill();
    let found = wait_until("both are found", PATIENCE, || {
        let found = hub.providers(&cid);
        (found.len() == 2).then_some(found)
    });
    let alive = check(&found, live.peer_id());
    assert_eq!((alive.state, alive.manifest), (ProviderState::Live, Some(true)));
    let all = Some(Have { held: CHUNKS as u64, of: CHUNKS as u64 });
    assert_eq!(alive.have, all);
    assert!(alive.rtt_ms.is_some_and(|rtt| rtt < 30_000.0), "{alive:?}");
    let unreachable = check(&found, &gone);
    assert_eq!((unreachable.state, unreachable.manifest), (ProviderState::Unreachable, None));
    assert!(unreachable.error.is_some() && unreachable.rtt_ms.is_none(), "{unreachable:?}");
    let own = live.providers(&cid);
    let itself = check(&own, live.peer_id());
    assert_eq!((itself.state, itself.have), (ProviderState::ThisNode, all));

    let shown = hub.run(args!["providers", cid]).ok();
    let line = |peer: &str| shown.text().lines().find(|line| line.starts_with(peer)).unwrap().to_owned();
    assert!(line(live.peer_id()).contains("  live "), "{}", shown.text());
    assert!(line(live.peer_id()).contains(" ms  complete           /ip4/127.0.0.1/"), "{}", shown.text());
    assert!(line(&gone).contains("  unreachable  "), "{}", shown.text());
    assert!(shown.stderr.contains("2 providers, 1 of them reached, in "), "{}", shown.stderr);

    let chunk = chunk_cid(&bytes[..CHUNK_LEN]);
    let found = hub.providers(&chunk);
    let alive = check(&found, live.peer_id());
    assert_eq!((alive.state, alive.manifest), (ProviderState::Live, None), "no chunk is sent for this");
}
