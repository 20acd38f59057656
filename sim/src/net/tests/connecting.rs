//! Opening connections, and what is told about them.

use std::io::ErrorKind;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_dial_takes_one_round_trip_and_an_accept_half_a_one_more() {
    let (_net, mut a, mut b) = two(1).await;
    let start = Instant::now();
    let dial = a.dial(&b.address);
    let (dialled, accepted) = futures::join!(
        async {
            let stream = dial.await.unwrap();
            (stream, start.elapsed())
        },
        async {
            let (stream, _) = b.accept().await;
            (stream, start.elapsed())
        }
    );
    assert_eq!((dialled.1, accepted.1), (100 * MS, 150 * MS));
}

#[tokio::test(start_paused = true)]
async fn both_sides_see_the_right_addresses() {
    let (net, mut a, mut b) = two(1).await;
    for (port_use, keeps_port) in [(PortUse::Reuse, true), (PortUse::New, false)] {
        let dial = a.transport.dial(b.address.clone(), opts(port_use)).unwrap();
        let incoming = next(&mut b.transport);
        let (stream, event) = futures::join!(dial, incoming);
        let TransportEvent::Incoming { local_addr, send_back_addr, upgrade, .. } = event else { panic!() };
        assert_eq!(local_addr, b.address);
        assert_eq!(send_back_addr, address(net.ip(a.host), port_of(&send_back_addr)));
        assert_eq!(port_of(&send_back_addr) == 4001, keeps_port);
        drop((stream, upgrade));
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_dial_to_the_same_place_leaves_from_another_port() {
    let (_net, mut a, mut b) = two(1).await;
    let (dials, seen) =
        futures::join!(futures::future::join(a.dial(&b.address), a.dial(&b.address)), async {
            let (one, at) = b.accept().await;
            let (two, also) = b.accept().await;
            (one, two, port_of(&at), port_of(&also))
        });
    assert!(dials.0.is_ok() && dials.1.is_ok());
    assert_eq!(seen.2, 4001);
    assert_ne!(seen.3, 4001);
}

#[tokio::test(start_paused = true)]
async fn a_closed_port_refuses_and_an_absent_host_is_silent() {
    let (net, mut a, b) = two(1).await;
    let closed = address(net.ip(b.host), 9);
    let nobody = address(Ipv4Addr::new(8, 8, 8, 8), 4001);
    let private = address(Ipv4Addr::new(192, 168, 1, 7), 4001);
    net.set_online(b.host, false);
    for (to, kind, after) in [
        (&nobody, ErrorKind::TimedOut, 5 * SEC),
        (&private, ErrorKind::TimedOut, 5 * SEC),
        (&b.address, ErrorKind::TimedOut, 5 * SEC),
    ] {
        let start = Instant::now();
        assert_eq!(a.dial(to).await.unwrap_err().kind(), kind, "{to}");
        assert_eq!(start.elapsed(), after, "{to}");
    }
    net.set_online(b.host, true);
    let start = Instant::now();
    assert_eq!(a.dial(&closed).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(start.elapsed(), 100 * MS);
    assert_eq!(net.stats(a.host).dials_failed, 4);
}

#[tokio::test(start_paused = true)]
async fn a_first_packet_that_is_lost_is_sent_again() {
    // Offline for a moment, then for longer: the next try is at 1 s, the one after at 3 s.
    for (back_after, up_after) in [(500 * MS, 1100 * MS), (2000 * MS, 3100 * MS)] {
        let (net, mut a, mut b) = two(1).await;
        net.set_online(b.host, false);
        let (start, host, there) = (Instant::now(), b.host, b.address.clone());
        let dial = a.dial(&there);
        let (took, _, _) = futures::join!(
            async {
                dial.await.unwrap();
                start.elapsed()
            },
            async {
                tokio::time::sleep(back_after).await;
                net.set_online(host, true);
            },
            b.accept()
        );
        assert_eq!(took, up_after);
    }
}

#[tokio::test(start_paused = true)]
async fn listeners_get_ports_and_free_them_at_once() {
    let net = Net::new(1);
    let host = net.add_host(apart());
    let mut one = net.transport(host);
    let mut other = net.transport(host);
    let any = address(Ipv4Addr::UNSPECIFIED, 0);
    let id = ListenerId::next();
    one.listen_on(id, any).unwrap();
    let TransportEvent::NewAddress { listen_addr, .. } = next(&mut one).await else { panic!() };
    assert_eq!(listen_addr, address(net.ip(host), port_of(&listen_addr)));
    assert!(other.listen_on(ListenerId::next(), listen_addr.clone()).is_err(), "taken");
    assert!(one.remove_listener(id));
    assert!(!one.remove_listener(id));
    assert!(matches!(next(&mut one).await, TransportEvent::AddressExpired { .. }));
    assert!(matches!(next(&mut one).await, TransportEvent::ListenerClosed { reason: Ok(()), .. }));
    other.listen_on(ListenerId::next(), listen_addr.clone()).unwrap();
    drop(other);
    one.listen_on(ListenerId::next(), listen_addr).unwrap();
    assert!(
        one.listen_on(ListenerId::next(), address(Ipv4Addr::new(1, 1, 1, 1), 7)).is_err(),
        "not its address"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_no_tcp_address_is_left_to_other_transports() {
    let (_net, mut a, _b) = two(1).await;
    for text in ["/ip6/::1/tcp/1", "/ip4/1.2.3.4/udp/1/quic-v1", "/ip4/1.2.3.4/tcp/0", "/ip4/0.0.0.0/tcp/1"] {
        assert!(a.transport.dial(text.parse().unwrap(), opts(PortUse::New)).is_err(), "{text}");
    }
    let circuit = format!("/ip4/1.2.3.4/tcp/1/p2p/{}/p2p-circuit", libp2p::PeerId::random());
    assert!(a.transport.dial(circuit.parse().unwrap(), opts(PortUse::New)).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_dial_leaves_nothing() {
    let (net, mut a, mut b) = two(1).await;
    for wait in [10, 60, 99] {
        let dial = a.dial(&b.address);
        assert!(tokio::time::timeout(wait * MS, dial).await.is_err());
        assert!(tokio::time::timeout(10 * SEC, b.accept()).await.is_err(), "{wait}");
        assert_eq!((net.connections(), net.with(|core| core.conns.iter().count())), (0, 0), "{wait}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_dials_that_meet_are_one_connection() {
    let (net, mut a, mut b) = two(1).await;
    let (to_a, to_b) = (a.address.clone(), b.address.clone());
    // Each packet leaves before the other one arrives.
    let (one, other) = futures::join!(a.dial(&to_b), b.dial(&to_a));
    let (mut one, mut other) = (one.unwrap(), other.unwrap());
    assert_eq!(net.connections(), 1);
    send(&mut one, b"from a").await;
    expect(&mut other, b"from a").await;
    send(&mut other, b"from b").await;
    expect(&mut one, b"from b").await;
}

#[tokio::test(start_paused = true)]
async fn a_host_reaches_itself() {
    let (_net, mut a, _b) = two(1).await;
    let own = a.address.clone();
    let loopback = address(Ipv4Addr::LOCALHOST, 4001);
    for to in [own, loopback] {
        let dial = a.dial(&to);
        let (stream, (mut there, _)) = futures::join!(dial, a.accept());
        send(&mut stream.unwrap(), b"hello").await;
        expect(&mut there, b"hello").await;
    }
}
