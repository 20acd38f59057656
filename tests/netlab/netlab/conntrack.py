"""The connection table of a namespace, by netlink: `python3 -m netlab.conntrack count|flush`, run inside it.

A gateway forgets its mappings only with this table. Deleting the nft rules is not enough: entries that exist go on being
translated (`--prove` shows both). The usual tool is conntrack(8), which is seldom installed; the one message it sends is short.
"""

from __future__ import annotations

import socket
import struct
import sys

NETLINK_NETFILTER = 12
GET, DELETE = 1 << 8 | 1, 1 << 8 | 2
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
ERROR, DONE = 2, 3


def message(kind: int, flags: int) -> bytes:
    """A request about all entries: header of netlink, then that of netfilter for any address family."""
    return struct.pack("=IHHII", 20, kind, flags, 1, 0) + struct.pack("=BBH", 0, 0, 0)


def walk(data: bytes) -> list[tuple[int, bytes]]:
    """The messages in what a netlink socket gave."""
    found, at = [], 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 16:
            break
        found.append((kind, data[at + 16 : at + length]))
        at += (length + 3) & ~3
    return found


def ask(kind: int, flags: int) -> int:
    """Sends a request and reads to its end; returns how many entries came."""
    count = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
        sock.settimeout(10)
        sock.bind((0, 0))
        sock.send(message(kind, flags))
        while True:
            for answer, body in walk(sock.recv(1 << 18)):
                if answer == ERROR:
                    code = struct.unpack_from("=i", body)[0]
                    if code:
                        raise OSError(-code, "connection table")
                    return count
                if answer == DONE:
                    return count
                count += 1


def flush() -> None:
    """Forgets every connection of this namespace."""
    ask(DELETE, REQUEST | ACK)


def entries() -> int:
    """How many connections this namespace knows."""
    return ask(GET, REQUEST | DUMP)


if __name__ == "__main__":
    if sys.argv[1:] == ["flush"]:
        flush()
    print(entries())
