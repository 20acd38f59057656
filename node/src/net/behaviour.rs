//! The protocols of a node, composed.

use libp2p::identity::Keypair;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{StreamProtocol, connection_limits, identify, ping, relay};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

use super::NetError;
use super::agreed::Agreed;
use super::exchange::ExchangeCodec;
use super::kad::{self, Kad};
use super::limits::{MAX_EXCHANGE_STREAMS, NetLimits};
use super::nat_client::NatClient;
use super::nat_server::NatServer;
use super::punch::Punch;
use super::relays::RelayLimits;
use super::streams::Streams;

/// The protocol names of one network. They keep networks apart: peers of another one share no protocol with us
/// but the general ones.
#[derive(Debug, Clone)]
pub struct Protocols {
    /// `/dhtfs/<network>/kad/1.0.0`
    pub kad: StreamProtocol,
    /// `/dhtfs/<network>/provide/1`
    pub provide: StreamProtocol,
    /// `/dhtfs/<network>/have/1`
    pub have: StreamProtocol,
    /// `/dhtfs/<network>/lane/1`
    pub lane: StreamProtocol,
    /// `/dhtfs/<network>/exchange/<version>`, preferred first.
    pub exchange: Vec<StreamProtocol>,
    /// `/dhtfs/<network>`: what identify calls the protocol version.
    pub version: String,
}

/// Characters in a network name.
const MAX_NETWORK_LEN: usize = 32;

impl Protocols {
    /// The names of `network`, with the versions of the exchange protocol that are offered.
    ///
    /// # Errors
    /// Unless the name is 1 to 32 characters of `a-z`, `0-9` and `-`.
    pub fn of(network: &str, exchange_versions: &[u32]) -> Result<Self, NetError> {
        let bad = || NetError::NetworkName(network.chars().take(MAX_NETWORK_LEN + 1).collect());
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if network.is_empty() || network.len() > MAX_NETWORK_LEN || !network.bytes().all(allowed) {
            return Err(bad());
        }
        let name = |suffix: &str| StreamProtocol::try_from_owned(format!("/dhtfs/{network}/{suffix}"));
        Ok(Self {
            kad: name("kad/1.0.0").map_err(|_| bad())?,
            provide: name("provide/1").map_err(|_| bad())?,
            have: name("have/1").map_err(|_| bad())?,
            lane: name("lane/1").map_err(|_| bad())?,
            exchange: exchange_versions
                .iter()
                .map(|version| name(&format!("exchange/{version}")).map_err(|_| bad()))
                .collect::<Result<_, _>>()?,
            version: format!("/dhtfs/{network}"),
        })
    }
}

/// Everything a connection speaks.
///
/// The limits come first: a connection they refuse must not be seen by the others, which would keep state of
/// it for ever.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) nat_server: NatServer,
    pub(crate) kad: Kad,
    pub(crate) identify: Agreed<identify::Behaviour>,
    pub(crate) ping: Agreed<ping::Behaviour>,
    pub(crate) nat_client: Agreed<NatClient>,
    pub(crate) exchange: Agreed<request_response::Behaviour<ExchangeCodec>>,
    /// Asks relays to carry connections.
    pub(crate) relay_client: Agreed<relay::client::Behaviour>,
    /// Carries connections of others; offers it only while it is switched on.
    pub(crate) relay_server: Toggle<Agreed<relay::Behaviour>>,
    /// Replaces a connection through a relay by one past it.
    pub(crate) punch: Agreed<Punch>,
    /// Streams that this node opens by itself, and those of the provide, have and lane protocols.
    pub(crate) streams: Streams,
}

impl Behaviour {
    /// The behaviour of the node that owns `keypair`. All randomness follows from `seed`.
    pub(crate) fn new(
        keypair: &Keypair,
        protocols: &Protocols,
        kad_server: bool,
        agent_version: String,
        limits: &NetLimits,
        (relay_client, relays): (relay::client::Behaviour, Option<RelayLimits>),
        seed: u64,
    ) -> Self {
        let local = keypair.public().to_peer_id();
        let mut rng = StdRng::seed_from_u64(seed);
        let connections = connection_limits::ConnectionLimits::default()
            .with_max_established(Some(limits.max_connections))
            .with_max_established_per_peer(Some(limits.max_connections_per_peer))
            .with_max_established_incoming(Some(limits.max_incoming_connections))
            .with_max_pending_incoming(Some(limits.max_pending_incoming))
            .with_max_pending_outgoing(Some(limits.max_pending_outgoing));
        let identify = identify::Config::new(protocols.version.clone(), keypair.public())
            .with_agent_version(agent_version)
            .with_push_listen_addr_updates(true)
            // Addresses of peers are kept by our own rules.
            .with_cache_size(0);
        let exchange = request_response::Config::default()
            .with_request_timeout(limits.request_timeout)
            .with_max_concurrent_streams(MAX_EXCHANGE_STREAMS);
        let mut seed = || rng.next_u64();
        let (nat_server, nat_client, records) = (seed(), seed(), seed());
        let now = Instant::now().into_std();
        Self {
            limits: connection_limits::Behaviour::new(connections),
            nat_server: NatServer::new(StdRng::seed_from_u64(nat_server)),
            kad: kad::new(local, protocols.kad.clone(), kad_server, limits, records, now),
            identify: Agreed::only(identify::PUSH_PROTOCOL_NAME, identify::Behaviour::new(identify)),
            ping: Agreed::all(ping::Behaviour::new(ping::Config::new())),
            nat_client: Agreed::all(NatClient::new(StdRng::seed_from_u64(nat_client), kad_server)),
            exchange: Agreed::all(request_response::Behaviour::with_codec(
                ExchangeCodec,
                protocols.exchange.iter().map(|name| (name.clone(), ProtocolSupport::Full)),
                exchange,
            )),
            relay_client: Agreed::all(relay_client),
            relay_server: relays.map(|limits| Agreed::all(super::relays::server(local, limits))).into(),
            punch: Agreed::all(Punch::new(local)),
            streams: Streams::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::Protocols;

    #[test]
    fn protocol_names_carry_the_network() {
        let protocols = Protocols::of("main", &[2, 1]).unwrap();
        assert_eq!(protocols.kad, "/dhtfs/main/kad/1.0.0");
        assert_eq!(protocols.exchange, ["/dhtfs/main/exchange/2", "/dhtfs/main/exchange/1"]);
    }

    #[test]
    fn network_names_are_short_and_plain() {
        for good in ["a", "test-2", &"x".repeat(32)] {
            assert!(Protocols::of(good, &[1]).is_ok(), "{good}");
        }
        for bad in ["", "Main", "a/b", "a b", "ä", "a_b", &"x".repeat(33)] {
            let error = Protocols::of(bad, &[1]).unwrap_err().to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
