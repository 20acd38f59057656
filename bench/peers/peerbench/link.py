"""A link between two network namespaces with a rate and a round-trip time, made of two TUN devices.

    python3 -m peerbench.link FAR_PID BYTES_PER_S RTT_S NEAR_IP FAR_IP..

Whole IP packets are held back for half of the round trip, after they waited their turn at the link's rate; a queue holds
one round trip's worth of bytes (at least 64 KiB) for each direction and what comes on top is lost, as in a router. TCP and
QUIC see a real path with delay and loss, which no relay of connections could give them. Prints READY; ends when it is killed.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x0001 | 0x1000
MTU = 1500
# Packets taken from one device before the other has its turn.
BATCH = 64


class Direction:
    """One way of the link, without clock and devices: when does which packet leave?"""

    def __init__(self, rate: float, delay_s: float, queue_len: float) -> None:
        self.rate, self.delay_s, self.queue_len = rate, delay_s, queue_len
        self.free_at = 0.0
        self.held: deque[tuple[float, bytes]] = deque()
        self.lost = 0

    def put(self, packet: bytes, now: float) -> None:
        """Takes a packet; it is lost if those before it fill the queue."""
        start = max(now, self.free_at)
        if (start - now) * self.rate > self.queue_len:
            self.lost += 1
            return
        self.free_at = start + len(packet) / self.rate
        self.held.append((self.free_at + self.delay_s, packet))

    def due(self, now: float) -> list[bytes]:
        """The packets that arrive now, in order."""
        out = []
        while self.held and self.held[0][0] <= now:
            out.append(self.held.popleft()[1])
        return out

    def next_at(self) -> float | None:
        """When the next packet arrives, if one is under way."""
        return self.held[0][0] if self.held else None


def open_tun(name: str) -> int:
    """Creates a TUN device and returns its descriptor; the device goes when that is closed."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN_NO_PI))
    return fd


def set_up(far_pid: int, near_ip: str, far_ips: list[str]) -> tuple[int, int]:
    """The two devices with their addresses, the far one in the namespace of `far_pid`."""
    near, far = open_tun("link0"), open_tun("link1")
    inside = ["nsenter", f"--net=/proc/{far_pid}/ns/net", "--"]
    commands = [["ip", "addr", "add", f"{near_ip}/24", "dev", "link0"], ["ip", "link", "set", "link0", "up"],
                ["ip", "link", "set", "link1", "netns", str(far_pid)]]
    commands += [inside + ["ip", "addr", "add", f"{ip}/24", "dev", "link1"] for ip in far_ips]
    commands += [inside + ["ip", "link", "set", "link1", "up"]]
    for command in commands:
        subprocess.run(command, check=True)
    return near, far


def read_some(fd: int) -> list[bytes]:
    """What a device has to give, up to a batch."""
    packets = []
    for _ in range(BATCH):
        try:
            packets.append(os.read(fd, MTU + 64))
        except BlockingIOError:
            break
    return packets


def forward(near: int, far: int, rate: float, rtt_s: float) -> None:
    """Carries packets both ways until the process is killed."""
    queue = max(rate * rtt_s, 65536.0)
    ways = {near: (Direction(rate, rtt_s / 2, queue), far), far: (Direction(rate, rtt_s / 2, queue), near)}
    while True:
        now = time.monotonic()
        for way, out in ways.values():
            for packet in way.due(now):
                try:
                    os.write(out, packet)
                except OSError:
                    way.lost += 1
        coming = [at for way, _ in ways.values() if (at := way.next_at()) is not None]
        wait = max(0.0, min(coming) - time.monotonic()) if coming else None
        for fd in select.select([near, far], [], [], wait)[0]:
            now = time.monotonic()
            for packet in read_some(fd):
                ways[fd][0].put(packet, now)


def main(argv: list[str]) -> None:
    far_pid, rate, rtt_s, near_ip, *far_ips = argv
    near, far = set_up(int(far_pid), near_ip, far_ips)
    print("READY", flush=True)
    forward(near, far, float(rate), float(rtt_s))


if __name__ == "__main__":
    main(sys.argv[1:])
