"""The plain way, as a measure and not as a rival: download over HTTP into a file, then hash the file.

No ID, no chunks, no encryption, one source.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..space import helper_env
from .base import Fetch, Offer, Program, Provider, Run, said

PORT = 8000


class Http(Program):
    """curl from a sendfile server, and `openssl dgst -sha256` of what arrived."""

    name = "http"
    how = "apt-get install curl openssl"
    needs = ("curl", "openssl")
    max_providers = 1

    def version(self) -> str:
        return "curl " + said([self.tools.need("curl"), "--version"]).split()[1]

    def provide(self, run: Run, source: Path, index: int, ip: str, prefix: Sequence[str]) -> Provider:
        argv = [sys.executable, "-m", "peerbench.http_serve", ip, PORT, source]
        child = run.spawn(f"provider{index}", argv, prefix, helper_env())
        child.wait_for(lambda printed: "READY" in printed, "HTTP server")
        return Provider(child, f"http://{ip}:{PORT}/", ip)

    def fetch(self, run: Run, offer: Offer, source: Path, index: int) -> Fetch:
        home = run.sub(f"getter{index}")
        out = home / source.name
        script = f"'{self.tools.need('curl')}' -s -o \"$1\" \"$2\" && exec '{self.tools.need('openssl')}' dgst -sha256 \"$1\""
        return Fetch(["sh", "-c", script, "sh", out, offer.ident], home, out)
