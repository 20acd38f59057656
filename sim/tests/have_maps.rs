//! How many lookups of single chunks a fetch needs among peers that tell what they hold.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::time::Duration;

use dhtfs_sim::{
    plan::{ContentPlan, Expect, Group, NetworkPlan, Plan, Security, time::Millis},
    run::simulate,
    world::World,
};

const MINUTE: Duration = Duration::from_secs(60);

/// Three nodes to join through and peers, of whom so many hold a share of a file.
fn plan(nodes: usize, mib: u64, holders: Option<usize>, held: f64) -> Plan {
    let film = ContentPlan::file("film", mib << 20, "peers", holders.unwrap_or(1));
    Plan {
        name: "maps".to_owned(),
        about: String::new(),
        nodes,
        duration: Millis::from_mins(60),
        network: NetworkPlan { security: Security::Plaintext, ..NetworkPlan::default() },
        groups: vec![
            Group::fixed("boot", 3),
            Group::share("peers", 1.0).joins(Duration::from_secs(3), Duration::from_secs(10)),
        ],
        contents: vec![ContentPlan { holders, held, ..film }],
        probes: None,
        events: Vec::new(),
        expect: Expect::default(),
    }
}

/// Lets a node that is to join through others fetch the file; gives the counters of its node before and after.
fn fetch(plan: Plan) -> (bool, impl Fn(&str) -> u64) {
    let (complete, before, after) = simulate(1, move || async move {
        let world = World::new(plan, 1)?;
        for index in 0..world.len() {
            world.start(index).await?;
        }
        // Until everything is announced.
        tokio::time::sleep(10 * MINUTE).await;
        let counters = || async {
            let up = world.up(0).unwrap();
            up.run(up.node.api().status()).await.unwrap().unwrap().counters
        };
        let before = counters().await;
        world.get(0, 0, 5 * MINUTE).await;
        let complete = world.record.borrow().gets[0].complete;
        Ok((complete, before, counters().await))
    })
    .unwrap();
    (complete, move |name: &str| after[name] - before[name])
}

#[test]
fn a_fetch_from_complete_providers_looks_up_no_chunk() {
    let (complete, counted) = fetch(plan(12, 48, Some(3), 1.0));
    assert!(complete);
    assert_eq!(counted("net_lookups_of_chunks"), 0);
    assert!(counted("net_lookups_started") > 0, "the manifest is looked up");
    assert!(counted("net_have_asked") >= 3);
    assert_eq!(counted("net_have_unsupported"), 0);
}

#[test]
fn a_fetch_from_peers_none_of_which_holds_everything_looks_up_what_none_of_them_holds() {
    let (complete, counted) = fetch(plan(24, 48, None, 0.4));
    assert!(complete);
    let (lookups, frames_len) = (counted("net_lookups_of_chunks"), counted("net_have_frames_len"));
    println!("{lookups} lookups of chunks, {frames_len} bytes of maps");
    assert!(lookups <= 4, "{lookups}");
    assert!(counted("net_have_frames") >= 10);
    // Half of 48 chunks at random fit 7 bytes.
    assert!(frames_len <= 8 * counted("net_have_frames"), "{frames_len}");
}
