"""The verdicts of a soak: a healthy record passes, and each thing that can be wrong fails the one verdict that names it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.health import LONG, WARM, Life, Record, Verdict, growth, slope, verdicts
from benchmarks.processes import Usage, family, usage

IDS = ("p0", "p1", "p2")


def row(name: str, **changes: Any) -> dict[str, Any]:
    tokens = {"generated": 10, "scored": 5, "wasted": 3}
    return {"id": name, "answer": "1", "tokens": tokens, "seconds": 2.0, "error": None, **changes}


def healthy() -> Record:
    record = Record("mcts", began=0.0, closed=30.0, ended=40.0, starts=1, faults=[(15.0, "kill driver")])
    record.around = [(10.0, 8, 0.5)]
    record.asked = {name: 10.0 * k for k, name in enumerate(IDS)}
    record.answered = {name: 10.0 * k + 5 for k, name in enumerate(IDS)}
    record.rows = [row(name) for name in IDS]
    record.expected = {name: row(name, seconds=0.1, tokens={"generated": 10, "scored": 5, "wasted": 0}) for name in IDS}
    return record


def failed(record: Record) -> list[str]:
    return [verdict.what for verdict in verdicts([record]) if verdict.well is False]


def test_a_healthy_record_passes() -> None:
    assert failed(healthy()) == []
    assert any(verdict.well for verdict in verdicts([healthy()]))


WRONG: dict[str, tuple[Callable[[Record], Any], list[str]]] = {
    "lost": (lambda r: r.rows.pop(), ["mcts: problems without exactly one line"]),
    "twice": (lambda r: r.rows.append(row("p1")), ["mcts: problems without exactly one line"]),
    "foreign": (
        lambda r: r.rows.append(row("p9")),
        ["mcts: problems without exactly one line", "mcts: lines unlike an undisturbed run's"],
    ),
    "another answer": (lambda r: r.rows[0].update(answer="2"), ["mcts: lines unlike an undisturbed run's"]),
    "an error": (lambda r: r.rows[0].update(error="poison"), ["mcts: lines unlike an undisturbed run's"]),
    "stuck": (lambda r: setattr(r, "ended", 200.0), ["mcts: longest time without a new line"]),
    "late": (lambda r: r.asked.update(p2=-200.0), ["mcts: longest time from asked to answered"]),
    "a leftover": (lambda r: r.faulty.append("scorer 7 outlived kill driver"), ["mcts: what must not be"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_fails_its_verdict(name: str) -> None:
    damage, expected = WRONG[name]
    record = healthy()
    damage(record)  # type: ignore[arg-type]
    assert failed(record) == expected


def test_slower_searches_at_the_end_fail_unless_a_fault_was_near() -> None:
    record = Record("mcts", began=0.0, closed=1200.0, ended=1200.0, around=[(200.0, 8, 0.5), (1000.0, 8, 0.5)])
    for k in range(1200):
        record.asked[f"p{k}"], record.answered[f"p{k}"] = k - 2.0, float(k)
        record.rows.append(row(f"p{k}", seconds=2.0 if k < 900 else 3.0))
    record.expected = {found["id"]: found for found in record.rows}
    slow = ["mcts: seconds of a search, median", "mcts: seconds of a search, p99"]
    assert failed(record) == slow
    record.faults = [(float(when), "kill driver") for when in range(890, 1200, 20)]
    assert failed(record) == []


def life(grown: float, seconds: float = WARM + LONG + 100) -> Life:
    """Samples each 10 s of a process that grows by so many MB and descriptors an hour, and by 50 of each before it is warm."""
    return [
        (t, Usage(100 + min(t, WARM) / WARM * 50 + grown * t / 3600, int(40 + grown * t / 3600), 20, t / 10))
        for t in map(float, range(0, int(seconds), 10))
    ]


def states(lives: list[Life]) -> dict[str, bool | None]:
    return {verdict.what: verdict.well for verdict in growth("driver", lives)}


def test_growth_is_told_within_lives_that_are_warm() -> None:
    megabytes, descriptors, threads = (f"driver: {name} an hour" for name in ("megabytes", "descriptors", "threads"))
    assert states([life(0.0), life(0.0)]) == {megabytes: True, descriptors: True, threads: True}
    assert states([life(0.0), life(60.0), life(60.0)]) == {megabytes: False, descriptors: False, threads: True}
    assert states([life(60.0, WARM + LONG - 20)]) == {"driver": None}, "too short to tell"


def test_the_common_slope_of_curves_that_begin_anywhere() -> None:
    found, error = slope([[(x, 5 + 2 * x) for x in (0.0, 1.0, 2.0)], [(x, 90 + 2 * x) for x in (4.0, 5.0)]])
    assert found == pytest.approx(2) and error == pytest.approx(0)


def test_the_table_marks_what_failed() -> None:
    assert str(Verdict("memory", "+9", "< 1", False)).startswith("FAILED memory") and "goal: < 1" in str(
        Verdict("a", "b", "< 1")
    )


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_a_process_holds_is_seen_while_it_lives() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in family(os.getpid())
        held = usage(child.pid)
        assert held is not None and held.descriptors >= 3 and held.threads == 1 and 1 < held.megabytes < 1000
    finally:
        child.kill()
        child.wait()
        assert child.stdin is not None
        child.stdin.close()
    assert usage(child.pid) is None and child.pid not in family(os.getpid())
