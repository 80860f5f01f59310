"""A run's folder: its keys, its sums, and how it is resumed."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest

import treesearch as ts
from tests.specs import Calls, KeyedProposer, KeyedScorer, install
from treesearch.config import Config, load
from treesearch.errors import ConfigError, RunError
from treesearch.progress import PlainProgress
from treesearch.results import Tally, wilson
from treesearch.run import run
from treesearch.store import Store

LINE = {"id", "question", "reference", "answer", "correct", "score", "text", "candidates", "tokens", "expansions"}
LINE |= {"seconds", "stopped", "error", "seed"}
SUMMARY = {"problems", "correct", "accuracy", "accuracy_ci95", "oracle_accuracy", "tokens_generated", "tokens_scored"}
SUMMARY |= {"tokens_wasted", "expansions", "seconds", "tokens_per_second", "prefix_hit_rate", "version", "labels"}


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """Six problems; the second has no reference."""
    path = tmp_path / "set.jsonl"
    rows = [
        {"id": f"p{k}", "question": f"question {k}", **({} if k == 1 else {"answer": str(k % 3)})} for k in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(asked: Path, *more: str) -> Config:
    return load(None, [f"problems={asked}", "task=plain", "search={type: sample, n: 5}", *more])


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def results(out: Path) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in lines(out)]


def test_a_run_writes_the_exact_keys_and_sums_that_agree(asked: Path, tmp_path: Path):
    summary = asyncio.run(run(config(asked), tmp_path / "out"))
    rows = lines(tmp_path / "out")
    assert [row["id"] for row in rows] == [f"p{k}" for k in range(6)]
    assert all(set(row) == LINE for row in rows)
    assert set(summary) == SUMMARY == set(json.loads((tmp_path / "out" / "summary.json").read_text()))
    assert rows[1]["correct"] is None and all(c["correct"] is None for c in rows[1]["candidates"])
    for row in rows:
        assert row["tokens"]["generated"] == sum(c["tokens"] for c in row["candidates"])
        assert set(row["candidates"][0]) == {"answer", "text", "score", "outcome", "correct", "tokens"}
    assert summary["correct"] == sum(row["correct"] is True for row in rows)
    assert summary["tokens_generated"] == sum(row["tokens"]["generated"] for row in rows)
    assert summary["labels"] == ["SIMULATED"] and summary["oracle_accuracy"] >= summary["accuracy"]


def test_a_finished_folder_is_left_as_it_is(asked: Path, tmp_path: Path):
    first = asyncio.run(run(config(asked), tmp_path / "out"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*")}
    built = Calls.built
    assert asyncio.run(run(config(asked), tmp_path / "out")) == first
    assert Calls.built == built
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.*")} == before


@pytest.mark.parametrize("k", [1, 7, 20])
def test_an_interrupted_run_resumes_to_the_results_of_a_whole_one(
    asked: Path, tmp_path: Path, k: int, monkeypatch: pytest.MonkeyPatch
):
    asyncio.run(run(config(asked), tmp_path / "whole"))
    monkeypatch.setattr(Calls, "asked", 0)
    monkeypatch.setattr(Calls, "interrupt_after", k)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(run(config(asked), tmp_path / "out"))
    monkeypatch.setattr(Calls, "interrupt_after", None)
    asyncio.run(run(config(asked), tmp_path / "out"))
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_a_line_cut_short_is_made_anew_and_a_whole_one_kept(asked: Path, tmp_path: Path):
    out = tmp_path / "out"
    asyncio.run(run(config(asked), out))
    before, text = results(out), (out / "results.jsonl").read_text()
    (out / "results.jsonl").write_text(text[: text.index("\n") + 20])
    calls = Calls.asked
    asyncio.run(run(config(asked), out))
    assert results(out) == before
    assert Calls.asked == calls, "the journal has the replies"


def test_a_raised_limit_searches_only_what_is_new(asked: Path, tmp_path: Path):
    asyncio.run(run(config(asked, "limit=2"), tmp_path / "out"))
    first = lines(tmp_path / "out")
    asyncio.run(run(config(asked), tmp_path / "out"))
    assert lines(tmp_path / "out")[:2] == first and len(lines(tmp_path / "out")) == 6


def test_a_folder_of_another_run_is_refused_naming_the_keys_that_differ(asked: Path, tmp_path: Path):
    asyncio.run(run(config(asked), tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"search\.n: 5 there, 6 here.*use another --out"):
        asyncio.run(run(config(asked, "search.n=6"), tmp_path / "out"))


def test_a_changed_question_under_an_old_id_is_refused(asked: Path, tmp_path: Path):
    asyncio.run(run(config(asked), tmp_path / "out"))
    asked.write_text(asked.read_text().replace("question 3", "question three"))
    with pytest.raises(ConfigError, match="'p3' with another question"):
        asyncio.run(run(config(asked), tmp_path / "out"))


def test_a_folder_in_use_is_refused(asked: Path, tmp_path: Path):
    store = Store.open(tmp_path / "out" / "run.db", "x")
    with pytest.raises(RunError, match="in use"):
        asyncio.run(run(config(asked), tmp_path / "out"))
    store.close()


def test_no_finished_leaf_is_a_wrong_answer_and_unknown_without_reference(asked: Path, tmp_path: Path):
    summary = asyncio.run(run(config(asked, "proposer.failures=1"), tmp_path / "out"))
    rows = lines(tmp_path / "out")
    assert [row["correct"] for row in rows] == [False, None, False, False, False, False]
    assert all(row["answer"] is None and row["candidates"] == [] for row in rows)
    assert summary["accuracy"] == 0 and summary["problems"] == 6


def test_an_unknown_count_makes_its_sum_unknown_never_zero():
    row = {"correct": True, "candidates": [], "tokens": {"generated": None, "scored": 3, "wasted": 0}, "expansions": 1}
    tally = Tally()
    tally.add(row)
    summary = tally.summary(1.0, [])
    assert (
        summary["tokens_generated"] is None and summary["tokens_per_second"] is None and summary["tokens_scored"] == 3
    )


def test_the_wilson_interval_has_the_published_value():
    low, high = wilson(4, 100)
    assert math.isclose(low, 0.01566, abs_tol=1e-4) and math.isclose(high, 0.09837, abs_tol=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_plain_line_comes_every_ten_seconds_and_says_what_is_left():
    now = [0.0]
    said: list[str] = []
    progress = PlainProgress(said.append, lambda: now[0])
    progress.start(4, 0, 0, ["ORACLE"])
    progress.answered({"correct": True})
    stats = type("Stats", (), {"expansions": 50, "generated": 1000})()
    for now[0] in (5.0, 10.0, 11.0):
        progress.tick(stats)
    assert said == ["ORACLE | 1/4 problems | accuracy 100.0 % | 5 expansions/s | 100 tokens/s | 30 s left"]


def test_solve_answers_in_the_order_asked():
    answers = ts.solve(["a", ts.Problem("x", "b", "1")], ts.Sample(n=3), KeyedProposer(), KeyedScorer(), task="plain")
    assert [a.problem.id for a in answers] == ["line-1", "x"]
    assert all(len(a.candidates) == 3 for a in answers)


def test_solve_inside_a_loop_says_what_to_use():
    async def inside() -> None:
        ts.solve(["a"], task="plain")

    with pytest.raises(ConfigError, match=r"ts\.Engine"):
        asyncio.run(inside())
