"""MCTS: early ends, exhaustion, caps, merging, bounds of what is in flight."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from tests.algorithms.driver import Expander, FakeModel, check_statistics, run
from treesearch.algorithms import MCTS, Widening
from treesearch.tree import ROOT, Tree


def plain(**given: Any) -> MCTS:
    """Textbook parameters: four children, a rollout each, no widening."""
    return MCTS(**{"branch": 4, "c": 1.4, "rollouts": 1, "max_children": 8, "widening": None} | given)


VARIANTS = [
    MCTS(),
    plain(),
    plain(rollouts=0),
    plain(rollouts=3, parallel=3),
    plain(selection="puct", backup="max"),
    plain(virtual_loss=0.0, parallel=16),
    plain(widening=Widening(1.0, 0.5)),
    plain(branch=None, merge=True),
    plain(merge=False, branch=2, max_children=3),
    plain(rollouts=9, value={"steps": 0.5, "outcome": 0.5}),
]


@pytest.mark.parametrize("search", VARIANTS)
@pytest.mark.parametrize("failures", [0.0, 0.05, 0.6])
def test_it_ends_early_only_if_no_open_leaf_exists(search: MCTS, failures: float) -> None:
    early = 0
    for seed in range(10):
        model = FakeModel(letters=2 + seed % 3, depth=2 + seed % 3, failures=failures)
        tree = run(MCTS(**{**vars(search), "simulations": 400}), model, seed)
        check_statistics(tree)
        wishes = count(search, model, seed, simulations=400)
        if wishes < 400:
            early += 1
            leaves = [node for node in range(len(tree)) if not tree.children[node] and tree.is_open(node)]
            assert not leaves, f"open leaves {leaves} at the end"
            if search.branch is not None:
                room = [n for n in range(len(tree)) if tree.is_open(n) and len(tree.children[n]) < search.max_children]
                assert not room, f"{room} may have more children"
    assert early


def count(search: MCTS, model: FakeModel, seed: int, simulations: int) -> int:
    """Simulations begun: first wishes for a step, those asked again after a failure left out."""
    tree = Tree(seed)
    expander = Expander(tree, model)
    generator = MCTS(**{**vars(search), "simulations": simulations}).search(tree)
    outstanding, begun, leaves = deque(next(generator)), 0, 0
    begun = len(outstanding)
    while outstanding:
        wish = outstanding.popleft()
        reply = expander.reply(wish)
        again = reply.error is not None and tree.failures[wish.leaf] < 2
        try:
            new = generator.send(reply)
        except StopIteration:
            break
        outstanding += new
        begun += sum(w.until == "step" for w in new) - (again and wish.until == "step")
        leaves = len({w.leaf for w in outstanding})
        assert leaves <= search.parallel
        assert tree.held[ROOT] == len(outstanding)
    return begun


@pytest.mark.parametrize("search", VARIANTS)
def test_it_closes_with_nothing_held_at_any_resume(search: MCTS) -> None:
    small = MCTS(**{**vars(search), "simulations": 12})
    for resumes in range(25):
        check_statistics(run(small, FakeModel(failures=0.3), resumes=resumes))


def test_all_simulations_run_where_the_tree_is_large() -> None:
    assert count(plain(), FakeModel(letters=26, depth=9), 0, simulations=64) == 64


def test_no_node_has_more_than_max_children() -> None:
    for search in (plain(simulations=300), plain(simulations=300, widening=Widening(2.0, 0.9))):
        tree = run(search, FakeModel(letters=26, depth=3))
        assert 4 < max(len(children) for children in tree.children) <= search.max_children


def test_equal_open_siblings_are_merged() -> None:
    tree = run(plain(simulations=200), FakeModel(letters=2, depth=4))
    for children in tree.children:
        texts = [
            tree.path(child)[-1].text for child in children if tree.finish(child) == "step" and tree.is_open(child)
        ]
        assert len(texts) == len(set(texts))


def test_finished_leaves_of_an_expansion_are_visited_once() -> None:
    tree = run(plain(simulations=1, branch=3, merge=False), FakeModel(depth=1))
    assert [tree.visits[node] for node in tree.children[ROOT]] == [1, 1, 1]


def test_a_visit_in_flight_counts_as_a_virtual_loss() -> None:
    from treesearch.algorithms.mcts import Simulations

    tree = run(plain(simulations=1, rollouts=0, branch=1, merge=False), FakeModel())
    tree.hold(1)
    value = tree.mean(1)
    assert Simulations(plain(), tree).q(1) == value
    assert Simulations(plain(virtual_loss=-1.0), tree).q(1) == pytest.approx((value - 1) / 2)
