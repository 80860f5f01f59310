"""MCTS: early ends, exhaustion, caps, merging, bounds of what is in flight."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from tests.algorithms.driver import Expander, FakeModel, check_statistics, run
from treesearch.algorithms import MCTS, Widening
from treesearch.algorithms.mcts import Simulations
from treesearch.tree import ROOT, Tree
from treesearch.types import Expansion, Step


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
        assert tree.held[ROOT] == sum(1 if search.rollouts else w.n or 1 for w in outstanding)
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


def test_what_is_in_flight_below_a_node_that_widens_goes_on() -> None:
    """The root is asked for more children and its children are grown meanwhile; a new leaf is waited for."""
    tree = Tree(0)
    search = MCTS(parallel=16)
    generator, expander = search.search(tree), Expander(tree, FakeModel(letters=26, depth=9))
    (first,) = next(generator)
    wishes = generator.send(expander.reply(first))
    leaves = [wish.leaf for wish in wishes]
    assert leaves.count(ROOT) == 1
    assert sorted({*leaves} - {ROOT}) == [node for node in tree.children[ROOT] if tree.is_open(node)]
    assert len({*leaves}) == len(leaves) > 4


def test_what_a_rollout_left_below_a_leaf_is_not_selected_before_the_leaf_is_expanded() -> None:
    for seed in range(5):
        tree = Tree(seed)
        run, expander = Simulations(plain(parallel=16), tree), Expander(tree, FakeModel(letters=26, depth=9))
        generator = run.run()
        outstanding = deque(next(generator))
        while outstanding:
            try:
                new = generator.send(expander.reply(outstanding.popleft()))
            except StopIteration:
                break
            assert all(tree.parent[wish.leaf] in run.expanded for wish in new if wish.until == "step")
            outstanding += new


def test_visits_in_flight_are_those_that_the_replies_bring() -> None:
    tree = Tree(0)
    generator, expander = (
        plain(rollouts=0, parallel=2, merge=False).search(tree),
        Expander(tree, FakeModel(letters=26, depth=9)),
    )
    wishes = next(generator)
    assert (len(wishes), tree.held[ROOT]) == (1, 4)
    wishes = generator.send(expander.reply(wishes[0]))
    assert (tree.visits[ROOT], tree.held[ROOT], [tree.held[wish.leaf] for wish in wishes]) == (4, 8, [4, 4])


def most_in_flight(search: MCTS) -> list[int]:
    """The largest number of wishes in flight after each reply, replies in the order of the wishes."""
    tree = Tree(0)
    generator, expander = search.search(tree), Expander(tree, FakeModel(letters=26, depth=99))
    outstanding, most = deque(next(generator)), list[int]()
    while outstanding:
        try:
            outstanding += generator.send(expander.reply(outstanding.popleft()))
        except StopIteration:
            break
        most.append(len(outstanding))
    return most


def test_without_rollouts_more_than_eight_fly_only_once_twice_as_many_have_ended() -> None:
    few, many = (most_in_flight(MCTS(simulations=128, parallel=k)) for k in (8, 16))
    assert max(few) == 8
    assert many.index(8) < 16
    assert all(flying <= max(8, ended // 2) for ended, flying in enumerate(many, 1))
    assert many[31] == max(many) == 16


def test_with_rollouts_all_fly_from_the_start() -> None:
    assert most_in_flight(plain(simulations=128, parallel=16)).index(16) < 31


def in_flight(score: float | None, **given: Any) -> Simulations:
    """Two children: one visited with 0.9 and 0.7, and with two visits in flight, its sibling with 0.3."""
    tree = Tree(0)
    tree.grow(Expansion(ROOT, ((Step("a", score=score),), (Step("b", score=score),), (Step("c", score=score),))))
    for child, value in ((1, 0.9), (1, 0.7), (2, 0.3)):
        tree.backup(child, value)
    tree.hold(1, 2)
    return Simulations(plain(**given), tree)


def test_a_visit_in_flight_counts_as_the_mean_of_the_parent_or_as_a_virtual_loss() -> None:
    mean = 1.9 / 3
    assert in_flight(None).q(ROOT, [1, 2]) == pytest.approx([(1.6 + 2 * mean) / 4, 0.3])
    assert in_flight(None, virtual_loss=-1.0).q(ROOT, [1, 2]) == pytest.approx([(1.6 - 2) / 4, 0.3])
    assert in_flight(None, backup="max").q(ROOT, [1, 2]) == [0.9, 0.3]
    assert in_flight(None, rollouts=0).q(ROOT, [1, 2]) == pytest.approx([0.8, 0.3])
    assert in_flight(None).observed([1, 2]) == pytest.approx([0.8, 0.3])


@pytest.mark.parametrize(("score", "value"), [(None, 1.9 / 3), (0.5, (0.5 + 1.9 / 3) / 2)])
def test_before_the_first_visit_a_step_score_counts_as_one(score: float | None, value: float) -> None:
    run = in_flight(score)
    run.tree.hold(3)
    assert run.q(ROOT, [3]) == pytest.approx([value])
