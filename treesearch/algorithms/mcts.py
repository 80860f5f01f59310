"""Monte Carlo tree search with simulations in flight. Knows no clock, and no text but whether siblings are equal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from treesearch.algorithms.base import Wishes, at_least, require, softmax
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand, Expansion


@dataclass(frozen=True)
class Widening:
    """Progressive widening (Coulom 2007): a node visited N times may have floor(k N^alpha) children."""

    k: float = 1.0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        require(self.k > 0, "widening.k", self.k, "above 0")
        require(0 < self.alpha <= 1, "widening.alpha", self.alpha, "above 0 and at most 1")


@dataclass(frozen=True)
class MCTS:
    """UCT (Kocsis and Szepesvari 2006) or PUCT (arXiv 1712.01815) with unobserved visits (WU-UCT, arXiv 1810.11755).

    One simulation selects a node, asks for the children it lacks of `branch`, and rolls out from the best new one to
    the answer `rollouts` times; each end is a visit (with 0 rollouts each new child is one). A node has at most
    `max_children` children, more than `branch` only where all others are exhausted or `widening` allows it. `value`
    weighs step score and outcome of an end (weights sum to 1; an end without outcome counts its step score).
    `virtual_loss` counts a visit in flight as one of this value instead. `merge` closes new children equal to a
    sibling.
    """

    simulations: int = 64
    parallel: int = 8
    branch: int | None = 8
    c: float = 0.2
    selection: Literal["uct", "puct"] = "uct"
    rollouts: int = 0
    max_children: int = 32
    widening: Widening | None = Widening(8.0, 0.35)
    value: dict[str, float] = field(default_factory=lambda: {"steps": 1.0})
    backup: Literal["mean", "max"] = "mean"
    virtual_loss: float | None = None
    merge: bool = True

    def __post_init__(self) -> None:
        at_least(
            1, simulations=self.simulations, parallel=self.parallel, branch=self.branch, max_children=self.max_children
        )
        at_least(0, c=self.c, rollouts=self.rollouts)
        require(self.selection in ("uct", "puct"), "selection", self.selection, "uct or puct")
        require(self.backup in ("mean", "max"), "backup", self.backup, "mean or max")
        weights = self.value.values()
        proper = set(self.value) <= {"steps", "outcome"} and all(w >= 0 for w in weights)
        require(proper and math.isclose(sum(weights), 1), "value", self.value, "weights of steps and outcome, sum 1")

    @property
    def reads_logprobs(self) -> bool:
        """PUCT's priors are log-probabilities of steps."""
        return self.selection == "puct"

    def search(self, tree: Tree) -> Wishes:
        run, left = _Run(self, tree), self.simulations
        wishes: list[Expand] = []
        try:
            while True:
                while left and len(run.waiting) < self.parallel:
                    leaf = run.select(ROOT)
                    if leaf is None:  # all is exhausted, or pending
                        break
                    wishes += run.ask(leaf, [Expand(leaf, run.lacking(leaf))])
                    left -= 1
                if not run.waiting:
                    return
                reply = yield wishes
                wishes = run.receive(reply)
        finally:
            for leaf, outstanding in run.waiting.items():  # none unless the search is closed early
                tree.release(leaf, len(outstanding))


class _Run:
    """What one search knows beside its tree.

    `waiting` maps the leaf of each simulation in flight to its outstanding wishes, all of one kind: a leaf that waits
    is pending and not selected again. `alive[i]` counts the children of i that are not exhausted.
    """

    def __init__(self, rules: MCTS, tree: Tree) -> None:
        self.rules, self.tree = rules, tree
        self.waiting: dict[int, list[Expand]] = {}
        self.expanded: set[int] = set()
        self.duplicates: set[int] = set()
        self.exhausted: set[int] = set()
        self.alive = [0]

    # One simulation: select, expand, roll out

    def select(self, node: int) -> int | None:
        """The node to expand at or below this one; None if all of it is exhausted or pending."""
        if node in self.exhausted:
            return None
        if self.lacking(node) != 0:
            return None if node in self.waiting else node
        children = [child for child in self.tree.children[node] if child not in self.duplicates]
        ranked = sorted(zip(self.worth(node, children), children, strict=True), key=lambda pair: (pair[0], -pair[1]))
        for _, child in reversed(ranked):
            found = self.select(child)
            if found is not None:
                return found
        return None

    def receive(self, reply: Expansion) -> list[Expand]:
        """Grow a reply, back its values up, and go on with its simulation; returns new wishes."""
        leaf, tree = reply.leaf, self.tree
        asked = self.waiting[leaf].pop()
        size = len(tree)
        tips = tree.grow(reply)
        if reply.error is not None and tree.is_open(leaf):
            return self.ask(leaf, [asked], again=True)
        tree.release(leaf)
        if not self.waiting[leaf]:
            del self.waiting[leaf]
        rollout = asked.until == "answer"
        fresh = self.register(leaf, size)
        if rollout:
            for tip in tips:
                tree.backup(tip, self.leaf_value(tip))
            self.settle(leaf)
            return []
        if reply.error is None:
            self.expanded.add(leaf)
        for tip in fresh:
            if not self.rules.rollouts or not tree.is_open(tip):
                tree.backup(tip, self.leaf_value(tip))
        self.settle(leaf)
        best = self.best(fresh)
        if best is None or not tree.is_open(best):
            return []
        return self.ask(best, [Expand(best, 1, "answer")] * self.rules.rollouts)

    def ask(self, leaf: int, wishes: list[Expand], again: bool = False) -> list[Expand]:
        """Note wishes at a leaf as outstanding; those asked again are held already."""
        if wishes:
            self.waiting.setdefault(leaf, []).extend(wishes)
        if not again:
            self.tree.hold(leaf, len(wishes))
        return wishes

    # Children: how many, which are new, which are exhausted

    def lacking(self, node: int) -> int | None:
        """Children to ask for at this node now: 0 means descend, None all there are."""
        rules, tree = self.rules, self.tree
        if not self.can_expand(node):
            return 0
        if rules.branch is None:
            return None
        have = sum(child not in self.duplicates for child in tree.children[node])
        if rules.widening is not None:
            limit = allowed(tree.visits[node] + tree.held[node], rules.widening.k, rules.widening.alpha)
        else:
            limit = 0 if node in self.expanded else rules.branch
        if have >= limit:
            limit = have + (rules.branch if not self.alive[node] else 0)  # nothing left below: more children
        return min(limit - have, rules.branch, rules.max_children - len(tree.children[node]))

    def can_expand(self, node: int) -> bool:
        if not self.tree.is_open(node) or (self.rules.branch is None and node in self.expanded):
            return False
        return self.rules.branch is None or len(self.tree.children[node]) < self.rules.max_children

    def register(self, leaf: int, size: int) -> list[int]:
        """Take in all nodes from index `size` on; returns the new children of the leaf that equal no sibling."""
        tree = self.tree
        texts = {_text(tree, child) for child in tree.children[leaf] if child < size}
        fresh, closing = [], False
        for node in range(size, len(tree)):
            self.alive.append(0)
            self.alive[tree.parent[node]] += 1
            if tree.parent[node] == leaf:
                closing = self.rules.merge and _text(tree, node) in texts
                texts.add(_text(tree, node))
                if closing:
                    self.duplicates.add(node)
                else:
                    fresh.append(node)
            if closing:
                tree.close(node)  # with all of its chain
        for node in range(len(tree) - 1, size - 1, -1):
            self.settle(node)
        return fresh

    def settle(self, node: int) -> None:
        """Mark a node with nothing left to grow as exhausted, and whatever that exhausts above it."""
        while node >= 0 and node not in self.exhausted and node not in self.waiting:
            if self.alive[node] or self.can_expand(node):
                return
            self.exhausted.add(node)
            node = self.tree.parent[node]
            if node >= 0:
                self.alive[node] -= 1

    # Values

    def worth(self, node: int, children: Sequence[int]) -> list[tuple[float, float]]:
        """What selection maximises for each child: the formula's value, then the step score."""
        tree, rules = self.tree, self.rules
        parent = tree.visits[node] + tree.held[node]
        priors = self.priors(children) if rules.selection == "puct" else []
        result = []
        for i, child in enumerate(children):
            n = tree.visits[child] + tree.held[child]
            q = self.q(child)
            bound = puct(q, priors[i], parent, n, rules.c) if priors else uct(q, parent, n, rules.c)
            result.append((bound, tree.score(child)))
        return result

    def q(self, node: int) -> float:
        """Mean (or maximum) of observed values; the step score before the first, and the virtual loss mixed in."""
        tree, rules = self.tree, self.rules
        n, o = tree.visits[node], tree.held[node]
        observed = tree.score(node) if not n else tree.best[node] if rules.backup == "max" else tree.mean(node)
        if rules.virtual_loss is None or not o:
            return observed
        return (n * observed + o * rules.virtual_loss) / (n + o)

    def priors(self, nodes: Sequence[int]) -> list[float]:
        """PUCT's P: softmax over siblings of the log-probability per token; uniform where one is unknown."""
        steps = [self.tree.steps[node] for node in nodes]
        rates = [step.logprob / step.tokens for step in steps if step and step.logprob is not None and step.tokens]
        return softmax(rates if len(rates) == len(nodes) else [0.0] * len(nodes))

    def best(self, fresh: list[int]) -> int | None:
        """The new child to roll out from: by prior (PUCT only), then step score, then the earliest."""
        priors = self.priors(fresh) if self.rules.selection == "puct" else [0.0] * len(fresh)
        ranked = [(p, self.tree.score(node), -node) for p, node in zip(priors, fresh, strict=True)]
        return -max(ranked)[2] if ranked else None

    def leaf_value(self, node: int) -> float:
        """w * steps + (1 - w) * outcome."""
        step, weights = self.tree.steps[node], self.rules.value
        score = self.tree.score(node)
        outcome = step.outcome if step is not None and step.outcome is not None else score
        return weights.get("steps", 0.0) * score + weights.get("outcome", 0.0) * outcome


def _text(tree: Tree, node: int) -> str:
    step = tree.steps[node]
    return "" if step is None else step.text


def uct(q: float, parent: int, n: int, c: float) -> float:
    """Q + c sqrt(ln(N + O) / (n + o)); `parent` is N + O, `n` is n + o. Infinite before the first visit."""
    return q + c * math.sqrt(math.log(parent) / n) if n else math.inf


def puct(q: float, p: float, parent: int, n: int, c: float) -> float:
    """Q + c P sqrt(N + O) / (1 + n + o)."""
    return q + c * p * math.sqrt(parent) / (1 + n)


def allowed(visits: int, k: float, alpha: float) -> int:
    """Children a node may have under progressive widening: floor(k N^alpha), at least those of its first visit and 1."""
    return max(1, math.floor(k * max(visits, 1) ** alpha))
