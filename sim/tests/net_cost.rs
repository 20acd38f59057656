//! What the simulated network costs: run it with `--ignored --nocapture`, alone on the machine.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a measurement for people to read")]

use std::{fs, future::poll_fn, pin::Pin, time::Duration};

use dhtfs_sim::{
    clock::cpu_time,
    net::{BitRate, HostSpec, Net, Position, SimStream, SimTransport},
};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{
    Multiaddr,
    core::{
        Endpoint, Transport as _,
        transport::{DialOpts, ListenerId, PortUse, TransportEvent},
    },
};

fn spec() -> HostSpec {
    let position = Position { access: Duration::from_millis(25), ..Position::default() };
    HostSpec { position, ..HostSpec::default() }
}

struct Pair {
    dialler: SimTransport,
    listener: SimTransport,
    address: Multiaddr,
}

impl Pair {
    fn new(net: &Net, from: HostSpec) -> Self {
        let (from, to) = (net.add_host(from), net.add_host(spec()));
        let (dialler, mut listener) = (net.transport(from), net.transport(to));
        let address: Multiaddr = format!("/ip4/{}/tcp/4001", net.ip(to)).parse().unwrap();
        listener.listen_on(ListenerId::next(), address.clone()).unwrap();
        Self { dialler, listener, address }
    }

    async fn connect(&mut self) -> (SimStream, SimStream) {
        let opts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let dial = self.dialler.dial(self.address.clone(), opts).unwrap();
        let listener = &mut self.listener;
        let accept = async {
            loop {
                let event = poll_fn(|cx| Pin::new(&mut *listener).poll(cx)).await;
                if let TransportEvent::Incoming { upgrade, .. } = event {
                    return upgrade.await.unwrap();
                }
            }
        };
        let (ours, theirs) = futures::join!(dial, accept);
        (ours.unwrap(), theirs)
    }
}

async fn transfer(net: &Net, from: HostSpec, write_len: usize, total: usize) {
    let (mut ours, mut theirs) = Pair::new(net, from).connect().await;
    let data = vec![7; write_len];
    let writer = async {
        for _ in 0..total / write_len {
            ours.write_all(&data).await.unwrap();
        }
        ours.close().await.unwrap();
    };
    let reader = async {
        let mut buffer = vec![0; 64 << 10];
        while theirs.read(&mut buffer).await.unwrap() > 0 {}
    };
    futures::join!(writer, reader);
}

fn resident() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}

#[tokio::test(start_paused = true)]
#[ignore = "a measurement"]
async fn cost() {
    let net = Net::new(1);
    let limited = HostSpec { up: Some(BitRate::mega(100)), ..spec() };
    for (name, from, write_len, total) in [
        ("large writes", spec(), 64 << 10, 1 << 30),
        ("large writes, limited uplink", limited, 64 << 10, 1 << 30),
        ("writes of 100 bytes", spec(), 100, 200 << 20),
    ] {
        let start = cpu_time();
        transfer(&net, from, write_len, total).await;
        let took = (cpu_time() - start).as_secs_f64();
        let (megabytes, writes) = (total as f64 / 1e6, (total / write_len) as f64);
        println!("{name}: {:.2} ms per MB, {:.2} us per write", took * 1e3 / megabytes, took * 1e6 / writes);
    }
    // Requests and answers, one at a time: every write arrives by itself.
    let (mut ours, mut theirs) = Pair::new(&net, spec()).connect().await;
    let (start, rounds) = (cpu_time(), 200_000_u32);
    let mut buffer = [0; 100];
    for _ in 0..rounds {
        ours.write_all(&[1; 100]).await.unwrap();
        theirs.read_exact(&mut buffer).await.unwrap();
        theirs.write_all(&[2; 100]).await.unwrap();
        ours.read_exact(&mut buffer).await.unwrap();
    }
    let each = (cpu_time() - start).as_secs_f64() * 1e6 / f64::from(rounds * 2);
    println!("single small messages: {each:.2} us each");
    let (start, before, count) = (cpu_time(), resident(), 25_000_u32);
    let mut pair = Pair::new(&net, spec());
    let mut kept = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let (mut ours, mut theirs) = pair.connect().await;
        ours.write_all(&[1; 100]).await.unwrap();
        theirs.read_exact(&mut buffer).await.unwrap();
        theirs.write_all(&[1; 100]).await.unwrap();
        ours.read_exact(&mut buffer).await.unwrap();
        kept.push((ours, theirs));
    }
    let took = (cpu_time() - start).as_secs_f64() * 1e6 / f64::from(count);
    let each = (resident() - before) / f64::from(count);
    println!("connections with a message each way: {took:.1} us and {each:.0} bytes each, both ends");
}
