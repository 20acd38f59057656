//! Hole punching with stock libp2p, pair by pair: which two hosts get a direct connection, and how fast.
//!
//! B reserves a place at a public relay, A dials B through it, and dcutr does the rest. What comes out is compared with
//! what the same libp2p does on real NAT boxes ([`PAIRS`]): it says whether the simulated ones are good enough to
//! develop against.

mod pair;
pub mod product;

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{
    net::{NatSpec, Net},
    record::Table,
};

/// Why a pair could not even be set up.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What stands between a host and the Internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Nothing.
    Public,
    /// A NAT that keeps the port and lets everybody in.
    FullCone,
    /// A NAT that keeps the port and lets in addresses that were sent to.
    AddressRestricted,
    /// A NAT that keeps the port and lets in addresses and ports that were sent to: Linux `masquerade`.
    PortRestricted,
    /// The same, with one mapping for all destinations but to another port.
    PortShifting,
    /// A NAT with another port for every destination: Linux `masquerade random,fully-random`.
    Symmetric,
    /// As port-restricted, with the listen port forwarded.
    Forwarded,
}

impl Kind {
    fn nat(self) -> Option<NatSpec> {
        Some(match self {
            Self::Public => return None,
            Self::FullCone => NatSpec::full_cone(),
            Self::AddressRestricted => NatSpec::address_restricted(),
            Self::PortRestricted | Self::Forwarded => NatSpec::port_restricted(),
            Self::PortShifting => NatSpec::port_shifting(),
            Self::Symmetric => NatSpec::symmetric(),
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Public => "public",
            Self::FullCone => "full cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::PortShifting => "port-shifting",
            Self::Symmetric => "symmetric",
            Self::Forwarded => "port forwarded",
        })
    }
}

/// What stock libp2p 0.57 does for a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// A direct connection comes about.
    Direct,
    /// The relay stays the only way.
    Never,
}

/// Pairs, who dials first, and what becomes of them, measured with stock libp2p 0.57 over TCP.
///
/// The rows of Linux `masquerade` (port-restricted, symmetric, port-shifting, forwarded) were measured with real
/// sockets in network namespaces with nftables; those of the other kinds, and of port-shifting beside
/// port-restricted, in a prototype of this simulation that agreed with the namespaces on the rows that both have.
///
/// A port-shifting NAT could be punched, but identify 0.48 replaces an observed port that is not a listen port by the
/// listen port, so that dcutr offers a port that the NAT never mapped.
///
/// For address-restricted and symmetric it was not recorded who dialled, and only one order can succeed. If the
/// symmetric side is dialled, the only packet that gets through is its own; dcutr makes this side the listener of what
/// it dials, and to the other host it is an incoming connection like any other. So both sides listen, and the
/// handshake times out. That order's row is this reasoning, not a measurement.
pub const PAIRS: [(Kind, Kind, Expected); 13] = [
    (Kind::Public, Kind::Public, Expected::Direct),
    (Kind::FullCone, Kind::FullCone, Expected::Direct),
    (Kind::AddressRestricted, Kind::AddressRestricted, Expected::Direct),
    (Kind::PortRestricted, Kind::PortRestricted, Expected::Direct),
    (Kind::Symmetric, Kind::AddressRestricted, Expected::Direct),
    (Kind::AddressRestricted, Kind::Symmetric, Expected::Never),
    (Kind::PortRestricted, Kind::Symmetric, Expected::Never),
    (Kind::Symmetric, Kind::PortRestricted, Expected::Never),
    (Kind::Symmetric, Kind::Symmetric, Expected::Never),
    (Kind::PortShifting, Kind::PortRestricted, Expected::Never),
    (Kind::PortRestricted, Kind::PortShifting, Expected::Never),
    (Kind::PortShifting, Kind::PortShifting, Expected::Never),
    (Kind::Forwarded, Kind::PortRestricted, Expected::Direct),
];

/// What became of a pair. Times are since A dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Who dials.
    pub a: Kind,
    /// Who is dialled.
    pub b: Kind,
    /// When A and B were connected through the relay.
    pub relayed: Option<Duration>,
    /// When they were connected directly.
    pub direct: Option<Duration>,
    /// What stock libp2p should do, from [`PAIRS`].
    pub expected: Expected,
}

impl Row {
    /// Whether the simulation does what is expected.
    pub const fn is_as_expected(&self) -> bool {
        self.relayed.is_some() && self.direct.is_some() == matches!(self.expected, Expected::Direct)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: Option<Duration>| time.map_or("never".into(), |t| format!("{} ms", t.as_millis()));
        let verdict = if self.is_as_expected() { "as expected" } else { "NOT AS EXPECTED" };
        let (relayed, direct) = (time(self.relayed), time(self.direct));
        write!(f, "{:<18} {:<18} relayed {relayed:<8} direct {direct:<8} {verdict}", self.a, self.b)
    }
}

/// What became of all pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// A row for each of [`PAIRS`].
    pub rows: Vec<Row>,
    /// A row for each of [`product::PATHS`].
    pub paths: Vec<product::Row>,
    /// Hash over the traces of all their networks.
    pub trace_hash: String,
}

/// The rows for people.
pub fn table(rows: &[Row]) -> Table {
    let time = |time: Option<Duration>| time.map_or("never".into(), |t| format!("{} ms", t.as_millis()));
    let row = |row: &Row| {
        let verdict = if row.is_as_expected() { "as measured" } else { "not as measured" };
        vec![row.a.to_string(), row.b.to_string(), time(row.relayed), time(row.direct), verdict.to_owned()]
    };
    let columns = ["A dials", "B", "relayed after", "direct after", "on real NAT boxes"];
    Table {
        title: "Hole punching with stock libp2p".to_owned(),
        columns: columns.map(str::to_owned).to_vec(),
        rows: rows.iter().map(row).collect(),
    }
}

/// Tries every pair of [`PAIRS`], each on a network of its own. Needs a paused tokio runtime.
///
/// # Errors
/// If a node cannot be set up.
pub async fn run(seed: u64) -> Result<Outcome, Failure> {
    let (mut rows, mut trace_hash) = (Vec::new(), String::new());
    for (number, (a, b, expected)) in (0..).zip(PAIRS) {
        let net = Net::new(seed.wrapping_add(number));
        crate::world::attach_trace(&net);
        let (relayed, direct) = pair::run(&net, a, b).await?;
        rows.push(Row { a, b, relayed, direct, expected });
        trace_hash = crate::join_hashes(&trace_hash, &net.trace_hash());
    }
    let mut paths = Vec::new();
    for (number, (a, b, expected)) in (100..).zip(product::PATHS) {
        let net = Net::new(seed.wrapping_add(number));
        crate::world::attach_trace(&net);
        let row = product::run(&net, a, b, expected).await;
        paths.push(row.map_err(|error| format!("{a} fetches from {b}: {error}"))?);
        trace_hash = crate::join_hashes(&trace_hash, &net.trace_hash());
    }
    Ok(Outcome { rows, paths, trace_hash })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::thread;

    use super::*;
    use crate::clock;

    #[test]
    fn every_pair_does_what_it_does_on_real_nat_boxes() {
        let run = || {
            clock::enter(1).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(super::run(1)).unwrap()
        };
        let Outcome { rows, paths, .. } = thread::spawn(run).join().unwrap();
        let table: Vec<_> = rows.iter().map(ToString::to_string).collect();
        println!("{}", table.join("\n"));
        assert!(rows.iter().all(Row::is_as_expected), "\n{}", table.join("\n"));
        assert_eq!(rows.len(), PAIRS.len());
        for row in &paths {
            println!("{row:?}");
        }
        assert!(paths.iter().all(|row| row.path == row.expected));
        assert_eq!(paths.len(), product::PATHS.len());
    }
}
