//! Swarms over the simulated network repeat byte for byte from their seed, ciphertext and all.
//!
//! libp2p numbers connections and listeners across a process, so two runs are compared as two processes.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::{env, process::Command, thread, time::Duration};

use dhtfs_sim::{
    clock,
    net::{BitRate, Geo, HostSpec, Net, Security, upgraded},
};
use futures::StreamExt as _;
use libp2p::{
    Multiaddr, Swarm,
    core::upgrade::Version,
    identify,
    identity::Keypair,
    multiaddr::Protocol,
    ping,
    swarm::{Config, NetworkBehaviour},
};
use rand::{SeedableRng as _, rngs::StdRng};

const NODES: u8 = 8;

#[derive(NetworkBehaviour)]
struct Behaviour {
    ping: ping::Behaviour,
    identify: identify::Behaviour,
}

fn swarm(net: &Net, spec: HostSpec, number: u8, security: Security) -> (Swarm<Behaviour>, Multiaddr) {
    let host = net.add_host(spec);
    let key = Keypair::ed25519_from_bytes([number; 32]).unwrap();
    let transport = upgraded(net.transport(host), &key, security, Version::V1Lazy).unwrap();
    let behaviour = Behaviour {
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(3))),
        identify: identify::Behaviour::new(identify::Config::new("/test".into(), key.public())),
    };
    let config = Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(3600));
    let mut swarm = Swarm::new(transport, behaviour, key.public().to_peer_id(), config);
    let address = Multiaddr::empty().with(Protocol::Ip4(net.ip(host))).with(Protocol::Tcp(4001));
    swarm.listen_on(address.clone()).unwrap();
    (swarm, address)
}

async fn world(seed: u64, security: Security) -> String {
    let net = Net::new(seed);
    let mut rng = StdRng::seed_from_u64(seed);
    let geo = Geo::five_regions();
    let mut known = Vec::new();
    for number in 0..NODES {
        let spec = HostSpec {
            position: geo.place(&mut rng),
            up: Some(BitRate::mega(10)),
            loss: 0.01,
            jitter: Duration::from_millis(10),
            ..HostSpec::default()
        };
        let (mut swarm, address) = swarm(&net, spec, number, security);
        for earlier in &known {
            swarm.dial(Multiaddr::clone(earlier)).unwrap();
        }
        known.push(address);
        tokio::spawn(async move { while swarm.next().await.is_some() {} });
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    let all = usize::from(NODES);
    assert_eq!(net.connections(), all * (all - 1) / 2, "everybody is connected to everybody");
    net.trace_hash()
}

fn simulate(seed: u64, security: Security) -> String {
    let run = move || {
        clock::enter(seed).unwrap();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(world(seed, security))
    };
    thread::spawn(run).join().unwrap()
}

/// The trace hash of a run in a process of its own.
fn hash_of(seed: u64, security: &str) -> String {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "one_run", "--ignored", "--nocapture"])
        .env("SEED", seed.to_string())
        .env("SECURITY", security)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.split_once("trace hash "));
    line.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr))).1.to_owned()
}

#[test]
#[ignore = "run by the other tests, in processes of their own"]
fn one_run() {
    let seed = env::var("SEED").map_or(1, |seed| seed.parse().unwrap());
    let is_plain = env::var("SECURITY").is_ok_and(|security| security == "plaintext");
    let security = if is_plain { Security::Plaintext } else { Security::Noise };
    println!("\ntrace hash {}", simulate(seed, security));
}

#[test]
fn a_seed_repeats_and_another_one_differs() {
    for security in ["noise", "plaintext"] {
        let hash = hash_of(7, security);
        assert_eq!(hash.len(), 32);
        assert_eq!(hash, hash_of(7, security), "{security}");
        assert_ne!(hash, hash_of(8, security), "{security}");
    }
}
