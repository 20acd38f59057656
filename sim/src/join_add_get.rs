//! Nodes join through the first one, one adds a file, others fetch it: two at once from the adder, then one from
//! whoever has it by then.

use std::{collections::BTreeSet, fmt, path::Path};

use dhtfs_node::api::types::{AddRequest, GetReport, GetRequest, NetworkHints, Provider, ProvidersRequest};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::{mpsc, watch};

use crate::world::{Failure, World};

/// Name on the command line.
pub(crate) const NAME: &str = "join-add-get";

/// One line for `dhtfs-sim list`.
pub(crate) const ABOUT: &str = "nodes join one network, one adds 8 MiB, three others fetch it and provide it";

/// Length of the file; a byte over, so that its last chunk is short.
const FILE_LEN: usize = 8 * 1024 * 1024 + 1;

/// A get that makes no progress for this long has failed.
const TIMEOUT_SECS: f64 = 60.0;

/// What a run found.
#[derive(Debug)]
pub(crate) struct Report {
    nodes: usize,
    cid: String,
    providers: usize,
    gets: Vec<GetReport>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cid {}", self.cid)?;
        for get in &self.gets {
            let sources = get.sources.len();
            writeln!(
                f,
                "get {} bytes from {sources} peers, {} requested, {} wasted",
                get.len, get.requested_len, get.wasted_len
            )?;
        }
        write!(f, "ok: {} nodes, {} providers found at the end", self.nodes, self.providers)
    }
}

/// Runs the scenario.
///
/// # Errors
/// If a node fails, a get does not end, or what it wrote differs.
pub(crate) async fn run(nodes: usize, seed: u64) -> Result<Report, Failure> {
    let mut world = World::new(seed)?;
    world.start(&[]).await?;
    let first = world.dialable(0)?;
    for _ in 1..nodes {
        let index = world.start(std::slice::from_ref(&first)).await?;
        world.node(index)?.ready().await;
    }
    let content = content(seed);
    let path = world.folder(1)?.join("file.bin");
    std::fs::write(&path, &content)?;
    let added = world
        .node(1)?
        .api()
        .add(AddRequest { path, ..AddRequest::default() }, watch::Sender::default())
        .await?;

    let (second, third) =
        tokio::try_join!(get(&world, nodes - 1, &added.cid), get(&world, nodes / 2, &added.cid))?;
    let last = get(&world, 2, &added.cid).await?;
    let gets = vec![second, third, last];
    for report in &gets {
        check(&report.path, &content)?;
    }
    let providers = providers(&world, 0, &added.cid).await?;
    if providers < 2 {
        return Err(format!("{providers} providers found, expected the adder and those who fetched").into());
    }
    world.end().await;
    Ok(Report { nodes, cid: added.cid, providers, gets })
}

fn content(seed: u64) -> Vec<u8> {
    let mut content = vec![0; FILE_LEN];
    StdRng::seed_from_u64(seed).fill_bytes(&mut content);
    content
}

async fn get(world: &World, index: usize, cid: &str) -> Result<GetReport, Failure> {
    let request = GetRequest {
        cid: cid.to_owned(),
        into: Some(world.folder(index)?),
        hints: NetworkHints { timeout_secs: Some(TIMEOUT_SECS), ..NetworkHints::default() },
        ..GetRequest::default()
    };
    Ok(world.node(index)?.api().get(request, watch::Sender::default()).await?)
}

fn check(path: &Path, content: &[u8]) -> Result<(), Failure> {
    if std::fs::read(path)? == content {
        return Ok(());
    }
    Err(format!("{} differs from what was added", path.display()).into())
}

async fn providers(world: &World, index: usize, cid: &str) -> Result<usize, Failure> {
    let (found, mut stream) = mpsc::channel::<Provider>(64);
    let request = ProvidersRequest { cid: cid.to_owned(), hints: NetworkHints::default() };
    let node = world.node(index)?;
    let collect = async {
        let mut peers = BTreeSet::new();
        while let Some(provider) = stream.recv().await {
            peers.insert(provider.peer);
        }
        peers.len()
    };
    let (report, count) = tokio::join!(node.api().providers(request, found), collect);
    report?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    #[tokio::test]
    async fn twenty_nodes_join_and_a_file_reaches_three_of_them() {
        let report = super::run(20, 1).await.unwrap();
        assert_eq!(report.gets.len(), 3);
        assert!(report.providers >= 2);
    }
}
