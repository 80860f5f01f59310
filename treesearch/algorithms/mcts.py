"""Monte Carlo tree search with simulations in flight. Knows no clock, and no text but whether siblings are equal."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from treesearch.algorithms.base import Wishes, at_least, require
from treesearch.algorithms.mcts_values import Values
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand, Expansion

EAGER = 8  # simulations that may be in flight however few have ended


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
    """UCT (Kocsis and Szepesvari 2006) or PUCT (arXiv 1712.01815) that counts unobserved visits, as WU-UCT (arXiv 1810.11755).

    One simulation selects a node, asks for the children it lacks of `branch`, and rolls out from the best new one to
    the answer `rollouts` times; each end is a visit (with 0 rollouts each new child is one). A node has at most
    `max_children` children, more than `branch` only where all others are exhausted or `widening` allows it. Without
    rollouts more than 8 are in flight only once twice as many have ended. `value` weighs step score and outcome of an
    end (weights sum to 1; an end without outcome counts its step score).
    A rollout in flight also counts as one that brings its parent's mean, once that has one (not with `backup` max);
    `virtual_loss` is what any visit in flight brings instead. `merge` closes new children equal to a sibling.
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
        return Simulations(self, tree).run()


class Simulations(Values):
    """What one search knows beside its tree.

    `waiting` maps the leaf of each simulation in flight to its outstanding wishes, all of one kind: a node that waits is
    not selected itself, and those below it only if it waits for more children. `alive` maps a node to its children that
    are not exhausted, in tree order.
    """

    def __init__(self, rules: MCTS, tree: Tree) -> None:
        super().__init__(rules, tree)
        self.waiting: dict[int, list[Expand]] = {}
        self.expanded: set[int] = set()
        self.exhausted: set[int] = set()
        self.alive: dict[int, list[int]] = {}

    # Simulations: select, expand, roll out

    def run(self) -> Wishes:
        """All simulations, as many in flight as may be while there is a node to select."""
        left, wishes = self.rules.simulations, list[Expand]()
        try:
            while True:
                while left and self.has_room(left):
                    wish = self.select(ROOT)
                    if wish is None:  # all is exhausted, or waits
                        break
                    wishes += self.ask(wish.leaf, [wish])
                    left -= 1
                if not self.waiting:
                    return
                reply = yield wishes
                wishes = self.receive(reply)
        finally:
            for leaf, outstanding in self.waiting.items():  # none unless the search is closed early
                self.tree.release(leaf, sum(map(self.visits, outstanding)))

    def has_room(self, left: int) -> bool:
        """Whether one more of the simulations `left` may be in flight: as `parallel` says.

        Without rollouts a simulation is as many visits as it asks for children, and a young tree has few good places: what is
        forced beside them is wasted. There at most half as many as have ended are in flight, or EAGER.
        """
        flying = self.flying()
        if flying < EAGER or self.rules.rollouts:
            return flying < self.rules.parallel
        ended = self.rules.simulations - left - flying
        return flying < min(self.rules.parallel, ended // 2)

    def flying(self) -> int:
        """Simulations in flight."""
        return len(self.waiting)

    def select(self, node: int) -> Expand | None:
        """The wish for a node at or below this one; None if all of it is exhausted or waits."""
        if (lacking := self.lacking(node)) != 0:
            if node not in self.waiting:
                return Expand(node, lacking)
            if node not in self.expanded:  # what is below it are rollouts
                return None
        alive = self.alive.get(node, [])
        worth = self.worth(node, alive)
        while worth:
            most = max(worth)
            best = alive[worth.index(most)]
            if worth.count(most) > 1:
                equals = [child for child, value in zip(alive, worth, strict=True) if value == most]
                best = max(equals, key=self.tree.score)  # of equals the earliest
            found = self.select(best)
            if found is not None:
                return found
            at = alive.index(best)
            alive, worth = [*alive[:at], *alive[at + 1 :]], [*worth[:at], *worth[at + 1 :]]
        return None

    def receive(self, reply: Expansion) -> list[Expand]:
        """Grow a reply, back its values up, and go on with its simulation; returns new wishes."""
        leaf, tree = reply.leaf, self.tree
        asked = self.waiting[leaf].pop(0)
        size = len(tree)
        tips = tree.grow(reply)
        if reply.error is not None and tree.is_open(leaf):
            return self.ask(leaf, [asked], again=True)
        tree.release(leaf, self.visits(asked))
        if not self.waiting[leaf]:
            del self.waiting[leaf]
        fresh = self.register(leaf, size)
        if asked.until == "answer":  # a rollout
            for tip in tips:
                tree.backup(tip, self.leaf_value(tip))
            self.settle(leaf)
            return []
        if reply.error is None:
            self.expanded.add(leaf)
        visited = [child for child in fresh if not tree.is_open(child)] if self.rules.rollouts else fresh
        tree.backup_children(leaf, visited, [self.leaf_value(child) for child in visited])
        self.settle(leaf)
        return self.roll_out(fresh) if self.rules.rollouts else []

    def roll_out(self, fresh: list[int]) -> list[Expand]:
        """Go on to the answer from the best of these new children."""
        best = self.best(fresh)
        if best is None or not self.tree.is_open(best):
            return []
        return self.ask(best, [Expand(best, 1, "answer")] * self.rules.rollouts)

    def best(self, fresh: list[int]) -> int | None:
        """The new child to roll out from: by prior (PUCT only), then step score, then the earliest."""
        priors = self.priors(fresh) if self.rules.selection == "puct" else [0.0] * len(fresh)
        ranked = [(p, self.tree.score(node), -node) for p, node in zip(priors, fresh, strict=True)]
        return -max(ranked)[2] if ranked else None

    def ask(self, leaf: int, wishes: list[Expand], again: bool = False) -> list[Expand]:
        """Note wishes at a leaf as outstanding; those asked again are held already."""
        if wishes:
            self.waiting.setdefault(leaf, []).extend(wishes)
        if not again:
            self.tree.hold(leaf, sum(map(self.visits, wishes)))
        return wishes

    def visits(self, wish: Expand) -> int:
        """Visits that the reply to a wish will be: without rollouts each new child is one."""
        return 1 if self.rules.rollouts else wish.n or 1

    # Children: how many, which are new, which are exhausted

    def lacking(self, node: int) -> int | None:
        """Children to ask for at this node now: 0 means descend, None all there are."""
        rules, tree = self.rules, self.tree
        if rules.widening is None and node in self.expanded and node in self.alive:  # most nodes on the way down
            return 0
        if not self.can_expand(node):
            return 0
        if rules.branch is None:
            return None
        have = len(tree.children[node]) - len(self.duplicates.get(node, ()))
        if rules.widening is not None:
            limit = allowed(tree.visits[node] + tree.held[node], rules.widening.k, rules.widening.alpha)
        else:
            limit = 0 if node in self.expanded else rules.branch
        if have >= limit:
            limit = have + (rules.branch if node not in self.alive else 0)  # nothing left below: more children
        return min(limit - have, rules.branch, rules.max_children - len(tree.children[node]))

    def can_expand(self, node: int) -> bool:
        if not self.tree.is_open(node) or (self.rules.branch is None and node in self.expanded):
            return False
        return self.rules.branch is None or len(self.tree.children[node]) < self.rules.max_children

    def register(self, leaf: int, size: int) -> list[int]:
        """Take in all nodes from index `size` on; returns the new children of the leaf that equal no sibling."""
        tree = self.tree
        steps: list[Any] = tree.steps  # of children: all have one
        parents, alive, merge = tree.parent, self.alive, self.rules.merge
        texts = {steps[child].text for child in tree.children[leaf] if child < size}
        fresh, closing = [], False
        for node in range(size, len(tree)):
            parent = parents[node]
            alive.setdefault(parent, []).append(node)
            if parent == leaf:
                text = steps[node].text
                closing = merge and text in texts
                texts.add(text)
                if closing:
                    self.duplicates.setdefault(leaf, set()).add(node)
                else:
                    fresh.append(node)
            if closing:
                tree.close(node)  # with all of its chain
        for node in range(len(tree) - 1, size - 1, -1):
            if tree.closed[node]:
                self.settle(node)
        return fresh

    def settle(self, node: int) -> None:
        """Mark a node with nothing left to grow as exhausted, and whatever that exhausts above it."""
        while node >= 0 and node not in self.exhausted and node not in self.waiting:
            if node in self.alive or self.can_expand(node):
                return
            self.exhausted.add(node)
            child, node = node, self.tree.parent[node]
            if node >= 0:
                self.alive[node].remove(child)
                if not self.alive[node]:
                    del self.alive[node]


def allowed(visits: int, k: float, alpha: float) -> int:
    """Children a node may have under progressive widening: floor(k N^alpha), at least those of its first visit and 1."""
    return max(1, math.floor(k * max(visits, 1) ** alpha))
