"""dhtfs as the lab knows it: its commands and what they print. Whatever changes there is changed here and nowhere else.

A program that lacks a command (`net`, `relay`) or a flag (`--no-mdns`) can be run all the same: what it says of itself is then
unknown, and the cells that need relays fail.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .rules import LISTEN_PORT

ADDRESS = re.compile(r"/ip[46]/[^\s\"',]+/p2p/([A-Za-z0-9]+)")
HELP_TIMEOUT_S = 20


@dataclass(frozen=True)
class Net:
    """What a node says of its own reachability (`net --json`)."""

    reachability: str = "unknown"
    settled: bool = False
    why: str = ""
    mapping: str = "unknown"
    external: tuple[str, ...] = ()
    relays: tuple[str, ...] = ()


@dataclass(frozen=True)
class Peer:
    """A connected peer (`peers --json`)."""

    peer: str
    addrs: tuple[str, ...]

    @property
    def direct(self) -> bool:
        """Is there a connection with it that is not relayed?"""
        return any("/p2p-circuit" not in addr for addr in self.addrs)


@dataclass(frozen=True)
class Fetched:
    """How a `get` ended (its last JSON object), and over which paths chunks came, if it says so."""

    length: int = 0
    seconds: float = 0.0
    paths: dict[str, int] = field(default_factory=dict)
    says_relayed: bool = False

    @property
    def path(self) -> str | None:
        """"direct" or "relayed", by most of the bytes; None if the program does not tell."""
        if sum(self.paths.values()):
            return max(self.paths, key=lambda name: self.paths[name])
        return "relayed" if self.says_relayed else None


def objects(printed: str) -> Iterator[dict[str, Any]]:
    """The JSON objects among the lines of an output; everything else is passed over."""
    for line in printed.splitlines():
        if line.lstrip().startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found


def texts(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def parse_net(printed: str) -> Net:
    """A node's reachability; unknown and unsettled if the output has none."""
    for found in objects(printed):
        if "reachability" in found:
            relays = [relay.get("addr", "") if isinstance(relay, dict) else relay for relay in found.get("relays") or []]
            return Net(str(found["reachability"]), found.get("settled") is True, str(found.get("why") or ""),
                       str(found.get("mapping") or "unknown"), texts(found.get("external")), texts(relays))
    return Net()


def parse_peers(printed: str) -> list[Peer]:
    """Who is connected."""
    return [Peer(str(found["peer"]), texts(found.get("addrs"))) for found in objects(printed) if "peer" in found]


def parse_cid(printed: str) -> str | None:
    """The content ID that `add --json` printed."""
    return next((str(found["cid"]) for found in objects(printed) if "cid" in found), None)


def parse_fetched(stdout: str, stderr: str = "") -> Fetched:
    """The report of `get --json`: the last object with the bytes it asked for."""
    report: dict[str, Any] = {}
    for found in objects(stdout):
        if "requested_len" in found:
            report = found
    counted: dict[str, int] = {}
    for source in report.get("sources") or []:
        path = "relayed" if source.get("relayed") else "direct"
        counted[path] = counted.get(path, 0) + int(source.get("len") or 0)
    said = any(re.search(r"\brelayed\b", line) and "direct" not in line for line in stderr.splitlines())
    return Fetched(int(report.get("len") or 0), float(report.get("seconds") or 0), counted, said)


def parse_ready(printed: str) -> str | None:
    """The peer ID in what a daemon or relay prints when it is ready, be it JSON or plain text; None before."""
    complete = printed[: printed.rfind("\n") + 1]
    for found in objects(complete):
        if "peer_id" in found:
            return str(found["peer_id"])
    address = ADDRESS.search(complete)
    return address[1] if address else None


def listen_addr(ip: str, transport: str, port: int = LISTEN_PORT) -> str:
    """The multiaddr of an IP address and one transport."""
    version = "ip6" if ":" in ip else "ip4"
    return f"/{version}/{ip}/tcp/{port}" if transport == "tcp" else f"/{version}/{ip}/udp/{port}/quic-v1"


def listen_addrs(ips: Sequence[str], transport: str) -> list[str]:
    """The multiaddrs of a set of transports (`tcp`, `quic` or `both`) on each IP address."""
    transports = ("tcp", "quic") if transport == "both" else (transport,)
    return [listen_addr(ip, one) for ip in ips for one in transports]


class Program:
    """A dhtfs to run, and what it is able to do, from its own help."""

    def __init__(self, path: Path) -> None:
        self.path = path
        commands, daemon = self._help("--help"), self._help("daemon", "--help")
        self.has_net = re.search(r"^\s+net\s", commands, re.M) is not None
        self.has_relay = re.search(r"^\s+relay\s", commands, re.M) is not None
        self.can_relay = re.search(r"^\s+--relay\b", daemon, re.M) is not None
        self.has_mdns_flag = "--no-mdns" in daemon

    def _help(self, *args: str) -> str:
        done = subprocess.run([self.path, *args], capture_output=True, text=True, timeout=HELP_TIMEOUT_S)
        if done.returncode != 0:
            raise OSError(f"{self.path} {' '.join(args)}: {done.stderr.strip()[-200:]}")
        return done.stdout

    def lacks(self) -> list[str]:
        """What of the lab it cannot do."""
        return [what for what, there in (("net", self.has_net), ("relay", self.has_relay)) if not there]

    def command(self, data: Path, *args: object) -> list[str]:
        """A command on a data directory, with JSON output."""
        return [str(part) for part in (self.path, "--data-dir", data, "--json", *args)]

    def daemon(self, data: Path, listen: Sequence[str], bootstrap: Sequence[str] = (), limit_up: str = "",
               relay: bool = False) -> list[str]:
        """A daemon's command line; `relay` has it relay with the small limits of an ordinary node, if it can."""
        args = ["-v", "daemon", *(part for addr in listen for part in ("--listen", addr)),
                *(part for addr in bootstrap for part in ("--bootstrap", addr))]
        args += ["--limit-up", limit_up] if limit_up else []
        args += ["--no-mdns"] if self.has_mdns_flag else []
        args += ["--relay"] if relay and self.can_relay else []
        return self.command(data, *args)

    def relay(self, data: Path, listen: Sequence[str]) -> list[str]:
        """A relay's command line, with generous limits; a daemon's if the program has no relays."""
        if not self.has_relay:
            return self.daemon(data, listen)
        return self.command(data, "-v", "relay", *(part for addr in listen for part in ("--listen", addr)))

    def add(self, data: Path, file: Path, timeout_s: float) -> list[str]:
        return self.command(data, "add", "--wait", "--timeout", int(timeout_s), file)

    def get(self, data: Path, cid: str, output: Path, timeout_s: float) -> list[str]:
        return self.command(data, "get", cid, "-o", output, "--timeout", int(timeout_s))
