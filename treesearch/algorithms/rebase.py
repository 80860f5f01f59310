"""Reward-balanced search: a fixed width shared out by score. Knows no text and no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from treesearch.algorithms.base import Wishes, at_least, grow_all, require
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand


@dataclass(frozen=True)
class Rebase:
    """REBASE (arXiv 2408.00724): every level shares `width` children out among its live nodes, better ones get more.

    Finished nodes reduce the width by one each. `temperature` is of the softmax over step scores.
    """

    width: int = 16
    temperature: float = 0.2
    depth: int = 64

    def __post_init__(self) -> None:
        at_least(1, width=self.width, depth=self.depth)
        require(self.temperature > 0, "temperature", self.temperature, "above 0")

    def search(self, tree: Tree) -> Wishes:
        live, width = [ROOT], self.width
        for _ in range(self.depth):
            shares = allocation([tree.score(node) for node in live], width, self.temperature)
            wishes = [Expand(node, share) for node, share in zip(live, shares, strict=True) if share]
            tips = yield from grow_all(tree, wishes)
            live = [tip for tip in tips if tree.is_open(tip)]
            width -= len(tips) - len(live)
            if not live or width < 1:
                return


def allocation(s: Sequence[float], W: int, T: float) -> list[int]:
    """Children of each node: ceil(W e^(s/T) / sum of the remaining), in descending score; they sum to W.

    W and the sum are reduced after each node, so the lowest scores may get none.
    """
    top = max(s, default=0.0)  # exponents up to 0 cannot overflow
    e = [math.exp((score - top) / T) for score in s]
    shares = [0] * len(s)
    order = sorted(range(len(s)), key=lambda i: s[i], reverse=True)
    for rank, i in enumerate(order):
        remaining = math.fsum(e[j] for j in order[rank:])
        part = W * e[i] / remaining if remaining else 1.0
        shares[i] = min(W, max(1, math.ceil(part - 1e-9)))  # 4.000000001 children are 4
        W -= shares[i]
    return shares
