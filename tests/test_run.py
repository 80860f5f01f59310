"""A run's folder: its keys, its sums, and how it is resumed."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

import treesearch as ts
from tests.specs import Calls, KeyedProposer, KeyedScorer, install
from treesearch.config import Config, load
from treesearch.errors import ConfigError, ProblemError, RunError
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
    for correct, total in ((0, 1), (1, 1), (0, 500), (500, 500), (3, 7), (99, 100)):
        theirs = binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
        assert wilson(correct, total) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


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


# Problem sets as streams


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch):
    """Standard input as a pipe: the end to write to."""
    reading, writing = os.pipe()
    monkeypatch.setattr("sys.stdin", os.fdopen(reading))
    yield writing
    with suppress(OSError):
        os.close(writing)


def feed_at_once(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, file.read_bytes())
    os.close(writing)
    monkeypatch.setattr("sys.stdin", os.fdopen(reading))


def streamed(*more: str) -> Config:
    return load(None, ["problems=-", "task=plain", "search={type: sample, n: 5}", *more])


def test_a_file_is_checked_to_its_end_before_anything_begins(asked: Path, tmp_path: Path):
    asked.write_text(asked.read_text() + "{oops\n")
    with pytest.raises(ProblemError, match=":7: not JSON"):
        asyncio.run(run(config(asked), tmp_path / "out"))
    assert not (tmp_path / "out").exists() and Calls.built == 0


def test_standard_input_gives_the_results_of_a_file(asked: Path, tmp_path: Path, pipe: int):
    whole = asyncio.run(run(config(asked), tmp_path / "whole"))
    os.write(pipe, asked.read_bytes())
    os.close(pipe)
    summary = asyncio.run(run(streamed(), tmp_path / "out"))
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    varies = {"seconds", "tokens_per_second"}
    assert {k: v for k, v in summary.items() if k not in varies} == {k: v for k, v in whole.items() if k not in varies}


def test_problems_that_have_come_are_answered_while_the_next_is_awaited(asked: Path, tmp_path: Path, pipe: int):
    said: list[str] = []
    total: list[int | None] = []

    class Feeding(PlainProgress):
        """Writes a problem once the one before has its line."""

        def start(self, total_: int | None, *more: Any) -> None:
            total.append(total_)
            super().start(total_, *more)

        def answered(self, row: Any) -> None:
            super().answered(row)
            said.append(row["id"])
            if rest:
                os.write(pipe, rest.pop(0))
            else:
                os.close(pipe)

    first, *rest = asked.read_bytes().splitlines(keepends=True)
    os.write(pipe, first)
    summary = asyncio.run(asyncio.wait_for(run(streamed(), tmp_path / "out", Feeding(said.append)), 20))
    assert said == [f"p{k}" for k in range(6)] and summary["problems"] == 6
    assert total == [None]


def test_a_bad_row_of_a_stream_ends_the_run_which_goes_on_once_it_is_mended(
    asked: Path, tmp_path: Path, pipe: int, monkeypatch: pytest.MonkeyPatch
):
    asyncio.run(run(config(asked), tmp_path / "whole"))
    each = Calls.asked / 6
    good = asked.read_bytes().splitlines(keepends=True)

    def feed() -> None:
        os.write(pipe, b"".join(good[:3]))
        while not (tmp_path / "out/results.jsonl").exists() or len(lines(tmp_path / "out")) < 3:
            time.sleep(0.01)
        os.write(pipe, b"{oops\n" + good[4])

    threading.Thread(target=feed, daemon=True).start()
    with pytest.raises(RunError, match=r"<stdin>:4: not JSON.*what is done is kept"):
        asyncio.run(asyncio.wait_for(run(streamed(), tmp_path / "out"), 20))
    assert results(tmp_path / "out") == results(tmp_path / "whole")[:3]
    assert json.loads((tmp_path / "out/summary.json").read_text())["problems"] == 3
    calls = Calls.asked
    feed_at_once(monkeypatch, asked)
    asyncio.run(run(streamed(), tmp_path / "out"))
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert Calls.asked == calls + 3 * each, "the first three are not searched again"


def test_a_bad_first_row_of_a_stream_is_bad_usage_and_makes_no_folder(tmp_path: Path, pipe: int):
    os.write(pipe, b"{oops\n")
    with pytest.raises(ProblemError, match="<stdin>:1"):
        asyncio.run(run(streamed(), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_stream_of_which_all_is_done_builds_no_model(asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    summaries = []
    for _ in range(2):
        feed_at_once(monkeypatch, asked)
        built = Calls.built
        summaries.append(asyncio.run(run(streamed(), tmp_path / "out")))
    assert summaries[0] == summaries[1] and Calls.built == built


def test_a_lower_limit_leaves_the_lines_it_asks_for(asked: Path, tmp_path: Path):
    asyncio.run(run(config(asked), tmp_path / "out"))
    first = lines(tmp_path / "out")[:2]
    summary = asyncio.run(run(config(asked, "limit=2"), tmp_path / "out"))
    assert lines(tmp_path / "out") == first and summary["problems"] == 2
    assert summary["correct"] == sum(row["correct"] is True for row in first)


def test_a_line_without_a_total_says_what_is_done():
    progress = PlainProgress(lambda text: None, lambda: 10.0)
    progress.start(None, 3, 3, [])
    progress.answered({"correct": False})
    assert progress.line().startswith("4 problems | accuracy 75.0 %") and progress.line().endswith("time left unknown")


def peak_memory(pid: int) -> float:
    """The most memory of a program, in MB. Its ru_maxrss would not do: that counts the parent it was forked from."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0  # a zombie has none


@pytest.mark.slow
@pytest.mark.alone
def test_a_hundred_thousand_problems_start_in_seconds_and_stay_in_little_memory(tmp_path: Path):
    """Simulated models; time and memory of a process of its own."""
    path, out, count = tmp_path / "set.jsonl", tmp_path / "out", 100_000
    with open(path, "w") as file:
        file.writelines(
            f'{{"id": "p{k}", "question": "question {k} {"x" * 200}", "answer": "1"}}\n' for k in range(count)
        )
    sets = [f"problems={path}", "task=plain", "search={type: sample, n: 1}", "proposer={type: simulated, steps: 1}",
            "scorer=none", "answer.rule=majority"]  # fmt: skip
    command = [sys.executable, "-m", "treesearch", "run", "--out", str(out), *(a for s in sets for a in ("--set", s))]
    begun, first, peak = time.monotonic(), math.inf, 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if first == math.inf and (out / "results.jsonl").exists() and (out / "results.jsonl").stat().st_size:
            first = time.monotonic() - begun
        peak = max(peak, peak_memory(process.pid))
        time.sleep(0.02)
    spent = time.monotonic() - begun
    print(f"first line after {first:.1f} s, all after {spent:.0f} s, at most {peak:.0f} MB")
    assert process.returncode == 0
    assert first < 9  # 3 where nothing else runs
    assert spent < 180
    assert peak < 500
    with open(out / "results.jsonl") as found:
        assert all(json.loads(line)["id"] == f"p{k}" for k, line in enumerate(found))
    assert json.loads((out / "summary.json").read_text())["problems"] == count


def test_solve_answers_in_the_order_asked():
    answers = ts.solve(["a", ts.Problem("x", "b", "1")], ts.Sample(n=3), KeyedProposer(), KeyedScorer(), task="plain")
    assert [a.problem.id for a in answers] == ["line-1", "x"]
    assert all(len(a.candidates) == 3 for a in answers)


def test_solve_takes_a_problem_set_with_its_columns(tmp_path: Path):
    (tmp_path / "set.csv").write_text("what,gold\na,1\nb,2\n")
    found = ts.solve(str(tmp_path / "set.csv"), ts.Sample(n=3), KeyedProposer(), KeyedScorer(), task="plain",
                     fields=ts.Fields(question="what", answer="gold"))  # fmt: skip
    assert [a.problem for a in found] == [ts.Problem("line-2", "a", "1"), ts.Problem("line-3", "b", "2")]


def test_solve_inside_a_loop_says_what_to_use():
    async def inside() -> None:
        ts.solve(["a"], task="plain")

    with pytest.raises(ConfigError, match=r"ts\.Engine"):
        asyncio.run(inside())
