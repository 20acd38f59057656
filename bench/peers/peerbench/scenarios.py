"""The scenarios: each is a list of cases that are run in turn, so that their figures can be compared."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from .bench import Bench, Content, Record, Watch, wait_quiet
from .crowds import (
    CROWD_MIB, GETTERS, SEEDER_RATE, SPARSE_GIB, STEP, TRANSFERS, crowd, hundred, sparse)
from .machine import sha256_all_cores
from .process import Measured, RunError, measure, written_len
from .programs import Program
from .programs.dhtfs import Dhtfs
from .spoiled import spoiled_fetch

MIB = 1 << 20
SMALL_LEN = 1024
TREE_FILES, TREE_FILE_LEN = 10_000, 4096
# A distant fast link, one from home to far away, and a slow near one: bytes a second, round trip, and how much at most is fetched
# over it.
FAR = (25_000_000.0, 0.100, 256)
HOME = (2_500_000.0, 0.100, 32)
SLOW = (float(MIB), 0.040, 16)
FIND_NODES, FIND_FILES = 20, 5
# By then a fetch should use the whole of a distant link.
WARM_S = 3.0
# A growth of what is written by which a piece of the content is told from the database's pages.
WRITTEN_LEN = 256 * 1024
FETCHERS = ("http", "dhtfs", "rqbit", "sendme", "libtorrent", "aria2")


@dataclass
class Case:
    """One line of a table: a name, and what makes one record (or several, each with a name of its own)."""

    name: str
    run: Callable[[], Record | list[Record]]


@dataclass
class Scenario:
    """A name for --only, a title, and the cases that can run here."""

    name: str
    title: str
    cases: Callable[[Bench], list[Case]]
    # What the ratios of its table refer to.
    refer_to: tuple[str, ...] = ("http", "rqbit", "sendme")
    # Times of a few milliseconds say more than a rate.
    short: bool = False


def from_many(bench: Bench, providers: int = 1, getters: int = 1, far: bool = False) -> list[Case]:
    """The whole content, by every program that can have that many providers."""
    place = bench.spaces.cable() if far else bench.spaces.local()
    content = bench.file(int(bench.mib * MIB))
    return [Case(p.name, partial(bench.fetch, p, place, content, providers, getters))
            for p in bench.have(*FETCHERS) if p.max_providers >= providers]


def small(bench: Bench) -> list[Case]:
    content = bench.file(SMALL_LEN)
    names = ("http", "dhtfs", "dhtfs-daemon", "rqbit", "sendme", "libtorrent", "aria2")
    return [Case(p.name, partial(bench.fetch, p, bench.spaces.local(), content)) for p in bench.have(*names)]


def of_trees(bench: Bench, fetch: Callable[[Program, Content], Record]) -> list[Case]:
    """A folder of small files, and one file of the same length."""
    folder, file = bench.tree(TREE_FILES, TREE_FILE_LEN), bench.file(TREE_FILES * TREE_FILE_LEN)
    return [Case(f"{p.name}, {kind}", partial(fetch, p, content))
            for p in bench.have("dhtfs", "sendme") if p.trees
            for kind, content in (("one file", file), ("folder", folder))]


def tree(bench: Bench) -> list[Case]:
    return of_trees(bench, lambda program, content: bench.fetch(program, bench.spaces.local(), content))


def far_tree(bench: Bench) -> list[Case]:
    return of_trees(bench, lambda program, content: fetch_over_link(bench, FAR[0], FAR[1], program, content))


def fetch_over_link(bench: Bench, rate: float, rtt_s: float, program: Program, content: Content) -> Record:
    place, link = bench.spaces.link(rate, rtt_s)
    bench.helpers.append(link)
    begun: list[float] = []
    warm: list[tuple[float, int]] = []
    before: list[int] = []

    def look(pids: Sequence[int]) -> None:
        """Notes how much was written when it had run for three seconds and a piece of the content was written: what is under
        way then is not counted for the time after it."""
        now = time.perf_counter()
        if not begun:
            begun.append(now)
        if not warm and now - begun[0] >= WARM_S:
            written = written_len(pids[0])
            if before and written - before[-1] >= WRITTEN_LEN:
                warm.append((now - begun[0], written))
            before.append(written)

    try:
        record = bench.fetch(program, place, content, look=look)
        if warm and program.name.startswith("dhtfs"):
            (at, written), = warm
            later = (content.length - written) / (float(record["wall_s"]) - at)
            record["late_share"] = later / rate
        return {**record, "link_bytes_per_s": rate, "rtt_s": rtt_s, "link_cpu_s": link.cpu_s()}
    finally:
        bench.helpers.remove(link)
        link.kill()


def over_link(bench: Bench, rate: float, rtt_s: float, max_mib: float) -> list[Case]:
    content = bench.file(int(min(bench.mib, max_mib) * MIB))
    return [Case(p.name, partial(fetch_over_link, bench, rate, rtt_s, p, content))
            for p in bench.have("http", "dhtfs", "rqbit", "sendme")]


def adding(bench: Bench) -> list[Case]:
    """`dhtfs add` of a file in the page cache, next to the hash rate of all cores; and how long others take to publish."""
    content = bench.file(int(bench.mib * MIB))

    def add(dhtfs: Dhtfs) -> Record:
        run = bench.new_run(bench.spaces.local())
        try:
            wait_quiet(bench.patience_s)
            before = sha256_all_cores()
            watch = Watch(run)
            home = run.sub("provider0")
            argv = dhtfs.command(home / "data", "add", content.path)
            usage, = measure([Measured(argv, home, run.folder / "add.log")])
            record = watch.end(usage.wall_s, usage.cpu_s)
            hash_rate = (before + sha256_all_cores()) / 2
            rate = content.length / MIB / usage.wall_s
            return {**record, "bytes": content.length, "wall_s": usage.wall_s, "getter_cpu_s": usage.cpu_s,
                    "getter_rss_mib": usage.rss_mib, "getter_own_mib": usage.own_mib, "tmpfs": True,
                    "sha256_all_mib_per_s": hash_rate, "of_hash_rate": rate / hash_rate}
        finally:
            bench.end_run(run)

    def publish(program: Program) -> Record:
        run = bench.new_run(bench.spaces.local())
        try:
            watch = Watch(run)
            offer = program.offer(run, content.path, 1)
            return {**watch.end(offer.publish_s, 0.0), "bytes": content.length, "wall_s": offer.publish_s, "tmpfs": True}
        finally:
            bench.end_run(run)

    return ([Case("dhtfs add", partial(add, p)) for p in bench.have("dhtfs")]
            + [Case(f"{p.name}, start to serving", partial(publish, p)) for p in bench.have("dhtfs", "rqbit", "sendme")])


def spoiled(bench: Bench) -> list[Case]:
    """Two good providers; then the same two with a slow, a nearly silent and a dying one beside them."""
    content = bench.file(int(bench.mib * MIB))
    cases = []
    for program in bench.have("dhtfs", "rqbit"):
        cases.append(Case(f"{program.name}, 2 good", partial(spoiled_fetch, bench, program, content, False)))
        cases.append(Case(f"{program.name}, 2 good and 3 bad", partial(spoiled_fetch, bench, program, content, True)))
    return cases


def finding(bench: Bench) -> list[Case]:
    """A network of daemons: how long an add, an add until others find it, a lookup and a small get by bare CID take."""
    return [Case("dhtfs", partial(find, bench, p)) for p in bench.have("dhtfs")]


def find(bench: Bench, dhtfs: Dhtfs) -> list[Record]:
    run = bench.new_run(bench.spaces.local())
    try:
        data, boot = [], []
        for index in range(FIND_NODES):
            _, folder, address = dhtfs.daemon(run, f"node{index}", run.place.provider_ip(index), (), boot)
            data.append(folder)
            boot = boot or [address]
        adder, seeker = data[1], data[-1]
        watch, started = Watch(run), time.perf_counter()
        times: dict[str, list[float]] = {}
        for index in range(FIND_FILES):
            paths = [run.folder / f"{kind}{index}" for kind in ("plain", "waited")]
            for path in paths:
                path.write_bytes(os.urandom(SMALL_LEN))

            def timed(name: str, where: object, *args: object) -> str:
                before = time.perf_counter()
                printed = dhtfs.run_command(where, *args)
                times.setdefault(name, []).append(time.perf_counter() - before)
                return printed

            timed("add", adder, "add", paths[0])
            cid = timed("add --wait", adder, "add", "--wait", paths[1]).strip()
            if "peer" not in timed("providers", seeker, "--json", "providers", cid):
                raise RunError(f"{cid} has no provider after add --wait")
            out = run.folder / f"got{index}"
            timed("get by CID", seeker, "get", cid, "-o", out)
            if out.read_bytes() != paths[1].read_bytes():
                raise RunError(f"{cid}: wrong content")
        shared = watch.end(time.perf_counter() - started, 0.0)
        return [{**shared, "case": f"dhtfs {name}", "bytes": SMALL_LEN, "wall_s": statistics.median(took),
                 "all_s": took, "nodes": FIND_NODES, "tmpfs": True} for name, took in times.items()]
    finally:
        bench.end_run(run)


def alone(run: Callable[[Bench, Dhtfs], Record | list[Record]], bench: Bench) -> list[Case]:
    """What is measured of dhtfs and of nobody else."""
    return [Case("dhtfs", partial(run, bench, p)) for p in bench.have("dhtfs")]


def all_scenarios(mib: float) -> list[Scenario]:
    """In the order in which they are run."""
    size = f"{mib:g} MiB"
    far, home, slow = (f"{min(mib, m):g} MiB" for m in (FAR[2], HOME[2], SLOW[2]))
    return [
        Scenario("one", f"1 getter from 1 provider, {size}, same device", partial(from_many)),
        Scenario("cable", f"1 getter from 1 provider, {size}, two namespaces", partial(from_many, far=True)),
        Scenario("getters", f"2 getters from 1 provider, {size} each", partial(from_many, getters=2)),
        Scenario("two", f"1 getter from 2 providers, {size}", partial(from_many, providers=2), ("rqbit",)),
        Scenario("four", f"1 getter from 4 providers, {size}", partial(from_many, providers=4), ("rqbit",)),
        Scenario("small", "1 KiB, whole command", small, ("http", "rqbit", "sendme"), short=True),
        Scenario("tree", "10,000 files of 4 KiB, and one file of that length", tree, ("dhtfs, one file", "sendme, folder")),
        Scenario("add", f"Sharing {size} that is in the page cache", adding, ()),
        Scenario("spoiled", f"{size} from 2 good providers, then 3 bad ones beside them", spoiled, ("dhtfs, 2 good",)),
        Scenario("far", f"{far} over 200 Mbit/s with a round trip of 100 ms",
                 partial(over_link, rate=FAR[0], rtt_s=FAR[1], max_mib=FAR[2])),
        Scenario("fartree", "10,000 files of 4 KiB, and one file of that length, over the same path", far_tree,
                 ("dhtfs, one file", "sendme, folder")),
        Scenario("home", f"{home} over 20 Mbit/s with a round trip of 100 ms",
                 partial(over_link, rate=HOME[0], rtt_s=HOME[1], max_mib=HOME[2])),
        Scenario("slow", f"{slow} over 1 MiB/s with a round trip of 40 ms",
                 partial(over_link, rate=SLOW[0], rtt_s=SLOW[1], max_mib=SLOW[2])),
        Scenario("crowd", f"{GETTERS} daemons fetch {min(mib, CROWD_MIB):g} MiB from one that sends "
                 f"{SEEDER_RATE >> 20} MiB/s", partial(alone, crowd), ()),
        Scenario("hundred", f"{TRANSFERS} fetches at once through one daemon, {mib / TRANSFERS:g} MiB each",
                 partial(alone, hundred), ()),
        Scenario("sparse", f"{SPARSE_GIB} GiB, of which every {STEP}th MiB has content", partial(alone, sparse), ()),
        Scenario("find", f"Adding and finding 1 KiB among {FIND_NODES} daemons", finding, (), short=True),
    ]
