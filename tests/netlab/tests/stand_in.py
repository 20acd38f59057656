"""A program that finds every path over TCP, as simply as can be, so that the harness can be tested without dhtfs.

It has the commands and the output that `netlab.program` knows. Nodes stay connected to every relay; that tells them the address it
sees and whether it could dial them, keeps who has what, and says to a holder "dial", "punch" or "serve". A copy whose name
ends in `liar` says of every path that it was direct.
"""

import hashlib
import json
import os
import socket
import sys
import threading
import time

PORT = 4343
BLOCK = 1 << 16


def socket_on(ip, port):
    sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    if ":" in ip:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("::" if ":" in ip else "0.0.0.0", port))
    return sock


def connect(to, port=0, wait=3.0):
    sock = socket_on(to[0], port)
    sock.settimeout(wait)
    sock.connect((to[0], to[1]))
    sock.settimeout(30)
    return sock


def say(sock, **words):
    sock.sendall(json.dumps(words).encode() + b"\n")


def hear(sock):
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            raise OSError("closed")
        line += byte
    return json.loads(line)


def accept_all(ip, handle):
    sock = socket_on(ip, PORT)
    sock.listen(64)
    while True:
        threading.Thread(target=quietly, args=(handle, *sock.accept()), daemon=True).start()


def quietly(action, *args):
    try:
        action(*args)
    except OSError as error:
        print(action.__name__, error, file=sys.stderr, flush=True)


class Relay:
    """Knows who is connected and who has what; carries bytes between two that cannot meet."""

    def __init__(self):
        self.holders, self.waiting = {}, {}

    def handle(self, sock, source):
        asked = hear(sock)
        if asked["do"] == "join":
            say(sock, seen=source[:2], open=self.dial_back(source[0]))
            while True:
                self.holders[hear(sock)["has"]] = sock, source[:2]
        elif asked["do"] == "who":
            say(sock, at=self.holders.get(asked["cid"], (None, None))[1])
        elif asked["do"] in ("dial", "punch"):
            say(self.holders[asked["cid"]][0], **asked)
        elif asked["do"] == "relay":
            self.waiting[asked["token"]] = sock
            say(self.holders[asked["cid"]][0], **{**asked, "do": "serve"})
        elif asked["do"] == "take":
            while block := sock.recv(BLOCK):
                self.waiting[asked["token"]].sendall(block)
            self.waiting.pop(asked["token"]).close()

    def dial_back(self, ip):
        try:
            connect((ip, PORT), wait=1).close()
            return True
        except OSError:
            return False


class Node:
    """Has files, fetches files."""

    def __init__(self, relays, rate):
        self.relays, self.rate = relays, rate
        self.joined, self.files, self.seen = {}, {}, []
        self.open = self.settled = False
        self.waiting = None

    def join(self):
        for relay in self.relays:
            quietly(self.join_one, relay)
        self.settled = True

    def join_one(self, relay):
        sock = connect(relay, PORT)
        say(sock, do="join")
        answer = hear(sock)
        self.joined[relay] = sock
        self.seen.append(answer["seen"])
        self.open = self.open or answer["open"]
        sock.settimeout(None)
        threading.Thread(target=quietly, args=(self.obey, relay, sock), daemon=True).start()

    def obey(self, relay, sock):
        while True:
            threading.Thread(target=quietly, args=(self.obey_one, relay, hear(sock)), daemon=True).start()

    def obey_one(self, relay, asked):
        if asked["do"] == "serve":
            sock = connect(relay)
            say(sock, do="take", token=asked["token"])
        else:
            sock = connect(asked["at"], PORT if asked["do"] == "punch" else 0)
        self.send(sock, asked["cid"], asked["start"])

    def handle(self, sock, _source):
        asked = hear(sock) if self.waiting is None else {}
        if asked.get("do") == "get":
            self.send(sock, asked["cid"], asked["start"])
        elif self.waiting is not None:
            self.waiting.append(sock)

    def send(self, sock, cid, start):
        sock.settimeout(30)
        began, sent = time.monotonic(), 0
        with open(self.files[cid], "rb") as content:
            content.seek(start)
            sock.sendall(b"%15d\n" % (os.fstat(content.fileno()).st_size - start))
            while block := content.read(BLOCK):
                sock.sendall(block)
                sent += len(block)
                if self.rate:
                    time.sleep(max(0.0, began + sent / self.rate - time.monotonic()))
        sock.shutdown(socket.SHUT_WR)

    def reachability(self):
        if not self.seen:
            return "unreachable"
        if self.open:
            return "direct"
        return "punchable" if len({port for _, port in self.seen}) == 1 else "relayed"

    def add(self, path):
        with open(path, "rb") as content:
            cid = hashlib.file_digest(content, "sha256").hexdigest()
        self.files[cid] = path
        for relay in list(self.joined):
            quietly(lambda sock: say(sock, has=cid), self.joined[relay])
        time.sleep(0.2)
        return {"cid": cid}

    def get(self, cid, output):
        paths, found = {"direct": 0, "relayed": 0}, False
        with open(output, "wb") as out:
            for relay in list(self.joined):
                try:
                    sock = connect(relay)
                    say(sock, do="who", cid=cid)
                    at = hear(sock)["at"]
                    found = found or at is not None
                    if at and self.fetch(relay, cid, at, out, paths):
                        sources = [{"peer": "x", "len": count, "relayed": path == "relayed"} for path, count in paths.items()]
                        return {"cid": cid, "len": out.tell(), "requested_len": out.tell(), "sources": sources}
                except OSError as error:
                    print(relay, error, file=sys.stderr, flush=True)
        return {"error": 4 if found else 3}

    def fetch(self, relay, cid, at, out, paths):
        for way, path in ((self.dial, "direct"), (self.be_dialled, "direct"), (self.punch, "direct"), (self.relay, "relayed")):
            try:
                sock = way(relay, cid, at, out.tell())
                left = int(sock.recv(16, socket.MSG_WAITALL) or b"-1")
            except (OSError, IndexError, ValueError):
                continue
            while left > 0 and (block := sock.recv(BLOCK)):
                out.write(block)
                paths[path] += len(block)
                left -= len(block)
            return left == 0
        return False

    def dial(self, _relay, cid, at, start):
        sock = connect((at[0], PORT), wait=1)
        say(sock, do="get", cid=cid, start=start)
        return sock

    def be_dialled(self, relay, cid, _at, start):
        if not self.open:
            raise OSError("cannot be dialled")
        self.waiting = []
        say(connect(relay), do="dial", cid=cid, start=start, at=[self.seen[0][0], PORT])
        time.sleep(1)
        return self.waiting[0]

    def punch(self, relay, cid, at, start):
        say(connect(relay), do="punch", cid=cid, start=start, at=self.seen[0])
        return connect(at, PORT)

    def relay(self, relay, cid, _at, start):
        sock = connect(relay)
        say(sock, do="relay", cid=cid, start=start, token=f"{os.getpid()} {time.monotonic()}")
        return sock


def run_daemon(data, args):
    """Serves the network, and commands on a socket in the data directory."""
    values = {name: [args[i + 1] for i, arg in enumerate(args) if arg == name] for name in ("--listen", "--bootstrap", "--limit-up")}
    relays = [(parts[2], int(parts[4])) for parts in (addr.split("/") for addr in values["--bootstrap"])]
    node = Node(relays, int(values["--limit-up"][0].removesuffix("MiB/s")) << 20 if values["--limit-up"] else 0)
    relay = Relay()
    for version in {":" in addr.split("/")[2] for addr in values["--listen"]}:
        handle = node.handle if "daemon" in args and relays else relay.handle
        threading.Thread(target=accept_all, args=("::" if version else "0.0.0.0", handle), daemon=True).start()
    os.makedirs(data)
    control = socket.socket(socket.AF_UNIX)
    control.bind(f"{data}/control")
    control.listen(16)
    print(json.dumps({"peer_id": f"peer{os.getpid()}", "listen": values["--listen"]}), flush=True)
    threading.Thread(target=node.join, daemon=True).start()
    while True:
        threading.Thread(target=quietly, args=(obey_command, node, control.accept()[0]), daemon=True).start()


def obey_command(node, sock):
    command = hear(sock)["command"]
    if command[0] == "net":
        say(sock, reachability=node.reachability(), settled=node.settled)
    elif command[0] == "add":
        say(sock, **node.add(command[-1]))
    elif command[0] == "get":
        say(sock, **node.get(command[1], command[command.index("-o") + 1]))
    else:
        say(sock)


def main(args):
    if "--help" in args:
        print("  net  x\n  relay  x\n" if "daemon" not in args else "  --relay\n  --no-mdns\n")
        return 0
    data = args[args.index("--data-dir") + 1]
    command = [arg for arg in args if arg not in ("--data-dir", data, "--json", "-v")]
    if command[0] in ("daemon", "relay"):
        run_daemon(data, args)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(f"{data}/control")
    say(sock, command=command)
    answer = hear(sock)
    if sys.argv[0].endswith("liar") and "sources" in answer:
        answer["sources"] = [{"peer": "x", "len": 1}]
    print(json.dumps(answer))
    return answer.get("error", 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
