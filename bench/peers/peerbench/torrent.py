"""Torrent files and a tracker, for the programs that need them."""

from __future__ import annotations

import hashlib
import http.server
import threading
import urllib.parse
from pathlib import Path

TRACKER_PORT = 6969
Value = int | bytes | str | list | dict


def bencode(value: Value) -> bytes:
    """BitTorrent's encoding of numbers, strings, lists and dictionaries."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    pairs = sorted((k.encode() if isinstance(k, str) else k, v) for k, v in value.items())
    return b"d" + b"".join(bencode(k) + bencode(v) for k, v in pairs) + b"e"


def piece_len(length: int) -> int:
    """A power of two that makes 1,024 to 2,047 pieces, within 32 KiB and 4 MiB."""
    return 1 << min(22, max(15, (length // 1024).bit_length() - 1))


def make_torrent(source: Path, out: Path, tracker: str | None) -> bytes:
    """Writes the torrent of one file; returns its info hash."""
    length = source.stat().st_size
    piece, digests = piece_len(length), []
    with open(source, "rb") as content:
        while block := content.read(piece):
            digests.append(hashlib.sha1(block).digest())
    info = {"name": source.name, "length": length, "piece length": piece, "pieces": b"".join(digests)}
    torrent: dict[str, Value] = {"info": info}
    if tracker:
        torrent["announce"] = tracker
    out.write_bytes(bencode(torrent))
    return hashlib.sha1(bencode(info)).digest()


def tracker_answer(peers: list[tuple[str, int]]) -> bytes:
    """The compact list of peers; it is good for longer than a run."""
    packed = b"".join(bytes(int(x) for x in ip.split(".")) + port.to_bytes(2, "big") for ip, port in peers)
    return bencode({"interval": 1800, "peers": packed})


class Tracker:
    """Names all providers to whoever is none of them, and knows which providers have said that they are complete."""

    def __init__(self, ip: str) -> None:
        self.providers: list[tuple[str, int]] = []
        self.complete: set[tuple[str, int]] = set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query, encoding="latin-1")
                asker = (self.client_address[0], int(query.get("port", ["0"])[0]))
                if query.get("left") == ["0"]:
                    outer.complete.add(asker)
                body = tracker_answer([] if asker in outer.providers else outer.providers)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer((ip, TRACKER_PORT), Handler)
        self.url = f"http://{ip}:{TRACKER_PORT}/announce"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
