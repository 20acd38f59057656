"""libtorrent through its Python bindings: getters start from the torrent file and are told the providers' addresses.

Plain TCP, no encryption; SHA-1 of every piece is checked.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..torrent import make_torrent
from .base import Fetch, Offer, Program, Provider, Run

PORT = 6881
NODE = Path(__file__).resolve().parent.parent / "lt_node.py"
ASK = "import libtorrent; print(libtorrent.version)"


class Libtorrent(Program):
    name = "libtorrent"
    how = "apt-get install python3-libtorrent"

    def __init__(self, tools) -> None:
        super().__init__(tools)
        self.python, self.found = "", ""
        # The system's Python has the packaged bindings, which need not be the one that runs this.
        for python in dict.fromkeys(("/usr/bin/python3", sys.executable)):
            try:
                done = subprocess.run([python, "-c", ASK], capture_output=True, text=True)
            except OSError:
                continue
            if done.returncode == 0:
                self.python, self.found = python, done.stdout.strip()
                return

    def missing(self) -> str | None:
        return None if self.found else f"not installed: {self.how}"

    def version(self) -> str:
        return self.found

    def offer(self, run: Run, source: Path, count: int) -> Offer:
        make_torrent(source, run.folder / "content.torrent", None)
        return super().offer(run, source, count)

    def provide(self, run: Run, source: Path, index: int, ip: str, prefix: Sequence[str]) -> Provider:
        torrent = run.folder / "content.torrent"
        argv = [self.python, NODE, "provide", ip, PORT, torrent, source.parent]
        child = run.spawn(f"provider{index}", argv, prefix)
        child.wait_for(lambda printed: "READY" in printed, "libtorrent provider")
        return Provider(child, str(torrent), f"{ip}:{PORT}")

    def fetch(self, run: Run, offer: Offer, source: Path, index: int) -> Fetch:
        home = run.sub(f"getter{index}")
        argv = [self.python, NODE, "get", run.place.getter_ip(index), offer.ident, home, *offer.peers]
        return Fetch(argv, home, home / source.name)
