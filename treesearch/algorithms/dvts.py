"""Diverse verifier tree search: independent greedy subtrees. Knows no text and no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from treesearch.algorithms.base import Wishes, at_least
from treesearch.algorithms.beam import Beam
from treesearch.tree import Tree
from treesearch.types import Expand


@dataclass(frozen=True)
class DVTS:
    """Diverse verifier tree search (Beeching et al. 2024, "Scaling test-time compute with open models").

    Each subtree is a beam search with one beam: it samples `branch` steps and goes on from the best of them. Subtrees
    do not wait for each other. `lookahead` as in `Beam`.
    """

    subtrees: int = 4
    branch: int | None = 4
    depth: int = 64
    lookahead: int = 0

    def __post_init__(self) -> None:
        at_least(1, subtrees=self.subtrees, branch=self.branch, depth=self.depth)
        at_least(0, lookahead=self.lookahead)

    def search(self, tree: Tree) -> Wishes:
        subtree = Beam(1, self.branch, self.depth, self.lookahead)
        return interleave([subtree.search(tree) for _ in range(self.subtrees)])


def interleave(searches: Sequence[Wishes]) -> Wishes:
    """Run searches of one tree side by side: each reply goes to the one that has waited longest at its leaf.

    Only the root is shared, and there one reply is as good as another.
    """
    waiting: dict[int, deque[Wishes]] = {}
    wishes: list[Expand] = []
    outstanding = 0

    def enlist(search: Wishes, new: list[Expand]) -> list[Expand]:
        for wish in new:
            waiting.setdefault(wish.leaf, deque()).append(search)
        return new

    for search in searches:
        wishes += enlist(search, next(search))
    outstanding = len(wishes)
    while outstanding:
        reply = yield wishes
        search = waiting[reply.leaf].popleft()
        try:
            wishes = enlist(search, search.send(reply))
        except StopIteration:
            wishes = []
        outstanding += len(wishes) - 1
