"""Beam search by the exact rules of huggingface/search-and-learn. Knows no model and no clock."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice

from treesearch.algorithms.base import Wishes, at_least, grow_all, require
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand


@dataclass(frozen=True)
class SALBeam:
    """`n` beams of which the best n // beam_width by last score survive each step, refilled cyclically to `n`.

    Finished beams (and empty steps) leave the pool unconditionally, and the pool is refilled, so it never shrinks. The
    last of `iterations` samples to the answer. `merge` is search-and-learn's filter_duplicates. Its output are the
    first n finished beams, or the n best with `sort_completed`: see `outputs`. (Beeching et al. 2024, "Scaling
    test-time compute with open models".)
    """

    n: int = 4
    beam_width: int = 4
    iterations: int = 40
    merge: bool = False
    sort_completed: bool = False

    def __post_init__(self) -> None:
        at_least(1, n=self.n, beam_width=self.beam_width, iterations=self.iterations)
        require(self.n % self.beam_width == 0, "n", self.n, f"a multiple of beam_width = {self.beam_width}")

    def search(self, tree: Tree) -> Wishes:
        active = [ROOT]
        for iteration in range(self.iterations):
            until = "answer" if iteration == self.iterations - 1 else "step"
            pool = islice(cycle(active), self.n)
            tips = yield from grow_all(tree, [Expand(beam, 1, until) for beam in pool])  # type: ignore[arg-type]
            active = [tip for tip in tips if tree.is_open(tip) and tree.path(tip)[-1].text]
            if self.merge:
                active = list(
                    {"".join(step.text for step in tree.path(tip)): tip for tip in reversed(active)}.values()
                )[::-1]
            # As numpy's argsort there: of equal scores the later are kept, and survivors stay in pool order.
            best = sorted(active, key=tree.score)[-(self.n // self.beam_width) :]
            active = [tip for tip in active if tip in best]
            if not active:
                return

    def outputs(self, tree: Tree) -> list[int]:
        """The n finished leaves search-and-learn votes over, repeated cyclically where there are fewer."""
        finished = [candidate.node for candidate in tree.candidates()]
        if self.sort_completed:
            finished.sort(key=tree.score, reverse=True)
        return list(islice(cycle(finished[: self.n]), self.n))
