"""One cell: two kinds, a file from the one to the other, and which way it took."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .cleanup import Ledger
from .kinds import DIRECT, KINDS, NONE, PUNCHED, RELAYED, Cell
from .program import Program
from .space import Space
from .swarm import MIB, CellError, Got, Swarm
from .topology import INTERNET_4, Lab

SETTLE_TIMEOUT_S = 60.0
ADD_TIMEOUT_S = 20.0
GET_TIMEOUT_S = 90.0
# A fetch that gets nothing gives up by itself.
IDLE_TIMEOUT_S = 30
# The same where nothing is expected to come.
NOTHING_TIMEOUT_S = 5


@dataclass(frozen=True)
class Setting:
    """What all cells of a run have in common."""

    program: Program
    length: int = 64 * MIB
    delay_ms: float = 0
    internet: str = INTERNET_4


@dataclass
class Outcome:
    """How a cell went. `saw` is the path that the wires show; `reach` what the two sides said of themselves."""

    name: str
    expected: str
    ok: bool = False
    saw: str = ""
    why: str = ""
    skipped: str = ""
    seeds: str = ""
    gets: str = ""
    transport: str = ""
    reach: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settle_s: float | None = None
    add_s: float | None = None
    first_s: float | None = None
    whole_s: float | None = None
    cell_s: float | None = None
    relayed_share: float | None = None
    logs: str = ""

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(self).items()}


def make_file(path: Path, length: int) -> str:
    """Writes random bytes and returns their SHA-256."""
    digest = hashlib.sha256()
    with open(path, "wb") as out:
        for start in range(0, length, MIB):
            block = os.urandom(min(MIB, length - start))
            out.write(block)
            digest.update(block)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def path_of(relayed_share: float, kinds: tuple[str, str]) -> str:
    """The name of a path that worked. Between two that let nobody in, one that is not relayed was punched."""
    if relayed_share > 0.5:
        return RELAYED
    return DIRECT if any(KINDS[kind].open for kind in kinds) or kinds == ("no-internet", "no-internet") else PUNCHED


class CellRun:
    """The steps of a cell; scenarios take the same ones and do something in between."""

    def __init__(self, cell: Cell, setting: Setting, prefix: str, folder: Path, ledger: Ledger, limit_up: str = "",
                 relays: int = 1) -> None:
        self.cell, self.setting, self.folder = cell, setting, folder
        self.outcome = Outcome(str(cell), cell.expected.path, seeds=cell.seeds, gets=cell.gets, transport=cell.transport)
        self.source, self.output = folder / "content.bin", folder / "fetched.bin"
        self.digest = make_file(self.source, setting.length)
        self.lab = Lab(Space(prefix, ledger), (cell.seeds, cell.gets), setting.delay_ms, setting.internet)
        self.swarm = Swarm(self.lab, setting.program, folder, cell.transport, limit_up, relays)

    def prepare(self) -> str:
        """Waits until both sides have settled, and shares the file; returns its content ID."""
        began = time.monotonic()
        nothing = self.cell.expected.path == NONE
        try:
            nets = self.swarm.settle(20 if nothing else SETTLE_TIMEOUT_S)
        except CellError as error:
            self.outcome.notes.append(str(error))
            nets = (self.swarm.net(self.swarm.sides[0]), self.swarm.net(self.swarm.sides[1]))
        self.outcome.settle_s = time.monotonic() - began
        self.outcome.reach = [net.reachability for net in nets]
        for side, net in zip(self.lab.sides, nets):
            if net.reachability != "unknown" and net.reachability not in KINDS[side.kind].reach:
                self.outcome.notes.append(f"{side.kind} calls itself {net.reachability}: {net.why}")
        began = time.monotonic()
        cid = self.swarm.add(self.source, NOTHING_TIMEOUT_S if nothing else ADD_TIMEOUT_S)
        self.outcome.add_s = time.monotonic() - began
        return cid

    def judge(self, got: Got) -> Outcome:
        """Fills in how the fetch went, and whether that is what was expected."""
        outcome, length = self.outcome, self.setting.length
        outcome.first_s, outcome.whole_s = got.first_s, got.whole_s
        if got.code != 0:
            outcome.saw = NONE
            outcome.why = f"get ended with {got.code}: {got.words}" if outcome.expected != NONE else ""
            outcome.ok = outcome.expected == NONE and got.code in (3, 4)
            return outcome
        outcome.relayed_share = min(1.0, got.relayed_len / length)
        outcome.saw = path_of(outcome.relayed_share, (self.cell.seeds, self.cell.gets))
        said = got.report.path
        if digest_of(self.output) != self.digest:
            outcome.why = "the bytes are not the same"
        elif said and (said == RELAYED) != (outcome.saw == RELAYED):
            outcome.why = f"the program says {said}, the wires {outcome.saw} ({outcome.relayed_share:.0%} through relays)"
        elif outcome.saw != outcome.expected:
            outcome.why = f"{outcome.saw} instead of {outcome.expected}"
        else:
            outcome.ok = True
            if outcome.saw == RELAYED and self.swarm.connected_directly():
                outcome.notes.append("connected directly too, but the bytes were relayed")
        return outcome


def run_cell(cell: Cell, setting: Setting, prefix: str, folder: Path, ledger: Ledger) -> Outcome:
    """Builds the cell, has the file fetched, and says how it went. What cannot be done raises an error."""
    run = CellRun(cell, setting, prefix, folder, ledger)
    cid = run.prepare()
    idle = NOTHING_TIMEOUT_S if cell.expected.path == NONE else IDLE_TIMEOUT_S
    return run.judge(run.swarm.fetch(cid, run.output, idle).end(GET_TIMEOUT_S))
