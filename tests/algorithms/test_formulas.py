"""Formulas of the searches against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from treesearch.algorithms.ab_mcts import _Node, beta, gaussian, observe
from treesearch.algorithms.base import softmax
from treesearch.algorithms.mcts import allowed
from treesearch.algorithms.mcts_values import puct, uct
from treesearch.algorithms.particles import logit
from treesearch.algorithms.rebase import allocation
from treesearch.algorithms.sample import certain
from treesearch.answers import posterior


def test_uct_is_q_plus_c_root_of_log_parent_over_n() -> None:
    bound = pytest.approx(0.5 + 1.4 * math.sqrt(2.302585 / 3), abs=1e-6)
    assert uct([0.5, 0.0], 10, [3, 0], 1.4) == [bound, math.inf]
    assert uct([0.5], 1, [1], 1.4) == [0.5] and uct([0.5], 0, [0], 1.4) == [math.inf]


def test_unobserved_visits_lower_the_bound_as_in_wu_uct() -> None:
    """N = 9, O = 1 and n = 2, o = 1: ln(10) / 3."""
    assert uct([0.5], 9 + 1, [2 + 1], 1.0) == [pytest.approx(1.376086, abs=1e-5)]
    assert uct([0.5], 10, [3], 1.0) < uct([0.5], 9, [2], 1.0)


def test_puct_weighs_the_bonus_by_the_prior() -> None:
    assert puct([0.2, 0.1], [0.5, 0.0], 16, [3, 0], 1.5) == [pytest.approx(0.2 + 1.5 * 0.5 * 4 / 4), 0.1]


def test_widening_allows_floor_k_n_alpha() -> None:
    assert [allowed(n, 1.0, 0.5) for n in (0, 1, 3, 4, 9)] == [1, 1, 1, 2, 3]


def test_rebase_shares_the_width_out_by_score() -> None:
    """e^(s/T) = 8, 4, 2, 2: ceil(16 8/16) = 8, ceil(8 4/8) = 4, ceil(4 2/4) = 2, 2."""
    t = 1 / math.log(2)
    assert allocation([3.0, 2.0, 1.0, 1.0], 16, t) == [8, 4, 2, 2]
    assert allocation([1.0, 3.0], 3, t) == [0, 3]  # ceil(3 8/10) = 3 leaves none
    assert allocation([0.5] * 3, 7, 0.2) == [3, 2, 2]
    assert allocation([0.0, 1000.0], 4, 0.2) == [0, 4]
    assert allocation([], 4, 0.2) == []


def test_particle_weights_are_clipped_logits_under_a_softmax() -> None:
    assert logit(0.8) == pytest.approx(math.log(4))
    assert logit(1.0) == pytest.approx(math.log((1 - 1e-7) / 1e-7))
    assert softmax([logit(0.8), logit(0.5)]) == pytest.approx([0.8, 0.2])


def test_ab_mcts_posteriors_are_conjugate_updates() -> None:
    """x = 0.4, 0.8: kappa 3, nu 3, m 1.2/3, nu tau2 = 0.1 + 0.08 + 2/3 0.36 = 0.42."""
    assert gaussian([]) == (0.0, 1.0, 1.0, 0.1)
    assert gaussian([0.4, 0.8]) == pytest.approx((0.4, 3.0, 3.0, 0.14))
    assert beta([]) == (0.5, 0.5)
    assert beta([0.4, 0.8]) == pytest.approx((1.7, 1.3))


def test_ab_mcts_scores_reach_every_arm_on_their_path() -> None:
    nodes = {i: _Node(parent=i - 1) for i in range(4)}
    for node, score in ((1, 0.1), (2, 0.2), (3, 0.3)):
        observe(nodes, node, score)
    assert [nodes[i].gen for i in range(4)] == [[0.1], [0.2], [0.3], []]
    assert [nodes[i].cont for i in range(4)] == [[0.2, 0.3], [0.3], [], []]
    assert [nodes[i].arm for i in range(4)] == [[], [0.1, 0.2, 0.3], [0.2, 0.3], [0.3]]


def test_a_leader_is_certain_once_the_rest_cannot_overtake_it() -> None:
    assert certain(6, 2, 3) and not certain(5, 2, 3)


def test_the_likely_stop_is_the_beta_posterior() -> None:
    """Beta(2, 1) above 1/2: 3/4; Beta(5, 1): 31/32; Beta(2, 2): 1/2."""
    assert [posterior(0, 0), posterior(1, 0), posterior(4, 0), posterior(1, 1)] == [0.5, 0.75, 31 / 32, 0.5]
