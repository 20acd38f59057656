"""The network of a cell: an Internet, two public nodes on it, and two sides.

    hub .1   observer .2                       192.88.99.0/24 and 2002:c058:6301::/64, one bridge: the Internet
       |        |
    ---+--------+--------+----------------+---
                      gateway .11      gateway .21        (or the host itself, if its side is public)
                         |                |
                      10.0.1.2         10.0.2.2           (with double NAT: 100.64.1.0/24 between the two gateways)

Two public nodes, since from one alone a symmetric NAT looks like any other: only a second address outside shows that the port
differs from destination to destination. LANs of the two sides have different addresses, so that nobody reaches the other side's
private address by luck.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .kinds import KINDS
from .rules import CHANGED_PORT, LISTEN_PORT, gateway_rules, table_name
from .space import Space

# Reserved ranges (RFC 7526) that count as the internet, unlike those for documentation, which dhtfs treats as private. They can be run in
# another one (`--internet`): nothing gets out of the lab either way.
INTERNET_4 = "192.88.99"
INTERNET_6 = "2002:c058:6301"


@dataclass
class Host:
    """A machine that runs programs: its namespace, and its addresses by IP version."""

    namespace: str
    ips: dict[int, str]

    def ip(self, version: int) -> str:
        return self.ips[version]


@dataclass
class Gateway:
    """A gateway: `wan` and `lan` are its interfaces, `rules` what it does, `setup` what it loses when its links go down."""

    namespace: str
    kind: str
    rules: str
    routes: list[str] = field(default_factory=list)


@dataclass
class Side:
    """A host, its kind, the gateways before it from inside to outside, and its address as the Internet sees it."""

    number: int
    kind: str
    host: Host
    gateways: list[Gateway]
    outside: dict[int, str]

    @property
    def outside_port(self) -> int | None:
        """The port under which the outside sees the listen port; None if nobody can say."""
        mapping = KINDS[self.kind].mapping
        return {"own": LISTEN_PORT, "kept": LISTEN_PORT, "changed": CHANGED_PORT}.get(mapping)


class Lab:
    """The network; everything in it goes with the space's ledger."""

    def __init__(self, space: Space, kinds: tuple[str, str], delay_ms: float = 0, internet: str = INTERNET_4) -> None:
        self.space, self.kinds, self.delay_ms = space, kinds, delay_ms
        self.net4, self.net6 = internet, INTERNET_6
        self._ports = 0
        self.internet = space.make("internet")
        space.ip(self.internet, "link add br0 type bridge", "link set br0 up")
        self.hub = self._public("hub", 1)
        self.observer = self._public("observer", 2)
        if kinds == ("no-internet", "no-internet"):
            self.sides = self._one_lan()
        else:
            self.sides = [self._side(1, kinds[0]), self._side(2, kinds[1])]
        self._route_ipv6()

    def _public(self, role: str, number: int) -> Host:
        """A host with addresses of its own, plugged into the Internet."""
        namespace = self.space.make(role)
        self._plug(namespace, "eth0")
        host = Host(namespace, {4: f"{self.net4}.{number}", 6: f"{self.net6}::{number}"})
        self.space.ip(namespace, f"addr add {host.ip(4)}/24 dev eth0", f"addr add {host.ip(6)}/64 dev eth0 nodad",
                      "link set eth0 up")
        return host

    def _plug(self, namespace: str, interface: str) -> None:
        """Joins an interface to the Internet's bridge, with the delay of the path on both ends of the cable."""
        self._ports += 1
        port = f"port{self._ports}"
        self.space.join(namespace, interface, self.internet, port)
        self.space.ip(self.internet, f"link set {port} master br0", f"link set {port} up")
        if self.delay_ms and not namespace.endswith(("-hub", "-observer")):
            for where, what in ((namespace, interface), (self.internet, port)):
                self.space.run(where, "tc", "qdisc", "add", "dev", what, "root", "netem", "limit", "100000", "delay",
                               f"{self.delay_ms:g}ms")

    def _side(self, number: int, kind: str) -> Side:
        outside = 10 * number + 1
        if kind == "public":
            host = self._public(f"host{number}", outside)
            return Side(number, kind, host, [], host.ips)
        namespace = self.space.make(f"host{number}")
        host = Host(namespace, {4: f"10.0.{number}.2"})
        if kind == "ipv6-only":
            host = Host(namespace, {6: f"{self.net6}:{number}::2"})
        gateways = self._gateways(f"{number}", number, kind, host)
        self._connect(host, "eth0", gateways[0], f"10.0.{number}.1", f"{self.net6}:{number}::1")
        return Side(number, kind, host, gateways, self._outside(kind, host, outside))

    def _outside(self, kind: str, host: Host, number: int) -> dict[int, str]:
        """What the Internet sees of a host behind gateways."""
        if kind == "no-internet":
            return {}
        return host.ips if kind == "ipv6-only" else {4: f"{self.net4}.{number}"}

    def _gateways(self, role: str, number: int, kind: str, host: Host) -> list[Gateway]:
        """The gateways of a host, from inside to outside; the last one is plugged into the Internet."""
        wan = f"{self.net4}.{10 * number + 1}"
        if kind != "double-nat":
            return [self._gateway(f"gateway{role}", kind, host.ips.get(4, ""), wan, number)]
        inner = self._gateway(f"gateway{role}", kind, host.ip(4), f"100.64.{number}.2", number, plugged=False)
        outer = self._gateway(f"carrier{role}", kind, f"100.64.{number}.2", wan, number)
        self.space.join(inner.namespace, "wan", outer.namespace, "lan")
        self.space.ip(outer.namespace, f"addr add 100.64.{number}.1/24 dev lan", "link set lan up")
        self.space.ip(inner.namespace, f"addr add 100.64.{number}.2/24 dev wan", "link set wan up")
        inner.routes.append(f"route replace 0.0.0.0/0 via 100.64.{number}.1")
        self.space.ip(inner.namespace, *inner.routes)
        return [inner, outer]

    def _gateway(self, role: str, kind: str, host_ip: str, wan_ip: str, number: int, plugged: bool = True) -> Gateway:
        """A gateway that forwards by its kind's rules; its LAN is connected later."""
        namespace = self.space.make(role)
        self.space.set(namespace, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        if kind == "no-internet":
            return Gateway(namespace, kind, "")
        gateway = Gateway(namespace, kind, gateway_rules(kind, host_ip, wan_ip))
        self.space.nft(namespace, gateway.rules)
        if plugged:
            self._plug(namespace, "wan")
            address = f"{self.net6}::{10 * number + 1}/64" if kind == "ipv6-only" else f"{wan_ip}/24"
            self.space.ip(namespace, f"addr add {address} dev wan{' nodad' if ':' in address else ''}", "link set wan up")
        return gateway

    def _connect(self, host: Host, interface: str, gateway: Gateway, gateway_4: str, gateway_6: str) -> None:
        """Puts a host into the LAN of a gateway, which is its way to everywhere."""
        self.space.join(host.namespace, interface, gateway.namespace, "lan")
        versions = ((4, gateway_4, "24", "0.0.0.0/0"), (6, gateway_6, "64", "::/0"))
        for version, ip, length, everywhere in versions:
            if version in host.ips:
                flags = " nodad" if version == 6 else ""
                self.space.ip(gateway.namespace, f"addr add {ip}/{length} dev lan{flags}", "link set lan up")
                self.space.ip(host.namespace, f"addr add {host.ip(version)}/{length} dev {interface}{flags}",
                              f"link set {interface} up", f"route replace {everywhere} via {ip}")

    def _one_lan(self) -> list[Side]:
        """Two hosts in one LAN that leads nowhere."""
        sides = []
        for number in (1, 2):
            namespace = self.space.make(f"host{number}")
            sides.append(Side(number, "no-internet", Host(namespace, {4: f"10.0.1.{number + 1}"}), [], {}))
        one, other = (side.host for side in sides)
        self.space.join(one.namespace, "eth0", other.namespace, "eth0")
        for host in (one, other):
            self.space.ip(host.namespace, f"addr add {host.ip(4)}/24 dev eth0", "link set eth0 up")
        return sides

    def _route_ipv6(self) -> None:
        """Tells everybody on the Internet the way to the IPv6 LANs: nothing translates them."""
        behind = [side for side in self.sides if side.kind == "ipv6-only"]
        near = [self.hub.namespace, self.observer.namespace]
        near += [side.host.namespace for side in self.sides if side.kind == "public"]
        near += [side.gateways[0].namespace for side in behind]
        for side in behind:
            for namespace in near:
                if namespace != side.gateways[0].namespace:
                    self.space.ip(namespace, f"route add {self.net6}:{side.number}::/64 via "
                                             f"{self.net6}::{10 * side.number + 1}")

    # What happens to a network while it is used.

    def forget(self, gateway: Gateway) -> None:
        """Deletes a gateway's rules and loads them again, and nothing else: it goes on knowing its connections."""
        self.space.run(gateway.namespace, "nft", "delete", "table", *table_name(gateway.kind).split())
        self.space.nft(gateway.namespace, gateway.rules)

    def reboot(self, gateway: Gateway, off_s: float) -> int:
        """Takes a gateway down for a while and brings it back without its connections; returns how many it knew."""
        namespace = gateway.namespace
        known = self.space.connections(namespace)
        self.space.ip(namespace, "link set wan down", "link set lan down")
        self.space.run(namespace, "nft", "flush", "ruleset")
        self.space.ledger.sleep(off_s)
        self.space.nft(namespace, gateway.rules)
        self.space.connections(namespace, "flush")
        self.space.ip(namespace, "link set lan up", "link set wan up", *gateway.routes)
        return known

    def move(self, side: Side, kind: str) -> None:
        """Unplugs a host and plugs it in elsewhere: another gateway with another LAN, as a laptop does."""
        number = side.number + 2
        host = Host(side.host.namespace, {4: f"10.0.{number}.2"})
        gateways = self._gateways(f"{number}", number, kind, host)
        self.space.ip(host.namespace, "link set eth0 down", "addr flush dev eth0")
        self._connect(host, "eth1", gateways[0], f"10.0.{number}.1", "")
        side.kind, side.host, side.gateways = kind, host, gateways
        side.outside = self._outside(kind, host, 10 * number + 1)
