"""The runner: `bench/peers/run`, or `python3 -m peerbench` in its folder. See README.md there."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path

from .bench import Bench, Record
from .files import is_tmpfs, work_folder
from .machine import measure_rates
from .process import RunError
from .programs import ALL, Program, Tools
from .scenarios import Scenario, all_scenarios
from .space import NoSpace, Spaces, end_on_signal, enter
from .table import floor_lines, held_figures, markdown

MIB = 1 << 20
# Source, results and what a program keeps beside them, for the scenario that needs most.
COPIES = 5
ROOT = Path(__file__).resolve().parents[3]


def parse(argv: list[str]) -> argparse.Namespace:
    names = [s.name for s in all_scenarios(1)]
    parser = argparse.ArgumentParser(prog="bench/peers/run", description="dhtfs and others, whole programs, in one run.")
    parser.add_argument("--mib", type=float, default=1024, help="length of the file in MiB (default 1024)")
    parser.add_argument("--runs", type=int, default=3, help="rounds of each scenario (default 3)")
    parser.add_argument("--only", default=",".join(names), help="scenarios, with commas: " + ", ".join(names))
    parser.add_argument("--programs", default=",".join(p.name for p in ALL), help="programs, with commas (default: all)")
    parser.add_argument("--out", default="results.jsonl", help="a JSON line for each run is appended here")
    parser.add_argument("--dhtfs", help="the dhtfs to measure (default: target/release/dhtfs, then the search path)")
    parser.add_argument("--bin", action="append", default=[], metavar="DIR", help="look for programs here first")
    parser.add_argument("--work", metavar="DIR", help="folder for the content (default: /dev/shm if there is room)")
    parser.add_argument("--quiet", type=float, default=0, metavar="S",
                        help="before each run wait up to S seconds for an otherwise idle machine (default 0)")
    options = parser.parse_args(argv)
    if options.mib <= 0 or options.runs < 1:
        parser.error("--mib must be above 0 and --runs at least 1")
    for kind, given, known in (("scenario", options.only, names), ("program", options.programs, [p.name for p in ALL])):
        unknown = sorted(set(given.split(",")) - set(known))
        if unknown:
            parser.error(f"no such {kind}: {', '.join(unknown)}; there are {', '.join(known)}")
    return options


def tools_of(options: argparse.Namespace) -> Tools:
    """Where programs are looked for: what was named, then the project's own builds, then the search path."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    named = {"dhtfs": options.dhtfs} if options.dhtfs else {}
    return Tools(named, [*options.bin, str(target / "release"), str(target / "peers" / "bin")])


def installed(options: argparse.Namespace) -> tuple[dict[str, Program], dict[str, str]]:
    """The programs that are here, and of the others why not."""
    tools, here, missing = tools_of(options), {}, {}
    for kind in ALL:
        if kind.name in options.programs.split(","):
            program = kind(tools)
            why = program.missing()
            if why:
                missing[program.name] = why
            else:
                here[program.name] = program
    return here, missing


class Results:
    """Every record, in memory for the tables and in a file for whoever wants more."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.records: list[Record] = []

    def add(self, record: Record) -> None:
        record = {k: round(v, 6) if isinstance(v, float) else v for k, v in record.items() if k != "said"}
        self.records.append(record)
        with open(self.path, "a") as out:
            out.write(json.dumps(record) + "\n")


def run_scenario(bench: Bench, scenario: Scenario, runs: int, results: Results) -> None:
    """All cases of a scenario in turn, `runs` times; each round begins with another case."""
    cases = scenario.cases(bench)
    for number in range(runs if cases else 0):
        rates: Record = {}
        if scenario.name in ("one", "cable", "four"):
            rates = measure_rates(bench.work).record()
            results.add({"scenario": scenario.name, "round": number, **rates})
        start = number % len(cases)
        for case in cases[start:] + cases[:start]:
            shared = {"scenario": scenario.name, "round": number, "at": time.strftime("%FT%TZ", time.gmtime())}
            try:
                made = case.run()
            except NoSpace as why:
                made = {"skipped": str(why)}
            except (RunError, OSError, RuntimeError, ValueError) as error:
                made = {"error": " ".join(str(error).split())[:400]}
            for record in made if isinstance(made, list) else [made]:
                if "floor_s_per_gib" in rates:
                    record["floor_s_per_gib"] = rates["floor_s_per_gib"]
                results.add({**shared, "case": case.name, **record})
            last = results.records[-1]
            figure = f"{last['wall_s']:.3f} s" if "wall_s" in last else last.get("error") or last.get("skipped")
            print(f"{scenario.name} {number + 1}/{runs} {case.name}: {figure}", file=sys.stderr, flush=True)


def machine_line(bench: Bench) -> str:
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    kind = "in memory (tmpfs)" if is_tmpfs(bench.work) else "on disk; times include the sync after it"
    return (f"{time.strftime('%F %H:%M', time.gmtime())} UTC, {len(os.sched_getaffinity(0))} cores ({model}), Linux "
            f"{platform.release()}, load {os.getloadavg()[0]:.1f}; content {kind}.")


def report(bench: Bench, chosen: list[Scenario], results: Results, missing: dict[str, str]) -> None:
    """Everything as markdown on stdout."""
    print(f"\n{machine_line(bench)}")
    print(", ".join(f"{p.name} ({p.version()})" for p in bench.programs.values()) + ".")
    for name, why in missing.items():
        print(f"- {name}: {why}")
    print("\n" + floor_lines(results.records))
    for scenario in chosen:
        print(markdown(scenario, results.records))
    print("### What the project holds itself to\n\n" + held_figures(results.records))


def main(argv: list[str]) -> int:
    options = parse(argv)
    programs, missing = installed(options)
    if not programs:
        for name, why in missing.items():
            print(f"{name}: {why}", file=sys.stderr)
        print("bench/peers: none of the programs is installed; nothing to run", file=sys.stderr)
        return 2
    try:
        ended = enter()
    except NoSpace as why:
        print(f"bench/peers: {why}", file=sys.stderr)
        return 2
    return measure_all(options, programs, missing) if ended is None else ended


def measure_all(options: argparse.Namespace, programs: dict[str, Program], missing: dict[str, str]) -> int:
    """Everything that was asked for, from inside the namespaces; returns the exit code."""
    end_on_signal()
    work = work_folder(options.work, int(COPIES * options.mib * MIB) + 512 * MIB)
    spaces = None
    try:
        spaces = Spaces(work)
        bench = Bench(spaces, work, programs, options.mib, options.quiet)
        chosen = [s for s in all_scenarios(options.mib) if s.name in options.only.split(",")]
        results = Results(options.out)
        results.add({"options": vars(options), "machine": machine_line(bench), "missing": missing,
                     "programs": {n: p.version() for n, p in programs.items()}})
        for scenario in chosen:
            run_scenario(bench, scenario, options.runs, results)
        report(bench, chosen, results, missing)
        return 1 if any("error" in r for r in results.records) else 0
    except NoSpace as why:
        print(f"bench/peers: {why}", file=sys.stderr)
        return 2
    finally:
        if spaces:
            spaces.close()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
