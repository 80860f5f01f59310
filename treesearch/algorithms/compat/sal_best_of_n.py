"""Best-of-N by the exact rules of huggingface/search-and-learn. Knows no model and no clock."""

from __future__ import annotations

from dataclasses import dataclass

from treesearch.algorithms.base import Wishes, at_least, grow_all
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand


@dataclass(frozen=True)
class SALBestOfN:
    """`n` independent chains to their ends; all are outputs, in order, those without a readable answer too.

    (search-and-learn 6f81cac, search/best_of_n.py.)
    """

    n: int = 4

    def __post_init__(self) -> None:
        at_least(1, n=self.n)

    def search(self, tree: Tree) -> Wishes:
        tree.outputs = yield from grow_all(tree, [Expand(ROOT, 1, "answer")] * self.n)
