"""Sweeps: every combination once, models shared, rows sorted by tokens."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.specs import Calls, install
from treesearch.cli import app
from treesearch.errors import ConfigError
from treesearch.sweep import load


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    Path("set.jsonl").write_text("".join(json.dumps({"question": f"q{k}", "answer": "1"}) + "\n" for k in range(3)))


def sweep_file(searches: str, more: str = "") -> Path:
    path = Path("sweep.yaml")
    path.write_text(f"base: {{problems: set.jsonl, task: plain}}\nsearches: {searches}\n{more}")
    return path


def test_searches_budgets_and_seeds_are_multiplied_and_models_built_once():
    path = sweep_file("[{type: sample, n: 4}, {name: greedy, search: {type: sample, n: 1}, answer: {rule: majority}}]",
                      "budgets: [null, 40]\nseeds: [0, 1]\n")  # fmt: skip
    done = CliRunner().invoke(app, ["sweep", str(path), "--out", "o"])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(Path("o/sweep.csv").read_text().splitlines()))
    assert len(rows) == 8 and Calls.built == 1
    assert {row["name"] for row in rows} == {"sample n=4", "greedy"}
    tokens = [float(row["tokens_generated"]) for row in rows]
    assert tokens == sorted(tokens)
    assert all(float(row["tokens_generated"]) <= 40 for row in rows if row["budget"] == "40")
    assert "greedy" in done.stdout and "SIMULATED" in done.stdout
    asked = Calls.asked
    assert CliRunner().invoke(app, ["sweep", str(path), "--out", "o"]).exit_code == 0
    assert Calls.asked == asked


def test_an_entry_changes_the_type_of_the_base_search():
    Path("base.yaml").write_text("task: plain\nsearch: {type: sample, n: 9}\n")
    Path("sweep.yaml").write_text("base: base.yaml\nsearches: [beam, sample]\n")
    beam, sample = load(Path("sweep.yaml"))
    assert type(beam.config.search).__name__ == "Beam" and beam.folder == "beam-seed0"
    assert sample.config.search.n == 9


@pytest.mark.parametrize(
    "text, part",
    [
        ("searches: []", "searches = "),
        ("search: [beam]", "did you mean searches?"),
        ("searches: [beam, beam]", "give each search its own `name`"),
        ("searches: [{type: beam, brunch: 2}]", "search.brunch"),
        ("searches: [3]", "must be a type such as beam"),
        ("searches: [beam]\nbudgets: [0]", "budget.tokens = 0"),
        ("searches: [beam]\nbase: 3", "base = 3"),
        ("searches: [beam, sample]\nbase: {problems: '-'}", "standard input can be read once"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_anything_runs(text: str, part: str):
    Path("sweep.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(Path("sweep.yaml"))
    assert part in str(caught.value)
