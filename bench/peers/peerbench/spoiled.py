"""A fetch with bad providers beside the good ones.

- slow: its answers come at a tenth of what one good provider gave in the run before;
- nearly silent: after enough bytes to be met and asked, its answers come at one byte a second;
- dying: a good one that is killed as soon as the getter has written 30 % of the content.

The first two are in the far namespace behind a relay and listen on a loopback address there, which cannot be reached from
here: a getter that learns the address cannot go around the relay.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .bench import Bench, Content, Record
from .process import RunError, written_len
from .programs import Program, Provider, Run
from .programs.dhtfs import report_of
from .space import CABLE, FIRST_PROVIDER, helper_env

GOOD = 2
DIES_AT = 0.30
SLOW_SHARE = 0.10
SILENT_BYTES_PER_S = 1.0
# Enough for the handshake, the manifest and the beginning of a chunk: it is then in the middle of an answer.
FREE_LEN = 256 * 1024
RELAY_PORT = 4900


def behind_relay(bench: Bench, program: Program, run: Run, content: Content, index: int, free_len: int,
                 rate: float) -> Provider:
    """A provider whose answers pass a relay at `rate` bytes a second."""
    hidden = f"127.0.0.{FIRST_PROVIDER + index}"
    provider = program.provide(run, content.path, index, hidden, bench.spaces.inside_far)
    shown = f"{CABLE}.{FIRST_PROVIDER + index}"
    argv = [sys.executable, "-m", "peerbench.relay", shown, RELAY_PORT, hidden, program.provider_port, free_len, rate]
    relay = run.spawn(f"relay{index}", argv, bench.spaces.inside_far, helper_env())
    # The run ends it; its CPU is that of a helper.
    run.children.remove(relay)
    run.closers.append(lambda: (bench.helpers.remove(relay), relay.kill()))
    bench.helpers.append(relay)
    relay.wait_for(lambda printed: "READY" in printed, "relay", 20)
    return Provider(provider.child, provider.ident, program.moved(provider.peer, shown, RELAY_PORT))


def spoiled_fetch(bench: Bench, program: Program, content: Content, bad: bool) -> Record:
    """One fetch from the good providers, or from the good and the bad ones."""
    run = bench.new_run(bench.spaces.local())
    try:
        offer = program.offer(run, content.path, GOOD + (1 if bad else 0))
        if not bad:
            record = bench.measured_fetch(program, run, offer, content)
            bench.good_rate[program.name] = content.length / float(record["wall_s"])
            return with_report(record)
        if program.name not in bench.good_rate:
            raise RunError("the run without bad providers gave no rate to compare with")
        slow = SLOW_SHARE * bench.good_rate[program.name] / GOOD
        dying = offer.providers[GOOD]
        for index, rate in ((GOOD + 1, slow), (GOOD + 2, SILENT_BYTES_PER_S)):
            offer.providers.append(behind_relay(bench, program, run, content, index, FREE_LEN, rate))
        died: list[int] = []

        def look(pids: Sequence[int]) -> None:
            if not died and written_len(pids[0]) >= DIES_AT * content.length:
                died.append(written_len(pids[0]))
                dying.child.kill()

        record = bench.measured_fetch(program, run, offer, content, look=look)
        if not died:
            raise RunError("the fetch ended before a provider could be killed; take more --mib")
        return {**with_report(record), "slow_bytes_per_s": slow, "died_at_share": died[0] / content.length}
    finally:
        bench.end_run(run)


def with_report(record: Record) -> Record:
    """Adds how much was asked for, where the program says it (dhtfs does)."""
    report = report_of(str(record["said"]))
    if report:
        record["requested_len"], record["wasted_len"] = report["requested_len"], report["wasted_len"]
        record["requested_share"] = report["requested_len"] / float(record["bytes"])
    return record
