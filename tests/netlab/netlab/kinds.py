"""What a side of the lab can be, and which path two of them should find.

This is the lab's claim about the world, kept as data: `--prove` checks every row of it with plain sockets, so that a daemon
that fails a cell is wrong and not the lab.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Paths between two sides.
DIRECT, PUNCHED, RELAYED, NONE = "direct", "punched", "relayed", "none"
PATHS = (DIRECT, PUNCHED, RELAYED, NONE)
TRANSPORTS = ("tcp", "quic", "both")


@dataclass(frozen=True)
class Kind:
    """One way of being connected."""

    name: str
    says: str
    # IP versions that reach the Internet of the lab.
    versions: frozenset[int]
    # What the outside sees of the listen port: "own" address, "kept", "changed" or "random" port, or nothing ("none").
    mapping: str
    # Does a packet come in that nobody asked for?
    open: bool
    # What a daemon here may call its own reachability.
    reach: frozenset[str]


def _kind(name: str, says: str, versions: Iterable[int], mapping: str, opened: bool, *reach: str) -> Kind:
    return Kind(name, says, frozenset(versions), mapping, opened, frozenset(reach))


KINDS: dict[str, Kind] = {kind.name: kind for kind in (
    _kind("public", "a public address of its own, IPv4 and IPv6", (4, 6), "own", True, "direct"),
    _kind("port-forward", "a gateway that forwards the listen port, TCP and UDP", (4,), "kept", True, "direct", "port-mapped"),
    _kind("port-keeping", "a gateway that keeps the port if it is free", (4,), "kept", False, "punchable"),
    _kind("port-changing", "a gateway with another port, the same for every destination", (4,), "changed", False, "punchable"),
    _kind("double-nat", "a port-keeping gateway behind that of a carrier", (4,), "kept", False, "punchable"),
    _kind("symmetric", "a gateway with a new random port for every destination", (4,), "random", False, "relayed"),
    _kind("ipv6-only", "no IPv4; a gateway that translates nothing and lets in answers only", (6,), "own", False,
          "punchable"),
    _kind("no-internet", "a LAN without a way out", (), "none", False, "unreachable"),
)}


@dataclass(frozen=True)
class Expected:
    """The path two sides should find, and why."""

    path: str
    why: str


_MAPPED = ("port-keeping", "port-changing", "double-nat")
_BEHIND_IPV4 = (*_MAPPED, "symmetric")
_CONNECTED = ("public", "port-forward", *_BEHIND_IPV4, "ipv6-only")
_REVERSED = "one side can be dialled; if that one fetches, it has itself dialled by way of a relay"

# Rows of (these kinds, with those kinds, path, why); every pair is in exactly one of them.
_ROWS: tuple[tuple[tuple[str, ...], tuple[str, ...], str, str], ...] = (
    (("public",), _CONNECTED, DIRECT, _REVERSED),
    (("port-forward",), ("port-forward", *_BEHIND_IPV4), DIRECT, _REVERSED),
    (_MAPPED, _MAPPED, PUNCHED,
     "both ports are the same for every destination, so each side can be told where to send; the first packet out opens the "
     "filter for the other's"),
    (("symmetric",), _MAPPED, RELAYED,
     "the symmetric side comes from a port nobody could know before, and the other's filter lets in known ports only"),
    (("symmetric",), ("symmetric",), RELAYED, "neither side's port towards the other can be known before"),
    (("ipv6-only",), ("ipv6-only",), PUNCHED, "addresses are their own, but both gateways let in answers only"),
    (("ipv6-only",), ("port-forward", *_BEHIND_IPV4), RELAYED,
     "no IP version in common; the relay has both"),
    (("no-internet",), ("no-internet",), DIRECT, "one LAN for both"),
    (("no-internet",), _CONNECTED, NONE, "there is no way from one to the other"),
)


def _table() -> dict[frozenset[str], Expected]:
    table: dict[frozenset[str], Expected] = {}
    for these, those, path, why in _ROWS:
        row = {frozenset((this, that)): Expected(path, why) for this in these for that in those}
        twice = row.keys() & table.keys()
        if twice:
            raise ValueError(f"expected twice: {sorted(map(sorted, twice))}")
        table.update(row)
    return table


EXPECTED = _table()


def expected(one: str, other: str) -> Expected:
    """The path between two kinds; it does not matter which of them has the content."""
    return EXPECTED[frozenset((one, other))]


@dataclass(frozen=True)
class Cell:
    """One run: who has the content, who fetches it, over which transports."""

    seeds: str
    gets: str
    transport: str

    def __str__(self) -> str:
        return f"{self.seeds}:{self.gets}:{self.transport}"

    @property
    def expected(self) -> Expected:
        return expected(self.seeds, self.gets)


class NoSuchCell(ValueError):
    """What was asked for and is not there."""


def parse_cell(text: str) -> Cell:
    """A cell as it is written on the command line: `SEEDS:GETS:TRANSPORT`."""
    parts = text.split(":")
    if len(parts) != 3:
        raise NoSuchCell(f"{text!r} is no cell; write SEEDS:GETS:TRANSPORT, like port-keeping:symmetric:quic")
    for kind in parts[:2]:
        if kind not in KINDS:
            raise NoSuchCell(f"no such kind: {kind}; there are {', '.join(KINDS)}")
    if parts[2] not in TRANSPORTS:
        raise NoSuchCell(f"no such transport: {parts[2]}; there are {', '.join(TRANSPORTS)}")
    return Cell(*parts)


# Ten that stand for the rest: every path, every kind of gateway, both transports, content on either side.
CI_CELLS = tuple(parse_cell(text) for text in (
    "public:port-keeping:tcp",
    "port-keeping:public:quic",
    "port-forward:symmetric:tcp",
    "port-keeping:port-keeping:tcp",
    "port-keeping:port-keeping:quic",
    "port-changing:port-changing:quic",
    "double-nat:port-changing:tcp",
    "symmetric:port-keeping:quic",
    "symmetric:symmetric:both",
    "ipv6-only:ipv6-only:quic",
))


def chosen_cells(text: str, transports: Iterable[str]) -> list[Cell]:
    """The cells of a set (`ci`, `full`: every pair once; `all`: both directions; `none`) or those listed, with commas."""
    if text == "ci":
        return list(CI_CELLS)
    if text == "none":
        return []
    if text in ("full", "all"):
        names = list(KINDS)
        pairs = [(a, b) for i, a in enumerate(names) for j, b in enumerate(names) if text == "all" or i <= j]
        return [Cell(a, b, transport) for a, b in pairs for transport in transports]
    return [parse_cell(part) for part in text.split(",")]
