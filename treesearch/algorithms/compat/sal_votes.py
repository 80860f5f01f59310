"""The votes that search-and-learn reports: accuracy over the first 1, 2, 4, ... outputs of each problem. Pure.

From a finished run whose `answer.aggregate` is `last`, as the scores there always are:

    from pathlib import Path
    from treesearch.algorithms.compat.sal_votes import accuracies
    from treesearch.results import read_rows
    from treesearch.tasks import load_task
    print(accuracies(read_rows(Path("runs/sal")), load_task("math").canonical))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from treesearch.errors import ConfigError

RULES = ("naive", "weighted", "maj")


@dataclass(frozen=True, slots=True)
class Voter:
    """One output. What cannot be read votes too, as the empty answer."""

    canonical: str
    score: float
    correct: bool


def winner(voters: Sequence[Voter], rule: str) -> Voter:
    """The first voter of the winning answer; under `naive` the voter of the highest score. Ties keep what is first.

    `weighted` adds up scores per answer in order, `maj` counts. (search-and-learn 6f81cac, utils/math.py.)
    """
    if rule == "naive":
        return max(voters, key=lambda voter: voter.score)
    weights: dict[str, float] = {}
    for voter in voters:  # one by one, as there: a sum of another rounding may decide a tie otherwise
        weights[voter.canonical] = weights.get(voter.canonical, 0.0) + (1.0 if rule == "maj" else voter.score)
    best = max(weights, key=weights.__getitem__)
    return next(voter for voter in voters if voter.canonical == best)


def accuracies(rows: Iterable[dict[str, Any]], canonical: Callable[[str], str]) -> dict[int, dict[str, float]]:
    """Share of right answers by n = 1, 2, 4, ... and rule (naive, weighted, maj), from lines of results.jsonl.

    `canonical` is the task's. n goes up to the most outputs of a problem; one with fewer votes with what it has, one
    without any is wrong. Raises ConfigError where an output has no score.
    """
    problems = [_voters(row, canonical) for row in rows]
    most = max(map(len, problems), default=0)
    return {
        n: {rule: sum(winner(v[:n], rule).correct for v in problems if v) / len(problems) for rule in RULES}
        for n in (2**k for k in range(most.bit_length()))
    }


def _voters(row: dict[str, Any], canonical: Callable[[str], str]) -> list[Voter]:
    forms: dict[str, str] = {}
    voters = []
    for candidate in row["candidates"]:
        answer, score = candidate["answer"] or "", candidate["score"]
        if score is None:
            raise ConfigError(
                f"problem {row['id']!r} has an output without a score: run it with a scorer and answer.aggregate: last"
            )
        if answer not in forms:
            forms[answer] = canonical(answer) if answer else ""
        voters.append(Voter(forms[answer], score, candidate["correct"] is True))
    return voters
