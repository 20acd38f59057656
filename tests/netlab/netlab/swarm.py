"""The daemons of a cell: hub, observer and the two sides, started in their namespaces, asked, and measured from outside.

Which way the content came is not left to the program to say: the kernel counts what the two public nodes receive, and bytes
that were relayed have come through one of them.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .cleanup import Ledger
from .program import Fetched, Net, Program, listen_addrs, parse_cid, parse_fetched, parse_net, parse_peers, parse_ready
from .space import inside
from .topology import Host, Lab, Side

START_TIMEOUT_S = 20.0
ASK_TIMEOUT_S = 15.0
POLL_S = 0.2
MIB = 1 << 20
T = TypeVar("T")


class CellError(Exception):
    """What went wrong in a cell."""


def environment(home: Path) -> dict[str, str]:
    """The caller's environment with a home of its own, without proxies and without a terminal."""
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("DHTFS_")}
    return {**env, "HOME": str(home), "XDG_DATA_HOME": str(home), "TERM": "dumb", "NO_COLOR": "1"}


class Node:
    """A program in a namespace, with its data directory, output and log."""

    def __init__(self, name: str, host: Host, argv: Sequence[str], folder: Path, ledger: Ledger) -> None:
        self.name, self.host, self.ledger = name, host, ledger
        self.data = folder / name
        self.out, self.log = folder / f"{name}.out", folder / f"{name}.log"
        self.peer = ""
        ledger.check()
        with open(self.out, "wb") as out, open(self.log, "wb") as log:
            self.popen = subprocess.Popen([*inside(host.namespace), *argv], stdin=subprocess.DEVNULL, stdout=out, stderr=log,
                                          env=environment(folder), cwd=folder, start_new_session=True)
        self._received = 0
        ledger.add(f"{name} {self.popen.pid}", self.kill)

    def wait_ready(self) -> None:
        """Waits until it has printed its address, and with it who it is."""
        def ready() -> str | None:
            if self.popen.poll() is not None:
                raise CellError(f"{self.name} ended with {self.popen.returncode}: {self.tail()}")
            return parse_ready(self.out.read_text(errors="replace"))

        self.peer = wait_for(ready, START_TIMEOUT_S, f"{self.name} to start", self.ledger)

    def addresses(self, transport: str, versions: Iterable[int]) -> list[str]:
        """Where it can be reached by whoever has these transports and IP versions."""
        ips = [ip for version, ip in self.host.ips.items() if version in versions]
        return [f"{addr}/p2p/{self.peer}" for addr in listen_addrs(ips, transport)]

    def tail(self) -> str:
        """Its last words, for an error; JSON objects among them say how things went on, not how they ended."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line and not line.startswith("{")]
        return " | ".join(lines[-2:])[-400:]

    def received(self) -> int:
        """Bytes that came in by its network card since the namespace was made; those up to its end if it has ended."""
        try:
            lines = Path(f"/proc/{self.popen.pid}/net/dev").read_text().splitlines()
        except OSError:
            return self._received
        self._received = sum(int(line.split(":")[1].split()[0]) for line in lines if re.match(r"\s*eth\d+:", line))
        return self._received

    def kill(self) -> None:
        """Ends it at once, with what it started."""
        if self.popen.poll() is None:
            self.received()
            try:
                os.killpg(self.popen.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.popen.wait()


def wait_for(found: Callable[[], T | None], timeout_s: float, what: str, ledger: Ledger) -> T:
    """Asks again and again until there is an answer."""
    end = time.monotonic() + timeout_s
    while True:
        result = found()
        if result is not None:
            return result
        if time.monotonic() > end:
            raise CellError(f"waited {timeout_s:.0f} s for {what}")
        ledger.sleep(POLL_S if timeout_s > 1 else 0.02)


@dataclass
class Got:
    """A fetch, as measured from outside."""

    code: int
    first_s: float | None
    whole_s: float
    report: Fetched
    relayed_len: int
    received_len: int
    words: str


class Fetch:
    """A `get` that runs, watched."""

    def __init__(self, swarm: "Swarm", cid: str, output: Path, timeout_s: float) -> None:
        self.swarm = swarm
        host = swarm.sides[1].host
        argv = swarm.program.get(swarm.sides[1].data, cid, output, timeout_s)
        self.relays_before = swarm.relays_received()
        self.before = swarm.sides[1].received()
        self.started = time.monotonic()
        self.first_s: float | None = None
        self.node = Node("get", host, argv, swarm.folder, swarm.ledger)

    def arrived(self) -> int:
        """Bytes that came to the fetching host so far, whatever they are."""
        return self.swarm.sides[1].received() - self.before

    def look(self) -> bool:
        """Takes the time when the first MiB has come; returns whether the command has ended."""
        if self.first_s is None and self.arrived() > MIB:
            self.first_s = time.monotonic() - self.started
        return self.node.popen.poll() is not None

    def wait_for_len(self, length: int, timeout_s: float) -> None:
        """Waits until so much has arrived; an error if the fetch ends before."""
        end = time.monotonic() + timeout_s
        while self.arrived() < length:
            if self.look():
                raise CellError(f"get ended before half had come: {self.node.popen.returncode}: {self.node.tail()}")
            if time.monotonic() > end:
                raise CellError(f"{self.arrived() // MIB} MiB came within {timeout_s:.0f} s")
            self.swarm.ledger.sleep(0.005)

    def wait_for_more(self, timeout_s: float) -> float | None:
        """Waits until another MiB has come; returns how long that took, None if nothing comes."""
        began, before = time.monotonic(), self.arrived()
        while self.arrived() - before < MIB:
            if self.look() or time.monotonic() - began > timeout_s:
                return None
            self.swarm.ledger.sleep(0.005)
        return time.monotonic() - began

    def end(self, timeout_s: float) -> Got:
        """Waits for its end and says how it went."""
        end = self.started + timeout_s
        while not self.look():
            if time.monotonic() > end:
                raise CellError(f"get did not end within {timeout_s:.0f} s; {self.arrived() // MIB} MiB came: {self.node.tail()}")
            self.swarm.ledger.sleep(0.005)
        whole = time.monotonic() - self.started
        relayed = self.swarm.relays_received() - self.relays_before
        report = parse_fetched(self.node.out.read_text(errors="replace"), self.node.log.read_text(errors="replace"))
        return Got(self.node.popen.returncode, self.first_s, whole, report, relayed, self.arrived(), self.node.tail())


class Swarm:
    """Hub, observer and the two sides of a lab, running."""

    def __init__(self, lab: Lab, program: Program, folder: Path, transport: str, limit_up: str = "",
                 relays: int = 1) -> None:
        self.lab, self.program, self.folder, self.transport = lab, program, folder, transport
        self.ledger = lab.space.ledger
        self.public = [self._public("hub", lab.hub, True), self._public("observer", lab.observer, relays > 1)]
        for node in self.public:
            node.wait_ready()
        self.sides: list[Node] = []
        for name, side in zip(("seeds", "gets"), lab.sides):
            known = self._bootstrap(side)
            ips = [{4: "0.0.0.0", 6: "::"}[version] for version in sorted(side.host.ips)]
            argv = program.daemon(folder / name, listen_addrs(ips, transport), known, limit_up if name == "seeds" else "")
            self.sides.append(Node(name, side.host, argv, folder, self.ledger))
            if side.kind == "no-internet":
                # The other one of the LAN, if there is one, joins through this.
                self.sides[-1].wait_ready()
        for node in self.sides:
            node.wait_ready()

    def _public(self, name: str, host: Host, relay: bool) -> Node:
        listen = listen_addrs(list(host.ips.values()), "both")
        data = self.folder / name
        argv = self.program.relay(data, listen) if relay else self.program.daemon(data, listen)
        return Node(name, host, argv, self.folder, self.ledger)

    def _bootstrap(self, side: Side) -> list[str]:
        """The addresses of hub and observer that a side could reach; in a LAN of two, that of the one before."""
        nodes = self.sides[:1] if self.lab.kinds == ("no-internet", "no-internet") else self.public
        return [addr for node in nodes for addr in node.addresses(self.transport, side.host.ips)]

    def relays_received(self) -> int:
        """Bytes that came to the public nodes so far."""
        return sum(node.received() for node in self.public)

    def _ask(self, node: Node, *args: str) -> str:
        """A short command to a daemon; nothing if it fails."""
        argv = [*inside(node.host.namespace), *self.program.command(node.data, *args)]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=ASK_TIMEOUT_S, env=environment(self.folder))
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout

    def net(self, node: Node) -> Net:
        """What a node says of its own reachability."""
        return parse_net(self._ask(node, "net")) if self.program.has_net else Net()

    def settle(self, timeout_s: float) -> tuple[Net, Net]:
        """Waits until both sides know how reachable they are; without `net`, until they are connected to their bootstrap."""
        def settled(node: Node, side: Side) -> Net | None:
            if self.program.has_net:
                net = self.net(node)
                return net if net.settled else None
            there = {peer.peer for peer in parse_peers(self._ask(node, "peers"))}
            wanted = {node.peer for node in self.public}
            return Net() if there >= wanted or side.kind == "no-internet" else None

        found = [wait_for(lambda n=node, s=side: settled(n, s), timeout_s, f"{node.name} to settle", self.ledger)
                 for node, side in zip(self.sides, self.lab.sides)]
        return found[0], found[1]

    def add(self, file: Path, timeout_s: float) -> str:
        """Shares a file on the first side and returns its content ID. That nobody else can find it is no error yet."""
        argv = self.program.add(self.sides[0].data, file, timeout_s)
        node = Node("add", self.sides[0].host, argv, self.folder, self.ledger)
        try:
            node.popen.wait(timeout_s + 10)
        except subprocess.TimeoutExpired:
            raise CellError(f"add did not end within {timeout_s + 10:.0f} s: {node.tail()}") from None
        cid = parse_cid(node.out.read_text(errors="replace"))
        if not cid:
            raise CellError(f"add ended with {node.popen.returncode}: {node.tail()}")
        return cid

    def fetch(self, cid: str, output: Path, timeout_s: float) -> Fetch:
        """Starts a fetch on the second side."""
        return Fetch(self, cid, output, timeout_s)

    def connected_directly(self) -> bool:
        """Does the fetching side say that it has a connection with the other that is not relayed?"""
        seeds = self.sides[0].peer
        return any(peer.direct for peer in parse_peers(self._ask(self.sides[1], "peers")) if peer.peer == seeds)
