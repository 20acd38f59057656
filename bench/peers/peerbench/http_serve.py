"""The smallest file server: any request is answered with the one file, by sendfile.

    python3 -m peerbench.http_serve IP PORT FILE
"""

from __future__ import annotations

import os
import socket
import sys
import threading

MAX_REQUEST_LEN = 65536


def answer(connection: socket.socket, path: str) -> None:
    """Serves one connection."""
    with connection, open(path, "rb") as content:
        length = os.fstat(content.fileno()).st_size
        connection.recv(MAX_REQUEST_LEN)
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode())
        sent = 0
        while sent < length:
            sent += os.sendfile(connection.fileno(), content.fileno(), sent, length - sent)


def main(argv: list[str]) -> None:
    ip, port, path = argv
    with socket.create_server((ip, int(port))) as listener:
        print("READY", flush=True)
        while True:
            connection = listener.accept()[0]
            threading.Thread(target=answer, args=(connection, path), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1:])
