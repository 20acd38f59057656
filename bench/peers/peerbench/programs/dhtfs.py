"""dhtfs: providers are daemons that added the content; a getter is a node of its own, or a daemon that is running."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from ..process import RunError
from .base import Fetch, Offer, Program, Provider, Run

PORT = 4801
CONNECT_TIMEOUT_S = 20.0


def ready_line(printed: str) -> dict | None:
    """The line with peer ID and addresses that a daemon prints when it is ready."""
    for line in printed.splitlines():
        if line.startswith("{") and '"peer_id"' in line:
            try:
                return json.loads(line)
            except ValueError:
                return None
    return None


def report_of(printed: str) -> dict:
    """The report of `get --json`: the last object with the bytes it asked for."""
    for line in reversed(printed.splitlines()):
        if line.startswith("{") and '"requested_len"' in line:
            return json.loads(line)
    return {}


class Dhtfs(Program):
    """`dhtfs get` with a node of its own that lasts as long as the command; providers are named with --peer."""

    name = "dhtfs"
    how = "cargo build --release -p dhtfs, then --dhtfs target/release/dhtfs"
    needs = ("dhtfs",)
    trees = True
    provider_port = PORT

    def moved(self, peer: str, ip: str, port: int) -> str:
        return f"/ip4/{ip}/tcp/{port}/p2p/{peer.rsplit('/', 1)[1]}"

    def command(self, data: Path, *args: object) -> list[object]:
        return [self.tools.need("dhtfs"), "--no-mdns", "--data-dir", data, *args]

    def run_command(self, data: Path, *args: object, timeout_s: float = 600) -> str:
        """Runs a command to its end and returns what it printed; a failure is an error of the run."""
        argv = [str(a) for a in self.command(data, *args)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s)
        if done.returncode != 0:
            raise RunError(f"dhtfs {args[0]}: {done.returncode}: {done.stderr.strip()[-400:]}")
        return done.stdout

    def daemon(self, run: Run, name: str, ip: str, prefix: Sequence[str], bootstrap: Sequence[str] = (),
               config: Path | None = None) -> tuple:
        """A daemon that is ready: the process, its data directory and its address."""
        data = run.sub(name) / "data"
        known = [x for peer in bootstrap for x in ("--bootstrap", peer)]
        settings = ["--config", config] if config else []
        argv = self.command(data, *settings, "--json", "daemon", "--listen", f"/ip4/{ip}/tcp/{PORT}", *known)
        child = run.spawn(name, argv, prefix)
        ready = child.wait_for(ready_line, "dhtfs daemon")
        return child, data, next(a for a in ready["listen"] if "/tcp/" in a)

    def provide(self, run: Run, source: Path, index: int, ip: str, prefix: Sequence[str]) -> Provider:
        child, data, peer = self.daemon(run, f"provider{index}", ip, prefix)
        return Provider(child, self.run_command(data, "add", source).strip(), peer)

    def fetch(self, run: Run, offer: Offer, source: Path, index: int) -> Fetch:
        home = run.sub(f"getter{index}")
        out = home / source.name
        peers = [x for peer in offer.peers for x in ("--peer", peer)]
        return Fetch(self.command(home / "data", "--json", "get", offer.ident, "-o", out, *peers), home, out)


class DhtfsDaemon(Dhtfs):
    """`dhtfs get` through a daemon that is already connected to the providers."""

    name = "dhtfs-daemon"

    def fetch(self, run: Run, offer: Offer, source: Path, index: int) -> Fetch:
        name = f"getter{index}"
        _, data, _ = self.daemon(run, name, run.place.getter_ip(index), (), offer.peers)
        wanted = {peer.rsplit("/", 1)[1] for peer in offer.peers}
        end = time.perf_counter() + CONNECT_TIMEOUT_S
        while not all(peer in self.run_command(data, "--json", "peers") for peer in wanted):
            if time.perf_counter() > end:
                raise RunError(f"the getter's daemon did not connect to all providers in {CONNECT_TIMEOUT_S:.0f} s")
            time.sleep(0.05)
        home = run.sub(name)
        out = home / source.name
        return Fetch(self.command(data, "--json", "get", offer.ident, "-o", out), home, out)
