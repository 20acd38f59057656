"""Outcomes as lines, as a matrix in text and markdown, and the block in a document that holds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .cells import Outcome
from .kinds import KINDS, TRANSPORTS, expected
from .prove import Proof

BEGIN, END = "<!-- netlab: begin -->", "<!-- netlab: end -->"


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def plural(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def verdict(outcome: Outcome) -> str:
    return "SKIPPED" if outcome.skipped else "ok" if outcome.ok else "FAILED"


def line(outcome: Outcome) -> str:
    """One outcome in a line: what came of it, how long everything took, and what else there is to say."""
    times = " ".join(f"{name} {seconds(value)}" for name, value in (
        ("settled", outcome.settle_s), ("added", outcome.add_s), ("first", outcome.first_s), ("whole", outcome.whole_s),
        ("cell", outcome.cell_s)) if value is not None)
    share = "" if outcome.relayed_share is None else f", {outcome.relayed_share:.0%} relayed"
    reach = f", {' and '.join(outcome.reach)}" if outcome.reach else ""
    words = "; ".join(word for word in (outcome.skipped or outcome.why, *outcome.notes) if word)
    saw = outcome.saw or "-"
    return f"{verdict(outcome):7} {outcome.name}: {saw} ({outcome.expected}) {times}{share}{reach}{'; ' + words if words else ''}"


def short(outcome: Outcome) -> str:
    """One outcome in a field of the matrix."""
    if outcome.skipped:
        return "skipped"
    if not outcome.ok:
        return f"FAILED {outcome.saw or 'error'}"
    return f"{outcome.saw} {seconds(outcome.whole_s)}".strip() if outcome.saw != "none" else "none"


def matrix_rows(outcomes: Sequence[Outcome], transport: str) -> list[list[str]]:
    """Rows by who has the content, columns by who fetches; kinds that do not occur are left out."""
    found = {(o.seeds, o.gets): o for o in outcomes if o.transport == transport}
    rows = [kind for kind in KINDS if any(seeds == kind for seeds, _ in found)]
    columns = [kind for kind in KINDS if any(gets == kind for _, gets in found)]
    head = [transport, *columns]
    return [head] + [[row] + [short(found[row, column]) if (row, column) in found else "" for column in columns] for row in rows]


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows with columns of equal width."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(field.ljust(width) for field, width in zip(row, widths)).rstrip() for row in rows)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def matrices(outcomes: Sequence[Outcome]) -> list[list[list[str]]]:
    """A matrix for each of the transports that occur."""
    return [matrix_rows(outcomes, transport) for transport in TRANSPORTS if any(o.transport == transport for o in outcomes)]


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many of what, in a line."""
    counts = {name: sum(verdict(o) == name for o in outcomes) for name in ("ok", "FAILED", "SKIPPED")}
    parts = [f"{count} {name}" for name, count in counts.items() if count or name == "ok"]
    return f"{plural(len(outcomes), 'cell')}: {', '.join(parts)}"


def markdown(cells: Sequence[Outcome], scenarios: Sequence[Outcome], about: str) -> str:
    """What goes between the marks of a document."""
    parts = [about]
    parts += [markdown_table(rows) for rows in matrices(cells)]
    if scenarios:
        rows = [["what happens in mid-transfer", "path", "whole, s", ""]]
        rows += [[o.name, f"{verdict(o)} {o.saw}".strip(), seconds(o.whole_s), "; ".join(o.notes or [o.why])] for o in scenarios]
        parts.append(markdown_table(rows))
    return "\n\n".join(parts)


def expected_table() -> list[list[str]]:
    """The expected paths, as the document shows them."""
    names = list(KINDS)
    return [["", *names]] + [[a] + [expected(a, b).path for b in names] for a in names]


def replace_block(document: str, block: str, begin: str = BEGIN, end: str = END) -> str:
    """The document with another text between its marks; an error if they are not there, once and in order."""
    if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
        raise ValueError(f"the document must have {begin} and, after it, {end}, once each")
    before, rest = document.split(begin)
    return f"{before}{begin}\n{block}\n{end}{rest.split(end)[1]}"


def proof_line(proof: Proof) -> str:
    return f"{'ok' if proof.holds else 'FAILED':7} {proof.subject}: {proof.claim}: {proof.seen}"


def proof_summary(proofs: Iterable[Proof]) -> str:
    """How many claims hold, in a line."""
    found = list(proofs)
    failed = sum(not proof.holds for proof in found)
    return f"{len(found)} proofs: {len(found) - failed} ok{f', {failed} FAILED' if failed else ''}"
