//! Every kind of fault takes effect, and every check fires when what it guards is broken.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::{rc::Rc, time::Duration};

use dhtfs_node::api::types::{LsReport, LsRequest, RmRequest};
use dhtfs_sim::{
    plan::{
        ContentPlan, DiskFate, Event, Expect, Group, NetworkPlan, Plan, ProbePlan, Security, What, Who,
        time::Millis,
    },
    record::{Check, RunRecord},
    roles::{Hostile, RoleKind},
    run::simulate,
    timeline::{self, Quiet},
    world::{Death, Failure, World},
};

const KIB: u64 = 1024;
const MINUTE: Duration = Duration::from_secs(60);

/// Three nodes to join through and nine more, the first of which holds a file.
fn small() -> Plan {
    Plan {
        name: "small".to_owned(),
        about: String::new(),
        nodes: 13,
        duration: Millis::from_mins(30),
        network: NetworkPlan { security: Security::Plaintext, ..NetworkPlan::default() },
        groups: vec![
            Group::fixed("boot", 3),
            Group::fixed("holder", 1).joins(Duration::from_secs(2), Duration::ZERO),
            Group::share("peers", 1.0).joins(Duration::from_secs(3), Duration::from_secs(10)),
        ],
        contents: vec![ContentPlan::file("film", 3000 * KIB, "holder", 1)],
        probes: None,
        events: Vec::new(),
        expect: Expect::default(),
    }
}

/// Index of the holder.
const HOLDER: usize = 3;

fn who(group: &str) -> Who {
    Who { group: Some(group.to_owned()), ..Who::default() }
}

fn event(at: u64, what: What) -> Event {
    Event { at: Millis::from_mins(at), what }
}

fn get(at: u64, group: &str, timeout: u64) -> Event {
    let what = What::Get {
        who: Who { at_most: Some(1), ..who(group) },
        content: Some("film".to_owned()),
        within: Millis::ZERO,
        timeout: Millis::from_secs(timeout),
    };
    event(at, what)
}

fn run(plan: Plan, seed: u64) -> RunRecord {
    simulate(seed, move || timeline::run(plan, seed, &Quiet)).unwrap()
}

/// Runs `work` in a world in which everybody has joined.
fn in_world<T, F>(plan: Plan, work: impl FnOnce(Rc<World>) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>>,
{
    simulate(1, move || async move {
        let world = World::new(plan, 1)?;
        for index in 0..world.len() {
            world.start(index).await?;
        }
        tokio::time::sleep(2 * MINUTE).await;
        work(world).await
    })
    .unwrap()
}

fn failed(record: &RunRecord, words: &str) -> bool {
    let check = |check: &&Check| check.name.contains(words);
    record.checks.iter().find(check).is_some_and(|check| check.failed > 0)
}

#[test]
fn a_healthy_network_delivers_and_every_check_holds() {
    let plan = Plan { events: vec![get(2, "peers", 60)], ..small() };
    let record = run(plan, 1);
    assert!(record.passed, "{:?}", record.checks);
    assert!(record.gets[0].complete);
    assert!(record.secs < 300.0, "it ends when nothing is left to happen, after {} s", record.secs);
}

#[test]
fn a_partition_keeps_parts_apart_and_heals() {
    // A share of all that rounds to the whole network leaves the holder alone in its part.
    in_world(small(), |world| async move {
        let others: Vec<usize> = (0..world.len()).filter(|index| *index != HOLDER).collect();
        let what = What::partition(&[0.5, 0.5], Millis::from_mins(10));
        let happening = world.clone();
        let cut_off = tokio::task::LocalSet::new();
        let cut = cut_off.run_until(async {
            let fault = tokio::task::spawn_local(async move { happening.happen(&what, "fault").await });
            tokio::time::sleep(MINUTE).await;
            let cut =
                others.iter().copied().filter(|index| !world.reaches(*index, HOLDER)).collect::<Vec<_>>();
            assert!((4..=8).contains(&cut.len()), "{cut:?}");
            world.get(cut[0], 0, Duration::from_secs(60)).await;
            fault.await.unwrap().unwrap();
            cut
        });
        let cut = cut.await;
        assert!(!world.record.borrow().gets[0].complete, "nobody in reach has it");
        assert!(others.iter().all(|index| world.reaches(*index, HOLDER)));
        world.get(cut[0], 0, 2 * MINUTE).await;
        assert!(world.record.borrow().gets[1].complete);
        assert!(world.checks.all_held(), "{:?}", world.checks.results());
        Ok(())
    });
}

#[test]
fn a_node_that_is_not_heard_hears_others_and_gets_nothing() {
    let lasts = Millis::from_mins(10);
    let plan = Plan {
        events: vec![
            event(2, What::Mute { who: who("holder"), lasts }),
            get(3, "peers", 60),
            get(14, "peers", 60),
        ],
        ..small()
    };
    let record = run(plan, 1);
    let complete: Vec<bool> = record.gets.iter().map(|get| get.complete).collect();
    assert_eq!(complete, [false, true], "{:?}", record.gets);
    assert!(record.passed, "what cannot arrive is nobody's failure: {:?}", record.checks);
}

#[test]
fn before_all_is_mended_only_gets_with_a_holder_in_reach_count() {
    let lasts = Millis::from_mins(10);
    let expect = Expect { gets_complete: Some(1.0), ..Expect::default() };
    let events = vec![event(2, What::Mute { who: who("holder"), lasts }), get(3, "peers", 60)];
    let plan = Plan { events, expect, ..small() };
    assert!(failed(&run(plan.clone(), 1), "gets complete"));
    let mended = |mins| {
        let expect = Expect { mended_from: Some(Millis::from_mins(mins)), ..plan.expect.clone() };
        run(Plan { expect, ..plan.clone() }, 1)
    };
    assert!(mended(14).passed && !mended(14).gets[0].complete);
    assert!(failed(&mended(2), "gets complete"));
}

#[test]
fn a_get_that_never_begins_is_one_that_does_not_complete() {
    let what = What::Get {
        who: who("peers"),
        content: None,
        within: Millis::from_hours(1),
        timeout: Millis::from_secs(60),
    };
    let expect = Expect { gets_complete: Some(1.0), ..Expect::default() };
    let record = run(Plan { events: vec![event(20, what)], expect, ..small() }, 1);
    assert!(record.gets.iter().all(|get| get.complete) && !record.gets.is_empty());
    assert!(failed(&record, "gets complete"), "{:?}", record.checks);
}

#[test]
fn a_holder_that_is_asleep_when_its_content_is_due_adds_it_when_it_wakes() {
    let mut plan = small();
    plan.contents[0].at = Millis::from_mins(5);
    let lasts = Millis::from_mins(4);
    plan.events = vec![event(3, What::Sleep { who: who("holder"), lasts }), get(10, "peers", 60)];
    let record = run(plan, 1);
    assert!(record.gets[0].complete && record.passed, "{:?} {:?}", record.gets, record.checks);
}

#[test]
fn a_cut_of_one_way_between_two_groups_leaves_the_others_alone() {
    let cut = What::partition_of(&["holder", "peers"], Millis::from_mins(10)).in_one_way();
    let plan = Plan {
        events: vec![event(2, cut), get(3, "peers", 60), get(6, "boot", 60), get(14, "peers", 60)],
        ..small()
    };
    let record = run(plan, 1);
    let complete: Vec<bool> = record.gets.iter().map(|get| get.complete).collect();
    assert_eq!(complete, [false, true, true], "{:?}", record.gets);
    assert!(record.passed, "what cannot arrive is nobody's failure: {:?}", record.checks);
    assert_eq!(record.faults[0].name, "partition, one way");
}

#[test]
fn a_node_that_is_killed_is_silent_and_comes_back_with_what_it_held() {
    for disk in [DiskFate::Kept, DiskFate::Torn] {
        let kill = What::Kill { who: who("holder"), disk, back_after: Some(Millis::from_mins(5)) };
        let plan = Plan { events: vec![event(2, kill), get(3, "peers", 60), get(9, "peers", 60)], ..small() };
        let record = run(plan, 1);
        let complete: Vec<bool> = record.gets.iter().map(|get| get.complete).collect();
        assert_eq!(complete, [false, true], "{:?}", record.gets);
        assert!(record.passed, "{:?}", record.checks);
        assert_eq!(record.hours.iter().map(|hour| hour.crashes).sum::<u64>(), 1);
        assert!(record.checks.iter().any(|check| check.name.contains("no store") && check.looked > 2));
    }
}

#[test]
fn a_lost_disk_comes_back_empty_and_is_filled_again_by_its_user_only() {
    in_world(small(), |world| async move {
        assert!(world.holds_whole(HOLDER, 0));
        world.stop(HOLDER, Death::Crash(DiskFate::Lost)).await?;
        assert!(!world.holds_whole(HOLDER, 0));
        assert!(!world.is_up(HOLDER));
        world.get(5, 0, Duration::from_secs(30)).await;
        assert!(!world.record.borrow().gets[0].complete);
        Ok(())
    });
}

#[test]
fn a_disk_that_lies_about_syncs_loses_what_was_acknowledged_and_the_checks_notice() {
    // The protection is syncing before acknowledging; a disk that does not sync takes it away.
    // What a power cut leaves of unsynced pages is drawn. Some of it the library of the database cannot even read
    // without a panic; that says nothing about the checks and does not count.
    let is_noticed = |seed: u64| {
        let kill =
            What::Kill { who: who("holder"), disk: DiskFate::Torn, back_after: Some(Millis::from_mins(1)) };
        let mut plan = Plan { events: vec![event(2, kill)], ..small() };
        plan.groups[1].unprotected = true;
        match simulate(seed, move || timeline::run(plan, seed, &Quiet)) {
            Ok(record) => failed(&record, "nothing acknowledged") || failed(&record, "no store"),
            Err(error) => {
                let error = error.to_string();
                error.contains("node 3 cannot open its store") && error.contains("is damaged")
            }
        }
    };
    assert!((1..=10).any(is_noticed));
}

#[test]
fn a_machine_that_sleeps_answers_nobody_and_goes_on_when_it_wakes() {
    let sleep = What::Sleep { who: who("holder"), lasts: Millis::from_hours(1) };
    let mut plan = Plan {
        duration: Millis::from_hours(2),
        events: vec![event(2, sleep), get(3, "peers", 60), get(65, "peers", 60)],
        ..small()
    };
    plan.probes = Some(ProbePlan {
        from: Millis::from_mins(10),
        every: Millis::from_mins(20),
        at_once: 1,
        timeout: Millis::from_secs(60),
        dials: false,
    });
    let record = run(plan, 1);
    let complete: Vec<bool> = record.gets.iter().map(|get| get.complete).collect();
    assert_eq!(complete, [false, true], "{:?}", record.gets);
    assert!(record.probes.iter().any(|probe| !probe.provider_alive && !probe.found));
    assert!(record.passed, "{:?}", record.checks);
}

#[test]
fn bad_weather_slows_a_transfer_down() {
    let secs = |loss: f64| {
        let weather = What::Weather { loss, jitter: Millis::from_millis(50), lasts: Millis::from_mins(20) };
        let events = vec![event(2, weather), get(3, "peers", 60)];
        let record = run(Plan { events, ..small() }, 1);
        assert!(record.passed, "{:?}", record.checks);
        record.gets[0].total_secs.unwrap()
    };
    let (fine, bad) = (secs(0.0), secs(0.2));
    assert!(bad > 1.5 * fine, "{bad} s against {fine} s");
}

#[test]
fn a_clock_that_jumps_shows_in_what_the_node_notes() {
    in_world(small(), |world| async move {
        let jump = What::ClockJump { who: who("peers"), secs: -86_400 };
        world.happen(&jump, "jump").await?;
        for index in [5, 1] {
            world.get(index, 0, MINUTE).await;
        }
        let added = |index: usize| {
            let up = world.up(index).unwrap();
            async move {
                match up.node.api().ls(LsRequest::default()).await.unwrap() {
                    LsReport::Shares { shares } => shares[0].added_unix,
                    LsReport::Manifest { .. } => unreachable!("no manifest was asked for"),
                }
            }
        };
        let (jumped, right) = (added(5).await, added(1).await);
        assert!((right - jumped).abs_diff(86_400) < 60, "{jumped} {right}");
        Ok(())
    });
}

#[test]
fn the_check_of_caps_fires_when_the_limits_are_taken_away() {
    let flooded = |unprotected: bool| {
        let mut plan = Plan { duration: Millis::from_mins(4), ..small() };
        plan.nodes = 14;
        plan.groups.iter_mut().for_each(|group| group.unprotected = unprotected);
        let flooders = Group::fixed("flooders", 3).role(RoleKind::Hostile(Hostile::FloodsRecords));
        plan.groups.push(flooders.joins(MINUTE, Duration::ZERO));
        plan.probes = Some(ProbePlan {
            from: Millis::from_mins(2),
            every: Millis::from_mins(1),
            at_once: 1,
            timeout: Millis::from_secs(60),
            dials: false,
        });
        run(plan, 1)
    };
    let record = flooded(false);
    assert!(!failed(&record, "caps"), "{:?}", record.checks);
    let record = flooded(true);
    assert!(failed(&record, "caps"), "{:?}", record.checks);
}

#[test]
fn the_check_of_caps_sees_what_is_over_before_the_next_hour() {
    // Whoever is flooded starts anew, with an empty table of records, long before the end.
    let again = |group| {
        let back_after = Some(Millis::from_secs(5));
        event(5, What::Kill { who: who(group), disk: DiskFate::Kept, back_after })
    };
    let mut plan = Plan { duration: Millis::from_mins(10), ..small() };
    plan.nodes = 16;
    plan.groups.iter_mut().for_each(|group| group.unprotected = true);
    let flooders = Group::fixed("flooders", 3).role(RoleKind::Hostile(Hostile::FloodsRecords));
    plan.groups.push(flooders.joins(MINUTE, Duration::ZERO));
    let end = What::Kill { who: who("flooders"), disk: DiskFate::Kept, back_after: None };
    plan.events = vec![event(4, end), again("boot"), again("holder"), again("peers")];
    // The disks of the unprotected are of no interest here.
    plan.contents.clear();
    let record = run(plan, 1);
    assert!(failed(&record, "caps"), "{:?}", record.checks);
    assert!(record.loads.iter().all(|load| load.records < 65_536), "all is well at the end");
}

#[test]
fn a_lookup_whose_asker_dies_is_counted_apart() {
    in_world(small(), |world| async move {
        let dies = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            world.stop(5, Death::Crash(DiskFate::Kept)).await
        };
        let ((), died) = tokio::join!(world.probe((5, 0), false, MINUTE), dies);
        died?;
        let record = world.record.borrow();
        assert_eq!((record.probes.len(), record.probes_dropped), (0, 1));
        Ok(())
    });
}

#[test]
fn the_check_of_tables_fires_when_a_network_stays_split() {
    let mut plan = small();
    plan.nodes = 26;
    plan.expect.tables_recover = true;
    in_world(plan, |world| async move {
        // A fault of which the world does not know that it is still on.
        world
            .happen(&What::Weather { loss: 0.0, jitter: Millis::ZERO, lasts: Millis::from_secs(1) }, "w")
            .await?;
        let mut before = dhtfs_sim::world::Before::default();
        tokio::time::sleep(11 * MINUTE).await;
        world.sample(&mut before).await;
        assert!(world.checks.all_held(), "{:?}", world.checks.results());
        // The network splits without the world being told.
        let hosts = world.hosts();
        world.net.partition(&[hosts[..13].to_vec(), hosts[13..].to_vec()]);
        tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
        // From now on everybody could know everybody.
        world.net.heal();
        world.sample(&mut before).await;
        assert!(!world.checks.all_held());
        Ok(())
    });
}

#[test]
fn the_check_of_delivery_fires_when_something_else_arrives() {
    simulate(1, || async {
        let mut world = World::new(small(), 1)?;
        // What the world believes of the content is wrong, as if the nodes had agreed on other bytes.
        Rc::get_mut(&mut world).unwrap().contents[0].digest = [0; 32];
        for index in 0..world.len() {
            world.start(index).await?;
        }
        tokio::time::sleep(2 * MINUTE).await;
        world.get(5, 0, MINUTE).await;
        assert!(!world.checks.all_held());
        assert!(!world.record.borrow().gets[0].complete);
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_check_of_received_bytes_fires_when_they_come_twice() {
    let mut plan = small();
    plan.contents.push(ContentPlan::file("other", 3000 * KIB, "holder", 1));
    in_world(plan, |world| async move {
        // Each of two gets at one node sees what the other receives as well.
        tokio::join!(world.get(5, 0, MINUTE), world.get(5, 1, MINUTE));
        let failed =
            world.checks.results().into_iter().find(|check| check.name.contains("received bytes")).unwrap();
        assert!(failed.failed >= 1, "{failed:?}");
        Ok(())
    });
}

#[test]
fn the_check_of_received_bytes_allows_only_what_was_in_flight_at_a_crash() {
    let mut plan = small();
    plan.contents.push(ContentPlan::file("other", 3000 * KIB, "holder", 1));
    in_world(plan, |world| async move {
        // Nobody is there to ask, and what was asked of the dead holder has ended, so that the crash costs nothing; then all
        // comes twice, as above.
        world.stop(HOLDER, Death::Crash(DiskFate::Kept)).await?;
        let crash = async {
            tokio::time::sleep(2 * MINUTE).await;
            world.stop(5, Death::Crash(DiskFate::Kept)).await?;
            world.start(HOLDER).await?;
            tokio::time::sleep(MINUTE).await;
            world.start(5).await
        };
        let gets = async { tokio::join!(world.get(5, 0, 5 * MINUTE), world.get(5, 1, 5 * MINUTE)) };
        let (_, crashed) = tokio::join!(gets, crash);
        crashed?;
        assert!(world.record.borrow().gets.iter().all(|get| get.complete));
        let results = world.checks.results();
        assert!(
            results.iter().any(|check| check.name.contains("received") && check.failed > 0),
            "{results:?}"
        );
        Ok(())
    });
}

#[test]
fn a_get_that_crashes_cut_off_receives_little_twice() {
    for (disk, seed) in [(DiskFate::Kept, 1), (DiskFate::Torn, 2), (DiskFate::Lost, 3)] {
        // Half a minute of transfer, cut off twice.
        let crash = |at: u64| {
            let who = Who { at_most: Some(8), ..who("peers") };
            let what = What::Kill { who, disk, back_after: Some(Millis::from_secs(20)) };
            Event { at: Millis::from_secs(at), what }
        };
        let mut plan = Plan { events: vec![get(2, "peers", 120), crash(127), crash(157)], ..small() };
        plan.groups[1] =
            Group::fixed("holder", 1).joins(Duration::from_secs(2), Duration::ZERO).lines(4.0, 4.0);
        plan.contents[0].len.0 = 16 << 20;
        let record = run(plan, seed);
        assert!(record.gets.iter().all(|get| get.complete), "{:?}", record.gets);
        assert!(record.passed, "{disk:?}: {:?}", record.checks);
    }
}

#[test]
fn the_check_of_stores_fires_alone_when_bytes_on_a_disk_change() {
    let mut plan = small();
    // A single chunk: when a file has changed, the others of it count as lost.
    plan.contents[0].len.0 = 200 * KIB;
    in_world(plan, |world| async move {
        world.stop(HOLDER, Death::Crash(DiskFate::Kept)).await?;
        let len = usize::try_from(world.contents[0].len)?;
        world.disk(HOLDER).write_file("/files/film".as_ref(), &vec![7; len])?;
        world.start(HOLDER).await?;
        let failed: Vec<_> = world.checks.results().into_iter().filter(|check| check.failed > 0).collect();
        assert!(failed.len() == 1 && failed[0].name.contains("no store holds"), "{failed:?}");
        Ok(())
    });
}

#[test]
fn the_check_of_loss_fires_alone_when_a_user_takes_away_what_the_world_counts_on() {
    in_world(small(), |world| async move {
        let cid = world.contents[0].cid();
        let holder = world.up(HOLDER).unwrap();
        holder.node.api().rm(RmRequest { cid }).await.map_err(|e| e.message)?;
        world.stop(HOLDER, Death::Crash(DiskFate::Kept)).await?;
        world.start(HOLDER).await?;
        let failed: Vec<_> = world.checks.results().into_iter().filter(|check| check.failed > 0).collect();
        assert!(failed.len() == 1 && failed[0].name.contains("nothing acknowledged"), "{failed:?}");
        Ok(())
    });
}

#[test]
fn the_check_of_lookups_fires_alone_when_they_have_no_time() {
    let probing = |timeout: Millis| {
        let mut plan = Plan { duration: Millis::from_mins(10), ..small() };
        let every = Millis::from_secs(20);
        plan.probes =
            Some(ProbePlan { from: Millis::from_mins(2), every, at_once: 1, timeout, dials: false });
        plan.expect.probes_found = Some(1.0);
        run(plan, 1)
    };
    let record = probing(Millis::from_secs(60));
    assert!(record.passed, "{:?}", record.checks);
    // An answer takes fifty milliseconds.
    let record = probing(Millis::from_millis(20));
    let failed: Vec<_> = record.checks.iter().filter(|check| check.failed > 0).collect();
    assert!(failed.len() == 1 && failed[0].name.contains("providers are found"), "{failed:?}");
}

#[test]
fn the_check_of_arrival_fires_when_a_get_gives_up_too_early() {
    let mut plan = Plan { events: vec![get(2, "peers", 1)], ..small() };
    // One megabyte a minute, and a second without progress is the end.
    plan.groups[1] =
        Group::fixed("holder", 1).joins(Duration::from_secs(2), Duration::ZERO).lines(0.14, 0.14);
    let record = run(plan, 1);
    assert!(!record.gets[0].complete);
    assert!(failed(&record, "arrives"), "{:?}", record.checks);
}
