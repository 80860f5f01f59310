"""Beam search by the exact rules of Red-Hat-AI-Innovation-Team/its_hub. Knows no model and no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from treesearch.algorithms.base import Wishes, at_least, path_value, require
from treesearch.algorithms.compat import PathAggregate, known_aggregate
from treesearch.algorithms.compat.its_particles import BOX, advance, stopped
from treesearch.tree import ROOT, Tree


@dataclass(frozen=True)
class ITSBeam:
    """The best `beam_width` paths survive each step, and each is copied n / beam_width times (`n` is the budget there).

    The first step samples only n / beam_width paths. Stopped paths keep their place and are copied like the others;
    it ends when all that survive have stopped. When a path stops is as in `ITSParticles`. The output is the best path,
    of equals the first. (its_hub e4d00d1, its_hub/algorithms/beam_search.py.)
    """

    n: int = 16
    beam_width: int = 4
    max_steps: int = 50
    stop: str | None = BOX
    aggregate: PathAggregate = "last"

    reads_unfinished: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, n=self.n, beam_width=self.beam_width, max_steps=self.max_steps)
        require(self.n % self.beam_width == 0, "n", self.n, f"a multiple of beam_width = {self.beam_width}")
        known_aggregate(self.aggregate)

    def search(self, tree: Tree) -> Wishes:
        copies = self.n // self.beam_width
        pool = [ROOT] * copies
        while not all(stopped(tree, path, self.max_steps, self.stop) for path in pool):
            pool = yield from advance(tree, pool, self.max_steps, self.stop)
            if not pool:
                return
            pool = sorted(pool, key=lambda path: path_value(tree, path, self.aggregate), reverse=True)
            pool = pool[: self.beam_width] * copies
        tree.outputs = pool[:1]
