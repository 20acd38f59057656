"""Tables from records: medians, and ratios of runs of the same round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from .bench import Record
from .scenarios import Scenario

MIB = 1 << 20
GIB = 1 << 30
Rows = dict[str, dict[int, Record]]


def time_of(record: Record) -> float:
    """Seconds of a run; where the result does not lie in memory, with those of syncing it afterwards."""
    return float(record["wall_s"]) + (0.0 if record.get("tmpfs") else float(record.get("sync_s", 0.0)))


def rate_of(record: Record) -> float:
    """MiB/s of a run."""
    return float(record["bytes"]) / MIB / time_of(record)


def cpu_of(record: Record) -> float | None:
    """CPU seconds of getters and providers together."""
    if "getter_cpu_s" not in record:
        return None
    return float(record["getter_cpu_s"]) + float(record["provider_cpu_s"])


def over_floor(record: Record) -> float | None:
    """CPU of both sides over the floor that was measured in the same round."""
    cpu, floor = cpu_of(record), record.get("floor_s_per_gib")
    if cpu is None or not floor:
        return None
    return cpu / (float(floor) * float(record["bytes"]) / GIB)


def rows_of(records: Iterable[Record], scenario: str) -> Rows:
    """Case, then round, of the runs that gave a figure."""
    rows: Rows = {}
    for record in records:
        if record.get("scenario") == scenario and "wall_s" in record:
            rows.setdefault(str(record["case"]), {})[int(record["round"])] = record
    return rows


def paired_ratios(rows: Rows, case: str, other: str) -> list[float]:
    """How many times as fast `case` was as `other`, for each round in which both gave a figure."""
    mine, others = rows.get(case, {}), rows.get(other, {})
    return [rate_of(mine[r]) / rate_of(others[r]) for r in sorted(mine.keys() & others.keys())]


def median(values: Iterable[float | None]) -> float | None:
    """The median of what is there; None if nothing is."""
    there = [v for v in values if v is not None]
    return statistics.median(there) if there else None


def span(values: Sequence[float], digits: int | None = None) -> str:
    """Median, and least and most where they differ: "2.00 (1.90-2.30)". Without digits given, three that count or so."""
    if not values:
        return ""
    if digits is None:
        digits = 2 if statistics.median(values) < 10 else 0
    middle, low, high = (f"{v:.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}-{high})"


def column(title: str, cell: Callable[[Rows, str], str]) -> tuple[str, Callable[[Rows, str], str]]:
    return title, cell


def middle_cell(value: Callable[[Record], float | None], digits: int = 2) -> Callable[[Rows, str], str]:
    """A column of medians; empty where a case has no such figure."""

    def cell(rows: Rows, case: str) -> str:
        found = median(value(r) for r in rows[case].values())
        return "" if found is None else f"{found:.{digits}f}"

    return cell


def number(name: str) -> Callable[[Record], float | None]:
    return lambda record: float(record[name]) if record.get(name) is not None else None


def memory_cell(rows: Rows, case: str) -> str:
    runs = list(rows[case].values())
    most, own, serving = (median(number(n)(r) for r in runs)
                          for n in ("getter_rss_mib", "getter_own_mib", "provider_rss_mib"))
    if most is None:
        return ""
    return f"{most:.0f} ({own:.0f})" + ("" if serving is None else f" / {serving:.0f}")


def clean_cell(rows: Rows, case: str) -> str:
    runs = rows[case].values()
    return f"{sum(bool(r.get('clean')) for r in runs)} of {len(runs)}"


def columns(scenario: Scenario, rows: Rows) -> list[tuple[str, Callable[[Rows, str], str]]]:
    """The columns of a scenario; those in which nothing would stand are left out."""
    if scenario.short:
        chosen = [column("ms", lambda rows, case: span([time_of(r) * 1000 for r in rows[case].values()], 1))]
    else:
        chosen = [column("s", lambda rows, case: span([time_of(r) for r in rows[case].values()], 2)),
                  column("MiB/s", lambda rows, case: span([rate_of(r) for r in rows[case].values()]))]
    for other in scenario.refer_to:
        chosen.append(column(f"to {other}", lambda rows, case, other=other: span(paired_ratios(rows, case, other), 2)))
    chosen += [
        column("of the link", middle_cell(
            lambda r: rate_of(r) * MIB / float(r["link_bytes_per_s"]) if "link_bytes_per_s" in r else None)),
        column("of the link after 3 s", middle_cell(number("late_share"))),
        column("of the hash rate", middle_cell(number("of_hash_rate"))),
        column("asked for / length", middle_cell(number("requested_share"), 3)),
        column("to length / limit", middle_cell(number("to_ideal"))),
        column("first to length / limit", middle_cell(number("first_to_ideal"))),
        column("sent by the seeder / length", middle_cell(number("sent_share"))),
        column("slowest / median rate", middle_cell(number("slowest_share"))),
        column("files open", middle_cell(number("most_fds"), 0)),
        column("CPU s", middle_cell(cpu_of)),
        column("CPU / floor", middle_cell(over_floor)),
        column("RSS MiB: getter (own) / provider", memory_cell),
        column("publish s", middle_cell(number("publish_s"))),
        column("undisturbed", clean_cell)]
    return [(title, cell) for title, cell in chosen if any(cell(rows, case) for case in rows)]


def markdown(scenario: Scenario, records: Sequence[Record]) -> str:
    """The table of a scenario, with its errors and what was left out below it."""
    rows = rows_of(records, scenario.name)
    lines = [f"### {scenario.name}: {scenario.title}", ""]
    if rows:
        chosen = columns(scenario, rows)
        lines.append("| " + " | ".join(["", *(title for title, _ in chosen)]) + " |")
        lines.append("|" + "---|" * (len(chosen) + 1))
        lines += ["| " + " | ".join([case, *(cell(rows, case) for _, cell in chosen)]) + " |" for case in rows]
        lines.append("")
    for record in records:
        if record.get("scenario") == scenario.name and ("error" in record or "skipped" in record):
            what = f"error: {record['error']}" if "error" in record else f"skipped: {record['skipped']}"
            lines += [f"- {record['case']}, round {record['round']}: {what}", ""]
    return "\n".join(lines)


def floor_lines(records: Sequence[Record]) -> str:
    """The rates behind the floor, median of all rounds, and the formula with them filled in."""
    measured = [r["rates"] for r in records if "rates" in r]
    if not measured:
        return ""
    t, a, h, w, both = (median(m[k] for m in measured)
                        for k in ("tcp_s", "cipher_s", "sha256_s", "write_s", "sha256_all_mib_per_s"))
    hashes = f"SHA-256 on all cores {both:.0f} MiB/s."
    if a is None:
        return f"No floor: openssl is not installed (apt-get install openssl). {hashes}\n"
    return (f"Floor of CPU, both sides: TCP {t:.2f} + 2 x AES-128-GCM {a:.2f} + SHA-256 {h:.2f} + write {w:.2f} "
            f"= {t + 2 * a + h + w:.2f} s/GiB (medians of {len(measured)}). {hashes}\n")


# What the project holds itself to: a line's words, the scenario, the case, and the other case of the same scenario.
HELD = (
    ("from one provider, to the plain way", "one", "dhtfs", "http"),
    ("from one provider, to rqbit", "one", "dhtfs", "rqbit"),
    ("from one provider, to sendme", "one", "dhtfs", "sendme"),
    ("from four providers, to rqbit", "four", "dhtfs", "rqbit"),
    ("1 KiB with a node of its own, to sendme", "small", "dhtfs", "sendme"),
    ("1 KiB through a connected daemon, to sendme", "small", "dhtfs-daemon", "sendme"),
    ("10,000 small files, to one file of that length", "tree", "dhtfs, folder", "dhtfs, one file"),
    ("beside bad providers, to only good ones", "spoiled", "dhtfs, 2 good and 3 bad", "dhtfs, 2 good"),
    ("100 ms and 200 Mbit/s, to the plain way", "far", "dhtfs", "http"),
    ("100 ms and 20 Mbit/s, to the plain way", "home", "dhtfs", "http"),
    ("40 ms and 1 MiB/s, to the plain way", "slow", "dhtfs", "http"),
)


def held_figures(records: Sequence[Record]) -> str:
    """One line for each figure that the project holds itself to, as far as it was measured in this run."""
    lines = []
    for words, scenario, case, other in HELD:
        if ratios := paired_ratios(rows_of(records, scenario), case, other):
            lines.append(f"- rate {words}: {span(ratios, 2)}")
    for words, scenario, case, value in (
            ("CPU of both sides over the floor", "one", "dhtfs", over_floor),
            ("share of the 200 Mbit/s", "far", "dhtfs", lambda r: rate_of(r) * MIB / float(r["link_bytes_per_s"])),
            ("the same after the third second", "far", "dhtfs", number("late_share")),
            ("share of the 20 Mbit/s", "home", "dhtfs", lambda r: rate_of(r) * MIB / float(r["link_bytes_per_s"])),
            ("share of the 1 MiB/s", "slow", "dhtfs", lambda r: rate_of(r) * MIB / float(r["link_bytes_per_s"])),
            ("the same after the third second, of 1,500 bytes a packet 52 for TCP/IP", "slow", "dhtfs", number("late_share")),
            ("memory of the getter, MiB", "one", "dhtfs", number("getter_rss_mib")),
            ("memory of the provider, MiB", "one", "dhtfs", number("provider_rss_mib")),
            ("add, share of the hash rate of all cores", "add", "dhtfs add", number("of_hash_rate")),
            ("ten daemons from a limited one, time over length / limit", "crowd", "dhtfs", number("to_ideal")),
            ("and what that one sent, over length", "crowd", "dhtfs", number("sent_share")),
            ("a hundred fetches, slowest over median rate", "hundred", "dhtfs", number("slowest_share")),
            ("bytes asked for over length, beside bad providers", "spoiled", "dhtfs, 2 good and 3 bad",
             number("requested_share"))):
        values = [v for r in rows_of(records, scenario).get(case, {}).values() if (v := value(r)) is not None]
        if values:
            lines.append(f"- {words}: {span(values, 2)}")
    return "\n".join(lines)
