"""Beam search over steps, with optional lookahead. Knows no text but whether two paths are equal."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from treesearch.algorithms.base import Wishes, at_least, grow_all, path_text, path_value, require
from treesearch.tree import ROOT, Tree
from treesearch.types import GREEDY, Expand, Expansion

Ends = dict[int, int]  # tip -> last node of its lookahead


@dataclass(frozen=True)
class Beam:
    """PRM-guided beam search (arXiv 2305.00633; lookahead as in arXiv 2408.03314).

    The first level samples beams * branch steps, each later one `branch` per survivor; the best `beams` of a level
    survive. Finished ones among them leave and stay candidates. `lookahead` greedy steps below a tip are what ranks it
    (they stay in the tree); the search goes on from the tip. `merge` keeps one of the tips with equal paths.
    `aggregate` puts the step scores of a path together; a path with a missing score ranks last.
    """

    beams: int = 4
    branch: int | None = 4
    depth: int = 64
    lookahead: int = 0
    merge: bool = True
    aggregate: Literal["last", "min", "prod", "mean", "max", "sum"] = "last"

    def __post_init__(self) -> None:
        at_least(1, beams=self.beams, branch=self.branch, depth=self.depth)
        at_least(0, lookahead=self.lookahead)
        known = ("last", "min", "prod", "mean", "max", "sum")
        require(self.aggregate in known, "aggregate", self.aggregate, f"one of {', '.join(known)}")

    def search(self, tree: Tree) -> Wishes:
        beams = [ROOT]
        n = None if self.branch is None else self.beams * self.branch
        for _ in range(self.depth):
            tips = yield from grow_all(tree, [Expand(beam, n) for beam in beams])
            if self.merge:
                tips = merged(tree, tips)
            ends = yield from look_ahead(tree, tips, self.lookahead)
            ranks = {tip: path_value(tree, ends.get(tip, tip), self.aggregate) for tip in tips}
            best = sorted(tips, key=ranks.__getitem__, reverse=True)[: self.beams]
            beams = [tip for tip in best if tree.is_open(tip)]
            if not beams:
                return
            n = self.branch


def merged(tree: Tree, tips: list[int]) -> list[int]:
    """The first tip of each path text; the other open ones are closed (finished ones stay candidates)."""
    first: dict[str, int] = {}
    above = {parent: path_text(tree, parent) for parent in {tree.parent[tip] for tip in tips}}
    for tip in tips:
        if first.setdefault(above[tree.parent[tip]] + tree.text(tip), tip) != tip:
            tree.close(tip)
    return list(first.values())


def look_ahead(tree: Tree, tips: list[int], steps: int) -> Generator[list[Expand], Expansion, Ends]:
    """Grow up to `steps` greedy steps below every open tip; returns where each of them ended."""
    ends = {tip: tip for tip in tips if tree.is_open(tip)}
    origin = dict(ends)
    for _ in range(steps):
        wishes = [Expand(end, 1, "step", GREEDY) for end in ends.values() if tree.is_open(end)]
        for node in (yield from grow_all(tree, wishes)):
            origin[node] = origin[tree.parent[node]]
            ends[origin[node]] = node
    return ends
