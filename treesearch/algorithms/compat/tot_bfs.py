"""Breadth-first search by the exact rules of princeton-nlp/tree-of-thought-llm. Knows no model, no clock, and no text but
whether two states are equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from treesearch.algorithms.base import Wishes, at_least, grow_each, path_text, require
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand


@dataclass(frozen=True)
class ToTBFS:
    """Tree of Thoughts (arXiv 2305.10601): `steps` levels, of each of which `n_select_sample` states are kept.

    Each state is continued by `n_generate_sample` samples, or by all that a list-proposing prompt gives (null). Values
    are the scorer's: `value` judges each state by itself, and a state equal to an earlier one of its level counts 0;
    `vote` compares them in one prompt, which needs one state a level. `greedy` keeps the highest values, of equals the
    earlier; `sample` draws by value, with replacement. Outputs are the states of the last level. A state that finishes
    earlier stays as it is and competes by its value. (tree-of-thought-llm ab40034, src/tot/methods/bfs.py.)
    """

    steps: int = 4
    n_generate_sample: int | None = None
    n_select_sample: int = 5
    method_evaluate: Literal["value", "vote"] = "value"
    method_select: Literal["greedy", "sample"] = "greedy"

    reads_unfinished: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps, n_generate_sample=self.n_generate_sample, n_select_sample=self.n_select_sample)
        require(self.method_evaluate in ("value", "vote"), "method_evaluate", self.method_evaluate, "value or vote")
        require(self.method_select in ("greedy", "sample"), "method_select", self.method_select, "greedy or sample")
        one = self.method_evaluate == "value" or self.n_select_sample == 1
        require(one, "n_select_sample", self.n_select_sample, "1 with method_evaluate: vote, which compares siblings")

    def search(self, tree: Tree) -> Wishes:
        states = [ROOT]
        for _ in range(self.steps):
            growing = [state for state in states if tree.finish(state) == "step"]
            if not growing:
                return
            score: Literal["step", "siblings"] = "step" if self.method_evaluate == "value" else "siblings"
            wishes = [Expand(state, self.n_generate_sample, score=score) for state in growing]
            grown = iter((yield from grow_each(tree, wishes)))
            level = [new for state in states for new in (next(grown) if tree.finish(state) == "step" else [state])]
            if not level:
                return
            tree.outputs = states = self.select(tree, level)

    def select(self, tree: Tree, level: list[int]) -> list[int]:
        """The states to keep, the best first or in the order drawn."""
        values = self.values(tree, level)
        if self.method_select == "greedy":
            ranked = sorted(range(len(level)), key=values.__getitem__, reverse=True)
            return [level[k] for k in ranked[: self.n_select_sample]]
        weights = [max(value, 0.0) for value in values]
        return tree.rng.choices(level, weights if any(weights) else None, k=self.n_select_sample)

    def values(self, tree: Tree, level: list[int]) -> list[float]:
        """The scores of states; 0 where the level has the same text before."""
        values, seen = [], set[str]()
        for state in level:
            text = path_text(tree, state)
            values.append(0.0 if self.method_evaluate == "value" and text in seen else tree.score(state))
            seen.add(text)
        return values
