//! The same with whole nodes: A fetches a file that B has, by its content ID, with the help of two public nodes.

use std::{fmt, sync::Arc, time::Duration};

use dhtfs_node::{
    Config, Node, Role,
    api::types::{AddRequest, GetRequest},
    config::RelayShare,
    env::{Env, StoreHandle, Tuning},
};
use dhtfs_store::disk::PagePool;
use libp2p::{Multiaddr, core::upgrade::Version, multiaddr::Protocol};
use serde::Serialize;
use tokio::{sync::watch, time::sleep};

use super::{Failure, Kind, pair};
use crate::{
    clock,
    limits::node_limits,
    net::{HostId, Nat, Net, Security, upgraded},
    record::Table,
    world::disk,
};

/// How often it is looked whether nodes have found out how others reach them.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often at most.
const MAX_LOOKS: u32 = 120;

/// Length of the file.
const FILE_LEN: usize = 3 << 20;

/// How the file came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// One end dialled the other.
    Direct,
    /// Both dialled at the same time.
    Punched,
    /// Through a relay.
    Relayed,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Punched => "punched",
            Self::Relayed => "relayed",
        })
    }
}

/// What becomes of pairs, as with real daemons behind real gateways in the net lab (`docs/nat.md`), whose gateways all filter by
/// address and port.
///
/// A node behind a filter by address alone takes itself for reachable, since whoever dials back was dialled before; it keeps its
/// places at relays all the same, until somebody else has come in. Two of them find each other in the DHT under the addresses of
/// their routers and dial each other there, which lets each in at the other's.
pub const PATHS: [(Kind, Kind, Path); 14] = [
    (Kind::Public, Kind::Public, Path::Direct),
    (Kind::Public, Kind::PortRestricted, Path::Direct),
    (Kind::PortRestricted, Kind::Public, Path::Direct),
    (Kind::Public, Kind::Symmetric, Path::Direct),
    (Kind::Forwarded, Kind::PortRestricted, Path::Direct),
    (Kind::Forwarded, Kind::Symmetric, Path::Direct),
    (Kind::PortRestricted, Kind::PortRestricted, Path::Punched),
    (Kind::AddressRestricted, Kind::AddressRestricted, Path::Direct),
    (Kind::PortShifting, Kind::PortRestricted, Path::Punched),
    (Kind::PortRestricted, Kind::PortShifting, Path::Punched),
    (Kind::PortShifting, Kind::PortShifting, Path::Punched),
    (Kind::PortRestricted, Kind::Symmetric, Path::Relayed),
    (Kind::Symmetric, Kind::PortRestricted, Path::Relayed),
    (Kind::Symmetric, Kind::Symmetric, Path::Relayed),
];

/// What became of a pair.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Who fetches.
    pub a: Kind,
    /// Who has the file.
    pub b: Kind,
    /// What A and B say about how others reach them.
    pub reach: [String; 2],
    /// How the file came.
    pub path: Path,
    /// How it should, from [`PATHS`].
    pub expected: Path,
    /// How long the fetch took.
    pub took: Duration,
}

/// The rows for people.
pub fn table(rows: &[Row]) -> Table {
    let row = |row: &Row| {
        let [a, b] = &row.reach;
        let verdict = if row.path == row.expected { "as in the net lab" } else { "NOT as in the net lab" };
        let took = format!("{} ms", row.took.as_millis());
        let kinds = [row.a.to_string(), a.clone(), row.b.to_string(), b.clone()];
        kinds.into_iter().chain([row.path.to_string(), took, verdict.to_owned()]).collect()
    };
    let columns = ["A fetches", "says it is", "B has it", "says it is", "path", "after", "verdict"];
    Table {
        title: "The same with dhtfs".to_owned(),
        columns: columns.map(str::to_owned).to_vec(),
        rows: rows.iter().map(row).collect(),
    }
}

struct Started {
    node: Node,
    disk: dhtfs_store::disk::MemoryDisk,
    addr: Multiaddr,
}

/// Lets A fetch from B.
pub(super) async fn run(net: &Net, a: Kind, b: Kind, expected: Path) -> Result<Row, Failure> {
    let hub = start(net, Kind::Public, 0, RelayShare::Much, &[]).await?;
    let observer = start(net, Kind::Public, 1, RelayShare::Some, std::slice::from_ref(&hub.addr)).await?;
    let bootstrap = [hub.addr.clone(), observer.addr.clone()];
    let (fetches, has) = (
        start(net, a, 2, RelayShare::Some, &bootstrap).await?,
        start(net, b, 3, RelayShare::Some, &bootstrap).await?,
    );
    let reach = [settled(&fetches.node).await?, settled(&has.node).await?];
    let path = disk::file("file");
    has.disk.write_file(&path, &content())?;
    let added =
        has.node.api().add(AddRequest { path, ..AddRequest::default() }, watch::Sender::default()).await;
    let cid = added.map_err(|e| e.message)?.cid;
    announced(&has.node).await?;
    let request = GetRequest { cid, into: Some(disk::files()), ..GetRequest::default() };
    let begun = clock::elapsed();
    let report = fetches.node.api().get(request, watch::Sender::default()).await.map_err(|e| e.message)?;
    let took = clock::elapsed() - begun;
    if fetches.disk.read_file(&report.path)? != content() {
        return Err("another file has come".into());
    }
    let mut punched = 0;
    for node in [&fetches.node, &has.node] {
        let status = node.api().status().await.map_err(|e| e.message)?;
        punched += status.counters.get("net_holes_punched").copied().unwrap_or_default();
    }
    let path = match report.sources.iter().any(|source| source.relayed && source.chunks > 0) {
        true => Path::Relayed,
        false if punched > 0 => Path::Punched,
        false => Path::Direct,
    };
    for started in [fetches, has, observer, hub] {
        started.node.shutdown().await;
    }
    Ok(Row { a, b, reach, path, expected, took })
}

fn content() -> Vec<u8> {
    (0..FILE_LEN).map(|n| u8::try_from((n * 31 + n / 4096) % 251).unwrap_or_default()).collect()
}

async fn start(
    net: &Net,
    kind: Kind,
    number: u8,
    relay: RelayShare,
    bootstrap: &[Multiaddr],
) -> Result<Started, Failure> {
    let (host, keypair): (HostId, _) =
        (net.add_host(pair::host_spec(kind.nat().map(Nat::New))), pair::key(number)?);
    if let (Kind::Forwarded, Some(nat)) = (kind, net.nat(host)) {
        net.forward(nat, pair::PORT, host, pair::PORT);
    }
    let disk = disk::new(&PagePool::new())?;
    let store = disk::open_store(&disk)?;
    let listen = pair::listen_address(net, host);
    let env = Env {
        transport: upgraded(net.transport(host), &keypair, Security::Plaintext, Version::V1Lazy)?,
        store: StoreHandle::inline(store),
        executor: Arc::new(|task| drop(tokio::spawn(task))),
        wall_clock: Arc::new(clock::time_of_day),
        listen: vec![listen.clone()],
        seed: number.into(),
        tuning: Tuning { limits: node_limits(), ..Tuning::default() },
        lan: false,
        keypair: keypair.clone(),
    };
    let config = Config { bootstrap: bootstrap.to_vec(), relay, ..Config::default() };
    let node = Node::start(config, env, Role::Server).await.map_err(|e| e.message)?;
    node.ready().await;
    Ok(Started { node, disk, addr: listen.with(Protocol::P2p(keypair.public().to_peer_id())) })
}

/// How others reach a node, when it has found out.
async fn settled(node: &Node) -> Result<String, Failure> {
    for _ in 0..MAX_LOOKS {
        let net = node.api().net().await.map_err(|e| e.message)?;
        if net.settled {
            return Ok(net.reachability);
        }
        sleep(LOOK_EVERY).await;
    }
    Err("a node never finds out how others reach it".into())
}

/// Returns when a node has announced everything.
async fn announced(node: &Node) -> Result<(), Failure> {
    for _ in 0..MAX_LOOKS {
        let status = node.api().status().await.map_err(|e| e.message)?;
        if status.provide.keys > 0 && status.provide.announced == status.provide.keys {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
    Err("a node never announces its file".into())
}
