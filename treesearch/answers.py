"""Which answer a search gives: aggregation and voting over finished leaves. Pure; knows no search and no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    (arXiv 2206.02336).
    """

    rule: Rule = "weighted"
    aggregate: Aggregate = "last"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("rule", self.rule, get_args(Rule)),
            ("aggregate", self.aggregate, get_args(Aggregate)),
        ):
            if value not in known:
                raise ConfigError(f"answer.{name} = {value!r}: must be one of {', '.join(known)}")


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


def _or_lowest(value: float | None) -> float:
    return -math.inf if value is None else value
