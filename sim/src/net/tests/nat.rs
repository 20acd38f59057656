//! NAT boxes on the network: who reaches whom, and what each side sees.

use std::io::ErrorKind;

use super::*;

/// Dials both ways at the same time, as hole punching does; returns whether that made one connection.
async fn punch(a: &mut Peer, b: &mut Peer, to_a: Multiaddr, to_b: Multiaddr) -> bool {
    let before = a.net.connections();
    let (one, other) = futures::join!(a.dial(&to_b), b.dial(&to_a));
    one.is_ok() && other.is_ok() && a.net.connections() == before + 1
}

#[tokio::test(start_paused = true)]
async fn others_see_the_box() {
    for (spec, keeps_port) in [
        (NatSpec::full_cone(), true),
        (NatSpec::port_restricted(), true),
        (NatSpec::port_shifting(), false),
        (NatSpec::symmetric(), false),
    ] {
        let net = Net::new(1);
        let mut home = Peer::new(&net, behind(spec)).await;
        let mut public = Peer::new(&net, apart()).await;
        assert!(net.ip(home.host).is_private() && !net.public_ip(home.host).is_private());
        let dial = home.dial(&public.address);
        let (stream, (_, seen)) = futures::join!(dial, public.accept());
        stream.unwrap();
        assert_eq!(seen, address(net.public_ip(home.host), port_of(&seen)));
        assert_eq!(port_of(&seen) == 4001, keeps_port, "{spec:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn strangers_get_in_as_the_filter_says() {
    // Box, then whether these get in: a stranger; the host that was sent to, from another port than that.
    for (spec, expected) in [
        (NatSpec::full_cone(), [true, true]),
        (NatSpec::address_restricted(), [false, true]),
        (NatSpec::port_restricted(), [false, false]),
        (NatSpec::port_shifting(), [false, false]),
        (NatSpec::symmetric(), [false, false]),
    ] {
        let net = Net::new(1);
        let mut home = Peer::new(&net, behind(spec)).await;
        let mut known = Peer::new(&net, apart()).await;
        let mut stranger = Peer::new(&net, apart()).await;
        assert!(!net.reachable(stranger.host, home.host), "nothing is mapped yet");
        let dial = home.dial(&known.address);
        let (stream, (_there, seen)) = futures::join!(dial, known.accept());
        let _stream = stream.unwrap();
        assert_eq!(net.reachable(stranger.host, home.host), expected[0], "{spec:?}");
        for (peer, expected) in [(&mut stranger, expected[0]), (&mut known, expected[1])] {
            let dial = peer.transport.dial(seen.clone(), opts(PortUse::New)).unwrap();
            match dial.await {
                Ok(_) => assert!(expected, "{spec:?}"),
                Err(error) => assert!(!expected && error.kind() == ErrorKind::TimedOut, "{spec:?} {error}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_firewall_lets_in_only_answers() {
    let net = Net::new(1);
    let mut closed = Peer::new(&net, HostSpec { inbound: false, ..apart() }).await;
    let mut open = Peer::new(&net, apart()).await;
    assert!(!net.reachable(open.host, closed.host) && net.reachable(closed.host, open.host));
    assert_eq!(open.dial(&closed.address).await.unwrap_err().kind(), ErrorKind::TimedOut);
    let (mut ours, mut theirs) = closed.connect(&mut open).await;
    send(&mut theirs, b"answer").await;
    expect(&mut ours, b"answer").await;
    drop((ours, theirs));
    tokio::time::sleep(SEC).await;
    let (to_closed, to_open) = (closed.address.clone(), open.address.clone());
    assert!(punch(&mut closed, &mut open, to_closed, to_open).await);
}

#[tokio::test(start_paused = true)]
async fn holes_are_punched_where_addresses_can_be_known() {
    let restricted = [NatSpec::full_cone(), NatSpec::address_restricted(), NatSpec::port_restricted()];
    for one in restricted {
        for other in restricted {
            let net = Net::new(1);
            let mut a = Peer::new(&net, behind(one)).await;
            let mut b = Peer::new(&net, behind(other)).await;
            let (to_a, to_b) = (address(net.public_ip(a.host), 4001), address(net.public_ip(b.host), 4001));
            assert!(punch(&mut a, &mut b, to_a, to_b).await, "{one:?} {other:?}");
        }
        let net = Net::new(1);
        let mut a = Peer::new(&net, behind(one)).await;
        let mut b = Peer::new(&net, behind(NatSpec::symmetric())).await;
        let (to_a, to_b) = (address(net.public_ip(a.host), 4001), address(net.public_ip(b.host), 4001));
        assert!(
            !punch(&mut a, &mut b, to_a, to_b).await,
            "nobody can know the symmetric one's port: {one:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_hole_is_punched_although_one_is_late() {
    let net = Net::new(1);
    let mut a = Peer::new(&net, behind(NatSpec::port_restricted())).await;
    let mut b = Peer::new(&net, behind(NatSpec::port_restricted())).await;
    let (to_a, to_b) = (address(net.public_ip(a.host), 4001), address(net.public_ip(b.host), 4001));
    let start = Instant::now();
    let (early, late) = (a.dial(&to_b), b.dial(&to_a));
    let (one, other) = futures::join!(early, async {
        tokio::time::sleep(400 * MS).await;
        late.await
    });
    assert!(one.is_ok() && other.is_ok());
    // The first packet was dropped; the late one finds the hole that it made.
    assert!(start.elapsed() < 700 * MS, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_forwarded_port_is_reachable() {
    let net = Net::new(1);
    let mut home = Peer::new(&net, behind(NatSpec::symmetric())).await;
    let mut stranger = Peer::new(&net, apart()).await;
    let nat = net.nat(home.host).unwrap();
    net.forward(nat, 443, home.host, 4001);
    assert!(net.reachable(stranger.host, home.host));
    let dial = stranger.dial(&address(net.public_ip(home.host), 443));
    let (ours, (mut theirs, _)) = futures::join!(dial, home.accept());
    send(&mut ours.unwrap(), b"through").await;
    expect(&mut theirs, b"through").await;
}

#[tokio::test(start_paused = true)]
async fn hosts_behind_one_box_are_neighbours() {
    for hairpin in [false, true] {
        let net = Net::new(1);
        let spec = NatSpec { hairpin, ..NatSpec::full_cone() };
        let mut a = Peer::new(&net, behind(spec)).await;
        let nat = net.nat(a.host).unwrap();
        let mut b = Peer::new(&net, behind(nat)).await;
        let mut public = Peer::new(&net, apart()).await;
        assert_eq!(net.public_ip(a.host), net.public_ip(b.host));
        assert_ne!(net.ip(a.host), net.ip(b.host));
        let start = Instant::now();
        a.connect(&mut b).await;
        assert!(start.elapsed() <= 3 * MS, "a local network is fast");
        // Both use the same port inside; outside they differ.
        let dials = (a.dial(&public.address), b.dial(&public.address));
        let ((one, other), seen) = futures::join!(futures::future::join(dials.0, dials.1), async {
            let (one, at) = public.accept().await;
            let (other, also) = public.accept().await;
            (one, other, at, also)
        });
        let _kept = (one.unwrap(), other.unwrap());
        assert_ne!(seen.2, seen.3);
        let dial = b.dial(&seen.2);
        assert_eq!(dial.await.is_ok(), hairpin);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_forgotten_by_the_box() {
    let lifetime = 60 * SEC;
    let net = Net::new(1);
    let spec = NatSpec { established: lifetime, ..NatSpec::port_restricted() };
    let mut home = Peer::new(&net, behind(spec)).await;
    let mut public = Peer::new(&net, apart()).await;
    let (mut ours, mut theirs) = home.connect(&mut public).await;
    for _ in 0..5 {
        tokio::time::sleep(lifetime - SEC).await;
        send(&mut ours, b"still here").await;
        expect(&mut theirs, b"still here").await;
    }
    tokio::time::sleep(lifetime + SEC).await;
    send(&mut theirs, b"too late").await;
    assert_eq!(read_end(&mut ours).await, Err(ErrorKind::WouldBlock));
    assert_eq!(read_end(&mut theirs).await, Err(ErrorKind::TimedOut));
}

#[tokio::test(start_paused = true)]
async fn a_private_address_means_another_host_in_another_network() {
    let net = Net::new(1);
    let homes = (0..11).map(|_| net.add_host(behind(NatSpec::port_restricted()))).collect::<Vec<_>>();
    assert_eq!(net.ip(homes[0]), net.ip(homes[10]), "home networks use the same addresses");
    let mut a = Peer::on(&net, homes[0], 4001).await;
    let there = address(net.ip(homes[1]), 4001);
    assert_eq!(a.dial(&there).await.unwrap_err().kind(), ErrorKind::TimedOut);
}
