"""What nodes of a Monte Carlo tree are worth to selection, where some visits are in flight. Knows statistics alone."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log, sqrt
from typing import TYPE_CHECKING, Any

from treesearch.algorithms.base import softmax
from treesearch.tree import Tree

if TYPE_CHECKING:
    from treesearch.algorithms.mcts import MCTS


class Values:
    """The values of one search's nodes under its rules. `duplicates` maps a node to its children that equal an earlier one."""

    def __init__(self, rules: MCTS, tree: Tree) -> None:
        self.rules, self.tree = rules, tree
        self.duplicates: dict[int, set[int]] = {}
        self.steps, self.outcome = (rules.value.get(part, 0.0) for part in ("steps", "outcome"))  # weights of an end

    def worth(self, node: int, alive: Sequence[int]) -> list[float]:
        """What selection maximises, for each child that is `alive`: the formula's value."""
        visits, held, c = self.tree.visits, self.tree.held, self.rules.c
        q, parent, n = self.q(node, alive), visits[node] + held[node], [visits[child] + held[child] for child in alive]
        if self.rules.selection == "uct":
            return uct(q, parent, n, c)
        duplicates = self.duplicates.get(node, ())
        siblings = [child for child in self.tree.children[node] if child not in duplicates]
        prior = dict(zip(siblings, self.priors(siblings), strict=True))
        return puct(q, [prior[child] for child in alive], parent, n, c)

    def q(self, node: int, children: Sequence[int]) -> list[float]:
        """Of each child: its observed value, mixed with what its visits in flight are expected to bring.

        Each counts as `virtual_loss`, or, if it is a rollout, as the mean of the children's `node`, so that a child which was
        lucky so far does not draw all that is in flight. Others count not at all: an expansion is as many visits as it asks
        for children, which would outweigh all that is known (Game of 24, 16 simulations: 48 instead of 69 % solved).
        """
        tree, held, expected = self.tree, self.tree.held, self.rules.virtual_loss
        observed = self.observed(children)
        if expected is None and self.rules.rollouts and self.rules.backup == "mean" and tree.visits[node]:
            expected = tree.mean(node)
        if expected is None or not held[node]:  # what is in flight below a child is so below its parent
            return observed
        return [
            self.mixed(child, value, expected) if held[child] else value
            for child, value in zip(children, observed, strict=True)
        ]

    def mixed(self, node: int, observed: float, expected: float) -> float:
        """The mean of a node's visits, those in flight at `expected` each; before the first a step score counts as one."""
        step: Any = self.tree.steps[node]
        n, o = self.tree.visits[node] or step.score is not None, self.tree.held[node]
        return (n * observed + o * expected) / (n + o)

    def observed(self, nodes: Sequence[int]) -> list[float]:
        """Of each, mean (or maximum) of the values backed up; the step score before the first."""
        tree, visits = self.tree, self.tree.visits
        if self.rules.backup == "max":
            return [tree.best[node] if visits[node] else tree.score(node) for node in nodes]
        total = tree.total
        return [total[node] / visits[node] if visits[node] else tree.score(node) for node in nodes]

    def priors(self, nodes: Sequence[int]) -> list[float]:
        """PUCT's P: softmax over siblings of the log-probability per token; uniform where one is unknown."""
        steps = [self.tree.steps[node] for node in nodes]
        rates = [step.logprob / step.tokens for step in steps if step and step.logprob is not None and step.tokens]
        return softmax(rates if len(rates) == len(nodes) else [0.0] * len(nodes))

    def leaf_value(self, node: int) -> float:
        """w * steps + (1 - w) * outcome."""
        step: Any = self.tree.steps[node]
        score: float = 0.0 if step.score is None else step.score
        outcome: float = score if step.outcome is None else step.outcome
        return self.steps * score + self.outcome * outcome


def uct(q: Sequence[float], parent: int, n: Sequence[int], c: float) -> list[float]:
    """Q + c sqrt(ln(N + O) / (n + o)) of siblings; `parent` is N + O, `n` is n + o. Infinite before the first visit."""
    log_parent = log(parent) if parent else 0.0
    return [value + c * sqrt(log_parent / count) if count else inf for value, count in zip(q, n, strict=True)]


def puct(q: Sequence[float], p: Sequence[float], parent: int, n: Sequence[int], c: float) -> list[float]:
    """Q + c P sqrt(N + O) / (1 + n + o) of siblings."""
    root = sqrt(parent)
    return [value + c * prior * root / (1 + count) for value, prior, count in zip(q, p, n, strict=True)]
