"""A name server on 127.0.0.1 that knows no name: every question is answered with "no such name".

Some programs look names up although they were given addresses; without any answer they try again in a tight loop, which
would be counted as their CPU. Prints READY; ends when it is killed.
"""

from __future__ import annotations

import socket


def refusal(question: bytes) -> bytes:
    """The answer to one question: the same question, and that there is no such name."""
    end = 12
    while end < len(question) and question[end]:
        end += question[end] + 1
    return question[:2] + b"\x81\x83\x00\x01\x00\x00\x00\x00\x00\x00" + question[12:end + 5]


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        print("READY", flush=True)
        while True:
            question, asker = server.recvfrom(4096)
            if len(question) >= 12:
                server.sendto(refusal(question), asker)


if __name__ == "__main__":
    main()
