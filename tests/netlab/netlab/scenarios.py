"""Cells in which the network changes in the middle of a transfer. The file must arrive all the same.

The seeding side sends at a limited rate, so that there is a middle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .cells import GET_TIMEOUT_S, CellRun, Outcome, Setting
from .cleanup import Ledger
from .kinds import Cell
from .swarm import MIB, CellError, Fetch

LIMIT_UP_MIB = 8
# A home router that restarts is away longer; what matters is that connections time out or go on, and connections are gone.
REBOOT_S = 3.0
# A fetch that gets nothing for so long gives up.
IDLE_TIMEOUT_S = 60
STALL_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Scenario:
    """A cell and what happens in it; `fault` returns what it did, in words."""

    name: str
    cell: Cell
    says: str
    fault: Callable[[CellRun, Fetch], str]
    relays: int = 1


def reboot(side: int) -> Callable[[CellRun, Fetch], str]:
    """The outermost gateway of a side restarts."""
    def fault(run: CellRun, _fetch: Fetch) -> str:
        known = run.lab.reboot(run.lab.sides[side].gateways[-1], REBOOT_S)
        return f"gateway away for {REBOOT_S:g} s, {known} connections forgotten"

    return fault


def move(side: int, kind: str) -> Callable[[CellRun, Fetch], str]:
    """A side is unplugged and plugged in behind another gateway."""
    def fault(run: CellRun, _fetch: Fetch) -> str:
        was = run.lab.sides[side].outside.get(4)
        run.lab.move(run.lab.sides[side], kind)
        return f"moved from {was} to {run.lab.sides[side].outside.get(4)} ({kind})"

    return fault


def kill_relay(run: CellRun, fetch: Fetch) -> str:
    """The public node over which the content comes is killed; it is an error if it comes over none."""
    before = [node.received() for node in run.swarm.public]
    fetch.wait_for_more(STALL_TIMEOUT_S)
    carried = [node.received() - was for node, was in zip(run.swarm.public, before)]
    if max(carried) < MIB // 2:
        raise CellError(f"nothing comes over a relay: {dict(zip(('hub', 'observer'), carried))}")
    node = run.swarm.public[carried.index(max(carried))]
    node.kill()
    return f"{node.name} killed, which relayed"


SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in (
    Scenario("reboot-getter", Cell("public", "port-keeping", "both"), "the gateway of who fetches restarts", reboot(1)),
    Scenario("reboot-seeder", Cell("port-forward", "port-keeping", "both"), "the gateway of who has the content restarts",
             reboot(0)),
    Scenario("reboot-punched", Cell("port-keeping", "port-changing", "both"), "a punched connection loses its holes", reboot(1)),
    Scenario("laptop-getter", Cell("public", "port-keeping", "both"), "who fetches moves behind a symmetric gateway",
             move(1, "symmetric")),
    Scenario("laptop-seeder", Cell("port-keeping", "port-keeping", "both"), "who has the content moves behind another gateway",
             move(0, "port-keeping")),
    Scenario("relay-killed", Cell("symmetric", "symmetric", "both"), "the relay that carries the content is killed", kill_relay,
             relays=2),
)}


def run_scenario(scenario: Scenario, setting: Setting, prefix: str, folder: Path, ledger: Ledger) -> Outcome:
    """Has the file fetched while the network changes; what cannot be done raises an error."""
    run = CellRun(scenario.cell, setting, prefix, folder, ledger, f"{LIMIT_UP_MIB}MiB/s", scenario.relays)
    run.outcome.name = scenario.name
    cid = run.prepare()
    fetch = run.swarm.fetch(cid, run.output, IDLE_TIMEOUT_S)
    half = setting.length // 2
    fetch.wait_for_len(half, half / MIB / LIMIT_UP_MIB * 3 + 30)
    run.outcome.notes.append(scenario.fault(run, fetch))
    stall = fetch.wait_for_more(STALL_TIMEOUT_S)
    run.outcome.notes.append("nothing came any more" if stall is None else f"went on after {stall:.1f} s")
    got = fetch.end(GET_TIMEOUT_S + STALL_TIMEOUT_S)
    run.outcome.notes.append(f"{got.received_len / setting.length:.2f} times the length received")
    return run.judge(got)
