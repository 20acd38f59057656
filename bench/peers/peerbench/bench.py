"""What all scenarios share: the programs that are here, the content, and one measured fetch."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .files import digest_of, is_tmpfs, make_file, make_tree, sync
from .process import Child, Measured, MachineCpu, RunError, measure, memory_mib
from .programs import Fetch, Offer, Program, Run
from .space import Place, Spaces

MIB = 1 << 20
# Others may use this share of one core, and this many seconds, before a run counts as disturbed.
QUIET_SHARE, QUIET_S = 0.15, 0.03
Record = dict[str, object]


@dataclass
class Content:
    """What is shared: a file or a folder, with its length and digest."""

    path: Path
    length: int
    digest: str


@dataclass
class Bench:
    """One run of the whole comparison."""

    spaces: Spaces
    work: Path
    programs: dict[str, Program]
    mib: float
    # Before each measurement, wait this many seconds at most for others to be quiet.
    patience_s: float = 0.0
    # Helpers of the harness (links, relays), whose CPU is neither the providers' nor that of others.
    helpers: list[Child] = field(default_factory=list)
    good_rate: dict[str, float] = field(default_factory=dict)
    _content: dict[str, Content] = field(default_factory=dict)
    _runs: int = 0

    def have(self, *names: str) -> list[Program]:
        """Those of the named programs that are installed, in that order."""
        return [self.programs[name] for name in names if name in self.programs]

    def file(self, length: int) -> Content:
        """A file of random bytes, made once for all who fetch one of that length."""
        name = f"file-{length}"
        if name not in self._content:
            folder = self.work / name
            folder.mkdir()
            path = folder / "content.bin"
            self._content[name] = Content(path, length, make_file(path, length))
        return self._content[name]

    def tree(self, files: int, file_len: int) -> Content:
        """A folder of random small files, made once."""
        name = f"tree-{files}-{file_len}"
        if name not in self._content:
            path = self.work / name / "content"
            self._content[name] = Content(path, files * file_len, make_tree(path, files, file_len))
        return self._content[name]

    def new_run(self, place: Place) -> Run:
        self._runs += 1
        folder = self.work / f"run{self._runs}"
        folder.mkdir()
        return Run(folder, place)

    def end_run(self, run: Run) -> None:
        run.close()
        shutil.rmtree(run.folder, ignore_errors=True)

    def fetch(self, program: Program, place: Place, content: Content, providers: int = 1, getters: int = 1,
              look: Callable[[Sequence[int]], None] | None = None) -> Record:
        """Provides `content` and fetches it; the record of that run."""
        run = self.new_run(place)
        try:
            offer = program.offer(run, content.path, providers)
            return self.measured_fetch(program, run, offer, content, getters, look)
        finally:
            self.end_run(run)

    def measured_fetch(self, program: Program, run: Run, offer: Offer, content: Content, getters: int = 1,
                       look: Callable[[Sequence[int]], None] | None = None) -> Record:
        """The clock runs from the start of the getters' processes to the end of the last one."""
        fetches = [program.fetch(run, offer, content.path, i) for i in range(getters)]
        os.sync()
        wait_quiet(self.patience_s)
        watch = Watch(run, self.helpers)
        started = time.perf_counter()
        usages = measure([Measured(f.argv, f.home, run.folder / f"get{i}.log", f.env)
                          for i, f in enumerate(fetches)], look)
        wall = time.perf_counter() - started if getters > 1 else usages[0].wall_s
        getter_cpu = sum(u.cpu_s for u in usages)
        record = watch.end(wall, getter_cpu)
        record.update(
            bytes=content.length * getters, wall_s=wall, getter_cpu_s=getter_cpu, publish_s=offer.publish_s,
            getter_rss_mib=max(u.rss_mib for u in usages), getter_own_mib=max(u.own_mib for u in usages),
            provider_rss_mib=max(memory_mib(p.child.pid)[0] for p in offer.providers),
            providers=len(offer.providers), getters=getters, said=(run.folder / "get0.log").read_text(errors="replace"))
        record.update(check(fetches, content))
        return record


class Watch:
    """CPU of the providers, of this harness and of everybody else during a measurement."""

    def __init__(self, run: Run, helpers: Sequence[Child] = ()) -> None:
        self.run, self.helpers = run, helpers
        self.machine, self.own = MachineCpu.now(), self._own()
        self.served = self._served()

    def _served(self) -> float:
        return sum(child.cpu_s() for child in self.run.children)

    def _own(self) -> float:
        return time.process_time() + sum(child.cpu_s() for child in self.helpers)

    def end(self, wall_s: float, getter_cpu_s: float) -> Record:
        machine, own = MachineCpu.now(), self._own() - self.own
        served = self._served() - self.served
        other = max(0.0, machine.used_s - self.machine.used_s - getter_cpu_s - served - own)
        stolen = machine.stolen_s - self.machine.stolen_s
        return {"provider_cpu_s": served, "other_cpu_s": other, "stolen_s": stolen, "load": os.getloadavg()[0],
                "clean": is_clean(wall_s, other, stolen)}


def is_clean(wall_s: float, other_cpu_s: float, stolen_s: float) -> bool:
    """Was a run undisturbed by others on the machine and by its host?"""
    return other_cpu_s + stolen_s <= QUIET_SHARE * wall_s + QUIET_S


def wait_quiet(patience_s: float) -> None:
    """Waits until others took next to nothing for half a second, but no longer than it was told."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        before = MachineCpu.now()
        time.sleep(0.5)
        after = MachineCpu.now()
        if is_clean(0.5, after.used_s - before.used_s, after.stolen_s - before.stolen_s):
            return


def check(fetches: Sequence[Fetch], content: Content) -> Record:
    """Syncs what arrived (with the time that took) and compares its digest; outside of the clock."""
    before = time.perf_counter()
    for fetch in fetches:
        if not fetch.result.exists():
            raise RunError(f"{fetch.result.name} is not there after the fetch")
        sync(fetch.result)
    took = time.perf_counter() - before
    for fetch in fetches:
        if digest_of(fetch.result) != content.digest:
            raise RunError(f"{fetch.result.name}: wrong content: its SHA-256 differs from that of the source")
    return {"sync_s": took, "tmpfs": is_tmpfs(fetches[0].result)}
