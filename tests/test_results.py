"""results.jsonl: what is kept of an old one, how lines come into order, and that none of it is in memory."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from treesearch.errors import ConfigError
from treesearch.results import Results, Tally, read_rows
from treesearch.types import Problem, digest


def row(name: str, question: str = "q", **more: Any) -> dict[str, Any]:
    tokens = {"generated": 3, "scored": 2, "wasted": 1}
    return {"id": name, "question": question, "reference": None, "answer": "1", "correct": True, "score": 1.0, "text": "1",
            "candidates": [], "tokens": tokens, "expansions": 1, "seconds": 0.1, "stopped": "finished", "error": None,
            "seed": 0, **more}  # fmt: skip


def write(folder: Path, *lines: dict[str, Any] | str) -> None:
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / "results.jsonl").write_text(text)


def ids(folder: Path) -> list[str]:
    return [found["id"] for found in read_rows(folder)]


def order(*names: str) -> dict[int, int]:
    return {digest(name): line for line, name in enumerate(names, 1)}


def test_lines_are_appended_as_they_come_and_ordered_at_the_end(tmp_path: Path):
    names = [f"p{k}" for k in range(50)]
    shuffled = random.Random(0).sample(names, k=50)
    results = Results(tmp_path)
    results.open()
    for name in shuffled[:30]:
        results.append(row(name, text="ü" * len(name)))
    assert ids(tmp_path) == shuffled[:30], "a reader finds each line as soon as it is written"
    results.close(order(*names))
    assert ids(tmp_path) == sorted(shuffled[:30], key=names.index)
    again = Results(tmp_path)
    again.open()
    for name in shuffled[30:]:
        again.append(row(name))
    again.close(order(*names))
    assert ids(tmp_path) == names and len(again) == again.tally.problems == 50


def test_what_is_in_order_is_not_written_again(tmp_path: Path):
    write(tmp_path, row("a"), row("b"))
    before = (tmp_path / "results.jsonl").stat().st_ino
    results = Results(tmp_path)
    results.open()
    results.close(order("a", "b"))
    assert (tmp_path / "results.jsonl").stat().st_ino == before
    Results(tmp_path).close(order("b", "a"))
    assert ids(tmp_path) == ["b", "a"]


def test_what_is_no_line_of_a_finished_search_goes_before_the_first_is_appended(tmp_path: Path):
    cut = json.dumps(row("d"))
    write(
        tmp_path, row("a"), "{oops\n", row("b", stopped="cancelled"), row("a", question="twice"), "[1]\n", row("c"), cut
    )
    results = Results(tmp_path)
    assert len(results) == results.tally.problems == 2 and "a" in results and "b" not in results and "d" not in results
    results.open()
    results.append(row("b"))
    assert [(r["id"], r["question"]) for r in read_rows(tmp_path)] == [("a", "q"), ("c", "q"), ("b", "q")]


def test_lines_of_problems_that_are_not_asked_go_and_do_not_count(tmp_path: Path):
    write(tmp_path, row("a"), row("b", correct=False), row("c"))
    results = Results(tmp_path)
    results.keep(order("c", "b"))
    assert (results.tally.problems, results.tally.correct, len(results)) == (2, 1, 2)
    results.close(order("c", "b"))
    assert ids(tmp_path) == ["c", "b"]


def test_lines_of_problems_that_a_stream_did_not_reach_stay_behind_those_it_did(tmp_path: Path):
    write(tmp_path, row("x"), row("b"), row("a"), row("y"))
    results = Results(tmp_path)
    results.open()
    results.close(order("a", "b"))
    assert ids(tmp_path) == ["a", "b", "x", "y"]


def test_another_question_under_an_old_id_is_refused(tmp_path: Path):
    write(tmp_path, row("a", question="old"))
    results = Results(tmp_path)
    assert results.has(Problem("a", "old")) and not results.has(Problem("b", "old"))
    with pytest.raises(ConfigError, match="'a' with another question"):
        results.has(Problem("a", "new"))


def test_sums_are_those_of_the_lines_and_an_unknown_count_stays_unknown():
    tally = Tally()
    tally.add(row("a", correct=None, candidates=[{"correct": False}, {"correct": True}]))
    tally.add(row("b"))
    summary = tally.summary(2.0, ["ORACLE"], 0.5)
    assert (summary["problems"], summary["correct"], summary["oracle_accuracy"]) == (2, 1, 1.0)
    assert (summary["tokens_generated"], summary["tokens_per_second"], summary["prefix_hit_rate"]) == (6, 3.0, 0.5)
    tally.add(row("c", tokens={"generated": 1, "scored": None, "wasted": 0}))
    tally.add(row("d"))
    assert (tally.generated, tally.scored, tally.wasted) == (10, None, 3)
