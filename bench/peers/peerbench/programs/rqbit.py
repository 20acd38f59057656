"""rqbit, a BitTorrent client: `share` provides and prints a magnet link, `download` fetches by it from named peers.

DHT, local discovery, port forwarding and trackers are off. No encryption; SHA-1 of every piece is checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .base import Fetch, Offer, Program, Provider, Run

PROVIDER_PORT, GETTER_PORT, API_PORT = 4240, 4241, 3030
ALONE = ("--disable-dht", "--disable-dht-persistence", "--disable-lsd", "--disable-upnp-port-forward",
         "--disable-trackers", "--ipv4-only")


def magnet_of(printed: str) -> str | None:
    """The link in what `rqbit share` prints, once its line is complete."""
    found = re.search(r"magnet link: (magnet:\S+)\n", printed)
    return found.group(1) if found else None


class Rqbit(Program):
    name = "rqbit"
    how = "cargo install --locked rqbit (bench/peers/install)"
    needs = ("rqbit",)
    provider_port = PROVIDER_PORT

    def provide(self, run: Run, source: Path, index: int, ip: str, prefix: Sequence[str]) -> Provider:
        argv = [self.tools.need("rqbit"), *ALONE, "--listen-ip", ip, "--listen-port", PROVIDER_PORT,
                "--http-api-listen-addr", f"127.0.0.1:{API_PORT + index}", "share", source]
        child = run.spawn(f"provider{index}", argv, prefix)
        return Provider(child, child.wait_for(magnet_of, "rqbit share"), f"{ip}:{PROVIDER_PORT}")

    def fetch(self, run: Run, offer: Offer, source: Path, index: int) -> Fetch:
        home = run.sub(f"getter{index}")
        argv = [self.tools.need("rqbit"), *ALONE, "--listen-ip", run.place.getter_ip(index), "--listen-port",
                GETTER_PORT, "download", "-e", "-o", home, "--disable-http-api", "--initial-peers",
                ",".join(offer.peers), offer.ident]
        return Fetch(argv, home, home / source.name)
