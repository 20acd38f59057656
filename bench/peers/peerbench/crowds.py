"""Many at once, by dhtfs alone: ten daemons from one seeder with a limit, a hundred fetches of one daemon, and a file of
100 GiB that is nearly all holes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .bench import Bench, Record, Watch, wait_quiet
from .files import digest_of, is_tmpfs, make_file
from .process import Measured, RunError, live_cpu_s, measure, memory_mib, written_len
from .programs.dhtfs import Dhtfs, report_of

MIB = 1 << 20
GETTERS, SEEDER_RATE, CROWD_MIB = 10, 10 * MIB, 64
TRANSFERS = 100
# Every STEP-th chunk of the sparse file has content of its own.
SPARSE_GIB, STEP = 100, 64
RANGES = 100


def counters(dhtfs: Dhtfs, data: Path) -> dict[str, int]:
    return json.loads(dhtfs.run_command(data, "--json", "status"))["counters"]


def crowd(bench: Bench, dhtfs: Dhtfs) -> Record:
    """Ten daemons fetch one new file from one seeder, all of them within its limit."""
    content = bench.file(int(min(bench.mib, CROWD_MIB) * MIB))
    run = bench.new_run(bench.spaces.local())
    try:
        settings = run.folder / "seeder.toml"
        settings.write_text(f'limit_up = "{SEEDER_RATE >> 20}MiB/s"\nlimit_lan = true\n')
        _, seeder, address = dhtfs.daemon(run, "seeder", run.place.provider_ip(0), (), config=settings)
        getters = [dhtfs.daemon(run, f"getter{i}", run.place.provider_ip(i + 1), (), [address])[1] for i in range(GETTERS)]
        cid = dhtfs.run_command(seeder, "add", "--wait", content.path).strip()
        before = counters(dhtfs, seeder)["serve_answered_len"]
        wait_quiet(bench.patience_s)
        watch, started = Watch(run), time.perf_counter()
        outs = [run.folder / f"out{i}" for i in range(GETTERS)]
        commands = [Measured(dhtfs.command(data, "--json", "get", cid, "-o", out), run.folder, run.folder / f"get{i}.log")
                    for i, (data, out) in enumerate(zip(getters, outs))]
        usages = measure(commands)
        wall = time.perf_counter() - started
        record = watch.end(wall, sum(usage.cpu_s for usage in usages))
        sent = counters(dhtfs, seeder)["serve_answered_len"] - before
        if any(digest_of(out) != content.digest for out in outs):
            raise RunError("wrong content: the SHA-256 of what arrived differs from that of the source")
        ideal = content.length / SEEDER_RATE
        return {**record, "bytes": content.length * GETTERS, "wall_s": wall, "to_ideal": wall / ideal,
                "first_to_ideal": min(usage.wall_s for usage in usages) / ideal,
                "sent_share": sent / content.length, "tmpfs": is_tmpfs(outs[0])}
    finally:
        bench.end_run(run)


def hundred(bench: Bench, dhtfs: Dhtfs) -> Record:
    """A hundred files at once, each by a command of its own, all through one daemon from one provider."""
    length = int(bench.mib * MIB) // TRANSFERS
    run = bench.new_run(bench.spaces.local())
    try:
        provider, served, address = dhtfs.daemon(run, "provider", run.place.provider_ip(0), ())
        getter, data, _ = dhtfs.daemon(run, "getter", run.place.getter_ip(0), (), [address])
        sources = [run.sub("sources") / str(i) for i in range(TRANSFERS)]
        digests = [make_file(source, length) for source in sources]
        cids = [dhtfs.run_command(served, "add", source).strip() for source in sources]
        before = [memory_mib(child.pid)[0] for child in (provider, getter)]
        wait_quiet(bench.patience_s)
        watch, started = Watch(run), time.perf_counter()
        outs = [run.folder / f"out{i}" for i in range(TRANSFERS)]
        commands = [Measured(dhtfs.command(data, "--json", "get", cid, "-o", out, "--peer", address), run.folder,
                             run.folder / f"get{i}.log") for i, (cid, out) in enumerate(zip(cids, outs))]
        fds: list[int] = [0]
        usages = measure(commands, lambda _pids: fds.append(len(os.listdir(f"/proc/{getter.pid}/fd"))))
        wall = time.perf_counter() - started
        record = watch.end(wall, sum(usage.cpu_s for usage in usages))
        for out, digest in zip(outs, digests):
            if digest_of(out) != digest:
                raise RunError("wrong content: the SHA-256 of what arrived differs from that of the source")
        # From the report: commands that start later than others are not slower.
        rates = [length / float(report_of((run.folder / f"get{i}.log").read_text())["seconds"]) for i in range(TRANSFERS)]
        return {**record, "bytes": length * TRANSFERS, "wall_s": wall, "slowest_share": min(rates) / statistics.median(rates),
                "most_fds": max(fds), "getter_rss_mib": memory_mib(getter.pid)[0], "getter_own_mib": memory_mib(getter.pid)[1],
                "provider_rss_mib": memory_mib(provider.pid)[0], "rss_before_mib": before, "tmpfs": is_tmpfs(outs[0])}
    finally:
        bench.end_run(run)


class Sparse:
    """A file of 100 GiB on a disk that can hold holes: sharing it, ranges of it, a fetch that is killed and resumed."""

    def __init__(self, bench: Bench, dhtfs: Dhtfs) -> None:
        self.bench, self.dhtfs = bench, dhtfs
        self.run = bench.new_run(bench.spaces.local())
        self.source = self.run.folder / "sparse.img"
        self.length = SPARSE_GIB << 30

    def make(self) -> None:
        with open(self.source, "wb") as out:
            out.truncate(self.length)
            for offset in range(0, self.length, STEP * MIB):
                out.seek(offset)
                out.write(os.urandom(MIB))

    def record(self, name: str, wall: float, cpu: float, pid: int, length: int, **more: object) -> Record:
        return {"case": f"dhtfs {name}", "bytes": length, "wall_s": wall, "getter_cpu_s": cpu, "provider_cpu_s": 0.0,
                "provider_rss_mib": memory_mib(pid)[0], "tmpfs": True, "clean": True, **more}

    def timed(self, name: str, pid: int, length: int, act: Callable[[], None], **more: object) -> Record:
        started, cpu = time.perf_counter(), live_cpu_s(pid)
        act()
        return self.record(name, time.perf_counter() - started, live_cpu_s(pid) - cpu, pid, length, **more)

    def all(self) -> list[Record]:
        dhtfs, run = self.dhtfs, self.run
        self.make()
        provider, served, address = dhtfs.daemon(run, "provider", run.place.provider_ip(0), ())
        cid = ""

        def add() -> None:
            nonlocal cid
            cid = dhtfs.run_command(served, "add", self.source).strip()

        records = [self.timed("add", provider.pid, self.length, add)]
        getter, data, _ = dhtfs.daemon(run, "getter", run.place.getter_ip(0), (), [address])
        part = self.length // 100 // RANGES // MIB * MIB

        def ranges() -> None:
            for index in range(RANGES):
                offset = self.length // RANGES * index
                argv = [str(a) for a in dhtfs.command(data, "cat", cid, "--offset", offset, "--length", part)]
                got = subprocess.run(argv, capture_output=True, check=True).stdout
                with open(self.source, "rb") as source:
                    source.seek(offset)
                    if got != source.read(part):
                        raise RunError(f"wrong content at {offset}")

        records.append(self.timed("cat of 1 % in 100 ranges", getter.pid, part * RANGES, ranges))
        out = run.folder / "out.img"
        get = [str(a) for a in dhtfs.command(run.folder / "own", "--json", "get", cid, "-o", out, "--peer", address)]
        killed = subprocess.Popen(get, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while written_len(killed.pid) < self.length // STEP // 2:
            if killed.poll() is not None:
                raise RunError("the fetch ended before it could be killed")
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        again = Measured(get, run.folder, run.folder / "again.log")
        usage, = measure([again])
        report = report_of((run.folder / "again.log").read_text())
        if subprocess.run(["cmp", "-s", self.source, out]).returncode != 0:
            raise RunError("wrong content after the resumed fetch")
        records.append(self.record("get, resumed after a kill at a half", usage.wall_s, usage.cpu_s, provider.pid, self.length,
                                   getter_rss_mib=usage.rss_mib, getter_own_mib=usage.own_mib,
                                   received_len=report["received_len"], reused_len=report["reused_len"]))
        return records


def sparse(bench: Bench, dhtfs: Dhtfs) -> list[Record]:
    free = shutil.disk_usage(bench.work).free
    if free < 2 * (SPARSE_GIB << 30) // STEP + (1 << 30):
        raise RunError(f"{free >> 20} MiB free in {bench.work}; choose a place with more by --work")
    case = Sparse(bench, dhtfs)
    try:
        return case.all()
    finally:
        bench.end_run(case.run)

