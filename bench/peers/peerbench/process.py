"""Child processes: start, wait for what they print, measure to the end, and end by process ID.

Every child has a session of its own, so that what it started in turn can be ended with it, and writes to a log file:
a pipe that nobody empties would stop it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
# How often memory and progress of a measured process are looked at. Finer would itself cost CPU on a small machine.
LOOK_EVERY_S = 0.01
# A measured process gets this long; a run that takes longer is an error of that run.
RUN_TIMEOUT_S = 900.0
T = TypeVar("T")


class RunError(Exception):
    """A run that gave no figure, with what the program said last."""


@dataclass
class Usage:
    """What one process took from its start to its end."""

    wall_s: float
    cpu_s: float
    rss_mib: float
    own_mib: float


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment with a home of its own, without proxies and without a terminal."""
    env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        env[name] = str(home)
    env.update(TERM="dumb", NO_COLOR="1")
    env.update(extra or {})
    return env


class Child:
    """A running program with its log."""

    def __init__(self, argv: Sequence[object], home: Path, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        home.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as out:
            self.started = time.perf_counter()
            self.popen = subprocess.Popen(
                [str(a) for a in argv], cwd=home, env=environment(home, env), stdin=subprocess.DEVNULL,
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        self.pid = self.popen.pid
        self._cpu_s = 0.0

    def cpu_s(self) -> float:
        """User and system seconds so far; after its end, those until it was killed."""
        if self.popen.returncode is None:
            self._cpu_s = max(self._cpu_s, live_cpu_s(self.pid))
        return self._cpu_s

    def said(self) -> str:
        """All it printed so far."""
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        """Its last words, for an error."""
        return " | ".join(self.said().strip().splitlines()[-4:])[-600:]

    def wait_for(self, found: Callable[[str], T | None], what: str, timeout_s: float = 120.0) -> T:
        """Waits until `found` makes something of what was printed; an end of the process is an error."""
        end = time.perf_counter() + timeout_s
        while True:
            result = found(self.said())
            if result:
                return result
            if self.popen.poll() is not None:
                raise RunError(f"{what}: ended with {self.popen.returncode}: {self.tail()}")
            if time.perf_counter() > end:
                raise RunError(f"{what}: nothing within {timeout_s:.0f} s: {self.tail()}")
            time.sleep(0.002)

    def kill(self) -> None:
        """Ends it and its session at once, and waits for that."""
        if self.popen.poll() is None:
            self.cpu_s()
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.popen.wait()


def live_cpu_s(pid: int) -> float:
    """User and system seconds of a live process, all its threads; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def written_len(pid: int) -> int:
    """Bytes a live process wrote to files so far. What it sent over sockets is not among them."""
    try:
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("wchar:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def memory_mib(pid: int) -> tuple[float, float]:
    """The most resident memory of a live process so far, and what of its memory now is its own (anonymous)."""
    most = own = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                most = int(line.split()[1])
            elif line.startswith("RssAnon:"):
                own = int(line.split()[1])
    except (OSError, IndexError):
        pass
    return most / 1024, own / 1024


@dataclass
class MachineCpu:
    """Seconds of CPU of the whole machine since it started: used by anybody, and taken by its host."""

    used_s: float
    stolen_s: float

    @staticmethod
    def now() -> "MachineCpu":
        with open("/proc/stat") as stat:
            user, nice, system, _idle, _iowait, _irq, _softirq, steal = (int(x) for x in stat.readline().split()[1:9])
        return MachineCpu((user + nice + system) / TICKS, steal / TICKS)


class Measured(Child):
    """A program that is measured from its start to its end. `look` is called now and then with its process ID."""

    def __init__(self, argv: Sequence[object], home: Path, log: Path, env: Mapping[str, str] | None = None) -> None:
        super().__init__(argv, home, log, env)
        self.ended_fd = os.pidfd_open(self.pid)
        self.usage: Usage | None = None
        self._most = self._own = 0.0

    def _look(self) -> None:
        most, own = memory_mib(self.pid)
        self._most, self._own = max(self._most, most), max(self._own, own)

    def _reap(self) -> None:
        wall = time.perf_counter() - self.started
        os.close(self.ended_fd)
        _, status, used = os.wait4(self.pid, 0)
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        if self.popen.returncode != 0:
            raise RunError(f"getter ended with {self.popen.returncode}: {self.tail()}")
        # The kernel counts the memory of the parent before the program began: only a value above that is the child's.
        most = used.ru_maxrss / 1024
        if most > memory_mib(os.getpid())[0]:
            self._most = max(self._most, most)
        self.usage = Usage(wall, used.ru_utime + used.ru_stime, self._most, self._own)


def measure(children: Sequence[Measured], look: Callable[[Sequence[int]], None] | None = None) -> list[Usage]:
    """Waits for all of them and returns what each took. Whatever happens, none is left running."""
    poll = select.poll()
    running = {child.ended_fd: child for child in children}
    for fd in running:
        poll.register(fd, select.POLLIN)
    end = time.perf_counter() + RUN_TIMEOUT_S
    try:
        while running:
            for fd, _ in poll.poll(LOOK_EVERY_S * 1000):
                poll.unregister(fd)
                running.pop(fd)._reap()
            for child in running.values():
                child._look()
            if look and running:
                look([child.pid for child in running.values()])
            if time.perf_counter() > end:
                raise RunError(f"not done within {RUN_TIMEOUT_S:.0f} s: {next(iter(running.values())).tail()}")
    finally:
        for child in children:
            if child.popen.returncode is None:
                child.kill()
    return [child.usage for child in children if child.usage]
