#!/usr/bin/env python3
"""Makes the golden manifest blocks from docs/protocol.md alone: nothing of dhtfs runs here.

The chunk with number n of a golden file is taken to have the content n (8 bytes, big-endian).
"""
import base64, hashlib, pathlib, struct

HERE = pathlib.Path(__file__).parent
MIB = 1 << 20


def head(major, value):
    for limit, mark, form in ((24, None, None), (1 << 8, 24, ">B"), (1 << 16, 25, ">H"), (1 << 32, 26, ">I"), (1 << 64, 27, ">Q")):
        if value < limit:
            return bytes([major << 5 | value]) if mark is None else bytes([major << 5 | mark]) + struct.pack(form, value)


class Link(bytes):
    """A CID in binary."""


def encode(value):
    if value is True or value is False:
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, Link):
        return head(6, 42) + head(2, len(value) + 1) + b"\0" + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(encode, value))
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: (len(item[0].encode()), item[0].encode()))
        return head(5, len(items)) + b"".join(encode(key) + encode(item) for key, item in items)
    raise TypeError(value)


def link(codec, data):
    return Link(bytes([1, codec, 0x12, 0x20]) + hashlib.sha256(data).digest())


def text(cid):
    return "b" + base64.b32encode(cid).decode().lower().rstrip("=")


def chunks(start, end):
    return [link(0x55, struct.pack(">Q", n)) for n in range(start, end)]


def file(name, size, links, depth=0):
    return encode({"v": 1, "kind": "file", "name": name, "size": size, "chunk_len": MIB, "depth": depth, "links": links})


def write(name, block):
    (HERE / f"{name}.cbor").write_bytes(block)
    (HERE / f"{name}.cid").write_text(text(link(0x71, block)) + "\n")


three = file("three.bin", 2 * MIB + 5, chunks(0, 3))
write("file", three)

nodes = [
    encode({"v": 1, "kind": "file-node", "size": size, "depth": 0, "links": links})
    for size, links in ((1024 * MIB, chunks(0, 1024)), (6 * MIB - 1, chunks(1024, 1030)))
]
write("two-levels", file("large.bin", 1030 * MIB - 1, [link(0x71, node) for node in nodes], depth=1))

empty = encode({"v": 1, "kind": "dir", "name": "empty", "size": 0, "files": 0, "depth": 0, "entries": []})
run = file("run.sh", 9, chunks(7, 8))
entries = [
    {"name": "empty", "size": 0, "cid": link(0x71, empty)},
    {"name": "run.sh", "size": 9, "cid": link(0x71, run), "exec": True},
    {"name": "three.bin", "size": 2 * MIB + 5, "cid": link(0x71, three)},
]
write("dir", encode({"v": 1, "kind": "dir", "name": "things", "size": 2 * MIB + 14, "files": 2, "depth": 0, "entries": entries}))
