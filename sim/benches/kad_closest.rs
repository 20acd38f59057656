//! What libp2p-kad's routing table costs: CPU time per FIND_NODE that a node answers, against an echo of the same
//! length over the same connection, and the memory of an empty table. Stands alone but for libp2p, so that it can be
//! handed to its authors; see docs/decisions/0010-stock-kad.md.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark measures real time"
)]

use std::{io, time::Instant};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, Transport,
    core::{transport::MemoryTransport, upgrade::Version},
    identity::Keypair,
    kad::{self, store::MemoryStore},
    multiaddr::Protocol,
    plaintext,
    request_response::{self, Event, Message, ProtocolSupport},
    swarm::{self, NetworkBehaviour, SwarmEvent},
    yamux,
};

const KAD: StreamProtocol = StreamProtocol::new("/bench/kad/1.0.0");
const ECHO: StreamProtocol = StreamProtocol::new("/bench/echo/1.0.0");

/// Requests of one measurement.
const REQUESTS: u32 = 4_000;

/// Peers offered to the table; it keeps about 130 of 1,000.
const PEERS: [usize; 3] = [20, 100, 1_000];

/// Tables whose memory is measured.
const TABLES: usize = 200;

/// One message each way, with its length (two bytes of varint are enough) in front, as kad frames them.
#[derive(Clone, Default)]
struct Framed;

impl request_response::Codec for Framed {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read(io).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read(io).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        data: Vec<u8>,
    ) -> io::Result<()> {
        write(io, &data).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        data: Vec<u8>,
    ) -> io::Result<()> {
        write(io, &data).await
    }
}

async fn read(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let (mut len, mut shift, mut byte) = (0usize, 0, [0x80u8]);
    while byte[0] & 0x80 != 0 {
        io.read_exact(&mut byte).await?;
        len |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
    }
    let mut data = vec![0; len];
    io.read_exact(&mut data).await?;
    Ok(data)
}

async fn write(io: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> io::Result<()> {
    let len = u8::try_from(data.len()).unwrap_or(u8::MAX);
    // 128 to 255 take two bytes.
    let head = if len < 0x80 { vec![len] } else { vec![len, 1] };
    io.write_all(&head).await?;
    io.write_all(data).await
}

#[derive(NetworkBehaviour)]
struct Server {
    kad: kad::Behaviour<MemoryStore>,
    echo: request_response::Behaviour<Framed>,
}

#[derive(NetworkBehaviour)]
struct Client {
    find: request_response::Behaviour<Framed>,
    echo: request_response::Behaviour<Framed>,
}

fn framed(protocol: StreamProtocol) -> request_response::Behaviour<Framed> {
    request_response::Behaviour::new([(protocol, ProtocolSupport::Full)], request_response::Config::default())
}

fn table(local: PeerId, peers: usize) -> kad::Behaviour<MemoryStore> {
    let mut kad = kad::Behaviour::with_config(local, MemoryStore::new(local), kad::Config::new(KAD));
    kad.set_mode(Some(kad::Mode::Server));
    let addr: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
    for _ in 0..peers {
        kad.add_address(&PeerId::random(), addr.clone());
    }
    kad
}

fn swarm<B: NetworkBehaviour>(behaviour: impl FnOnce(PeerId) -> B) -> Swarm<B> {
    let keypair = Keypair::generate_ed25519();
    let local = keypair.public().to_peer_id();
    let transport = MemoryTransport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(plaintext::Config::new(&keypair))
        .multiplex(yamux::Config::default())
        .boxed();
    Swarm::new(transport, behaviour(local), local, swarm::Config::with_tokio_executor())
}

/// FIND_NODE for a random key: type 4 in field 1, 32 bytes in field 2.
fn find_node() -> Vec<u8> {
    let key: [u8; 32] = rand::random();
    [&[0x08, 0x04, 0x12, 32][..], &key].concat()
}

/// Microseconds per request, one after the other; both ends run on this thread.
async fn measure(peers: usize, of_kad: bool) -> f64 {
    let mut server = swarm(|local| Server { kad: table(local, peers), echo: framed(ECHO) });
    server.listen_on(Multiaddr::empty().with(Protocol::Memory(0))).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = server.select_next_some().await {
            break address;
        }
    };
    let to = *server.local_peer_id();
    tokio::spawn(async move {
        loop {
            if let SwarmEvent::Behaviour(ServerEvent::Echo(Event::Message {
                message: Message::Request { channel, .. },
                ..
            })) = server.select_next_some().await
            {
                // Twenty peers with an address each make an answer of about 1,500 bytes.
                let _ = server.behaviour_mut().echo.send_response(channel, vec![0; 200]);
            }
        }
    });
    let mut client = swarm(|_| Client { find: framed(KAD), echo: framed(ECHO) });
    client.dial(address).unwrap();
    while !client.is_connected(&to) {
        client.select_next_some().await;
    }
    let begun = Instant::now();
    for _ in 0..REQUESTS {
        let behaviour = client.behaviour_mut();
        let requests = if of_kad { &mut behaviour.find } else { &mut behaviour.echo };
        requests.send_request(&to, find_node());
        loop {
            match client.select_next_some().await {
                SwarmEvent::Behaviour(
                    ClientEvent::Find(Event::Message { .. }) | ClientEvent::Echo(Event::Message { .. }),
                ) => break,
                SwarmEvent::Behaviour(ClientEvent::Find(Event::OutboundFailure { error, .. })) => {
                    panic!("{error}")
                }
                _ => {}
            }
        }
    }
    begun.elapsed().as_secs_f64() * 1e6 / f64::from(REQUESTS)
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn main() {
    let before = resident_mib();
    let tables: Vec<_> = (0..TABLES).map(|_| table(PeerId::random(), 0)).collect();
    println!("empty routing table: {:.2} MiB", (resident_mib() - before) / TABLES as f64);
    drop(tables);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for peers in PEERS {
        let (find, echo) =
            runtime.block_on(async { (measure(peers, true).await, measure(peers, false).await) });
        println!(
            "{peers:>5} peers offered: FIND_NODE {find:.0} us, echo {echo:.0} us, difference {:.0} us, ratio {:.1}",
            find - echo,
            find / echo
        );
    }
}
