//! The packets: what a node says over mDNS (RFC 6762, 6763), and what is read of what others say. Pure.

use std::net::IpAddr;

use libp2p::PeerId;
use sha2::{Digest as _, Sha256};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, ResourceRecord, SimpleDnsError, TYPE,
    rdata::{A, AAAA, PTR, RData, SRV, TXT},
};

use crate::core::announce_lan::Ports;

/// What nodes are called in DNS-SD, which says `_udp` of all that is not TCP alone: RFC 6763, section 7.
pub const SERVICE: &str = "_dhtfs._udp.local";

/// The label of the service with its length, as it stands in every packet about it.
const LABEL: &[u8] = b"\x06_dhtfs";

/// Longest packet that is read, in bytes: what fits into one frame. One of our own has some 300.
pub const MAX_PACKET_LEN: usize = 1_500;

/// How long others may keep the records that hold a host or an address, and the others, in seconds: RFC 6762, section 10.
const HOST_TTL: u32 = 120;
const OTHER_TTL: u32 = 75 * 60;

/// Set before the name of the network is hashed, so that it is no hash of anything else.
const TAG_PREFIX: &str = "dhtfs mdns 1 ";

/// Hexadecimal digits of that hash that are told.
const TAG_LEN: usize = 16;

const DNS_HEADER_LEN: usize = 12;

/// A packet about our service that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet that is no DNS message")]
pub struct Malformed;

impl From<SimpleDnsError> for Malformed {
    fn from(_: SimpleDnsError) -> Self {
        Self
    }
}

/// What a packet says, as far as it is of use here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    /// It is asked who is there; true if the asker knows this node already.
    pub asks: Option<bool>,
    /// Somebody of the same network is there.
    pub announces: Option<(PeerId, Ports)>,
}

/// Writes and reads packets for one node.
#[derive(Debug, Clone)]
pub struct Wire {
    local: PeerId,
    /// The node's name among instances of the service, and the name of its host.
    instance: String,
    host: String,
    tag: String,
}

impl Wire {
    /// For the node `local` of a network whose identify version is `network`: `/dhtfs/<name>`.
    pub fn new(local: PeerId, network: &str) -> Self {
        let digest = Sha256::new().chain_update(TAG_PREFIX).chain_update(network).finalize();
        let tag: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = local.to_base58();
        let tag = tag.chars().take(TAG_LEN).collect();
        Self { local, instance: format!("{name}.{SERVICE}"), host: format!("{name}.local"), tag }
    }

    /// The question who is there.
    ///
    /// # Errors
    /// Never, as the names are good ones.
    pub fn query(&self) -> Result<Vec<u8>, Malformed> {
        let mut packet = Packet::new_query(0);
        let question = Question::new(Name::new(SERVICE)?, TYPE::PTR.into(), CLASS::IN.into(), false);
        packet.questions.push(question);
        Ok(packet.build_bytes_vec_compressed()?)
    }

    /// Says that this node listens on `ports` at `addrs`; or, if it `is_gone`, that it does no more.
    ///
    /// # Errors
    /// Never, as the names are good ones.
    pub fn announcement(&self, ports: Ports, addrs: &[IpAddr], is_gone: bool) -> Result<Vec<u8>, Malformed> {
        let ttl = |ttl| if is_gone { 0 } else { ttl };
        let instance = Name::new(&self.instance)?;
        let host = Name::new(&self.host)?;
        let own = |name: &Name<'_>, seconds, data| {
            ResourceRecord::new(name.clone().into_owned(), CLASS::IN, ttl(seconds), data)
                .with_cache_flush(true)
        };
        // Others read the port for UDP there; nodes read it in the text.
        let port = ports.quic.or(ports.tcp).unwrap_or_default();
        let srv = SRV { priority: 0, weight: 0, port, target: host.clone() };
        let texts = [
            Some(format!("net={}", self.tag)),
            ports.tcp.map(|port| format!("tcp={port}")),
            ports.quic.map(|port| format!("quic={port}")),
        ];
        let mut txt = TXT::new();
        for text in texts.iter().flatten() {
            txt.add_string(text)?;
        }
        let mut packet = Packet::new_reply(0);
        packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
        packet.answers.push(ResourceRecord::new(
            Name::new(SERVICE)?,
            CLASS::IN,
            ttl(OTHER_TTL),
            RData::PTR(PTR(instance.clone())),
        ));
        packet.answers.push(own(&instance, HOST_TTL, RData::SRV(srv)));
        packet.answers.push(own(&instance, OTHER_TTL, RData::TXT(txt)));
        for addr in addrs {
            let data = match addr {
                IpAddr::V4(ip) => RData::A(A::from(*ip)),
                IpAddr::V6(ip) => RData::AAAA(AAAA { address: u128::from(*ip) }),
            };
            packet.answers.push(own(&host, HOST_TTL, data));
        }
        Ok(packet.build_bytes_vec_compressed()?)
    }

    /// Whether a packet may be about our service: looks for its label, or the name of this host, and at nothing else.
    pub fn is_relevant(&self, packet: &[u8]) -> bool {
        let name = self.host.split('.').next().unwrap_or_default().as_bytes();
        let has = |what: &[u8]| packet.windows(what.len()).any(|window| window == what);
        packet.len() <= MAX_PACKET_LEN && (has(LABEL) || has(name))
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// If it is no DNS message. What the message is about may be anything.
    pub fn read(&self, packet: &[u8]) -> Result<Said, Malformed> {
        if !is_plausible(packet) {
            return Err(Malformed);
        }
        let packet = Packet::parse(packet)?;
        let mut said = Said::default();
        if packet.has_flags(PacketFlag::RESPONSE) {
            said.announces = self.announced(&packet);
        } else if packet.questions.iter().any(|question| self.concerns(question)) {
            said.asks = Some(packet.answers.iter().any(|record| self.is_known_answer(record)));
        }
        Ok(said)
    }

    fn concerns(&self, question: &Question<'_>) -> bool {
        let is = |name: &str| is_name(&question.qname, name);
        let wants = |types: &[TYPE]| match question.qtype {
            QTYPE::ANY => true,
            QTYPE::TYPE(wanted) => types.contains(&wanted),
            _ => false,
        };
        matches!(question.qclass, QCLASS::ANY | QCLASS::CLASS(CLASS::IN))
            && (is(SERVICE) && wants(&[TYPE::PTR])
                || is(&self.instance) && wants(&[TYPE::SRV, TYPE::TXT])
                || is(&self.host) && wants(&[TYPE::A, TYPE::AAAA]))
    }

    /// Whether whoever asks has our answer, for half of its time or more: RFC 6762, section 7.1.
    fn is_known_answer(&self, record: &ResourceRecord<'_>) -> bool {
        matches!(&record.rdata, RData::PTR(PTR(name)) if is_name(name, &self.instance))
            && record.ttl >= OTHER_TTL / 2
    }

    /// The first instance of our network in an answer, with its ports.
    fn announced(&self, packet: &Packet<'_>) -> Option<(PeerId, Ports)> {
        let records = packet.answers.iter().chain(&packet.additional_records);
        records.filter(|record| record.ttl > 0 && record.class == CLASS::IN).find_map(|record| {
            let RData::TXT(txt) = &record.rdata else { return None };
            let peer = peer_of(&record.name).filter(|peer| *peer != self.local)?;
            // The first of a key counts: RFC 6763, section 6.4.
            let value =
                |key: &[u8]| txt.iter_raw().find(|(name, _)| *name == key).and_then(|(_, value)| value);
            if value(b"net")? != self.tag.as_bytes() {
                return None;
            }
            let port =
                |key| std::str::from_utf8(value(key)?).ok()?.parse::<u16>().ok().filter(|port| *port > 0);
            let ports = Ports { tcp: port(b"tcp"), quic: port(b"quic") };
            (!ports.is_none()).then_some((peer, ports))
        })
    }
}

/// Whether a packet is long enough for as much as its head says: room is made for that much before it is read.
fn is_plausible(packet: &[u8]) -> bool {
    let Some(head) = packet.get(..DNS_HEADER_LEN) else { return false };
    let counts: Vec<usize> =
        head[4..].chunks_exact(2).map(|two| usize::from(two[0]) << 8 | usize::from(two[1])).collect();
    let (questions, records) = counts.split_at(1);
    let least = questions.iter().sum::<usize>() * 5 + records.iter().sum::<usize>() * 11;
    least <= packet.len() - DNS_HEADER_LEN && packet.len() <= MAX_PACKET_LEN
}

/// Whose instance of our service this is the name of.
fn peer_of(name: &Name<'_>) -> Option<PeerId> {
    let (first, rest) = name.get_labels().split_first()?;
    if !is_labels(rest.iter().map(AsRef::as_ref), SERVICE) {
        return None;
    }
    std::str::from_utf8(first.as_ref()).ok()?.parse().ok()
}

fn is_name(name: &Name<'_>, text: &str) -> bool {
    is_labels(name.as_bytes(), text)
}

/// DNS names do not tell upper and lower case apart.
fn is_labels<'a>(labels: impl Iterator<Item = &'a [u8]>, text: &str) -> bool {
    let mut labels = labels;
    text.split('.').all(|part| labels.next().is_some_and(|label| label.eq_ignore_ascii_case(part.as_bytes())))
        && labels.next().is_none()
}

#[cfg(test)]
mod tests;
