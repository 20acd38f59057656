//! The scenarios that come with the program.

use std::time::Duration;

use super::{
    ContentPlan, DiskFate, Event, Expect, Geography, Group, NetworkPlan, Plan, ProbePlan, Security, What,
    Who,
    time::{Millis, Size},
};
use crate::roles::{Hostile, Key, RoleKind};

const MIB: u64 = 1 << 20;

/// The names of all plans, in the order in which they are listed.
pub const NAMES: [&str; 21] = [
    "join-add-get",
    "lookups",
    "churn24",
    "mass-death-50",
    "mass-death-80",
    "mass-death-90",
    "partition-heal",
    "flash-crowd",
    "swarm-of-partials",
    "hostile-providers",
    "sybil-eclipse",
    "sybil-eclipse-20",
    "sybil-eclipse-40",
    "sybil-eclipse-80",
    "forging-20",
    "forging-33",
    "forging-50",
    "few-subnets",
    "record-flood",
    "rolling-upgrade",
    "sleep-wake",
];

/// The plan of this name.
pub fn named(name: &str) -> Option<Plan> {
    Some(match name {
        "join-add-get" => join_add_get(),
        "lookups" => lookups(),
        "churn24" => churn24(),
        "mass-death-50" => mass_death(0.5),
        "mass-death-80" => mass_death(0.8),
        "mass-death-90" => mass_death(0.9),
        "partition-heal" => partition_heal(),
        "flash-crowd" => flash_crowd(),
        "swarm-of-partials" => swarm_of_partials(),
        "hostile-providers" => hostile_providers(),
        "sybil-eclipse" => sybil_eclipse(),
        "sybil-eclipse-20" => sybil_gets(20),
        "sybil-eclipse-40" => sybil_gets(40),
        "sybil-eclipse-80" => sybil_gets(80),
        "forging-20" => forging(0.20),
        "forging-33" => forging(0.33),
        "forging-50" => forging(0.50),
        "few-subnets" => few_subnets(),
        "record-flood" => record_flood(),
        "rolling-upgrade" => rolling_upgrade(),
        "sleep-wake" => sleep_wake(),
        _ => return None,
    })
}

fn secs(secs: u64) -> Millis {
    Millis::from_secs(secs)
}

fn mins(mins: u64) -> Millis {
    Millis::from_mins(mins)
}

/// Three nodes to join through, the rest after them within `joining`.
fn plan(name: &str, about: &str, nodes: usize, joining: Millis, duration: Millis) -> Plan {
    Plan {
        name: name.to_owned(),
        about: about.to_owned(),
        nodes,
        duration,
        network: NetworkPlan::default(),
        groups: vec![
            Group::fixed("boot", 3),
            Group::share("peers", 1.0).joins(Duration::from_secs(5), joining.duration()),
        ],
        contents: Vec::new(),
        probes: None,
        events: Vec::new(),
        expect: Expect::default(),
    }
}

fn get(at: Millis, who: Who, content: Option<&str>, within: Millis) -> Event {
    let what =
        What::Get { who, content: content.map(str::to_owned), within, timeout: Millis::from_secs(120) };
    Event { at, what }
}

fn probes(from: Millis, every: Millis, at_once: usize) -> Option<ProbePlan> {
    Some(ProbePlan { from, every, at_once, timeout: secs(60), dials: false })
}

fn files(name: &str, count: usize, len: u64, group: &str, holders: usize) -> ContentPlan {
    ContentPlan { count, ..ContentPlan::file(name, len, group, holders) }
}

fn all_gets() -> Expect {
    Expect { gets_complete: Some(1.0), ..Expect::default() }
}

fn join_add_get() -> Plan {
    let mut plan = plan(
        "join-add-get",
        "nodes join, one adds 8 MiB, ten fetch it, then ten more from whoever has it",
        100,
        mins(1),
        mins(30),
    );
    plan.network.geography = Geography::Regions;
    plan.network.one_way = Millis::ZERO;
    plan.contents = vec![ContentPlan { at: mins(2), ..ContentPlan::file("film", 8 * MIB + 1, "peers", 1) }];
    let ten = || Who::up_to(10);
    plan.events =
        vec![get(mins(3), ten(), Some("film"), Millis::ZERO), get(mins(5), ten(), Some("film"), secs(10))];
    plan.expect = all_gets();
    plan
}

/// The network of growth-law at one size.
fn lookups() -> Plan {
    let mut plan = plan(
        "lookups",
        "a quiet network: 300 lookups of 60 files at random nodes; growth-law runs it at several sizes",
        100,
        mins(4),
        mins(11),
    );
    plan.network.security = Security::Plaintext;
    plan.network.idle_timeout = Some(secs(4));
    // Added when all have joined: a record that was placed while the network grew is no longer with the closest.
    plan.contents = vec![ContentPlan { at: secs(270), ..files("file", 60, 1000, "peers", 1) }];
    plan.probes = probes(mins(6), secs(1), 1);
    plan.expect.probes_found = Some(1.0);
    plan
}

fn churn24() -> Plan {
    let hours = Duration::from_secs(2 * 3600);
    let mut plan = plan(
        "churn24",
        "a day in which nodes stay for two hours and are away for two (medians), and crash instead of leaving",
        100,
        mins(5),
        Millis::from_hours(24),
    );
    plan.network.security = Security::Plaintext;
    plan.groups = vec![
        Group::fixed("boot", 3),
        Group::share("homes", 1.0)
            .joins(Duration::from_secs(5), Duration::from_secs(600))
            .churn(hours, hours),
    ];
    plan.contents = vec![files("file", 100, 2000, "homes", 2)];
    plan.probes = probes(mins(15), mins(1), 1).map(|probes| ProbePlan { dials: true, ..probes });
    plan.events = (1..24).map(|hour| get(Millis::from_hours(hour), Who::up_to(2), None, mins(30))).collect();
    plan
}

/// A tenth of the nodes holds each file, so that most have a live provider whatever the share.
fn mass_death(share: f64) -> Plan {
    let mut plan = plan(
        &format!("mass-death-{:.0}", share * 100.0),
        "a share of all nodes dies in one instant; every file has ten holders",
        100,
        mins(2),
        mins(18),
    );
    plan.network.security = Security::Plaintext;
    plan.contents = vec![files("file", 100, 2000, "peers", 10)];
    plan.probes = probes(mins(6), secs(5), 1);
    let who = Who::share(share);
    plan.events =
        vec![Event { at: mins(7), what: What::Kill { who, disk: DiskFate::Kept, back_after: None } }];
    plan.expect.tables_recover = true;
    plan
}

fn partition_heal() -> Plan {
    let mut plan = plan(
        "partition-heal",
        "two halves do not hear each other for an hour; every file has a holder in reach or the probe does not count",
        60,
        mins(2),
        Millis::from_hours(3),
    );
    plan.network.security = Security::Plaintext;
    plan.contents = vec![files("file", 60, 2000, "peers", 3)];
    plan.probes = probes(mins(10), secs(15), 1);
    plan.events =
        vec![Event { at: Millis::from_hours(1), what: What::partition(&[0.5, 0.5], Millis::from_hours(1)) }];
    plan.expect = Expect { probes_found: Some(1.0), tables_recover: true, ..Expect::default() };
    plan
}

fn flash_crowd() -> Plan {
    let mut plan = plan(
        "flash-crowd",
        "one seeder, everybody else gets the same 64 MiB at once; lines of 100 Mbit/s up and down",
        100,
        mins(1),
        Millis::from_hours(2),
    );
    plan.network.security = Security::Plaintext;
    plan.groups = vec![
        Group::fixed("boot", 3).lines(100.0, 100.0),
        Group::fixed("seeder", 1).joins(Duration::from_secs(5), Duration::ZERO).lines(100.0, 100.0),
        Group::share("crowd", 1.0).joins(Duration::from_secs(5), Duration::from_secs(60)).lines(100.0, 100.0),
    ];
    plan.contents = vec![ContentPlan::file("film", 64 * MIB, "seeder", 1)];
    plan.events = vec![
        get(mins(3), Who::of("crowd"), Some("film"), Millis::ZERO),
        get(mins(3), Who::of("boot"), Some("film"), Millis::ZERO),
    ];
    plan.expect = all_gets();
    plan
}

fn swarm_of_partials() -> Plan {
    let mut plan = plan(
        "swarm-of-partials",
        "nobody has the 64 MiB whole: every node holds a random tenth of the chunks, and five want all of it",
        100,
        mins(1),
        Millis::from_hours(1),
    );
    plan.network.security = Security::Plaintext;
    let partial = ContentPlan::file("film", 64 * MIB, "peers", 1);
    plan.contents = vec![ContentPlan { holders: None, held: 0.1, ..partial }];
    plan.events = vec![get(mins(10), Who::up_to(5), Some("film"), Millis::ZERO)];
    plan
}

/// A network in which a fifth of the nodes is hostile, in groups of one kind each.
fn hostile_providers() -> Plan {
    let kinds = [
        Hostile::DropsRequests,
        Hostile::Garbage,
        Hostile::Truncated,
        Hostile::Endless,
        Hostile::Drip,
        Hostile::Liar,
        Hostile::ForgesProviders,
        Hostile::RotatesAddresses,
    ];
    let mut plan = plan(
        "hostile-providers",
        "two honest holders among 16 hostile ones of eight kinds; ten nodes fetch 8 MiB",
        80,
        mins(1),
        Millis::from_hours(1),
    );
    for kind in kinds {
        let group = Group::fixed(kind.name(), 2).role(RoleKind::Hostile(kind));
        plan.groups.push(group.joins(Duration::from_secs(70), Duration::from_secs(5)));
    }
    plan.contents = vec![ContentPlan::file("film", 8 * MIB, "peers", 2)];
    plan.events = vec![get(mins(10), Who::up_to(10), Some("film"), mins(2))];
    plan.expect = all_gets();
    plan
}

fn sybil_eclipse() -> Plan {
    let mut plan = plan(
        "sybil-eclipse",
        "twenty identities made to be the closest to one file swallow its records and name only each other",
        100,
        mins(1),
        Millis::from_hours(1),
    );
    plan.network.security = Security::Plaintext;
    let sybils = Group::fixed("sybils", 20).role(RoleKind::Hostile(Hostile::SybilNear(Key::FirstTarget)));
    plan.groups.push(sybils.joins(mins(20).duration(), Duration::from_secs(60)));
    plan.contents = vec![ContentPlan::file("film", 2 * MIB, "peers", 3)];
    plan.probes = probes(mins(5), secs(20), 1);
    plan
}

/// Who comes after the Sybils and fetches by the bare CID what was added among them.
fn sybil_gets(count: usize) -> Plan {
    let mut plan = plan(
        &format!("sybil-eclipse-{count}"),
        "that many identities closest to a file are there before it is added; all honest nodes fetch it by its CID",
        100 + count,
        mins(1),
        mins(20),
    );
    plan.network.security = Security::Plaintext;
    plan.network.idle_timeout = Some(secs(15));
    let sybils = Group::fixed("sybils", count).role(RoleKind::Hostile(Hostile::SybilNear(Key::FirstTarget)));
    plan.groups.push(sybils.joins(mins(2).duration(), Duration::from_secs(60)));
    plan.contents = vec![ContentPlan { at: mins(8), ..ContentPlan::file("film", 100_000, "peers", 3) }];
    plan.probes = probes(mins(9), secs(10), 1);
    plan.events = vec![get(mins(10), Who::of("peers"), Some("film"), mins(7))];
    plan
}

/// Half of the hostile ones invent peers and providers, half swallow records and say nothing.
fn forging(share: f64) -> Plan {
    let mut plan = plan(
        &format!("forging-{:.0}", share * 100.0),
        "a share of the nodes serves the DHT falsely: half invent peers and providers, half forget records",
        100,
        mins(1),
        mins(18),
    );
    plan.network.security = Security::Plaintext;
    let hostile = [Hostile::ForgesProviders, Hostile::SwallowsRecords];
    plan.groups = vec![Group::fixed("boot", 3), Group::share("peers", 1.0 - share)];
    plan.groups
        .extend(hostile.map(|kind| Group::share(kind.name(), share / 2.0).role(RoleKind::Hostile(kind))));
    for group in &mut plan.groups[1..] {
        (group.joins_at, group.joins_within) = (secs(5), mins(1));
    }
    plan.contents = vec![ContentPlan { at: mins(5), ..files("file", 100, 2000, "peers", 2) }];
    plan.probes = probes(mins(7), secs(6), 1);
    plan
}

/// A thousand names on a thousand addresses, but of four small networks only.
fn few_subnets() -> Plan {
    const HONEST: usize = 100;
    const HOSTILE: usize = 1_000;
    let mut plan = plan(
        "few-subnets",
        "a thousand identities of four /24s, half of which invent peers and providers and half forget records",
        HONEST + HOSTILE,
        mins(1),
        mins(15),
    );
    plan.network.security = Security::Plaintext;
    plan.network.idle_timeout = Some(secs(4));
    for kind in [Hostile::ForgesProviders, Hostile::SwallowsRecords] {
        let group = Group::fixed(kind.name(), HOSTILE / 2).role(RoleKind::Hostile(kind));
        // Two networks for each half: four in all.
        plan.groups
            .push(Group { subnets: Some(2), ..group.joins(mins(2).duration(), Duration::from_secs(60)) });
    }
    plan.contents = vec![ContentPlan { at: mins(5), ..files("file", 100, 2000, "peers", 2) }];
    plan.probes = probes(mins(7), secs(4), 1);
    plan
}

fn record_flood() -> Plan {
    let mut plan = plan(
        "record-flood",
        "five nodes send provider records for random keys as fast as they can; others look up real files",
        60,
        mins(1),
        Millis::from_hours(1),
    );
    let flooders = Group::fixed("flooders", 5).role(RoleKind::Hostile(Hostile::FloodsRecords));
    plan.groups.push(flooders.joins(mins(5).duration(), Duration::from_secs(5)));
    plan.network.security = Security::Plaintext;
    plan.contents = vec![
        files("file", 20, 2000, "peers", 2),
        ContentPlan { at: mins(30), ..files("late", 20, 2000, "peers", 2) },
    ];
    plan.probes = probes(mins(4), secs(20), 1);
    plan
}

fn rolling_upgrade() -> Plan {
    let mut plan = plan(
        "rolling-upgrade",
        "every node restarts with exchange versions 2 and 1, later with 2 alone, while others fetch",
        60,
        mins(1),
        Millis::from_hours(2),
    );
    plan.network.security = Security::Plaintext;
    plan.contents = vec![files("file", 8, 3 * MIB, "peers", 3)];
    let upgrade = |at, versions: &[u32]| {
        let everybody = Who::default();
        [everybody, Who::of("boot")].map(|who| Event {
            at,
            what: What::Upgrade { who, exchange_versions: versions.to_vec(), within: mins(25) },
        })
    };
    plan.events.extend(upgrade(mins(15), &[2, 1]));
    plan.events.extend(upgrade(mins(60), &[2]));
    for at in [10, 25, 35, 50, 70, 80, 100] {
        plan.events.push(get(mins(at), Who::up_to(4), None, mins(2)));
    }
    plan.expect = Expect { gets_complete: Some(1.0), tables_recover: true, ..Expect::default() };
    plan
}

fn sleep_wake() -> Plan {
    let mut plan = plan(
        "sleep-wake",
        "all laptops sleep for eight hours and wake within a minute; a few machines stay up",
        80,
        mins(2),
        Millis::from_hours(12),
    );
    plan.network.security = Security::Plaintext;
    plan.groups = vec![
        Group::fixed("boot", 3),
        Group::fixed("always-on", 10).joins(Duration::from_secs(5), Duration::from_secs(10)),
        Group::share("laptops", 1.0).joins(Duration::from_secs(10), Duration::from_secs(120)),
    ];
    plan.contents = vec![files("file", 40, 2000, "laptops", 2)];
    plan.probes = probes(mins(10), secs(60), 1);
    let laptops = Who::of("laptops");
    plan.events = vec![Event {
        at: Millis::from_hours(2),
        what: What::Sleep { who: laptops, lasts: Millis::from_hours(8) },
    }];
    plan.expect.tables_recover = true;
    plan
}

/// A size for content in tests and documents.
pub const fn mib(mib: u64) -> Size {
    Size(mib * MIB)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::*;

    #[test]
    fn every_plan_makes_sense_and_survives_being_written_down() {
        for name in NAMES {
            let plan = named(name).unwrap();
            assert_eq!(plan.name, name);
            plan.check().unwrap();
            let text = plan.to_toml();
            let read = Plan::from_toml(&text).unwrap_or_else(|e| panic!("{name}: {e}\n{text}"));
            assert_eq!(read, plan, "{text}");
        }
        assert_eq!(named("none"), None);
    }

    #[test]
    fn groups_share_out_exactly_the_nodes() {
        for nodes in [30, 77, 100, 1000] {
            let mut plan = named("hostile-providers").unwrap();
            plan.nodes = nodes;
            plan.groups[1].share = Some(0.5);
            plan.groups.insert(2, Group::share("more", 0.25));
            let sizes = plan.group_sizes().unwrap();
            assert_eq!(sizes.iter().sum::<usize>(), nodes);
            assert_eq!(sizes[0], 3);
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused_with_their_place() {
        fn happens(plan: &mut Plan, what: What) {
            plan.events.push(Event { at: mins(1), what });
        }
        fn weather(loss: f64, jitter: Millis, lasts: Millis) -> What {
            What::Weather { loss, jitter, lasts }
        }
        fn upgrade(versions: &[u32]) -> What {
            let who = Who::default();
            What::Upgrade { who, exchange_versions: versions.to_vec(), within: Millis::ZERO }
        }
        type Change = (fn(&mut Plan), &'static str);
        let changes: [Change; 25] = [
            (|p| p.network.loss = 1.0, "network.loss: 1 is not within 0 and 0.9"),
            (|p| p.network.loss = f64::NAN, "network.loss: NaN"),
            (|p| p.network.one_way = mins(1), "network.one_way"),
            (|p| p.network.jitter = mins(1), "network.jitter"),
            (|p| p.network.idle_timeout = Some(Millis::ZERO), "network.idle_timeout"),
            (|p| p.network.record_life = Some(secs(60)), "network.record_life: 1m is less than 2m"),
            (|p| p.groups[1].subnets = Some(0), "group peers: 250 nodes"),
            (
                |p| {
                    p.nodes = 400;
                    p.groups[1].subnets = Some(1);
                },
                "group peers: 250 nodes",
            ),
            (|p| p.groups[1].exchange_versions = vec![1, 0], "group peers: exchange_versions"),
            (|p| p.groups[1].exchange_versions = vec![2, 1, 2], "group peers: exchange_versions"),
            (|p| p.contents[0].held = 0.0, "held of content film"),
            (|p| happens(p, upgrade(&[])), "exchange_versions must name one"),
            (|p| happens(p, upgrade(&[1, 1])), "exchange_versions: [1, 1]"),
            (|p| happens(p, weather(1.0, Millis::ZERO, mins(1))), "loss 100.0 % at 1m: loss: 1 is"),
            (|p| happens(p, weather(0.1, mins(1), mins(1))), "jitter"),
            (|p| happens(p, weather(0.1, Millis::ZERO, Millis::ZERO)), "lasts"),
            (|p| happens(p, What::partition(&[0.0, 0.0], mins(1))), "at 1m: parts: a part of 0"),
            (|p| happens(p, What::partition(&[1.0], mins(1))), "two parts at least"),
            (|p| happens(p, What::partition(&[], mins(1))), "either parts or groups"),
            (|p| happens(p, What::partition_of(&["boot", "nobody"], mins(1))), "no group \"nobody\""),
            (|p| happens(p, What::partition_of(&["boot", "boot"], mins(1))), "twice"),
            (|p| happens(p, What::partition(&[0.2, 0.3, 0.5], mins(1)).in_one_way()), "between two"),
            (|p| happens(p, What::ClockJump { who: Who::default(), secs: 0 }), "secs"),
            (
                |p| {
                    let who = Who::up_to(0);
                    happens(p, What::Sleep { who, lasts: mins(1) });
                },
                "nobody",
            ),
            (
                |p| {
                    let at = p.duration;
                    p.events.push(get(at, Who::default(), None, Millis::ZERO));
                },
                "the run ends before, after 30m",
            ),
        ];
        for (change, words) in changes {
            let mut plan = named("join-add-get").unwrap();
            change(&mut plan);
            let error = plan.check().unwrap_err().to_string();
            assert!(error.contains(words), "{words} is not in {error}");
        }
    }

    #[test]
    fn plans_that_make_no_sense_are_refused_by_name() {
        type Change = (fn(&mut Plan), &'static str);
        let changes: [Change; 8] = [
            (|p| p.nodes = 1, "nodes"),
            (|p| p.nodes = 2, "fixed"),
            (|p| p.network.loss = 1.5, "network.loss"),
            (|p| p.groups.clear(), "groups"),
            (|p| p.groups[0].role = RoleKind::ClientOnly, "boot"),
            (|p| p.groups[1].nodes = Some(3), "peers"),
            (|p| p.contents[0].group = Some("x\n".into()), "x"),
            (|p| p.events.push(get(Millis::ZERO, Who::default(), Some("nothing"), Millis::ZERO)), "nothing"),
        ];
        for (change, word) in changes {
            let mut plan = named("join-add-get").unwrap();
            change(&mut plan);
            let error = plan.check().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let error =
            Plan::from_toml("name = \"x\"\nnodes = 3\nduration = \"1h\"\ngroups = []\nodd = 1").unwrap_err();
        assert!(error.to_string().contains("odd"), "{error}");
    }
}
