"""What others do with simulations in flight: MCTS that differs from ours in nothing else, for comparison.

`VirtualLoss` and `LeafBatch` let simulations meet at a leaf that waits for its reply: it is rolled out from once more, or
expanded once more where there are no rollouts. With one simulation in flight each grows the tree that ours grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from treesearch.algorithms.base import Wishes
from treesearch.algorithms.mcts import MCTS, Simulations
from treesearch.algorithms.mcts_values import uct
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand, Expansion


@dataclass(frozen=True)
class WUUCT(MCTS):
    """As published (arXiv 1810.11755): visits in flight count among all visits, and leave a child's value alone."""

    def search(self, tree: Tree) -> Wishes:
        return _Unmixed(self, tree).run()


@dataclass(frozen=True)
class VirtualLoss(MCTS):
    """Tree parallelisation with virtual loss (Chaslot et al. 2008): a visit in flight counts as a lost one."""

    virtual_loss: float | None = 0.0

    def search(self, tree: Tree) -> Wishes:
        return _Meeting(self, tree).run()


@dataclass(frozen=True)
class LeafBatch(MCTS):
    """Naive leaf batching: what is in flight changes no statistic, so that simulations pile up at one leaf."""

    def search(self, tree: Tree) -> Wishes:
        return _Blind(self, tree).run()


class _Full(Simulations):
    """`parallel` in flight from the start."""

    def has_room(self, left: int) -> bool:
        return self.flying() < self.rules.parallel


class _Unmixed(_Full):
    def q(self, node: int, children: Sequence[int]) -> list[float]:
        return self.observed(children)


class _Meeting(_Full):
    """Simulations may meet: of the wishes at a leaf each is a simulation of its own."""

    def flying(self) -> int:
        return sum(map(len, self.waiting.values()))

    def select(self, node: int) -> Expand | None:
        if node in self.waiting and (lacking := self.lacking(node)) != 0:
            return Expand(node, lacking)
        return super().select(node)

    def ask(self, leaf: int, wishes: list[Expand], again: bool = False) -> list[Expand]:
        if leaf in self.waiting and not again and self.rules.rollouts:
            wishes = [Expand(leaf, 1, "answer")]
        return super().ask(leaf, wishes, again)

    def receive(self, reply: Expansion) -> list[Expand]:
        """As ours; where others' rollouts have found all children before, the simulation rolls out from the leaf itself."""
        visits, rollouts = self.tree.visits[ROOT], self.rules.rollouts
        wishes = super().receive(reply)
        if wishes or not rollouts or self.tree.visits[ROOT] > visits or not self.tree.is_open(reply.leaf):
            return wishes
        return self.ask(reply.leaf, [Expand(reply.leaf, 1, "answer")] * rollouts)


class _Blind(_Meeting):
    """UCT over the visits that are done."""

    def worth(self, node: int, alive: Sequence[int]) -> list[float]:
        visits, c = self.tree.visits, self.rules.c
        parent = max(1, visits[node])
        return uct(self.observed(alive), parent, [visits[child] for child in alive], c)
