"""Diverse verifier tree search by the exact rules of huggingface/search-and-learn. Knows no model and no clock."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

from treesearch.algorithms.base import Wishes, at_least, grow_all, path_text, path_value, require
from treesearch.algorithms.beam import look_ahead
from treesearch.algorithms.compat import PathAggregate, known_aggregate
from treesearch.algorithms.dvts import interleave
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand

BOX = "boxed{"  # in its text ends a subtree


@dataclass(frozen=True)
class SALDVTS:
    """n / beam_width independent subtrees; each goes on from the best of `beam_width` one-step candidates.

    `lookahead` greedy steps below a candidate are what ranks it; of equals the first is best. A subtree ends where its
    best candidate is finished, empty, or has a box in its text; the last of `iterations` samples to the answer. Outputs
    are the last candidates of every subtree, the unchosen and unfinished among them too. (search-and-learn 6f81cac,
    search/diverse_verifier_tree_search.py; Beeching et al. 2024, "Scaling test-time compute with open models".)
    """

    n: int = 4
    beam_width: int = 4
    iterations: int = 40
    lookahead: int = 0
    aggregate: PathAggregate = "last"

    reads_unfinished: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, n=self.n, beam_width=self.beam_width, iterations=self.iterations)
        at_least(0, lookahead=self.lookahead)
        require(self.n % self.beam_width == 0, "n", self.n, f"a multiple of beam_width = {self.beam_width}")
        known_aggregate(self.aggregate)

    def search(self, tree: Tree) -> Wishes:
        candidates: list[list[int]] = [[] for _ in range(self.n // self.beam_width)]
        return interleave([self._subtree(tree, candidates, k) for k in range(len(candidates))])

    def _subtree(self, tree: Tree, candidates: list[list[int]], k: int) -> Wishes:
        """Subtree `k`: its latest candidates are `candidates[k]`."""
        best = ROOT
        for left in reversed(range(self.iterations)):
            tips = yield from grow_all(tree, [Expand(best, self.beam_width, "step" if left else "answer")])
            if not tips:
                return
            candidates[k] = tips
            tree.outputs = list(chain.from_iterable(candidates))
            ends = yield from look_ahead(tree, tips, self.lookahead)
            values = {tip: path_value(tree, ends.get(tip, tip), self.aggregate) for tip in tips}
            best = max(tips, key=values.__getitem__)  # max keeps the first of equals
            if not tree.is_open(best) or tree.path(best)[-1].text == "" or BOX in path_text(tree, best):
                return
