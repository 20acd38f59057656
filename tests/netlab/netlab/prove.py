"""Proof that every gateway is what its kind says, and that the table of expected paths holds for bare sockets.

Of each kind: which port the outside sees, whether that depends on the destination, who is let in, and what a closed door
answers. Of each pair: whether a punch works, in UDP and TCP, exactly where the table says so. And what forgets connections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .cleanup import Ledger
from .kinds import DIRECT, KINDS, NONE, PUNCHED, RELAYED, expected
from .probe import Probe
from .rules import CHANGED_PORT, LISTEN_PORT
from .space import Space
from .topology import Lab, Side

# The port of the public nodes in these tests, and another one.
PORT, OTHER_PORT = 9001, 9002
# How long a packet that comes is waited for, and one that should not come.
COMES_S, STAYS_AWAY_S = 3.0, 0.4
# A connection attempt sends its SYN at 0, 1 and 3 s.
PUNCH_S = 4.0
PUNCH_UDP_S = 1.5


@dataclass(frozen=True)
class Proof:
    """One thing that was looked at: of what, what should be, whether it was, and what was seen."""

    subject: str
    claim: str
    holds: bool
    seen: str


@dataclass(frozen=True)
class Stage:
    """A lab with sockets in the two public nodes and the two hosts."""

    lab: Lab
    hub: Probe
    observer: Probe
    hosts: tuple[Probe, Probe]

    @staticmethod
    def build(space: Space, kinds: tuple[str, str], internet: str) -> "Stage":
        lab = Lab(space, kinds, internet=internet)
        start = [Probe(host.namespace, space.ledger) for host in (lab.hub, lab.observer, *(s.host for s in lab.sides))]
        return Stage(lab, start[0], start[1], (start[2], start[3]))


def version_of(side: Side) -> int:
    """The IP version in which a side is looked at by itself."""
    return min(side.host.ips)


def patience(side: Side) -> float:
    """How long what a side sends is waited for."""
    return STAYS_AWAY_S if KINDS[side.kind].mapping == "none" else COMES_S


def seen_udp(stage: Stage, index: int) -> list[list[Any]]:
    """Where a host's datagrams come from, as hub and observer see it; empty where none arrive."""
    seen = []
    side = stage.lab.sides[index]
    version = version_of(side)
    for node, probe in ((stage.lab.hub, stage.hub), (stage.lab.observer, stage.observer)):
        stage.hosts[index].ask("send", name=f"u{version}", to=[node.ip(version), PORT], text="hello")
        seen.append(probe.ask("receive", name=f"u{version}", wait=patience(side)).get("from", []))
    return seen


def seen_tcp(stage: Stage, index: int) -> list[list[Any]]:
    """The same of connections from the listen port."""
    seen = []
    side = stage.lab.sides[index]
    version = version_of(side)
    for name, node, probe in (("hub", stage.lab.hub, stage.hub), ("observer", stage.lab.observer, stage.observer)):
        stage.hosts[index].ask("connect", name=f"to-{name}", to=[node.ip(version), PORT], port=LISTEN_PORT,
                               wait=patience(side), version=version)
        seen.append(probe.ask("accept", name=f"t{version}", wait=STAYS_AWAY_S).get("from", []))
    return seen


def open_sockets(stage: Stage) -> None:
    """Everybody's sockets: the public nodes on PORT and OTHER_PORT, hosts on the listen port."""
    for probe in (stage.hub, stage.observer):
        for version in (4, 6):
            probe.ask("udp", name=f"u{version}", port=PORT, version=version)
            probe.ask("udp", name=f"other{version}", port=OTHER_PORT, version=version)
            probe.ask("listen", name=f"t{version}", port=PORT, version=version)
    for side, probe in zip(stage.lab.sides, stage.hosts):
        for version in side.host.ips:
            probe.ask("udp", name=f"u{version}", port=LISTEN_PORT, version=version)
            probe.ask("listen", name=f"l{version}", port=LISTEN_PORT, version=version)


def mapping_holds(side: Side, seen: list[list[Any]]) -> bool:
    """Is what hub and observer saw what the kind's mapping says?"""
    mapping = KINDS[side.kind].mapping
    if mapping == "none":
        return seen == [[], []]
    if not all(seen) or {ip for ip, _ in seen} != {side.outside[version_of(side)]}:
        return False
    ports = [port for _, port in seen]
    if mapping == "random":
        return ports[0] != ports[1] and LISTEN_PORT not in ports
    return ports == [side.outside_port] * 2


def prove_kind(stage: Stage) -> Iterator[Proof]:
    """Mapping and filtering of the first side."""
    side, host = stage.lab.sides[0], stage.hosts[0]
    kind, version = KINDS[side.kind], version_of(side)
    claim = {"own": "its own address, the same for every destination", "none": "nothing gets out",
             "kept": f"port {LISTEN_PORT} for every destination", "changed": f"port {CHANGED_PORT} for every destination",
             "random": "another port for every destination"}[kind.mapping]
    udp, tcp = seen_udp(stage, 0), seen_tcp(stage, 0)
    yield Proof(kind.name, f"UDP: {claim}", mapping_holds(side, udp), f"{udp}")
    yield Proof(kind.name, f"TCP: {claim}", mapping_holds(side, tcp), f"{tcp}")
    if kind.mapping == "none":
        return
    to = [side.outside[version], udp[0][1] if udp[0] else LISTEN_PORT]
    yield _comes(stage, kind.name, "UDP: an answer of the hub", "hub", f"u{version}", to, True)
    yield _comes(stage, kind.name, "UDP: the hub's other port", "hub", f"other{version}", to, kind.open)
    yield _comes(stage, kind.name, "UDP: a stranger's other port", "observer", f"other{version}", to, kind.open)
    to = [side.outside[version], LISTEN_PORT if kind.open else (tcp[0][1] if tcp[0] else LISTEN_PORT)]
    answer = stage.observer.ask("connect", name="in", to=to, wait=1.5, version=version)
    accepted = host.ask("accept", name=f"l{version}", wait=STAYS_AWAY_S)
    if kind.open:
        yield Proof(kind.name, "TCP: a stranger's connection is let in", "ok" in answer and "from" in accepted, f"{answer}")
    else:
        yield Proof(kind.name, "TCP: a stranger's connection is dropped without an answer",
                    answer == {"error": "TIMEOUT"} and not accepted, f"{answer}")
    yield from _prove_early(stage, side, host)


def _comes(stage: Stage, subject: str, what: str, sender: str, socket: str, to: list[Any], should: bool) -> Proof:
    getattr(stage, sender).ask("send", name=socket, to=to, text=what)
    wait = COMES_S if should else STAYS_AWAY_S
    came = stage.hosts[0].ask("receive", name=socket.replace("other", "u"), wait=wait).get("text") == what
    return Proof(subject, f"{what} {'is let in' if should else 'is dropped'}", came == should, "came" if came else "nothing came")


def _prove_early(stage: Stage, side: Side, host: Probe) -> Iterator[Proof]:
    """A packet that is too early must not spoil the mapping of the one that goes out to its sender later."""
    if KINDS[side.kind].mapping not in ("kept", "changed") or KINDS[side.kind].open:
        return
    to = [side.outside[4], side.outside_port]
    stage.observer.ask("send", name="other4", to=to, text="early")
    host.ask("send", name="u4", to=[stage.lab.observer.ip(4), OTHER_PORT], text="out")
    seen = stage.observer.ask("receive", name="other4", wait=COMES_S).get("from")
    yield Proof(side.kind, "UDP: a packet that came too early does not change the port", seen == to, f"{seen}")


def prove_pair(stage: Stage) -> Iterator[Proof]:
    """Dialling and punching between the two sides, held against the table."""
    one, other = stage.lab.sides
    subject = f"{one.kind} x {other.kind}"
    path = expected(one.kind, other.kind).path
    common = one.host.ips.keys() & other.host.ips.keys()
    if one.kind == other.kind == "no-internet":
        yield from _prove_dial(stage, subject, [other.host.ips, one.host.ips], 4, True)
    elif not one.outside or not other.outside:
        yield Proof(subject, "nothing to dial", path == NONE, "one of them is nowhere on the Internet")
    elif not common:
        yield Proof(subject, "nothing to dial", path == RELAYED, "no IP version in common")
    else:
        version = min(common)
        yield from _prove_dial(stage, subject, [other.outside, one.outside], version, path == DIRECT)
        # Two that can be dialled need no punch.
        if path != DIRECT:
            yield from _prove_punch(stage, subject, version, path == PUNCHED)


def _prove_dial(stage: Stage, subject: str, targets: list[dict[int, str]], version: int, works: bool) -> Iterator[Proof]:
    """Going to the other's listen port without any preparation works in at least one direction, or in none."""
    connected, heard = [], []
    for index, target in enumerate(targets):
        host, other, to = stage.hosts[index], stage.hosts[1 - index], [target[version], LISTEN_PORT]
        connected.append(host.ask("connect", name="dial", to=to, wait=1.2, version=version))
        # A socket of its own, so that the attempt opens no way for the one in the other direction.
        host.ask("udp", name="dial-udp", port=0, version=version)
        host.ask("send", name="dial-udp", to=to, text="dial")
        source = other.ask("receive", name=f"u{version}", wait=STAYS_AWAY_S).get("from")
        if source:
            other.ask("send", name=f"u{version}", to=source, text="answer")
            heard.append(host.ask("receive", name="dial-udp", wait=COMES_S).get("from") == to)
    what = "works from at least one side" if works else "fails from both sides"
    yield Proof(subject, f"TCP: a plain dial {what}", any("ok" in answer for answer in connected) == works, f"{connected}")
    yield Proof(subject, f"UDP: a plain dial {what}", any(heard) == works, f"answers {heard}")


def _prove_punch(stage: Stage, subject: str, version: int, works: bool) -> Iterator[Proof]:
    """Both go to each other's address at once, as the hub has seen it, in both protocols."""
    what = "works" if works else "fails"
    seen = [seen_udp(stage, index)[0] for index in (0, 1)]
    for index in (0, 1):
        stage.hosts[index].begin("swap", name=f"u{version}", to=seen[1 - index], text="punch", wait=PUNCH_UDP_S)
    heard = [stage.hosts[index].end()["heard"] for index in (0, 1)]
    yield Proof(subject, f"UDP: a punch {what}", heard == [works, works], f"{seen} heard {heard}")
    seen = [seen_tcp(stage, index)[0] for index in (0, 1)]
    for index in (0, 1):
        stage.hosts[index].begin("connect", name="punch", to=seen[1 - index], port=LISTEN_PORT, wait=PUNCH_S,
                                 version=version)
    answers = [stage.hosts[index].end() for index in (0, 1)]
    if all("ok" in answer for answer in answers):
        for index in (0, 1):
            stage.hosts[index].begin("echo", name="punch", text="punched", wait=2.0)
        answers = [stage.hosts[index].end() for index in (0, 1)]
    carried = [answer.get("text") == "punched" for answer in answers]
    yield Proof(subject, f"TCP: a punch {what}", carried == [works, works], f"{seen} {answers}")


def prove_forgetting(stage: Stage) -> Iterator[Proof]:
    """What makes a gateway forget: not its rules going, but its connection table."""
    lab, side = stage.lab, stage.lab.sides[0]
    kind, gateway = side.kind, side.gateways[-1]
    seen = seen_udp(stage, 0)

    def hub_gets_in(what: str, should: bool) -> Proof:
        return _comes(stage, kind, what, "hub", "u4", seen[0], should)

    yield hub_gets_in("UDP: an answer of the hub", True)
    lab.forget(gateway)
    yield hub_gets_in("rules deleted and loaded again: an answer of the hub, still", True)
    known = lab.space.connections(gateway.namespace)
    left = lab.space.connections(gateway.namespace, "flush")
    yield Proof(kind, "connection table flushed: no entry is left", known > 0 and left == 0, f"{known}, then {left}")
    yield hub_gets_in("connection table flushed: an answer of the hub", False)
    again = seen_udp(stage, 0)
    yield Proof(kind, "after that the host gets out again", mapping_holds(side, again), f"{again}")
    seen = again
    known = lab.reboot(gateway, 0.2)
    yield Proof(kind, "the gateway is rebooted: it knew connections", known > 0, f"{known}")
    yield hub_gets_in("after the reboot: an answer of the hub", False)
    again = seen_udp(stage, 0)
    yield Proof(kind, "after the reboot the host gets out again", mapping_holds(side, again), f"{again}")
    if KINDS[kind].mapping == "random":
        yield Proof(kind, "after the reboot the hub sees another port", again[0] != seen[0], f"{seen[0]} {again[0]}")


def prove_moving(stage: Stage) -> Iterator[Proof]:
    """A host that was plugged in elsewhere has another address, outside as inside."""
    side, host = stage.lab.sides[0], stage.hosts[0]
    before = seen_udp(stage, 0)
    was = side.host.ip(4)
    stage.lab.move(side, side.kind)
    after = seen_udp(stage, 0)
    yield Proof(side.kind, "moved: other addresses inside and outside", mapping_holds(side, after)
                and side.host.ip(4) != was and before[0][0] != after[0][0], f"{before[0]} {after[0]}")
    stage.hub.ask("send", name="u4", to=before[0], text="old address")
    came = host.ask("receive", name="u4", wait=STAYS_AWAY_S)
    yield Proof(side.kind, "moved: nothing comes by the old address", not came, f"{came}")


Prover = Callable[[Stage], Iterator[Proof]]


def all_proofs() -> list[tuple[str, tuple[str, str], list[Prover]]]:
    """What is to be proven: a name, the two sides it needs, and the provers, in order."""
    names = list(KINDS)
    kinds = [(name, (name, "public" if name != "public" else "port-keeping"), [prove_kind]) for name in names]
    pairs = [(f"{a}+{b}", (a, b), [prove_pair]) for i, a in enumerate(names) for b in names[i:]]
    faults = [(f"{name}-faults", (name, "public"), [prove_forgetting, prove_moving])
              for name in ("port-keeping", "port-changing", "symmetric", "double-nat")]
    return kinds + pairs + faults


def prove(prefix: str, ledger: Ledger, kinds: tuple[str, str], provers: list[Prover], internet: str) -> list[Proof]:
    """Builds a lab of two sides and has everything proven in it."""
    stage = Stage.build(Space(prefix, ledger), kinds, internet)
    open_sockets(stage)
    return [proof for prover in provers for proof in prover(stage)]
