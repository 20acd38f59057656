"""Plain sockets in a namespace, told what to do by JSON lines on standard input: `python3 -m netlab.probe`.

The lab is proven with these and not with dhtfs: what is to be shown is what gateways do to packets, whoever sends them. Each
line is an object with `do` and its arguments; one object answers it. Ends with its standard input.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import subprocess
import sys
import time
from typing import Any

from .cleanup import Ledger
from .space import LabError, inside, module, module_env

ANSWER_TIMEOUT_S = 30


def family(version: int) -> socket.AddressFamily:
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def reusable(version: int, kind: socket.SocketKind, port: int) -> socket.socket:
    """A socket on a port that others may use too, as hole punching over TCP needs."""
    sock = socket.socket(family(version), kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("", port))
    return sock


class Sockets:
    """Sockets by name. Every method is a command; it returns what the answer has."""

    def __init__(self) -> None:
        self.open: dict[str, socket.socket] = {}

    def udp(self, name: str, port: int, version: int = 4) -> dict[str, Any]:
        """Opens a UDP socket."""
        self.open[name] = reusable(version, socket.SOCK_DGRAM, port)
        return {}

    def send(self, name: str, to: list[Any], text: str) -> dict[str, Any]:
        """Sends a datagram."""
        try:
            self.open[name].sendto(text.encode(), tuple(to))
        except OSError as error:
            return {"error": errno.errorcode.get(error.errno or 0, str(error))}
        return {}

    def receive(self, name: str, wait: float) -> dict[str, Any]:
        """The next datagram and where it came from; without `from` if none came in time."""
        end = time.monotonic() + wait
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.open[name]], [], [], left)[0]:
                break
            try:
                data, source = self.open[name].recvfrom(2048)
            except OSError:
                # What an ICMP error says of a datagram sent before.
                continue
            return {"text": data.decode(errors="replace"), "from": list(source[:2])}
        return {}

    def swap(self, name: str, to: list[Any], text: str, wait: float) -> dict[str, Any]:
        """Sends a datagram every 100 ms until one comes from the same address and one more went out; how a punch is done."""
        end = time.monotonic() + wait
        heard = False
        while time.monotonic() < end:
            self.send(name, to, text)
            if heard:
                return {"heard": True}
            heard = self.receive(name, 0.1).get("from") == list(to)
        return {"heard": heard}

    def listen(self, name: str, port: int, version: int = 4) -> dict[str, Any]:
        """Listens for TCP."""
        self.open[name] = reusable(version, socket.SOCK_STREAM, port)
        self.open[name].listen(16)
        return {}

    def accept(self, name: str, wait: float) -> dict[str, Any]:
        """The next connection; where it came from, if one came in time."""
        if not select.select([self.open[name]], [], [], wait)[0]:
            return {}
        sock, source = self.open[name].accept()
        self.open[f"{name}-{source[1]}"] = sock
        return {"from": list(source[:2])}

    def connect(self, name: str, to: list[Any], wait: float, port: int = 0, version: int = 4) -> dict[str, Any]:
        """Connects over TCP from a port; `ok`, or `error` with its name (TIMEOUT if nothing came back)."""
        sock = reusable(version, socket.SOCK_STREAM, port)
        sock.settimeout(wait)
        self.open[name] = sock
        try:
            sock.connect(tuple(to))
        except TimeoutError:
            sock.close()
            return {"error": "TIMEOUT"}
        except OSError as error:
            sock.close()
            return {"error": errno.errorcode.get(error.errno or 0, str(error))}
        return {"ok": True}

    def echo(self, name: str, text: str, wait: float) -> dict[str, Any]:
        """Sends on a TCP connection and reads what comes; both ends doing this shows that it carries."""
        sock = self.open[name]
        sock.settimeout(wait)
        try:
            sock.sendall(text.encode())
            return {"text": sock.recv(2048).decode(errors="replace")}
        except OSError as error:
            return {"error": str(error)}


def serve() -> None:
    """Answers commands until there are no more."""
    sockets = Sockets()
    print("{}", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(sockets, command.pop("do"))(**command)
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


class Probe:
    """The other end: a process with sockets in a namespace. `begin` and `end` let several of them act at once."""

    def __init__(self, namespace: str, ledger: Ledger) -> None:
        self.popen = subprocess.Popen([*inside(namespace), *module("probe")], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True, env=module_env())
        ledger.add(f"probe {self.popen.pid}", self.close)
        self.end()

    def begin(self, do: str, **arguments: Any) -> None:
        """Gives a command without waiting for the answer."""
        assert self.popen.stdin
        self.popen.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.popen.stdin.flush()

    def end(self) -> dict[str, Any]:
        """The answer to the oldest command that has none yet."""
        assert self.popen.stdout
        if not select.select([self.popen.stdout], [], [], ANSWER_TIMEOUT_S)[0]:
            raise LabError("a probe does not answer")
        line = self.popen.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"failed": "ended"}
        if "failed" in answer:
            raise LabError(f"probe: {answer['failed']}")
        return answer

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """A command and its answer."""
        self.begin(do, **arguments)
        return self.end()

    def close(self) -> None:
        """Ends the process by its ID."""
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe:
                pipe.close()


if __name__ == "__main__":
    serve()
