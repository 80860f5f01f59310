"""What every search keeps: golden trees, clean closing at any resume, statistics, failures, parameters in range."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.algorithms.driver import FakeModel, check_statistics, replies, run
from tests.algorithms.make_golden import FOLDER, SMALL, table
from treesearch.algorithms import SEARCHES
from treesearch.errors import ConfigError


@pytest.mark.parametrize("name", SMALL)
def test_the_tree_is_the_golden_one(name: str) -> None:
    assert table(run(SMALL[name])) == json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("failures", [0.0, 0.05, 0.6, 1.0])
def test_the_search_ends_whole_with_failures(name: str, failures: float) -> None:
    for seed in range(5):
        tree = run(SMALL[name], FakeModel(failures=failures), seed)
        check_statistics(tree)
        assert failures < 1.0 or len(tree) == 1


@pytest.mark.parametrize("name", SMALL)
def test_the_search_closes_cleanly_at_any_resume(name: str) -> None:
    whole = table(run(SMALL[name]))
    for resumes in range(replies(SMALL[name])):
        tree = run(SMALL[name], resumes=resumes)
        check_statistics(tree)
        assert [row[3] for row in table(tree)] == [row[3] for row in whole[: len(tree)]]


@pytest.mark.parametrize("name", sorted({*SMALL} - {"sample"}))
def test_the_search_ends_on_a_tree_of_one_letter(name: str) -> None:
    """Every sibling is a duplicate."""
    check_statistics(run(SMALL[name], FakeModel(letters=1)))


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("sample", "n", 0), ("sample", "parallel", 0), ("sample", "stop", "maybe"), ("beam", "beams", 0),
        ("beam", "branch", 0), ("beam", "lookahead", -1), ("beam", "aggregate", "outcome"), ("dvts", "subtrees", 0),
        ("rebase", "width", 0), ("rebase", "temperature", 0.0), ("particles", "n", 0), ("particles", "temperature", 0.0),
        ("best_first", "expansions", 0), ("ab_mcts", "simulations", 0), ("ab_mcts", "unit", "token"),
        ("ab_mcts", "prior", "flat"), ("mcts", "simulations", 0), ("mcts", "parallel", 0), ("mcts", "branch", 0),
        ("mcts", "c", -1.0), ("mcts", "rollouts", -1), ("mcts", "selection", "ucb"), ("mcts", "backup", "min"),
        ("mcts", "value", {"steps": 0.4}), ("mcts", "value", {"step": 1.0}), ("sal_best_of_n", "n", 0),
        ("sal_beam", "n", 0), ("sal_beam", "aggregate", "mean"), ("sal_dvts", "n", 6), ("sal_dvts", "lookahead", -1),
        ("openr_mcts", "width", 0), ("openr_mcts", "c_base", 0.0), ("tot_bfs", "steps", 0),
        ("tot_bfs", "method_select", "best"), ("tot_bfs", "method_evaluate", "judge"), ("its_particles", "n", 0),
        ("its_particles", "selection", "best"), ("its_particles", "aggregate", "sum"), ("its_beam", "n", 6),
    ],
)  # fmt: skip
def test_parameters_out_of_range_are_refused_by_name(kind: str, field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"search\.{field} = .*must be"):
        SEARCHES[kind](**{field: value})
