"""Best-first search: a priority queue on step scores. Knows no text but whether two siblings are equal."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from treesearch.algorithms.base import Wishes, at_least
from treesearch.algorithms.beam import merged
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand


@dataclass(frozen=True)
class BestFirst:
    """Best-first tree search (arXiv 2407.01476): always expand the open leaf of the highest score, `expansions` times.

    Equal scores: the earlier leaf. `parallel` bounds the expansions in flight. `merge` drops equal new siblings.
    """

    branch: int | None = 4
    expansions: int = 32
    parallel: int = 1
    merge: bool = True

    def __post_init__(self) -> None:
        at_least(1, branch=self.branch, expansions=self.expansions, parallel=self.parallel)

    def search(self, tree: Tree) -> Wishes:
        queue = [(0.0, ROOT)]  # (-score, node): a min-heap
        flying, left = 0, self.expansions
        while True:
            wishes: list[Expand] = []
            while queue and flying < self.parallel and left:
                leaf = heapq.heappop(queue)[1]
                wishes.append(Expand(leaf, self.branch))
                flying, left = flying + 1, left - 1
            if not flying:
                return
            reply = yield wishes
            flying -= 1
            tips = tree.grow(reply)
            if self.merge:
                tips = merged(tree, tips)
            if reply.error is not None and tree.is_open(reply.leaf):
                tips, left = [reply.leaf], left + 1  # asked again, as the same expansion
            for tip in tips:
                if tree.is_open(tip):
                    heapq.heappush(queue, (-tree.score(tip), tip))
