"""The command: `tests/netlab/run`, or `python3 -m netlab` in its folder. See README.md there."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from . import report
from .cells import Outcome, Setting, run_cell
from .kinds import KINDS, TRANSPORTS, Cell, NoSuchCell, chosen_cells
from .program import Program
from .prove import Proof, all_proofs, prove
from .runner import Interrupted, Job, Runner, clean_stale, interruptible
from .scenarios import SCENARIOS, Scenario, run_scenario
from .space import can_delay, missing
from .swarm import MIB
from .topology import INTERNET_4

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = ROOT / "docs" / "nat.md"
DEFAULT_DELAY_MS = 10.0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="tests/netlab/run", description="Daemons behind NAT gateways: is every path found that there is?",
        epilog=f"Kinds: {', '.join(KINDS)}. Exit codes: 0 done or skipped, 1 failed, 2 usage, 130 interrupted.")
    made.add_argument("--cells", help="ci (ten of them), full (every pair once), all (both directions), none, or SEEDS:GETS:TRANSPORT "
                      "with commas; default full, with --prove or --scenarios none")
    made.add_argument("--transports", default="tcp,quic", help="for full and all, with commas: tcp, quic, both (default tcp,quic)")
    made.add_argument("--scenarios", default="none", help=f"none, all, or with commas: {', '.join(SCENARIOS)} (default none)")
    made.add_argument("--prove", action="store_true", help="prove with plain sockets that gateways are what they claim")
    made.add_argument("--dhtfs", type=Path, help="the program (default: target/release/dhtfs, then target/debug/dhtfs)")
    made.add_argument("--mib", type=float, default=64, help="length of the file in MiB (default 64)")
    made.add_argument("--jobs", type=int, default=2, help="cells at the same time (default 2)")
    made.add_argument("--delay-ms", type=float, help="delay of each side's way to the Internet, each way (default 10 where the "
                      "kernel has netem, else none)")
    made.add_argument("--internet", default=INTERNET_4, metavar="A.B.C", help=f"the lab's public IPv4 /24 (default {INTERNET_4})")
    made.add_argument("--json", action="store_true", help="print JSON lines instead of text")
    made.add_argument("--markdown", nargs="?", type=Path, const=DOCUMENT, metavar="FILE",
                      help="put the matrix into the marked block of this document (default docs/nat.md)")
    made.add_argument("--require", action="store_true", help="where the lab cannot run, fail instead of skipping")
    made.add_argument("--logs", type=Path, metavar="DIR", help="keep the logs of failed cells here (default: a temporary folder)")
    made.add_argument("--work", type=Path, metavar="DIR", help="folder for contents (default: the temporary folder)")
    return made


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options, with `cells` and `scenarios` as lists of what was chosen."""
    made = parser()
    options = made.parse_args(argv)
    if options.mib < 1 or options.jobs < 1 or (options.delay_ms or 0) < 0:
        made.error("--mib and --jobs must be at least 1, --delay-ms at least 0")
    octets = options.internet.split(".")
    if len(octets) != 3 or not all(part.isdigit() and int(part) < 256 for part in octets):
        made.error(f"--internet {options.internet}: write three numbers, like {INTERNET_4}")
    transports = options.transports.split(",")
    if unknown := [name for name in transports if name not in TRANSPORTS]:
        made.error(f"no such transport: {', '.join(unknown)}; there are {', '.join(TRANSPORTS)}")
    names = {"none": [], "all": list(SCENARIOS)}.get(options.scenarios, options.scenarios.split(","))
    if unknown := [name for name in names if name not in SCENARIOS]:
        made.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    options.scenarios = [SCENARIOS[name] for name in names]
    if options.cells is None:
        options.cells = "none" if options.prove or names else "full"
    try:
        options.cells = chosen_cells(options.cells, transports)
    except NoSuchCell as error:
        made.error(str(error))
    return options


def find_program(named: Path | None) -> Path | None:
    """The program that was named, or the newest way the project builds it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    for path in [named] if named else [target / "release" / "dhtfs", target / "debug" / "dhtfs"]:
        if path.is_file() and os.access(path, os.X_OK):
            return path.resolve()
    return None


def blank(name: str, cell: Cell) -> Outcome:
    return Outcome(name, cell.expected.path, seeds=cell.seeds, gets=cell.gets, transport=cell.transport)


def job_of(what: Cell | Scenario, setting: Setting) -> Job[Outcome]:
    """A cell or scenario, to be run."""
    def failed(why: str) -> Outcome:
        outcome = blank(what.name if isinstance(what, Scenario) else str(what),
                        what.cell if isinstance(what, Scenario) else what)
        outcome.why = why
        return outcome

    if isinstance(what, Scenario):
        return Job(what.name, partial(run_scenario, what, setting), failed, lambda o: not o.ok)
    return Job(str(what), partial(run_cell, what, setting), failed, lambda o: not o.ok)


def say(options: argparse.Namespace, text: str) -> None:
    """Words for people; with --json they leave stdout to the results."""
    print(text, file=sys.stderr if options.json else sys.stdout, flush=True)


def run_proofs(options: argparse.Namespace, runner: Runner) -> bool:
    """Proves the lab; returns whether everything holds."""
    proofs: list[Proof] = []

    def done(found: list[Proof], _took: float, _logs: Path | None) -> None:
        proofs.extend(found)
        for proof in found:
            if options.json:
                print(json.dumps({"proof": asdict(proof)}), flush=True)
            else:
                print(report.proof_line(proof), flush=True)

    jobs = [Job(name, lambda prefix, _folder, ledger, kinds=kinds, provers=provers:
                prove(prefix, ledger, kinds, provers, options.internet),
                lambda why, name=name: [Proof(name, "can be looked at", False, why)], lambda _: False)
            for name, kinds, provers in all_proofs()]
    runner.run(jobs, done)
    say(options, report.proof_summary(proofs))
    return all(proof.holds for proof in proofs)


def run_cells(options: argparse.Namespace, runner: Runner, setting: Setting) -> list[Outcome]:
    """Runs cells, then scenarios; prints each as it ends."""
    outcomes: list[Outcome] = []

    def done(outcome: Outcome, took: float, logs: Path | None) -> None:
        outcome.cell_s, outcome.logs = took, str(logs or "")
        outcomes.append(outcome)
        print(json.dumps(outcome.record()) if options.json else report.line(outcome), flush=True)
        if logs:
            say(options, f"        logs: {logs}")

    runner.run([job_of(what, setting) for what in [*options.cells, *options.scenarios]], done)
    return outcomes


def skip(options: argparse.Namespace, reason: str) -> int:
    """Says loudly that nothing was run; that is a failure only if it was required."""
    count = len(options.cells) + len(options.scenarios)
    for what in [*options.cells, *options.scenarios] if options.json else []:
        cell = what.cell if isinstance(what, Scenario) else what
        outcome = blank(what.name if isinstance(what, Scenario) else str(what), cell)
        outcome.skipped = reason
        print(json.dumps(outcome.record()))
    what = report.plural(count, "cell") if count else "the proofs"
    say(options, f"SKIPPED: net lab, {what}: {reason}")
    return 1 if options.require else 0


def write_markdown(options: argparse.Namespace, outcomes: list[Outcome], program: Path, delay: float) -> None:
    names = {scenario.name for scenario in options.scenarios}
    about = (f"{time.strftime('%F %H:%M', time.gmtime())} UTC, {options.mib:g} MiB, "
             f"{f'{delay:g} ms each way' if delay else 'no delay'}, {options.jobs} cells at a time. Rows have the content, columns "
             "fetch it; path, and seconds of the whole `get`.")
    block = report.markdown([o for o in outcomes if o.name not in names], [o for o in outcomes if o.name in names], about)
    options.markdown.write_text(report.replace_block(options.markdown.read_text(), block))


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    if os.geteuid() == 0:
        if gone := clean_stale(options.work):
            say(options, f"removed what an earlier run left: {', '.join(gone)}")
    if reason := missing():
        return skip(options, reason)
    path = find_program(options.dhtfs)
    if path is None and (options.cells or options.scenarios):
        print("no dhtfs to run: build it (cargo build --release -p dhtfs) or name one with --dhtfs", file=sys.stderr)
        return 2
    delay = options.delay_ms if options.delay_ms is not None else DEFAULT_DELAY_MS
    if delay and not can_delay():
        if options.delay_ms is not None:
            return skip(options, "no netem in this kernel: links have no delay")
        delay = 0.0
    good, runner = True, Runner(options.jobs, options.work, options.logs)
    try:
        with interruptible():
            if options.prove:
                good = run_proofs(options, runner)
            if path and (options.cells or options.scenarios):
                program = Program(path)
                if lacking := program.lacks():
                    say(options, f"{path.name} has no {' and no '.join(lacking)}: what needs them fails")
                say(options, f"{options.mib:g} MiB, {f'{delay:g} ms each way' if delay else 'no delay (no netem here)'}")
                began = time.monotonic()
                setting = Setting(program, int(options.mib * MIB), delay, options.internet)
                outcomes = run_cells(options, runner, setting)
                good = good and all(outcome.ok for outcome in outcomes)
                cells = [o for o in outcomes if o.name not in {s.name for s in options.scenarios}]
                for rows in [] if options.json else report.matrices(cells):
                    print("\n" + report.text_table(rows))
                say(options, f"\n{report.summary(outcomes)} in {time.monotonic() - began:.0f} s")
                if options.markdown:
                    write_markdown(options, outcomes, path, delay)
    except Interrupted as signal:
        runner.stop()
        print(f"interrupted ({signal}); everything is removed", file=sys.stderr)
        return 130
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
