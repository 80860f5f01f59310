"""Aggregation and voting, by hand."""

from __future__ import annotations

import pytest

from treesearch.answers import AnswerRule, Standing, aggregate, choose, votes
from treesearch.errors import ConfigError
from treesearch.types import Candidate


def candidate(node: int, answer: str | None, *scores: float | None, outcome: float | None = None) -> Candidate:
    return Candidate(node, answer, answer, "", scores, outcome, None)


FIVE = [candidate(1, "a", 0.2, 0.9), candidate(2, "b", 0.9, 0.5), candidate(3, "b", 0.8, 0.6),
        candidate(4, None, 1.0, 1.0), candidate(5, "c", 1.0, 0.8)]  # fmt: skip


@pytest.mark.parametrize(
    ("how", "value"),
    [("last", 0.5), ("min", 0.2), ("prod", 0.08), ("mean", 0.5), ("max", 0.8), ("sum", 1.5), ("outcome", 0.7)],
)
def test_scores_are_aggregated_as_named(how: str, value: float) -> None:
    assert aggregate(candidate(1, "a", 0.2, 0.8, 0.5, outcome=0.7), how) == pytest.approx(value)


def test_a_missing_score_makes_the_aggregate_missing_only_where_it_is_needed() -> None:
    gap = candidate(1, "a", None, 0.5)
    assert aggregate(gap, "last") == 0.5
    assert [aggregate(gap, how) for how in ("min", "prod", "mean", "max", "sum", "outcome")] == [None] * 6
    assert choose([gap, candidate(2, "b", 0.1, 0.1)], AnswerRule("best", "prod"))[0] == candidate(2, "b", 0.1, 0.1)
    assert choose([gap], AnswerRule("weighted", "prod")) == (None, None)


def test_each_rule_has_its_winner() -> None:
    assert choose(FIVE, AnswerRule("majority")) == (FIVE[1], 2.0)
    assert choose(FIVE, AnswerRule("best")) == (FIVE[0], 0.9)
    winner, value = choose(FIVE, AnswerRule("weighted"))
    assert winner == FIVE[2] and value == pytest.approx(1.1)
    assert votes(FIVE, AnswerRule("majority")) == {"a": 1.0, "b": 2.0, "c": 1.0}


def test_ties_keep_the_earlier_node_and_unreadable_answers_never_win() -> None:
    tie = [candidate(1, None, 0.9), candidate(2, "x", 0.5), candidate(3, "y", 0.5)]
    for rule in ("majority", "best", "weighted"):
        assert choose(tie, AnswerRule(rule))[0] == tie[1]  # type: ignore[arg-type]
    assert choose([tie[0]], AnswerRule("majority")) == (None, None)
    assert choose([], AnswerRule()) == (None, None)


def test_the_standing_of_a_majority_is_the_posterior_of_its_two_leaders() -> None:
    standing = Standing(AnswerRule("majority"))
    votes_so_far = [standing.add([candidate(k, answer)]) for k, answer in enumerate(("a", "a", None, "b", "a"))]
    assert votes_so_far == [3 / 4, 7 / 8, 7 / 8, 11 / 16, 13 / 16]  # Beta(4, 2) above one half: 26 / 32


def test_the_standing_of_the_best_is_its_value() -> None:
    standing = Standing(AnswerRule("best"))
    assert [standing.add([]), standing.add([candidate(1, "a", 0.4)]), standing.add([candidate(2, "b", 0.9)])] == [
        0,
        0.4,
        0.9,
    ]
    assert standing.add([candidate(3, "a", 0.2), candidate(4, None, 1.0), candidate(5, "a")]) == 0.9


def test_the_standing_of_a_weighted_vote_is_its_votes_or_its_leaders_best_value() -> None:
    standing = Standing(AnswerRule("weighted"))
    assert standing.add([candidate(1, "a", 0.8)]) == 0.8  # no whole vote: the posterior is 1 / 2
    assert standing.add([candidate(2, "b", 0.9)]) == 0.9
    assert standing.add([candidate(k, "a", 0.6) for k in (3, 4)]) == 0.8  # a leads with 2.0, 0.9 to b
    assert standing.add([candidate(k, "a", 0.6) for k in range(5, 15)]) == pytest.approx(1 - 11 / 2**10, abs=1e-12)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"stop": 0.5}, r"answer\.stop = 0\.5: must be a probability above 0\.5"),
        ({"stop": 1.1}, r"answer\.stop = 1\.1"),
        ({"stop": 0.9, "aggregate": "sum"}, r"answer\.aggregate = 'sum': must be another"),
    ],
)
def test_a_stop_that_is_no_probability_is_refused(rule: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnswerRule(**rule)


def test_unknown_rules_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"answer\.rule = 'vote': must be one of majority"):
        AnswerRule("vote")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"answer\.aggregate = 'median'"):
        AnswerRule("best", "median")  # type: ignore[arg-type]


def test_scores_whose_sum_is_no_float_still_choose() -> None:
    many = [Candidate(k, "a", "a", "", (1e308, 1e308), None, 1) for k in range(3)]
    for rule in ("majority", "weighted", "best"):
        for how in ("last", "min", "prod", "mean", "max", "sum"):
            assert choose(many, AnswerRule(rule, how))[0] == many[0]  # type: ignore[arg-type]
    assert choose(many, AnswerRule("weighted", "last"))[1] == float("inf")
