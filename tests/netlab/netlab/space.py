"""Network namespaces and what is done in them.

Named namespaces (`ip netns`) rather than bare processes: their names say which run and cell they belong to, so that leftovers
can be told from what somebody else made. Every link is made between two of them, never in the machine's own namespace; none of
them has a way out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .cleanup import NETNS, Ledger, delete_namespace

PACKAGE_PARENT = Path(__file__).resolve().parent.parent
COMMAND_TIMEOUT_S = 20


class LabError(Exception):
    """A command of the lab failed."""


def missing() -> str | None:
    """Why no lab can be built here; None if it can."""
    lacking = [tool for tool in ("ip", "nft", "nsenter", "setpriv", "sysctl") if not shutil.which(tool)]
    if lacking:
        return f"{', '.join(lacking)} not found; install iproute2, nftables, util-linux and procps"
    if os.geteuid() != 0:
        return "not root: namespaces with names, links between them and nft need it"
    return _probe()


def _probe() -> str | None:
    """Tries, in a namespace that goes at once, what the lab needs."""
    rules = ("add table ip t; add chain ip t c { type nat hook postrouting priority 100; }; "
             "add rule ip t c masquerade random,fully-random; add table ip6 u; "
             "add chain ip6 u c { type filter hook forward priority 0; policy drop; }; "
             "add rule ip6 u c ct state established accept")
    tries = (("a network namespace", ["true"]), ("veth", ["ip", "link", "add", "name", "v0", "type", "veth", "peer", "name", "v1"]),
             ("a bridge", ["ip", "link", "add", "name", "br0", "type", "bridge"]), ("nft with NAT", ["nft", rules]))
    for what, command in tries:
        done = subprocess.run(["unshare", "--net", "--", *command], capture_output=True, text=True)
        if done.returncode != 0:
            return f"{what} is not possible here: {(done.stderr.strip().splitlines() or ['refused'])[0]}"
    return None


def can_delay() -> bool:
    """Does this kernel have netem?"""
    if not shutil.which("tc"):
        return False
    command = "ip link set lo up && tc qdisc add dev lo root netem delay 1ms"
    return subprocess.run(["unshare", "--net", "--", "sh", "-c", command], capture_output=True).returncode == 0


def inside(namespace: str) -> list[str]:
    """The command prefix that runs a program in a namespace; it dies with whoever started it, however that ends."""
    return ["nsenter", f"--net={NETNS / namespace}", "--", "setpriv", "--pdeathsig", "KILL", "--"]


def module(name: str, *args: str) -> list[str]:
    """The command that runs a module of this package."""
    return [sys.executable, "-m", f"netlab.{name}", *args]


def module_env() -> dict[str, str]:
    """The environment in which `module` finds this package."""
    return dict(os.environ, PYTHONPATH=str(PACKAGE_PARENT), PYTHONDONTWRITEBYTECODE="1")


class Space:
    """The namespaces of one cell: a common prefix, and a ledger that has all of them removed."""

    def __init__(self, prefix: str, ledger: Ledger) -> None:
        self.prefix = prefix
        self.ledger = ledger

    def make(self, role: str) -> str:
        """A new empty namespace with loopback; returns its name."""
        name = f"{self.prefix}-{role}"
        self.ledger.add(f"namespace {name}", lambda: delete_namespace(name))
        self._run(["ip", "netns", "add", name])
        # The ledger may have been closed while the command ran.
        if self.ledger.closed:
            delete_namespace(name)
        self.ledger.check()
        self.ip(name, "link set lo up")
        return name

    def _run(self, command: Sequence[str], given: str | None = None) -> str:
        self.ledger.check()
        done = subprocess.run(list(command), input=given, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S,
                              env=module_env())
        if done.returncode != 0:
            self.ledger.check()
            raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}\n{given or ''}".strip())
        return done.stdout

    def ip(self, namespace: str, *lines: str) -> None:
        """Commands of ip(8) in a namespace, in one go."""
        self._run(["ip", "-n", namespace, "-batch", "-"], "".join(f"{line}\n" for line in lines))

    def run(self, namespace: str, *command: str) -> str:
        """A short command in a namespace; returns what it printed."""
        return self._run([*inside(namespace), *command])

    def set(self, namespace: str, *settings: str) -> None:
        """Kernel settings of a namespace."""
        self.run(namespace, "sysctl", "-q", "-w", *settings)

    def nft(self, namespace: str, rules: str) -> None:
        """Loads nft rules in a namespace."""
        self._run([*inside(namespace), "nft", "-f", "-"], rules)

    def join(self, one: str, its_end: str, other: str, other_end: str) -> None:
        """A cable between two namespaces. Made right there: the machine's own interfaces are not involved."""
        self._run(["ip", "link", "add", "name", its_end, "netns", one, "type", "veth", "peer", "name", other_end,
                   "netns", other])

    def connections(self, namespace: str, what: str = "count") -> int:
        """How many connections a gateway knows, after `flush` if that is asked for."""
        return int(self.run(namespace, *module("conntrack", what)))
