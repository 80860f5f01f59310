"""What a soak showed: the record of a run that was disturbed, and the verdicts on it."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from benchmarks.processes import Usage, family, role, usage

Row = Mapping[str, Any]  # a line of results.jsonl
Life = list[tuple[float, Usage]]  # samples of one process
ROLES = ("driver", "manager", "proposer", "scorer")
GROWTH = {"megabytes": 1.0, "descriptors": 5.0, "threads": 5.0}  # an hour, less is demanded
STUCK = 120.0  # seconds without an answer; the start of a driver and its Ray takes most of a minute on a busy machine
WARM = 120.0  # seconds in which a process still fills its caches
LONG = 300.0  # seconds after that from which growth can be told
WINDOW = 600.0  # seconds at the start and at the end that are compared
NEAR = 30.0  # seconds after a fault in which a search may feel it
ENOUGH = 20  # searches to compare


@dataclass
class Record:
    """What was seen of one run. Times are seconds since the soak began; `closed`: no problem came after it."""

    name: str
    began: float
    closed: float = 0.0
    ended: float = 0.0
    starts: int = 0
    faults: list[tuple[float, str]] = field(default_factory=list)
    samples: dict[tuple[str, int], Life] = field(default_factory=dict)  # by role and process
    around: list[tuple[float, int, float]] = field(
        default_factory=list
    )  # processes with Ray's own, load of the machine
    asked: dict[str, float] = field(default_factory=dict)
    answered: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    expected: dict[str, Row] = field(default_factory=dict)  # lines of a run that nothing disturbed
    faulty: list[str] = field(default_factory=list)  # what must not be

    def sample(self, now: float, driver: int) -> None:
        """Look at the driver's process and all below it."""
        below = family(driver)
        self.around.append((now, len(below), os.getloadavg()[0]))
        for who, pid in [("driver", driver), *((found, pid) for pid in below if (found := role(pid)))]:
            if (held := usage(pid)) is not None:
                self.samples.setdefault((who, pid), []).append((now, held))


@dataclass(frozen=True)
class Verdict:
    """One line of the table. `well` None: nothing can be said, or nothing is demanded."""

    what: str
    found: str
    goal: str = ""
    well: bool | None = None

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAILED", None: ""}[self.well]
        return f"{mark:7}{self.what:44} {self.found}{f'   (goal: {self.goal})' if self.goal else ''}"


def verdicts(records: Sequence[Record]) -> Iterator[Verdict]:
    """All that can be said of some runs."""
    yield from told(records)
    for record in records:
        yield from answers(record)
        yield from waits(record)
        yield from speed(record)
    for who in ROLES:
        yield from growth(who, [life for record in records for (of, _), life in record.samples.items() if of == who])


def told(records: Sequence[Record]) -> Iterator[Verdict]:
    """What was done."""
    faults = Counter(fault for record in records for _, fault in record.faults)
    spent = sum(record.ended - record.began for record in records)
    work = sum(life[-1][1].processor - life[0][1].processor for record in records for life in record.samples.values())
    around = [seen for record in records for seen in record.around]
    starts, load = sum(record.starts for record in records), statistics.fmean(load for _, _, load in around)
    yield Verdict(
        "faults", f"{faults.total()}: {', '.join(f'{count} {fault}' for fault, count in sorted(faults.items()))}"
    )
    yield Verdict("minutes", f"{spent / 60:.1f}, {starts} starts of a driver")
    yield Verdict("processor", f"{work / spent:.2f} cores, on a machine with a load of {load:.1f}")
    yield Verdict("most processes, Ray's own included", f"{max(count for _, count, _ in around)}")


def answers(record: Record) -> Iterator[Verdict]:
    """Whether each problem has one line, that of the undisturbed run."""
    times = Counter(row["id"] for row in record.rows)
    unlike = [name for name in record.asked if times[name] != 1] + [name for name in times if name not in record.asked]
    expected = {name: comparable(row) for name, row in record.expected.items()}
    wrong = [row["id"] for row in record.rows if comparable(row) != expected.get(row["id"])]
    errors = sum(row["error"] is not None for row in record.rows)
    yield Verdict(
        f"{record.name}: problems without exactly one line", f"{len(unlike)} of {len(record.asked)}", "0", not unlike
    )
    yield Verdict(
        f"{record.name}: lines unlike an undisturbed run's", f"{len(wrong)}; {errors} are errors", "0", not wrong
    )


def comparable(row: Row) -> Row:
    """A line without what may differ: seconds, waste, and how an error is put."""
    tokens = {key: value for key, value in row["tokens"].items() if key != "wasted"}
    return {**row, "tokens": tokens, "seconds": None, "error": row["error"] is not None}


def waits(record: Record) -> Iterator[Verdict]:
    """Whether anything was stuck."""
    times = sorted([*record.answered.values(), record.ended])
    gap = max(later - earlier for earlier, later in pairwise(times))
    wait = max(when - record.asked[name] for name, when in record.answered.items() if name in record.asked)
    for what, seconds in (("without a new line", gap), ("from asked to answered", wait)):
        yield Verdict(f"{record.name}: longest time {what}", f"{seconds:.1f} s", f"<= {STUCK:g} s", seconds <= STUCK)
    yield Verdict(
        f"{record.name}: what must not be", "; ".join(record.faulty) or "nothing", "nothing", not record.faulty
    )


def speed(record: Record) -> Iterator[Verdict]:
    """Seconds of a search at the end and at the start, of those that no fault touched: what dispatch adds shows here."""
    window = min(WINDOW, (record.closed - record.began - WARM) / 2)
    starts = record.began + WARM, record.closed - window
    parts = [[seconds for when, seconds in calm(record) if start <= when < start + window] for start in starts]
    what = f"{record.name}: seconds of a search"
    if min(map(len, parts)) < ENOUGH:
        yield Verdict(what, "too few that no fault touched")
        return
    loads = [[load for when, _, load in record.around if start <= when < start + window] for start in starts]
    beside = " -> ".join(f"{statistics.fmean(part):.1f}" for part in loads)
    for name, k in (("median", 49), ("p99", 98)):
        first, last = (statistics.quantiles(part, n=100)[k] for part in parts)
        found = f"{first:.2f} -> {last:.2f} of {len(parts[0])} and {len(parts[1])}; load of the machine {beside}"
        yield Verdict(f"{what}, {name}", found, "end <= 1.2 x start", last <= 1.2 * first)


def calm(record: Record) -> Iterator[tuple[float, float]]:
    """(end, seconds) of the searches during which, and shortly before, no fault came."""
    for row in record.rows:
        ended = record.answered.get(row["id"], 0.0)
        if not any(ended - row["seconds"] - NEAR < when < ended for when, _ in record.faults):
            yield ended, row["seconds"]


def growth(who: str, lives: Iterable[Life]) -> Iterator[Verdict]:
    """Whether processes of one kind hold more and more, within their lives."""
    warm = [[(when, held) for when, held in life if when >= life[0][0] + WARM] for life in lives]
    warm = [life for life in warm if life and life[-1][0] - life[0][0] >= LONG]
    if not warm:
        yield Verdict(who, f"none lived {WARM + LONG:g} s: nothing can be said of what it holds")
        return
    longest = max(warm, key=len)
    minutes = (longest[-1][0] - longest[0][0]) / 60
    for name, goal in GROWTH.items():
        grown, error = slope([[(when / 3600, float(getattr(held, name))) for when, held in life] for life in warm])
        ends = " -> ".join(f"{getattr(longest[k][1], name):,.0f}" for k in (0, -1))
        found = f"{grown:+.2f} +- {2 * error:.2f} in {len(warm)} lives; {ends} in {minutes:.0f} minutes"
        yield Verdict(f"{who}: {name} an hour", found, f"< {goal:g}", grown < goal)


def slope(curves: Sequence[Sequence[tuple[float, float]]]) -> tuple[float, float]:
    """(common slope of curves with an intercept each, its standard error), by least squares"""
    points: list[tuple[float, float]] = []
    for curve in curves:
        x0, y0 = (statistics.fmean(column) for column in zip(*curve, strict=True))
        points += [(x - x0, y - y0) for x, y in curve]
    spread = sum(x * x for x, _ in points) or 1.0
    found = sum(x * y for x, y in points) / spread
    rest = sum((y - found * x) ** 2 for x, y in points) / max(1, len(points) - len(curves) - 1)
    return found, (rest / spread) ** 0.5
