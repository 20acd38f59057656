"""A relay in front of a provider that lets its answers through slowly.

    python3 -m peerbench.relay IP PORT TARGET_IP TARGET_PORT FREE_LEN BYTES_PER_S

The first FREE_LEN bytes of answers of each connection pass at full speed, so that a provider can be met and say what it has;
after that they come at BYTES_PER_S. Requests always pass. Prints READY; ends when it is killed.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

# A slow answer is cut into pieces of this many seconds, but never below one byte.
PIECE_S = 0.02
MAX_CONNECTIONS = 64


class Pace:
    """How many bytes may pass, without a clock: a budget that grows with the time."""

    def __init__(self, free_len: int, rate: float) -> None:
        self.free_len, self.rate = free_len, rate
        self.next_at = 0.0

    def piece_len(self) -> int:
        """How much to take next."""
        return max(self.free_len, int(self.rate * PIECE_S), 1)

    def wait_s(self, length: int, now: float) -> float:
        """How long to wait before these bytes may pass."""
        free = min(self.free_len, length)
        self.free_len -= free
        if free == length:
            return 0.0
        start = max(now, self.next_at)
        self.next_at = start + (length - free) / self.rate
        return self.next_at - now


def pump(source: socket.socket, sink: socket.socket, pace: Pace | None) -> None:
    """One way of a connection, to its end."""
    try:
        while data := source.recv(min(pace.piece_len(), 1 << 16) if pace else 1 << 16):
            if pace:
                time.sleep(pace.wait_s(len(data), time.monotonic()))
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(connection: socket.socket, target: tuple[str, int], free_len: int, rate: float) -> None:
    """Connects through to the provider."""
    try:
        provider = socket.create_connection(target)
    except OSError:
        connection.close()
        return
    with connection, provider:
        requests = threading.Thread(target=pump, args=(connection, provider, None), daemon=True)
        requests.start()
        pump(provider, connection, Pace(free_len, rate))
        requests.join()


def main(argv: list[str]) -> None:
    ip, port, target_ip, target_port, free_len, rate = argv
    room = threading.Semaphore(MAX_CONNECTIONS)
    with socket.create_server((ip, int(port))) as listener:
        print("READY", flush=True)
        while True:
            connection = listener.accept()[0]
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            room.acquire()

            def one(connection: socket.socket = connection) -> None:
                try:
                    serve(connection, (target_ip, int(target_port)), int(free_len), float(rate))
                finally:
                    room.release()

            threading.Thread(target=one, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1:])
