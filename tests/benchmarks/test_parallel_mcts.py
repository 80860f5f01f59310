"""The arithmetic of strength, trees whose values are known, and rivals that differ in what is in flight alone."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.known_trees import KnownTree, NoisyGame24, play, solved
from benchmarks.rivals import WUUCT, LeafBatch, VirtualLoss
from benchmarks.strength import effort, falling, interval, speedup
from tests.fakes import shape
from treesearch.algorithms.mcts import MCTS
from treesearch.answers import AnswerRule
from treesearch.tree import ROOT, Tree
from treesearch.types import Expansion, Problem, Step

GAME, MARKS = Problem("game", "game"), (8, 16, 32, 64)


def test_a_curve_that_rises_is_pooled() -> None:
    assert falling([4, 1, 3, 2, 0]).tolist() == [4, 2, 2, 2, 0]


def test_effort_is_read_off_between_marks_in_logarithms() -> None:
    curve = [0.8, 0.4, 0.2, 0.1]
    assert [effort(curve, MARKS, r) for r in (0.4, 0.2, 0.9, 0.01)] == pytest.approx([16, 32, 8, 64])
    assert effort(curve, MARKS, 0.4 / 2**0.5) == pytest.approx(16 * 2**0.5)


def test_speedup_is_k_times_the_share_of_rollouts_that_one_after_the_other_needs() -> None:
    sequential = np.array([[0.9, 0.5, 0.2, 0.1], [0.7, 0.3, 0.2, 0.1]])
    assert speedup(16, sequential, MARKS, np.array([0.1, 0.3]), 64) == pytest.approx(16 * 32 / 64)
    assert speedup(16, sequential, MARKS, np.array([0.1, 0.1]), 64) == pytest.approx(16)
    low, high = interval(lambda drawn: float(np.array([1.0, 3.0])[drawn].mean()), 2)
    assert (low, high) == (1.0, 3.0)


def test_the_regret_of_a_known_tree_is_what_the_most_visited_move_lacks() -> None:
    known = KnownTree(1, branching=3, depth=2)
    best = [max(known.ends[3 * move : 3 * move + 3]) for move in range(3)]
    assert known.moves == best
    tree = Tree()
    assert known.regret(tree) == pytest.approx(max(best) - sum(best) / 3)
    tree.grow(Expansion(ROOT, tuple((Step(str(move)),) for move in range(3))))
    for move in (0, 1, 1):
        tree.backup(tree.children[ROOT][move], 0.0)
    assert known.regret(tree) == max(best) - best[1]


@pytest.mark.parametrize("rival", [WUUCT, VirtualLoss, LeafBatch])
@pytest.mark.parametrize("rollouts", [0, 1])
def test_rivals_differ_only_where_something_is_in_flight(rival: type[MCTS], rollouts: int) -> None:
    known, grown, met = KnownTree(3, 4, 5), {}, {}
    for kind in (MCTS, rival):
        for k in (1, 8):
            search = kind(simulations=40, parallel=k, branch=None, rollouts=rollouts, widening=None)
            seen: list[Tree] = []
            end = play(search, GAME, known.reply, watch=lambda tree, _, seen=seen: seen.append(tree))
            grown[kind, k], met[kind, k] = shape(seen[-1]), end.met
    assert grown[MCTS, 1] == grown[rival, 1]
    same = rival is WUUCT and not rollouts  # only rollouts in flight count otherwise than there
    assert (grown[MCTS, 8] == grown[rival, 8]) is same
    assert (met[MCTS, 8], met[rival, 1]) == (0, 0)
    assert rival is VirtualLoss or (met[rival, 8] > 0) == (rival is LeafBatch)


def test_simulations_in_flight_take_less_time_and_find_the_best_move_of_a_clear_game() -> None:
    known = KnownTree(3, 4, 6, spread=2.0, noise=0.0)
    last: dict[int, Tree] = {}
    ends = {
        k: play(
            MCTS(simulations=128, parallel=k, branch=None, c=0.4, rollouts=1, widening=None),
            GAME,
            known.reply,
            watch=lambda tree, _, k=k: last.update({k: tree}),
        )
        for k in (1, 16)
    }
    assert ends[1].time == ends[1].jobs and ends[16].time < ends[16].jobs / 8
    assert known.regret(last[1]) == known.regret(last[16]) == 0


def test_a_scorer_without_noise_solves_a_puzzle_with_many_in_flight() -> None:
    """At 16 in flight 64 simulations reach the end of the puzzle, in few rounds."""
    problem = Problem("p", "4 9 10 13")
    ends = [play(MCTS(parallel=k), problem, NoisyGame24(0.0).reply, rule=AnswerRule("best")) for k in (1, 16)]
    assert all(solved(end.answer) for end in ends)
    assert (ends[0].time, ends[1].time) == (64, 7)
