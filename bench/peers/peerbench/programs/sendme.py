"""sendme (QUIC, BLAKE3): `send` prints a ticket, `receive` fetches by it. Encrypted and verified; one source a ticket.

Relays and address lookup are off; the ticket carries the direct address.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .base import Fetch, Offer, Program, Provider, Run

PORT = 5000
DIRECT = ("--relay", "disabled", "--no-progress")


def ticket_of(printed: str) -> str | None:
    """The ticket in what `sendme send` prints, once its line is complete."""
    found = re.search(r"sendme receive (\S+)\n", printed)
    return found.group(1) if found else None


class Sendme(Program):
    name = "sendme"
    how = "cargo install --locked sendme (bench/peers/install)"
    needs = ("sendme",)
    max_providers = 1
    trees = True

    def provide(self, run: Run, source: Path, index: int, ip: str, prefix: Sequence[str]) -> Provider:
        argv = [self.tools.need("sendme"), "send", *DIRECT, "--ticket-type", "addresses", "--magic-ipv4-addr",
                f"{ip}:{PORT}", source]
        child = run.spawn(f"provider{index}", argv, prefix)
        return Provider(child, child.wait_for(ticket_of, "sendme send"), f"{ip}:{PORT}")

    def fetch(self, run: Run, offer: Offer, source: Path, index: int) -> Fetch:
        home = run.sub(f"getter{index}")
        argv = [self.tools.need("sendme"), "receive", *DIRECT, "--magic-ipv4-addr",
                f"{run.place.getter_ip(index)}:0", offer.ident]
        return Fetch(argv, home, home / source.name)
