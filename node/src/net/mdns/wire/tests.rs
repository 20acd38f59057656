#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use proptest::prelude::*;

use super::*;

const BOTH: Ports = Ports { tcp: Some(4343), quic: Some(4344) };

fn wire(n: u8) -> Wire {
    let key = libp2p::identity::Keypair::ed25519_from_bytes([n; 32]).unwrap();
    Wire::new(key.public().to_peer_id(), "/dhtfs/main")
}

fn addrs() -> Vec<IpAddr> {
    vec!["10.0.0.1".parse().unwrap(), "fe80::1".parse().unwrap()]
}

/// An announcement with this text in place of its own.
fn with_text(texts: &[&str]) -> Vec<u8> {
    let from = wire(1);
    let mut txt = TXT::new();
    for text in texts {
        txt.add_string(text).unwrap();
    }
    let mut packet = Packet::new_reply(0);
    let name = Name::new(&from.instance).unwrap();
    packet.answers.push(ResourceRecord::new(name, CLASS::IN, 120, RData::TXT(txt)));
    packet.build_bytes_vec_compressed().unwrap()
}

fn heard(packet: &[u8]) -> Option<Ports> {
    let reader = wire(2);
    assert!(reader.is_relevant(packet));
    reader.read(packet).unwrap().announces.map(|(_, ports)| ports)
}

#[test]
fn an_announcement_is_read_as_it_was_meant_and_is_short() {
    let (from, to) = (wire(1), wire(2));
    let packet = from.announcement(BOTH, &addrs(), false).unwrap();
    assert!(packet.len() < 330, "{}", packet.len());
    assert!(to.is_relevant(&packet));
    let said = to.read(&packet).unwrap();
    assert_eq!(said, Said { asks: None, announces: Some((from.local, BOTH)) });
    assert_eq!(from.read(&packet).unwrap(), Said::default(), "its own");
    for ports in [Ports { tcp: None, ..BOTH }, Ports { quic: None, ..BOTH }] {
        let packet = from.announcement(ports, &[], false).unwrap();
        assert_eq!(to.read(&packet).unwrap().announces, Some((from.local, ports)));
    }
}

#[test]
fn what_others_read_of_an_announcement_is_dns_sd() {
    let from = wire(1);
    let bytes = from.announcement(BOTH, &addrs(), false).unwrap();
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!(packet.id(), 0);
    assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::AUTHORITATIVE_ANSWER));
    let name = from.local.to_base58();
    let shown: Vec<String> = packet
        .answers
        .iter()
        .map(|record| {
            let data = match &record.rdata {
                RData::PTR(PTR(name)) => format!("PTR {name}"),
                RData::SRV(srv) => format!("SRV {} {}", srv.port, srv.target),
                RData::TXT(txt) => format!("TXT {}", String::try_from(txt.clone()).unwrap()),
                RData::A(a) => format!("A {}", std::net::Ipv4Addr::from(a.address)),
                RData::AAAA(a) => format!("AAAA {}", std::net::Ipv6Addr::from(a.address)),
                other => panic!("{other:?}"),
            };
            format!("{} {} {} {data}", record.name, record.ttl, record.cache_flush)
        })
        .collect();
    let tag = &from.tag;
    let expected = [
        format!("_dhtfs._udp.local 4500 false PTR {name}._dhtfs._udp.local"),
        format!("{name}._dhtfs._udp.local 120 true SRV 4344 {name}.local"),
        format!("{name}._dhtfs._udp.local 4500 true TXT net={tag}tcp=4343quic=4344"),
        format!("{name}.local 120 true A 10.0.0.1"),
        format!("{name}.local 120 true AAAA fe80::1"),
    ];
    assert_eq!(shown, expected);
}

#[test]
fn the_network_is_told_by_a_hash_and_others_are_not_heard() {
    let from = wire(1);
    assert_eq!(from.tag, "e48032363c4fbe8a");
    let packet = from.announcement(BOTH, &addrs(), false).unwrap();
    let other = Wire::new(wire(2).local, "/dhtfs/other");
    assert_eq!(other.read(&packet).unwrap(), Said::default());
}

#[test]
fn questions_are_answered_that_concern_this_node() {
    let (asks, node) = (wire(1), wire(2));
    let query = asks.query().unwrap();
    assert_eq!(query.len(), 35);
    assert_eq!(node.read(&query).unwrap(), Said { asks: Some(false), announces: None });
    let ask = |name: &str, wanted: TYPE, class: CLASS| {
        let mut packet = Packet::new_query(0);
        packet.questions.push(Question::new(Name::new(name).unwrap(), wanted.into(), class.into(), true));
        let bytes = packet.build_bytes_vec_compressed().unwrap();
        node.is_relevant(&bytes) && node.read(&bytes).unwrap().asks.is_some()
    };
    for (name, wanted) in [
        (&node.instance, TYPE::TXT),
        (&node.instance, TYPE::SRV),
        (&node.host, TYPE::A),
        (&node.host, TYPE::AAAA),
    ] {
        assert!(ask(name, wanted, CLASS::IN), "{name} {wanted:?}");
    }
    assert!(ask("_DHTFS._udp.LOCAL", TYPE::PTR, CLASS::IN) || !node.is_relevant(b"\x06_DHTFS"));
    assert!(!ask(SERVICE, TYPE::A, CLASS::IN));
    assert!(!ask(SERVICE, TYPE::PTR, CLASS::CH));
    assert!(!ask(&asks.instance, TYPE::TXT, CLASS::IN));
    assert!(!ask("_ipp._tcp.local", TYPE::PTR, CLASS::IN));
}

#[test]
fn who_knows_the_answer_is_not_told_it() {
    let node = wire(2);
    let knows = |instance: &str, ttl| {
        let mut packet = Packet::new_query(0);
        let question = Question::new(Name::new(SERVICE).unwrap(), TYPE::PTR.into(), CLASS::IN.into(), false);
        packet.questions.push(question);
        let data = RData::PTR(PTR(Name::new(instance).unwrap()));
        packet.answers.push(ResourceRecord::new(Name::new(SERVICE).unwrap(), CLASS::IN, ttl, data));
        node.read(&packet.build_bytes_vec_compressed().unwrap()).unwrap().asks
    };
    assert_eq!(knows(&node.instance, 4_000), Some(true));
    assert_eq!(knows(&node.instance, 1_000), Some(false), "it has it for not much longer");
    assert_eq!(knows(&wire(1).instance, 4_000), Some(false));
}

#[test]
fn goodbye_is_no_announcement() {
    let packet = wire(1).announcement(BOTH, &addrs(), true).unwrap();
    assert_eq!(wire(2).read(&packet).unwrap(), Said::default());
    assert!(Packet::parse(&packet).unwrap().answers.iter().all(|record| record.ttl == 0));
}

#[test]
fn only_ports_that_are_ones_count() {
    let net = format!("net={}", wire(1).tag);
    let tcp = |text| heard(&with_text(&[&net, text])).and_then(|ports| ports.tcp);
    assert_eq!(tcp("tcp=1"), Some(1));
    assert_eq!(tcp("tcp=65535"), Some(65_535));
    for bad in ["tcp=0", "tcp=65536", "tcp=-1", "tcp=", "tcp", "tcp=4343,4344", "tcp=4343 ", "=1", "TCP1"] {
        assert_eq!(tcp(bad), None, "{bad}");
    }
    assert_eq!(heard(&with_text(&["tcp=1"])), None, "of no network");
    assert_eq!(heard(&with_text(&["tcp=1", "net=0123456789abcdef"])), None);
    let twice = heard(&with_text(&[&net, "tcp=7", "tcp=8"])).unwrap();
    assert_eq!(twice.tcp, Some(7), "the first counts");
}

#[test]
fn a_name_that_is_no_peer_is_nobody() {
    for name in ["x._dhtfs._udp.local", "_dhtfs._udp.local", "a.b._dhtfs._udp.local", "_dhtfs._udp.example"] {
        let mut packet = Packet::new_reply(0);
        let txt = TXT::new().with_string("tcp=1").unwrap();
        packet.answers.push(ResourceRecord::new(Name::new(name).unwrap(), CLASS::IN, 120, RData::TXT(txt)));
        assert_eq!(heard(&packet.build_bytes_vec().unwrap()), None, "{name}");
    }
}

#[test]
fn what_is_too_long_too_short_or_promises_too_much_is_not_read() {
    let reader = wire(2);
    let good = wire(1).announcement(BOTH, &addrs(), false).unwrap();
    let mut long = good.clone();
    long.resize(MAX_PACKET_LEN + 1, 0);
    assert!(!reader.is_relevant(&long));
    assert_eq!(reader.read(&long), Err(Malformed));
    for len in 0..good.len() {
        assert_eq!(reader.read(&good[..len]), Err(Malformed), "cut to {len}");
    }
    let mut greedy = good;
    greedy[6..8].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(reader.read(&greedy), Err(Malformed));
}

#[test]
fn names_that_point_at_themselves_or_ahead_end() {
    let reader = wire(2);
    let head = [0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    let record = [0, 16, 0, 1, 0, 0, 0, 9, 0, 1, 0];
    for pointer in [[0xc0, 12], [0xc0, 14], [0xc0, 0], [0xff, 0xff]] {
        let packet = [&head[..], &pointer, &record, LABEL].concat();
        let _ = reader.read(&packet);
    }
    // Two labels, and back to the first, for ever.
    let packet = [&head[..], LABEL, LABEL, &[0xc0, 12], &record].concat();
    assert_eq!(reader.read(&packet), Err(Malformed));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), counts in any::<[u8; 4]>()) {
        let reader = wire(2);
        let _ = (reader.is_relevant(&bytes), reader.read(&bytes));
        let head = [0, 0, 0x84, 0, 0, counts[0] % 4, 0, counts[1] % 8, 0, counts[2] % 4, 0, counts[3] % 4];
        let _ = reader.read(&[&head[..], &bytes].concat());
    }

    /// Of one record of any type with any content.
    #[test]
    fn no_record_makes_it_panic(kind in 0..300u16, data in prop::collection::vec(any::<u8>(), 0..200)) {
        let len = u16::try_from(data.len()).unwrap().to_be_bytes();
        let head = [0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        let bytes = [&head[..], LABEL, &[0], &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 9], &len, &data].concat();
        let _ = wire(2).read(&bytes);
    }

    /// A good packet of which some bytes are others.
    #[test]
    fn no_change_makes_it_panic(changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..12)) {
        let mut bytes = wire(1).announcement(BOTH, &addrs(), false).unwrap();
        for (at, byte) in changes {
            let len = bytes.len();
            bytes[at % len] = byte;
        }
        if let Ok(Said { announces: Some((_, ports)), .. }) = wire(2).read(&bytes) {
            prop_assert!(!ports.is_none() && ports.tcp != Some(0) && ports.quic != Some(0));
        }
    }
}
