"""The table of nodes by itself: growth, statistics and views at their edges."""

from __future__ import annotations

import numpy as np
import pytest

from treesearch.algorithms.base import Wishes
from treesearch.manager import Budget, Manager
from treesearch.tree import ROOT, TRIES, Tree
from treesearch.types import Expand, Expansion, Problem, Step

PROBLEM = Problem("p", "question", "1")


def step(text: str = "a\n", tokens: int | None = 3, finish: str = "step", **more: object) -> Step:
    return Step(text, tokens=tokens, finish=finish, **more)  # type: ignore[arg-type]


def test_a_reply_without_a_chain_closes_its_leaf_at_once_an_error_at_the_third_in_a_row():
    tree = Tree()
    (leaf, other) = tree.grow(Expansion(ROOT, ((step(),), (step(),))))
    assert tree.grow(Expansion(leaf, ())) == [] and not tree.is_open(leaf)
    for failed in range(TRIES):
        assert tree.is_open(other), failed
        tree.grow(Expansion(other, error="injected"))
    assert not tree.is_open(other)


def test_an_answer_between_two_errors_begins_the_count_anew():
    tree = Tree()
    for expansion in (Expansion(ROOT, error="a"), Expansion(ROOT, error="b"), Expansion(ROOT, ((step(),),))):
        tree.grow(expansion)
    tree.grow(Expansion(ROOT, error="c"))
    assert tree.is_open(ROOT) and tree.failures[ROOT] == 1


@pytest.mark.parametrize(("counts", "total"), [((3, 4), 7), ((3, None), None), ((), 0)])
def test_tokens_are_of_all_nodes_and_unknown_once_one_is(counts: tuple[int | None, ...], total: int | None):
    tree = Tree()
    tree.grow(Expansion(ROOT, tuple((step(tokens=count),) for count in counts)))
    assert tree.tokens() == total


def test_the_view_has_a_node_for_each_step_and_leaves_out_what_is_unknown():
    tree = Tree()
    (leaf,) = tree.grow(Expansion(ROOT, ((step("a\n", score=0.5), step("b", finish="answer", answer="1")),)))
    tree.backup(leaf, 0.5)
    graph = tree.view()
    assert list(graph.edges) == [(0, 1), (1, 2)] and graph.nodes[0] == {
        "depth": 0,
        "visits": 1,
        "total": 0.5,
        "closed": False,
    }
    assert graph.nodes[2]["answer"] == "1" and graph.nodes[2]["closed"] and "score" not in graph.nodes[2]
    assert graph.nodes[1]["score"] == 0.5 and graph.nodes[1]["tokens"] == 3


class Waits:
    """A search that wishes for nothing."""

    def search(self, tree: Tree) -> Wishes:
        yield []


class Once:
    def search(self, tree: Tree) -> Wishes:
        tree.grow((yield [Expand(ROOT, n=1, until="answer")]))


def test_a_search_that_waits_for_nothing_ends_with_its_name():
    manager = Manager(Waits())
    assert manager.open(PROBLEM, 0.0).ended
    answer = manager.answer("p", 1.0)
    assert answer.stopped == "error" and answer.error == "Waits waits without an outstanding wish"


def test_a_budget_of_tokens_needs_counts():
    manager = Manager(Once(), budget=Budget(tokens=100))
    (job,) = manager.open(PROBLEM, 0.0).jobs
    assert manager.deliver(job.id, Expansion(ROOT, ((step(tokens=None, finish="answer", answer="1"),),)), 1.0).ended
    assert "needs token counts" in (manager.answer("p", 1.0).error or "")


def test_a_problem_that_nobody_searches_is_no_trouble():
    manager = Manager(Once())
    manager.waste("p", 5)
    assert manager.cancel("p", "cancelled") == manager.deliver("p/0", Expansion(ROOT), 0.0)


def test_values_of_any_kind_are_kept_as_floats() -> None:
    tree = Tree()
    children = tree.grow(Expansion(ROOT, ((Step("a"),), (Step("b"),))))
    tree.backup(children[0], np.float32(0.5))
    tree.backup_children(ROOT, children, [np.float32(0.1), 1])
    assert {type(value) for column in (tree.total, tree.best) for value in column} == {float}
