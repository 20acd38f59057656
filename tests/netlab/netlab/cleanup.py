"""What was made and must go again, however a run ends.

Three nets, each for what slips through the one before: a ledger of every namespace, process and folder, undone in reverse
order; a sweep of everything with the run's own prefix when the workers have ended; and a sweep, at the start of each run, of
what runs left behind whose process is gone (killed with SIGKILL, say). The prefix names the owner by process ID and start
time: an ID alone comes back.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

NETNS = Path("/run/netns")
OWNED = re.compile(r"^netlab-(\d+)-(\d+)(?:-|$)")


class Stopped(Exception):
    """The run is being ended; nothing new is made."""


class Ledger:
    """Things to undo. Safe to close from another thread than the one that adds to it; closing again does nothing."""

    def __init__(self) -> None:
        self._undo: list[tuple[str, Callable[[], None]]] = []
        self._lock = threading.Lock()
        self.closed = False

    def add(self, what: str, undo: Callable[[], None]) -> None:
        """Remembers how to undo what exists or is about to. In a closed ledger it is undone at once."""
        with self._lock:
            if not self.closed:
                self._undo.append((what, undo))
                return
        undo()
        raise Stopped(what)

    def check(self) -> None:
        """An error if the run is being ended."""
        if self.closed:
            raise Stopped("the run is being ended")

    def sleep(self, seconds: float) -> None:
        """Waits, but not beyond the end of the run."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.05))

    def held(self) -> list[str]:
        """What would be undone now, oldest first."""
        with self._lock:
            return [what for what, _ in self._undo]

    def close(self) -> list[str]:
        """Undoes everything, last first; one that fails does not keep the others. Returns what failed."""
        with self._lock:
            self.closed = True
            undo, self._undo = self._undo, []
        failed = []
        for what, action in reversed(undo):
            try:
                action()
            except Exception as error:  # noqa: BLE001 - the others must go too
                failed.append(f"{what}: {error}")
        return failed


def start_time(pid: int) -> int | None:
    """When a process started, in ticks since boot; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def own_prefix() -> str:
    """The start of every name that this run gives."""
    return f"netlab-{os.getpid()}-{start_time(os.getpid())}"


def is_stale(name: str, started: Callable[[int], int | None] = start_time) -> bool:
    """Is it the lab's, and its owner gone?"""
    owner = OWNED.match(name)
    return owner is not None and started(int(owner[1])) != int(owner[2])


def end_process(pid: int) -> None:
    """Ends a process by its ID, at once; not an error if it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def delete_namespace(name: str) -> None:
    """Ends what runs in a namespace and removes it; not an error if it is gone."""
    if not (NETNS / name).exists():
        return
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, timeout=20)
    for pid in pids.stdout.split():
        end_process(int(pid))
    done = subprocess.run(["ip", "netns", "del", name], capture_output=True, text=True, timeout=20)
    if done.returncode != 0 and (NETNS / name).exists():
        raise OSError(done.stderr.strip())


def sweep(doomed: Callable[[str], bool], temporary: Path | None = None) -> list[str]:
    """Removes the lab's namespaces and folders whose name is `doomed`; returns their names."""
    gone = []
    for folder in (NETNS, temporary or Path(tempfile.gettempdir())):
        for path in sorted(folder.glob("netlab-*")) if folder.is_dir() else []:
            if not OWNED.match(path.name) or not doomed(path.name):
                continue
            if folder == NETNS:
                try:
                    delete_namespace(path.name)
                except (OSError, subprocess.SubprocessError) as error:
                    print(f"{path.name}: {error}", file=sys.stderr)
                    continue
            else:
                shutil.rmtree(path, ignore_errors=True)
            gone.append(path.name)
    return gone


def sweep_run(prefix: str, temporary: Path | None = None) -> list[str]:
    """Removes what a run's ledgers left, by its prefix."""
    return sweep(lambda name: name == prefix or name.startswith(prefix + "-"), temporary)
