"""Runs jobs a few at a time, each with a ledger and a folder of its own, and cleans up after each and after all."""

from __future__ import annotations

import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Generic, TypeVar

from .cleanup import Ledger, Stopped, is_stale, own_prefix, sweep, sweep_run

T = TypeVar("T")


class Interrupted(Exception):
    """A signal asked for the end."""


@dataclass(frozen=True)
class Job(Generic[T]):
    """Something to run: gets a prefix for namespaces, a folder and a ledger. `failed` makes a result of an error."""

    name: str
    run: Callable[[str, Path, Ledger], T]
    failed: Callable[[str], T]
    # Are the logs of this result worth keeping?
    keep: Callable[[T], bool]


@contextmanager
def interruptible() -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP is an exception in the main thread; later ones do not disturb the cleanup."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)


def clean_stale(work: Path | None = None) -> list[str]:
    """Removes what runs left whose process is gone."""
    return sweep(is_stale, work)


def keep_logs(folder: Path, logs: Path) -> Path:
    """Copies outputs and logs of a job, not its content; returns where they are."""
    logs.mkdir(parents=True, exist_ok=True)
    for file in [*folder.glob("*.log"), *folder.glob("*.out")]:
        shutil.copy(file, logs / file.name)
    return logs


class Runner:
    """Workers over a list of jobs."""

    def __init__(self, workers: int, work: Path | None, logs: Path | None) -> None:
        self.workers = workers
        self.work, self.logs = work or Path(tempfile.gettempdir()), logs
        self.prefix = own_prefix()
        self._ledgers: dict[int, Ledger] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._threads: list[threading.Thread] = []

    def _one(self, number: int, job: Job[T]) -> tuple[T, Path | None]:
        """Runs one job to its end and removes everything it made."""
        ledger = Ledger()
        with self._lock:
            if self._stopping:
                raise Stopped(job.name)
            self._ledgers[number] = ledger
        prefix = f"{self.prefix}-{number}"
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=self.work))
        kept = None
        try:
            ledger.add(f"folder {folder}", lambda: shutil.rmtree(folder, ignore_errors=True))
            try:
                result = job.run(prefix, folder, ledger)
            except Stopped:
                raise
            except Exception as error:  # noqa: BLE001 - one job must not end the others
                ledger.check()
                result = job.failed(f"{type(error).__name__}: {error}")
            if job.keep(result) and any(folder.glob("*.log")):
                if self.logs is None:
                    self.logs = Path(tempfile.mkdtemp(prefix="netlogs-"))
                kept = keep_logs(folder, self.logs / job.name.replace(":", "+"))
            return result, kept
        finally:
            for failure in ledger.close():
                print(f"cleaning up: {failure}", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)

    def run(self, jobs: Sequence[Job[T]], done: Callable[[T, float, Path | None], None]) -> None:
        """Runs all jobs; `done` is called in this thread with each result, how long it took, and where its logs are."""
        todo: queue.SimpleQueue[tuple[int, Job[T]]] = queue.SimpleQueue()
        results: queue.SimpleQueue[tuple[T, float, Path | None] | BaseException] = queue.SimpleQueue()
        for item in enumerate(jobs):
            todo.put(item)

        def work() -> None:
            while True:
                try:
                    number, job = todo.get_nowait()
                except queue.Empty:
                    return
                began = time.monotonic()
                try:
                    result, kept = self._one(number, job)
                    results.put((result, time.monotonic() - began, kept))
                except BaseException as error:  # noqa: BLE001 - told to the main thread
                    results.put(error)
                    return

        self._threads = [threading.Thread(target=work, name=f"worker {i}") for i in range(min(self.workers, len(jobs)))]
        try:
            for thread in self._threads:
                thread.start()
            for _ in jobs:
                # With a timeout, since only then signals are looked at.
                while True:
                    try:
                        found = results.get(timeout=0.2)
                        break
                    except queue.Empty:
                        continue
                if isinstance(found, BaseException):
                    raise found
                done(*found)
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends all jobs, waits for the workers, and removes whatever still has the prefix of this run. Can be repeated."""
        with self._lock:
            self._stopping = True
            ledgers = list(self._ledgers.values())
        for ledger in ledgers:
            ledger.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(60)
        sweep_run(self.prefix, self.work)
        with self._lock:
            self._stopping = False
            self._ledgers.clear()
