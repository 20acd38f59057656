//! Starting and ending of roles.

use dhtfs_node::net::NetError;
use dhtfs_store::{ChunkCid, ContentCid};

use super::{Hostile, Lab, Targets, counter, simulated, until};
use crate::roles::{HostileStats, RoleError, RoleKind, start_freerider, start_hostile};

#[test]
fn without_a_hostile_peer_a_naive_fetch_gets_the_right_bytes() {
    simulated(300, async |mut lab| {
        let keys = lab.keypairs(2);
        let (honest, addr) = lab.naive(&keys[0], &[]);
        let (naive, _) = lab.naive(&keys[1], &[addr]);
        let bytes = vec![7; 100_000];
        let cid = ContentCid::Chunk(ChunkCid::of(&bytes));
        honest.hold(cid, bytes.clone()).await;
        until("it has joined", async || naive.state(None, honest.peer_id()).await.addrs > 0).await;
        assert_eq!(naive.fetch(cid).await.unwrap(), bytes);
    });
}

#[test]
fn a_freerider_serves_the_dht_and_gives_nothing() {
    simulated(301, async |mut lab| {
        let keys = lab.keypairs(3);
        let honest = lab.node(&keys[0], &[]).await;
        let (root, content) = lab.add(&honest).await;
        let bootstrap = [honest.addr.clone()];
        let env = lab.env(&keys[1], &bootstrap);
        let addr = env.listen[0].clone();
        let freerider = start_freerider(env).unwrap();
        assert_eq!(freerider.role(), RoleKind::Freerider);
        until("it is in the table", async || honest.node.api().status().await.unwrap().routing_peers == 1)
            .await;
        let fetcher = lab.node(&keys[2], &bootstrap).await;
        let hint = addr.with(libp2p::multiaddr::Protocol::P2p(freerider.peer_id()));
        let report = lab.get_from(&fetcher, root, &hint).await.unwrap();
        assert_eq!(std::fs::read(&report.path).unwrap(), content);
        assert!(freerider.stats().requests > 0);
        assert_eq!(freerider.stats().bytes_sent, freerider.stats().requests, "one byte each: busy");
    });
}

#[test]
fn a_peer_whose_handle_is_dropped_is_gone() {
    simulated(302, async |mut lab| {
        let keys = lab.keypairs(2);
        let node = lab.node(&keys[0], &[]).await;
        let peer =
            lab.hostile(Hostile::Garbage, &keys[1], std::slice::from_ref(&node.addr), Targets::default());
        let connected = async || node.node.api().status().await.unwrap().connected;
        until("it is connected", async || connected().await == 1).await;
        drop(peer);
        until("it is gone", async || connected().await == 0).await;
    });
}

#[test]
fn a_name_that_is_no_network_is_refused() {
    simulated(303, async |mut lab| {
        let keys = lab.keypairs(1);
        let mut env = lab.env(&keys[0], &[]);
        env.network = "No Network".to_owned();
        let error = start_hostile(Hostile::Liar, env, Targets::default()).unwrap_err();
        assert!(matches!(error, RoleError::Network(NetError::NetworkName(_))), "{error}");
    });
}

#[test]
fn the_same_seed_does_the_same_harm() {
    let run = || {
        let (out, result) = std::sync::mpsc::channel::<(HostileStats, u64)>();
        simulated(304, async move |mut lab: Lab| {
            let keys = lab.keypairs(2);
            let node = lab.node(&keys[0], &[]).await;
            let flooder = lab.hostile(
                Hostile::FloodsRecords,
                &keys[1],
                std::slice::from_ref(&node.addr),
                Targets::default(),
            );
            tokio::time::sleep(super::Duration::from_secs(10)).await;
            out.send((flooder.stats(), counter(&node, "net_records_accepted").await)).unwrap();
        });
        result.recv().unwrap()
    };
    let first = run();
    assert!(first.1 > 0);
    assert_eq!(first, run());
}
