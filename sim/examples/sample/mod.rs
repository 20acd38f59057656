//! A record as a long run of a large network would leave it, made up: to look at the report without the run.

use std::collections::BTreeMap;

use dhtfs_sim::record::{Check, FaultSpan, Get, GrowthPoint, Hour, Load, Probe, RunRecord, Table};

/// Numbers that look random and are always the same (Marsaglia's xorshift).
struct Noise(u64);

impl Noise {
    /// At least 0 and below 1.
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from(u32::try_from(self.0 >> 40).unwrap_or_default()) / f64::from(1u32 << 24)
    }

    /// Log-normal, more or less: `middle` times or divided by `spread` in two thirds of all cases.
    fn around(&mut self, middle: f64, spread: f64) -> f64 {
        let sum: f64 = (0..12).map(|_| self.unit()).sum();
        middle * spread.powf(sum - 6.0)
    }

    /// A whole number below `end`.
    fn below(&mut self, end: u32) -> u32 {
        let unit = self.unit();
        (0..end).rev().find(|number| unit * f64::from(end) >= f64::from(*number)).unwrap_or(0)
    }
}

const HOUR: f64 = 3600.0;

/// Whether the network is split at `at`, and for how long nodes have been gone since the mass death.
fn trouble(at: f64) -> (bool, Option<f64>) {
    let split = (6.0 * HOUR..8.5 * HOUR).contains(&at);
    let dead = (15.0 * HOUR..19.0 * HOUR).contains(&at).then(|| (at - 15.0 * HOUR) / HOUR);
    (split, dead)
}

fn hours(noise: &mut Noise) -> Vec<Hour> {
    let mut hours = Vec::new();
    for number in 1..=24u32 {
        let at = f64::from(number) * HOUR;
        let dead = trouble(at - 1.0).1.is_some();
        let online = if dead { 130 + 20 * (number as usize - 15) } else { 400 + noise.below(25) as usize };
        let nodes = online as u64;
        let mut bytes = |name: &str, each: u32, spread: u32| {
            (name.to_owned(), nodes * u64::from(each + noise.below(spread)))
        };
        let bytes = BTreeMap::from([
            bytes("kad", 410_000, 90_000),
            bytes("exchange", 900_000, 900_000),
            bytes("identify", 120_000, 20_000),
            bytes("ping", 60_000, 4_000),
            bytes("autonat", 30_000, 6_000),
            bytes("other", 9_000, 3_000),
        ]);
        hours.push(Hour {
            at,
            online,
            starts: 30 + u64::from(noise.below(12)),
            crashes: if number == 16 { 290 } else { 25 + u64::from(noise.below(12)) },
            bytes,
            probes: 120,
            found: 118,
            connections: online * 11,
            routing_median: if dead { 61 } else { 97 },
            hash: format!("{:016x}", u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ..Hour::default()
        });
    }
    hours
}

fn probes(noise: &mut Noise) -> Vec<Probe> {
    let mut probes = Vec::new();
    for number in 0..2880u32 {
        let at = f64::from(number) * 30.0;
        let (split, dead) = trouble(at);
        let (chance, stale) = match (split, dead) {
            (true, _) => (0.71, 0.21),
            (_, Some(since)) => (0.80 + 0.05 * since, 0.62 / (1.0 + since)),
            _ => (0.997, 0.06),
        };
        let found = noise.unit() < chance;
        let first = noise.around(0.31, 1.9) + if stale > 0.2 && noise.unit() < 0.4 { 5.0 } else { 0.0 };
        let returned = 3 + noise.below(8) as usize;
        probes.push(Probe {
            content: 0,
            at,
            node: noise.below(420) as usize,
            provider_alive: noise.unit() < 0.97,
            found,
            first_secs: found.then_some(first),
            total_secs: first * 2.2,
            requests: 4 + noise.below(7) + noise.below(5),
            returned,
            stale: (0..returned).filter(|_| noise.unit() < stale).count(),
            answered: 0,
            answered_stale: 0,
            hops: (noise.unit() < 0.98).then(|| 1 + noise.below(2) + noise.below(3)),
        });
    }
    probes
}

fn gets(noise: &mut Noise) -> Vec<Get> {
    let mut gets = Vec::new();
    for number in 0..260u32 {
        let at = f64::from(number) * 330.0;
        let complete = noise.unit() < 0.973;
        let first = noise.around(0.55, 1.8);
        let len = 1_048_576 * u64::from(1 + noise.below(64));
        gets.push(Get {
            at,
            node: noise.below(420) as usize,
            len,
            complete,
            first_byte_secs: (complete || noise.unit() < 0.4).then_some(first),
            total_secs: complete.then(|| first + noise.around(9.0, 2.2)),
            received_len: len,
            sources: 1 + noise.below(9) as usize,
            error: (!complete)
                .then(|| "no provider answered within 60 s; 3 tried, 2 dials refused".to_owned()),
        });
    }
    gets
}

fn loads(noise: &mut Noise) -> Vec<Load> {
    let roles =
        [("public", 260, 3.1e8), ("behind a NAT", 140, 1.4e8), ("relay", 8, 9.2e8), ("bootstrap", 3, 6.0e8)];
    let mut loads = Vec::new();
    for (role, count, middle) in roles {
        for _ in 0..count {
            let whole = |value: f64| format!("{value:.0}").parse::<u64>().unwrap_or_default();
            let sent = whole(noise.around(middle, 1.5));
            let records = if role == "behind a NAT" { 0 } else { whole(noise.around(48.0, 1.5)) };
            loads.push(Load {
                node: loads.len(),
                role: role.to_owned(),
                sent,
                received: sent,
                records,
                chunks: 40,
                served: sent / 2,
            });
        }
    }
    loads
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn check(name: &str, looked: u64, failed: u64, first_failure: Option<&str>) -> Check {
    Check { name: name.to_owned(), looked, failed, first_failure: first_failure.map(str::to_owned) }
}

fn growth() -> Vec<GrowthPoint> {
    let point = |nodes: usize, requests, hops, first_secs| GrowthPoint { nodes, requests, hops, first_secs };
    vec![
        point(25, 4.31, 1.32, 0.22),
        point(50, 5.02, 1.61, 0.24),
        point(100, 5.93, 1.88, 0.27),
        point(200, 6.61, 2.15, 0.29),
        point(400, 7.55, 2.38, 0.31),
        point(800, 8.2, 2.71, 0.34),
    ]
}

fn checks() -> Vec<Check> {
    vec![
        check("a reachable provider is found outside of faults", 2134, 0, None),
        check("lookups recover within an hour of a fault", 2, 0, None),
        check(
            "a fetch from a live seeder completes",
            260,
            7,
            Some("node 211 at 6 h 14 min: no provider answered within 60 s"),
        ),
        check("every byte received has the hash it was asked for", 81_422, 0, None),
        check("no node keeps an expired provider record", 9_840, 0, None),
    ]
}

/// The record.
pub(crate) fn record() -> RunRecord {
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let fault = |name: &str, from: f64, to: f64| FaultSpan {
        name: name.to_owned(),
        from: from * HOUR,
        to: to * HOUR,
    };
    let growth = growth();
    let options = [
        ("churn", "mean session 12 h, mean absence 40 min"),
        ("content", "40 files of 1 MiB to 64 MiB, 3 seeders each"),
        ("latency", "from a map of 5 regions, 8 ms to 210 ms one way, 10 % jitter"),
        ("nodes", "420"),
        ("probe every", "30 s"),
    ];
    RunRecord {
        scenario: "healing".to_owned(),
        version: "0.1.0".to_owned(),
        seed: 7,
        nodes: 420,
        plan: String::new(),
        options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        replay: "dhtfs-sim run healing --nodes 420 --hours 24 --seed 7 --churn 12h/40m".to_owned(),
        trace_hash: "5b1f0c2d9e8a7763c4d0e1f2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6".to_owned(),
        secs: 24.0 * HOUR,
        passed: false,
        checks: checks(),
        hours: hours(&mut noise),
        probes: probes(&mut noise),
        probes_dropped: 0,
        gets: gets(&mut noise),
        faults: vec![
            fault("partition into 2", 6.0, 8.5),
            fault("bootstrap nodes down", 7.5, 9.0),
            fault("mass death 70 %", 15.0, 15.0),
            fault("slow return", 15.0, 19.0),
            fault("links lose 20 %", 21.5, 23.0),
        ],
        growth_fit: Some(dhtfs_sim::report::stats::fit_log(&growth)),
        growth,
        loads: loads(&mut noise),
        chunk_holders: vec![
            (1, 14),
            (2, 61),
            (3, 890),
            (4, 1204),
            (5, 822),
            (6, 431),
            (7, 240),
            (8, 122),
            (9, 71),
            (11, 18),
            (14, 5),
        ],
        tables: vec![Table {
            title: "Fetches by pair of NATs".to_owned(),
            columns: strings(&["getter", "seeder", "complete", "direct", "relayed"]),
            rows: vec![
                strings(&["public", "public", "64 of 64", "100 %", "0 %"]),
                strings(&["cone", "cone", "48 of 49", "93.9 %", "6.1 %"]),
                strings(&["symmetric", "symmetric", "19 of 22", "0 %", "100 %"]),
            ],
        }],
        figures: BTreeMap::from([
            ("events per virtual second".to_owned(), 12_481.0),
            ("virtual seconds per CPU second".to_owned(), 61.7),
        ]),
        cpu_secs: 1402.0,
        peak_rss_mib: 2311.0,
    }
}
