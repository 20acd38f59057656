"""What this machine can do right now: the rates that the floor of a fetch is made of.

Rates that go into the floor are in CPU seconds, so that work of others on the machine does not change them much; the hash
rate of all cores is by the clock, since an import is measured by the clock too.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
# Enough to be long against the clock's ticks, short against what is measured.
PROBE_LEN = 64 * MIB
# A floor is what a step costs at best: of this many probes the cheapest counts.
PROBES = 4
# Pieces as a program would move them: small enough to stay in a core's own cache.
BLOCK_LEN = 256 * 1024
CIPHER_SECONDS = 1
CIPHER_BLOCK_LEN = 16384


@dataclass
class Rates:
    """CPU seconds a GiB of one core for each step of a fetch, and the hash rate of all cores by the clock."""

    tcp_s: float
    cipher_s: float | None
    sha256_s: float
    write_s: float
    sha256_all_mib_per_s: float

    def floor_s(self) -> float | None:
        """CPU seconds a GiB that a verified, encrypted fetch to disk takes at least, both sides together.

        Both ends of the TCP connection, the cipher once on each side, SHA-256 of every byte once, and the write.
        None if the cipher could not be measured.
        """
        if self.cipher_s is None:
            return None
        return self.tcp_s + 2 * self.cipher_s + self.sha256_s + self.write_s

    def record(self) -> dict[str, object]:
        return {"rates": asdict(self), "floor_s_per_gib": self.floor_s()}


def _tcp_s() -> float:
    block, room = os.urandom(BLOCK_LEN), bytearray(BLOCK_LEN)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver = listener.accept()[0]

    def send() -> None:
        with sender:
            for _ in range(PROBE_LEN // BLOCK_LEN):
                sender.sendall(block)

    before = time.process_time()
    thread = threading.Thread(target=send)
    thread.start()
    with receiver:
        while receiver.recv_into(room):
            pass
    thread.join()
    return (time.process_time() - before) * GIB / PROBE_LEN


def _hash(length: int) -> None:
    digest, block = hashlib.sha256(), bytes(BLOCK_LEN)
    for _ in range(length // BLOCK_LEN):
        digest.update(block)


def _sha256_s() -> float:
    before = time.thread_time()
    _hash(PROBE_LEN)
    return (time.thread_time() - before) * GIB / PROBE_LEN


def sha256_all_cores() -> float:
    """MiB/s of SHA-256 with a thread on every core this process may use."""
    cores = len(os.sched_getaffinity(0))
    before = time.perf_counter()
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(_hash, [PROBES * PROBE_LEN] * cores))
    return cores * PROBES * PROBE_LEN / MIB / (time.perf_counter() - before)


def _write_s(folder: Path) -> float:
    path, block = folder / "probe", os.urandom(BLOCK_LEN)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        before = time.thread_time()
        for index in range(PROBE_LEN // BLOCK_LEN):
            os.pwrite(fd, block, index * BLOCK_LEN)
        return (time.thread_time() - before) * GIB / PROBE_LEN
    finally:
        os.close(fd)
        path.unlink()


def parse_openssl(said: str) -> float:
    """Bytes a second from the last line of `openssl speed`, which counts in thousands."""
    found = re.search(r"([\d.]+)k\s*$", said.strip())
    if not found or float(found.group(1)) == 0:
        raise ValueError("no rate in what openssl said")
    return float(found.group(1)) * 1000


def _cipher_s() -> float | None:
    """AES-128-GCM by openssl, which counts in CPU seconds; None without openssl."""
    if not shutil.which("openssl"):
        return None
    said = subprocess.run(
        ["openssl", "speed", "-seconds", str(CIPHER_SECONDS), "-bytes", str(CIPHER_BLOCK_LEN), "-aead", "-evp",
         "aes-128-gcm"], capture_output=True, text=True).stdout
    try:
        return GIB / parse_openssl(said)
    except ValueError:
        return None


def measure_rates(folder: Path) -> Rates:
    """All of them, about three seconds."""
    tcp, sha256, write = (min(probe() for _ in range(PROBES)) for probe in (_tcp_s, _sha256_s, lambda: _write_s(folder)))
    return Rates(tcp, _cipher_s(), sha256, write, sha256_all_cores())
