"""Beam search by the exact rules of huggingface/search-and-learn. Knows no model and no clock."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, cycle, islice

from treesearch.algorithms.base import Wishes, at_least, grow_each, path_text, path_value
from treesearch.algorithms.compat import PathAggregate, known_aggregate
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand, Until


@dataclass(frozen=True)
class SALBeam:
    """`n` beams of which the best n // beam_width survive each step, refilled cyclically to `n`.

    Finished beams (and empty steps) leave the pool unconditionally, and the pool is refilled, so it never shrinks. The
    last of `iterations` samples to the answer. `aggregate` ranks beams (agg_strategy there), `merge` keeps the first of
    equal texts (filter_duplicates). Outputs are the first `n` finished beams, or the `n` best with `sort_completed`; the
    last `n` finish together, so there are fewer only where replies failed. (search-and-learn 6f81cac,
    search/beam_search.py; Beeching et al. 2024, "Scaling test-time compute with open models".)
    """

    n: int = 4
    beam_width: int = 4
    iterations: int = 40
    aggregate: PathAggregate = "last"
    merge: bool = False
    sort_completed: bool = False

    def __post_init__(self) -> None:
        at_least(1, n=self.n, beam_width=self.beam_width, iterations=self.iterations)
        known_aggregate(self.aggregate)

    def search(self, tree: Tree) -> Wishes:
        active, completed = [ROOT], list[int]()
        for left in reversed(range(self.iterations)):
            until: Until = "step" if left else "answer"
            grown = yield from grow_each(tree, [Expand(beam, 1, until) for beam in islice(cycle(active), self.n)])
            tips = list(chain.from_iterable(grown))
            ended = {tip for tip in tips if not tree.is_open(tip) or tree.path(tip)[-1].text == ""}
            completed += [tip for tip in tips if tip in ended]
            tree.outputs = self.outputs(tree, completed)
            active = self.survivors(tree, [tip for tip in tips if tip not in ended])
            if not active:
                return

    def survivors(self, tree: Tree, active: list[int]) -> list[int]:
        """The best n // beam_width in pool order; all of them where that is 0, as the original's slice has it."""
        if self.merge:
            first: dict[str, int] = {}
            for tip in active:
                first.setdefault(path_text(tree, tip), tip)
            active = list(first.values())
        # As numpy's argsort: ascending, so of equal values the later are kept.
        ranked = sorted(active, key=lambda tip: path_value(tree, tip, self.aggregate))
        best = set(ranked[-(self.n // self.beam_width) :])
        return [tip for tip in active if tip in best]

    def outputs(self, tree: Tree, completed: list[int]) -> list[int]:
        """The `n` beams that vote, of those finished so far in the order they finished."""
        if self.sort_completed:
            completed = sorted(completed, key=lambda tip: path_value(tree, tip, self.aggregate), reverse=True)
        return completed[: self.n]
