"""Network namespaces: everything that is measured runs where no packet can leave the machine.

The harness runs itself again in a new, empty namespace ("near"), with a mount namespace for the name server's address and a
process namespace, so that nothing it started outlives it; as root, or in a user namespace where that is allowed. A second
network namespace ("far") holds the providers of some scenarios. Addresses:

    10.77.0.x   all in near: .1 and .2 getters, .11 to .40 providers
    10.78.0.x   near .1 and .2, far .11 to .30, over a veth pair
    10.79.0.x   the same over a slow or distant link (link.py), as long as one is there
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from .process import Child

INSIDE = "PEERBENCH_INSIDE"
PACKAGE_PARENT = Path(__file__).resolve().parent.parent
LOCAL, CABLE, LINK = "10.77.0", "10.78.0", "10.79.0"
FIRST_PROVIDER = 11


class NoSpace(Exception):
    """Why there can be no namespaces here, and what to do."""


def way_in() -> list[str]:
    """The command prefix that makes the namespaces, tried out; an error says what is missing."""
    missing = [tool for tool in ("unshare", "nsenter", "ip", "mount") if not shutil.which(tool)]
    if missing:
        raise NoSpace(f"{', '.join(missing)}: not found; install util-linux, mount and iproute2")
    way = ["unshare", *(["--user", "--map-root-user"] if os.geteuid() != 0 else []), "--net", "--mount", "--pid",
           "--fork", "--kill-child", "--mount-proc"]
    probe = subprocess.run([*way, "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    if probe.returncode == 0:
        return way
    raise NoSpace(
        f"no network namespace of its own ({probe.stderr.strip() or 'refused'}); run as root, or allow unprivileged "
        "user namespaces: without one the programs could reach hosts outside, so nothing is run")


def enter() -> int | None:
    """Runs this program again inside and returns how that ended; None if it is there already.

    Both Ctrl-C and SIGTERM reach the inner one as one SIGTERM, on which it ends what it started and removes its folder:
    `unshare` itself would keep such a signal until its child has ended.
    """
    if os.environ.get(INSIDE) == "1":
        return None
    env = dict(os.environ, **{INSIDE: "1", "PYTHONPATH": str(PACKAGE_PARENT), "PYTHONDONTWRITEBYTECODE": "1"})
    command = [*way_in(), "--", sys.executable, "-m", "peerbench", *sys.argv[1:]]
    outer = subprocess.Popen(command, env=env, start_new_session=True)

    def forward(_number: int, _frame: object) -> None:
        for pid in Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    return outer.wait()


def end_on_signal() -> None:
    """The first SIGTERM ends this program in order, with exit code 130; later ones do not disturb that."""

    def end(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(130)

    signal.signal(signal.SIGTERM, end)


def _ip(command: str, prefix: list[str] | None = None) -> None:
    done = subprocess.run([*(prefix or []), "ip", *command.split()], capture_output=True, text=True)
    if done.returncode != 0:
        raise NoSpace(f"ip {command}: {done.stderr.strip()}")


@dataclass
class Place:
    """Where a run happens: the addresses, and the command prefix that puts a provider there."""

    name: str
    net: str
    provider_prefix: list[str] = field(default_factory=list)

    def getter_ip(self, index: int = 0) -> str:
        return f"{self.net}.{1 + index}"

    def provider_ip(self, index: int) -> str:
        return f"{self.net}.{FIRST_PROVIDER + index}"


class Spaces:
    """The two namespaces, from the inside of the near one."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.children: list[Child] = []
        _ip("link set lo up")
        _ip("link add local0 type veth peer name local1")
        for host in [1, 2, *range(FIRST_PROVIDER, 41)]:
            _ip(f"addr add {LOCAL}.{host}/24 dev local0")
        _ip("link set local0 up")
        _ip("link set local1 up")
        holder = ["unshare", "--net", "--", sys.executable, "-c",
                  "import time; print('READY', flush=True); time.sleep(1e9)"]
        self.far_pid = self._helper(holder, "far").pid
        self.inside_far = ["nsenter", f"--net=/proc/{self.far_pid}/ns/net", "--"]
        _ip("link add cable0 type veth peer name cable1")
        _ip(f"link set cable1 netns {self.far_pid}")
        for host in (1, 2):
            _ip(f"addr add {CABLE}.{host}/24 dev cable0")
        _ip("link set lo up", self.inside_far)
        for host in range(FIRST_PROVIDER, 31):
            _ip(f"addr add {CABLE}.{host}/24 dev cable1", self.inside_far)
        _ip("link set cable0 up")
        _ip("link set cable1 up", self.inside_far)
        self._no_names()

    def _helper(self, argv: list[str], name: str) -> Child:
        child = Child(argv, self.work / "helpers", self.work / f"{name}.log", helper_env())
        self.children.append(child)
        child.wait_for(lambda said: "READY" in said, name, 20)
        return child

    def _no_names(self) -> None:
        resolver = self.work / "resolv.conf"
        resolver.write_text("nameserver 127.0.0.1\n")
        target = Path("/etc/resolv.conf").resolve()
        if target.exists():
            bound = subprocess.run(["mount", "--bind", str(resolver), str(target)], capture_output=True, text=True)
            if bound.returncode != 0:
                raise NoSpace(f"{target}: {bound.stderr.strip()}")
        for name, prefix in (("names", []), ("far-names", self.inside_far)):
            self._helper([*prefix, sys.executable, "-m", "peerbench.noname"], name)

    def local(self) -> Place:
        """Getters and providers in one namespace."""
        return Place("same device", LOCAL)

    def cable(self) -> Place:
        """Getters here, providers in the far namespace, joined without delay or limit."""
        return Place("two namespaces", CABLE, self.inside_far)

    def link(self, rate: float, rtt_s: float) -> tuple[Place, Child]:
        """The far namespace over a link of `rate` bytes a second; the link is there until the child is killed."""
        if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
            raise NoSpace("/dev/net/tun: not there or not allowed; a link with delay needs it (modprobe tun)")
        place = Place(f"{rate / 125000:.1f} Mbit/s, {rtt_s * 1000:.0f} ms", LINK, self.inside_far)
        argv = [sys.executable, "-m", "peerbench.link", str(self.far_pid), str(rate), str(rtt_s), place.getter_ip(),
                *(place.provider_ip(i) for i in range(4))]
        child = Child(argv, self.work / "helpers", self.work / "link.log", helper_env())
        try:
            child.wait_for(lambda said: "READY" in said, "link", 20)
        except Exception:
            child.kill()
            raise
        return place, child

    def close(self) -> None:
        """Ends the helpers; the namespaces go with the last process in them."""
        for child in self.children:
            child.kill()


def helper_env() -> dict[str, str]:
    """What a helper of this package needs to find it."""
    return {"PYTHONPATH": str(PACKAGE_PARENT), "PYTHONDONTWRITEBYTECODE": "1"}
