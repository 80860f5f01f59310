"""Which answer a search gives: aggregation and voting over finished leaves. Pure; knows no search and no model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from treesearch.errors import ConfigError
from treesearch.types import Candidate

Rule = Literal["majority", "best", "weighted"]
Aggregate = Literal["last", "min", "prod", "mean", "max", "sum", "outcome"]


@dataclass(frozen=True)
class AnswerRule:
    """`majority` counts candidates per answer, `best` takes the best candidate, `weighted` sums values per answer.

    The value of a candidate is its step scores put together by `aggregate`, or its outcome score. Majority is
    self-consistency (arXiv 2203.11171), best is best-of-N (arXiv 2110.14168), weighted is weighted best-of-N
    (arXiv 2206.02336). `stop` ends any search once its answer is that sure (see `Standing`); the values must then lie
    in [0, 1].
    """

    rule: Rule = "weighted"
    aggregate: Aggregate = "last"
    stop: float | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("rule", self.rule, get_args(Rule)),
            ("aggregate", self.aggregate, get_args(Aggregate)),
        ):
            if value not in known:
                raise ConfigError(f"answer.{name} = {value!r}: must be one of {', '.join(known)}")
        if self.stop is not None and not 0.5 < self.stop <= 1:
            raise ConfigError(f"answer.stop = {self.stop!r}: must be a probability above 0.5 and at most 1, or null")
        if self.stop is not None and self.aggregate == "sum" and self.rule != "majority":
            raise ConfigError("answer.aggregate = 'sum': must be another one with answer.stop: a sum is no probability")


def combine(scores: Sequence[float | None], how: str) -> float | None:
    """Step scores of one path as one number; None where a score that `how` needs is missing."""
    needed = scores[-1:] if how == "last" else scores
    values = [score for score in needed if score is not None]
    if not values or len(values) < len(needed):
        return None
    match how:
        case "last":
            return values[0]
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "sum":
            return total(values)
        case "mean":
            return total(values) / len(values)
        case "prod":
            return math.prod(values)
    raise ConfigError(f"aggregate = {how!r}: step scores combine by last, min, prod, mean, max or sum")


def total(values: Sequence[float]) -> float:
    """The exact sum; infinite where it is larger than a float can be, though each value is one."""
    try:
        return math.fsum(values)
    except OverflowError:
        return sum(values)


def aggregate(candidate: Candidate, how: str) -> float | None:
    """The value of a finished leaf; None where a needed score is missing."""
    return candidate.outcome if how == "outcome" else combine(candidate.scores, how)


def votes(candidates: Sequence[Candidate], rule: AnswerRule) -> dict[str, float]:
    """Weight of each canonical answer under `majority` (a count) or `weighted` (a sum), in order of first appearance.

    Under `best` it is the largest value. Candidates without an answer, or without a value where one is needed, do not
    vote.
    """
    groups: dict[str, list[float]] = {}
    for candidate in candidates:
        value = 1.0 if rule.rule == "majority" else aggregate(candidate, rule.aggregate)
        if candidate.canonical is not None and value is not None:
            groups.setdefault(candidate.canonical, []).append(value)
    put_together = max if rule.rule == "best" else total
    return {answer: put_together(values) for answer, values in groups.items()}


def choose(candidates: Sequence[Candidate], rule: AnswerRule) -> tuple[Candidate | None, float | None]:
    """The winner and its value under the rule (votes, best value, or summed value); (None, None) if nobody can win.

    Ties keep the answer whose first candidate comes earlier. The winning answer is shown by its candidate of the
    highest value, the earliest of equals; under majority by its earliest candidate.
    """
    weights = votes(candidates, rule)
    if not weights:
        return None, None
    winner = max(weights, key=weights.__getitem__)  # max keeps the first of equals
    group = [candidate for candidate in candidates if candidate.canonical == winner]
    if rule.rule == "majority":
        return group[0], weights[winner]
    return max(group, key=lambda candidate: _or_lowest(aggregate(candidate, rule.aggregate))), weights[winner]


class Standing:
    """How sure the answer is so far, brought up to date with each finished leaf.

    `majority`: the posterior that the leader beats the runner-up (adaptive consistency, arXiv 2305.11860). `best`: the
    winner's value, which is its model's probability of being right (arXiv 2412.20993 ends tree searches by it).
    `weighted`: the larger of the two for the leader, whose votes are sums of values.
    """

    def __init__(self, rule: AnswerRule) -> None:
        self.rule = rule
        self.weights: dict[str, float] = {}
        self.values: dict[str, float] = {}  # the largest of each answer's candidates

    def add(self, candidates: Sequence[Candidate]) -> float:
        """Take in new candidates; returns how sure the leader now is, 0 while there is none."""
        best = AnswerRule("best", self.rule.aggregate)
        for answer, value in votes(candidates, best).items():
            self.values[answer] = max(value, self.values.get(answer, value))
        if self.rule.rule == "best":
            return max(self.values.values(), default=0.0)
        for answer, weight in votes(candidates, self.rule).items():
            self.weights[answer] = self.weights.get(answer, 0.0) + weight
        if not self.weights:
            return 0.0
        sure = likely(self.weights.values())
        if self.rule.rule == "majority":
            return sure
        return max(sure, self.values[max(self.weights, key=self.weights.__getitem__)])


def likely(weights: Iterable[float]) -> float:
    """The posterior that the leader beats the runner-up, from the votes of each; fractions count for the runner-up."""
    leader, runner_up = first_two(weights)
    return posterior(math.floor(leader), math.ceil(runner_up))


def first_two(weights: Iterable[float]) -> tuple[float, float]:
    """The two largest weights, 0 where there is none."""
    first, second, *_ = [*sorted(weights, reverse=True), 0.0, 0.0]
    return first, second


def posterior(v1: int, v2: int) -> float:
    """P(p > 1/2) under Beta(v1 + 1, v2 + 1): for integers the incomplete beta function is a binomial sum."""
    m = v1 + v2 + 1
    return sum(math.comb(m, j) for j in range(v1 + 1)) / 2**m


def _or_lowest(value: float | None) -> float:
    return -math.inf if value is None else value
