"""aria2 over BitTorrent: getters start from the torrent file, and a tracker in the namespace names the providers.

DHT, local discovery and peer exchange are off. No encryption; SHA-1 of every piece is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..torrent import Tracker, make_torrent
from .base import Fetch, Offer, Program, Provider, Run, said

PROVIDER_PORT, GETTER_PORT = 6881, 6900
ALONE = ("--no-conf=true", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false",
         "--enable-peer-exchange=false", "--disable-ipv6=true", "--summary-interval=0", "--show-console-readout=false",
         "--file-allocation=none", "--disk-cache=16M", "--bt-request-peer-speed-limit=0", "--bt-max-peers=0")


class Aria2(Program):
    name = "aria2"
    how = "apt-get install aria2"
    needs = ("aria2c",)

    def version(self) -> str:
        return said([self.tools.need("aria2c"), "--version"]).split()[2]

    def offer(self, run: Run, source: Path, count: int) -> Offer:
        self.tracker = Tracker(run.place.getter_ip())
        run.closers.append(self.tracker.close)
        make_torrent(source, run.folder / "content.torrent", self.tracker.url)
        self.tracker.providers = [(run.place.provider_ip(i), PROVIDER_PORT) for i in range(count)]
        return super().offer(run, source, count)

    def provide(self, run: Run, source: Path, index: int, ip: str, prefix: Sequence[str]) -> Provider:
        argv = [self.tools.need("aria2c"), *ALONE, f"--interface={ip}", f"--listen-port={PROVIDER_PORT}",
                "--seed-ratio=0.0", "--check-integrity=true", f"--dir={source.parent}", run.folder / "content.torrent"]
        child = run.spawn(f"provider{index}", argv, prefix)
        child.wait_for(lambda _: (ip, PROVIDER_PORT) in self.tracker.complete, "aria2 provider")
        return Provider(child, str(run.folder / "content.torrent"), f"{ip}:{PROVIDER_PORT}")

    def fetch(self, run: Run, offer: Offer, source: Path, index: int) -> Fetch:
        home = run.sub(f"getter{index}")
        argv = [self.tools.need("aria2c"), *ALONE, f"--interface={run.place.getter_ip(index)}",
                f"--listen-port={GETTER_PORT + index}", "--seed-time=0", f"--dir={home}", offer.ident]
        return Fetch(argv, home, home / source.name)
