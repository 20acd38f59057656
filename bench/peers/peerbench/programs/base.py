"""What a program to be compared must be able to do: provide a file, and give the command that fetches it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..process import Child
from ..space import Place


@dataclass
class Tools:
    """Where programs are looked for: named ones first, then folders, then the search path."""

    named: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)

    def find(self, name: str) -> str | None:
        if name in self.named:
            return shutil.which(self.named[name])
        for folder in self.folders:
            if found := shutil.which(name, path=folder):
                return str(Path(found).resolve())
        return shutil.which(name)

    def need(self, name: str) -> str:
        found = self.find(name)
        if not found:
            raise FileNotFoundError(name)
        return found


@dataclass
class Provider:
    """A running provider: its process, the ID of what it shares, and its address as getters are told it."""

    child: Child
    ident: str
    peer: str


@dataclass
class Offer:
    """What is provided by whom, and how long it took until all of them served it."""

    providers: list[Provider]
    publish_s: float = 0.0

    @property
    def ident(self) -> str:
        idents = {p.ident for p in self.providers}
        if len(idents) != 1:
            raise RuntimeError(f"providers of the same content disagree about its ID: {sorted(idents)}")
        return idents.pop()

    @property
    def peers(self) -> list[str]:
        return [p.peer for p in self.providers]


@dataclass
class Fetch:
    """The command of a getter, and where the content is afterwards."""

    argv: list[object]
    home: Path
    result: Path
    env: dict[str, str] = field(default_factory=dict)


@dataclass
class Run:
    """One run: a folder, a place, and the processes started for it, which end with it."""

    folder: Path
    place: Place
    children: list[Child] = field(default_factory=list)
    closers: list[Callable[[], None]] = field(default_factory=list)

    def sub(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def spawn(self, name: str, argv: Sequence[object], prefix: Sequence[str] = (),
              env: Mapping[str, str] | None = None) -> Child:
        child = Child([*prefix, *argv], self.sub(name), self.folder / f"{name}.log", env)
        self.children.append(child)
        return child

    def close(self) -> None:
        for child in self.children:
            child.kill()
        for closer in self.closers:
            closer()


class Program:
    """A program. Providers of one run differ by their index; getters too."""

    name = ""
    # One line for those who do not have it.
    how = ""
    needs: tuple[str, ...] = ()
    max_providers = 40
    # Can it share a folder as such?
    trees = False
    # Where its providers listen, if a relay can stand in front of them.
    provider_port: int | None = None

    def __init__(self, tools: Tools) -> None:
        self.tools = tools

    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        lacking = [tool for tool in self.needs if not self.tools.find(tool)]
        return f"{', '.join(lacking)} not installed: {self.how}" if lacking else None

    def version(self) -> str:
        return said([self.tools.need(self.needs[0]), "--version"]).split()[-1]

    def moved(self, peer: str, ip: str, port: int) -> str:
        """The address of a provider when a relay at `ip` and `port` stands in front of it."""
        return f"{ip}:{port}"

    def provide(self, run: Run, source: Path, index: int, ip: str, prefix: Sequence[str]) -> Provider:
        """Starts a provider at `ip` and waits until it serves `source`."""
        raise NotImplementedError

    def fetch(self, run: Run, offer: Offer, source: Path, index: int) -> Fetch:
        """Prepares what may lie before the clock, and returns the command."""
        raise NotImplementedError

    def offer(self, run: Run, source: Path, count: int) -> Offer:
        """Starts `count` providers at the place of the run."""
        before = time.perf_counter()
        place = run.place
        made = [self.provide(run, source, i, place.provider_ip(i), place.provider_prefix) for i in range(count)]
        return Offer(made, time.perf_counter() - before)


def said(argv: Sequence[str]) -> str:
    """What a short command prints."""
    done = subprocess.run(list(argv), capture_output=True, text=True, timeout=60)
    return done.stdout or done.stderr
