"""Independent chains, with an early stop once the vote is decided. Knows no text: answers are compared as strings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from treesearch.algorithms.base import Wishes, at_least, require
from treesearch.answers import Aggregate, AnswerRule, Rule, first_two, likely, votes
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand

CONFIDENCE = 0.95  # of a likely stop, as in the paper
LARGEST_SCORE = 1.0  # of a vote, and of a score in [0, 1]


@dataclass(frozen=True)
class Sample:
    """`n` chains to their answers: self-consistency (arXiv 2203.11171), best-of-N, or greedy with n = 1.

    `stop` ends early: `certain` once the leader cannot be overtaken, `likely` once the posterior that the leader beats
    the runner-up is above 0.95 (adaptive consistency, arXiv 2305.11860). `rule` and `aggregate` weigh the votes for
    it; the values must then lie in [0, 1]. `parallel` bounds the chains in flight: with None all are asked at once, so
    a stop saves nothing.
    """

    n: int = 16
    parallel: int | None = None
    stop: Literal["certain", "likely"] | None = None
    rule: Rule = "majority"
    aggregate: Aggregate = "last"

    def __post_init__(self) -> None:
        at_least(1, n=self.n, parallel=self.parallel)
        require(self.stop in (None, "certain", "likely"), "stop", self.stop, "null, certain or likely")
        AnswerRule(self.rule, self.aggregate)
        if self.stop is not None:
            require(
                self.rule != "best",
                "rule",
                self.rule,
                "majority or weighted with a stop: only votes can be decided early",
            )
            bounded = self.rule == "majority" or self.aggregate != "sum"
            require(bounded, "aggregate", self.aggregate, "other than sum with a stop: a sum has no largest value")

    def search(self, tree: Tree) -> Wishes:
        bound = self.parallel or self.n
        done = flying = 0
        while True:
            wishes: list[Expand] = []
            while tree.is_open(ROOT) and flying < bound and done + flying < self.n:
                wishes.append(Expand(ROOT, 1, "answer"))
                flying += 1
            if not flying:
                return
            reply = yield wishes
            flying -= 1
            done += len(tree.grow(reply))  # a failed chain is not done, so it is asked again
            if self.decided(tree, self.n - done):
                return

    def decided(self, tree: Tree, remaining: int) -> bool:
        """Whether the stop rule ends the search with this many chains still to come."""
        if self.stop is None:
            return False
        weights = votes(tree.candidates(), AnswerRule(self.rule, self.aggregate)).values()
        if self.stop == "certain":
            return certain(*first_two(weights), remaining)
        return likely(weights) > CONFIDENCE


def certain(leader: float, runner_up: float, remaining: int) -> bool:
    """The leader cannot be overtaken, whatever the remaining chains say."""
    return leader > runner_up + remaining * LARGEST_SCORE
