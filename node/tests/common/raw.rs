//! A peer that serves nothing and says what it likes in messages of kad: bare libp2p and messages written by hand.

use std::io;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, identify,
    swarm::{self, NetworkBehaviour, Swarm, SwarmEvent},
};
use libp2p_stream::Control;
use prost::Message as _;

use super::{
    IDLE, keypair,
    wire::{self, Traffic},
};

const KAD: StreamProtocol = StreamProtocol::new("/dhtfs/test/kad/1.0.0");
const PROVIDE: StreamProtocol = StreamProtocol::new("/dhtfs/test/provide/1");

const ADD_PROVIDER: i32 = 2;
const GET_PROVIDERS: i32 = 3;

/// Most digests in a frame of the provide protocol.
const MAX_DIGESTS: usize = 1_024;

/// Bytes that are written at once.
const BATCH_LEN: usize = 64 * 1024;

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct KadMessage {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(message, repeated, tag = "9")]
    providers: Vec<KadPeer>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct KadPeer {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addrs: Vec<Vec<u8>>,
    #[prost(int32, tag = "3")]
    connection: i32,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// See the module's documentation. It stays connected to one holder until it is dropped.
pub struct Raw {
    pub id: PeerId,
    control: Control,
    holder: PeerId,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn key_of(digest: &[u8; 32]) -> Vec<u8> {
    [&[0x12, 0x20], &digest[..]].concat()
}

impl Raw {
    /// Starts it and connects it to `holder`.
    pub async fn start(number: u64, holder: (PeerId, Multiaddr)) -> Self {
        let keypair = keypair(number);
        let id = keypair.public().to_peer_id();
        let identify = identify::Config::new("/raw/1".to_owned(), keypair.public());
        let streams = libp2p_stream::Behaviour::new();
        let control = streams.new_control();
        let behaviour = Behaviour { identify: identify::Behaviour::new(identify), streams };
        let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE);
        let transport = wire::transport(&keypair, &Traffic::default(), &holder.1);
        let mut swarm = Swarm::new(transport, behaviour, id, config);
        swarm.dial(holder.1.with_p2p(holder.0).unwrap()).unwrap();
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { .. })) => break,
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
        let task = tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Self { id, control, holder: holder.0, task }
    }

    pub async fn open(&self) -> Stream {
        self.control.clone().open_stream(self.holder, KAD).await.unwrap()
    }

    /// Sends a record of each digest, with the addresses that belong to its place.
    pub async fn announce(
        &self,
        digests: impl IntoIterator<Item = [u8; 32]>,
        addrs: impl Fn(u64) -> Vec<Multiaddr>,
    ) {
        let mut stream = self.open().await;
        let mut batch = Vec::with_capacity(BATCH_LEN);
        for (place, digest) in (0..).zip(digests) {
            let addrs = addrs(place).iter().map(Multiaddr::to_vec).collect();
            let peer = KadPeer { id: self.id.to_bytes(), addrs, connection: 1 };
            let message = KadMessage { kind: ADD_PROVIDER, key: key_of(&digest), providers: vec![peer] };
            batch.extend(message.encode_length_delimited_to_vec());
            if batch.len() >= BATCH_LEN {
                stream.write_all(&batch).await.unwrap();
                batch.clear();
            }
        }
        stream.write_all(&batch).await.unwrap();
        stream.close().await.unwrap();
    }

    /// Sends the same over the provide protocol; how many records the holder says it took.
    pub async fn announce_in_bulk(&self, digests: &[[u8; 32]], addrs: &[Multiaddr]) -> u64 {
        let mut head = vec![1, u8::try_from(addrs.len()).unwrap()];
        for addr in addrs {
            head.extend(u16::try_from(addr.len()).unwrap().to_be_bytes());
            head.extend(addr.as_ref());
        }
        let mut frames = digests.chunks(MAX_DIGESTS);
        let first = frames.next().unwrap();
        let mut stream = self.control.clone().open_stream(self.holder, PROVIDE).await.unwrap();
        stream.write_all(&head).await.unwrap();
        let mut taken = converse(&mut stream, first).await.unwrap();
        for digests in frames {
            taken += converse(&mut stream, digests).await.unwrap();
        }
        stream.close().await.unwrap();
        taken
    }

    /// The providers that the holder names for a key.
    pub async fn named(&self, stream: &mut Stream, digest: &[u8; 32]) -> Vec<PeerId> {
        let ask = KadMessage { kind: GET_PROVIDERS, key: key_of(digest), providers: Vec::new() };
        stream.write_all(&ask.encode_length_delimited_to_vec()).await.unwrap();
        stream.flush().await.unwrap();
        let mut len = 0;
        for place in 0..4 {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            len |= usize::from(byte[0] & 0x7f) << (7 * place);
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut bytes = vec![0; len];
        stream.read_exact(&mut bytes).await.unwrap();
        let answer = KadMessage::decode(bytes.as_slice()).unwrap();
        answer.providers.iter().map(|peer| PeerId::from_bytes(&peer.id).unwrap()).collect()
    }
}

/// A frame of the provide protocol; how many of its records were taken.
async fn converse(stream: &mut Stream, digests: &[[u8; 32]]) -> io::Result<u64> {
    let count = u16::try_from(digests.len()).unwrap().to_be_bytes();
    stream.write_all(&[&[2], &count[..], digests.as_flattened()].concat()).await?;
    stream.flush().await?;
    let mut answer = vec![0; 1 + digests.len().div_ceil(8)];
    stream.read_exact(&mut answer[..1]).await?;
    assert_eq!(answer[0], 0, "the holder is busy");
    stream.read_exact(&mut answer[1..]).await?;
    Ok(answer[1..].iter().map(|byte| u64::from(byte.count_ones())).sum())
}
