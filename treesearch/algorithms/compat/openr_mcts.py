"""MCTS by the exact rules of openreasoner/openr (vanila_mcts). Knows no clock, and no text but whether siblings are equal."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from treesearch.algorithms.base import Wishes, at_least, grow_all, require, softmax
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand, Expansion

Children = dict[int, dict[int, float]]  # node -> its children that equal no earlier sibling, and their priors


@dataclass(frozen=True)
class OpenRMCTS:
    """`num_sequence` paths, one after another, each from the root to its end; the ends are the outputs, repeats included.

    A path descends by PUCT and expands every leaf it meets by `width` samples; it ends at a finished step, at `depth`
    steps, or where nothing could be sampled. The end's value, its own last score, is backed up unchanged. The value of
    a child is the mean of what was backed up through it, before that its score. `select_by_prior` draws the child of a
    node that no path has ended below by its prior, instead of taking the best score. Priors are exp(mean token
    log-probability), shared out over siblings; equal siblings count once. (openr 54ae004, reason/guided_search/tree.py;
    TS-LLM, arXiv 2309.17179.)
    """

    num_sequence: int = 16
    width: int = 4
    depth: int = 50
    c_base: float = 19652.0
    c_init: float = 1.25
    select_by_prior: bool = False

    reads_logprobs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, num_sequence=self.num_sequence, width=self.width, depth=self.depth)
        at_least(0, c_init=self.c_init)
        require(self.c_base > 0, "c_base", self.c_base, "above 0")

    def search(self, tree: Tree) -> Wishes:
        children: Children = {}
        for _ in range(self.num_sequence):
            end = yield from self.descend(tree, children)
            if end == ROOT:
                return
            tree.backup(end, tree.mean(end) if tree.visits[end] else tree.score(end))
            tree.outputs = [*(tree.outputs or ()), end]

    def descend(self, tree: Tree, children: Children) -> Generator[list[Expand], Expansion, int]:
        """One path: where it ends. Expands the leaves on its way."""
        node = ROOT
        while tree.finish(node) == "step" and tree.depth[node] < self.depth:
            if node not in children:
                tips = yield from grow_all(tree, [Expand(node, self.width)])
                children[node] = priors(tree, distinct(tree, tips))
            if not children[node]:
                break
            node = self.pick(tree, node, children[node])
        return node

    def pick(self, tree: Tree, node: int, children: dict[int, float]) -> int:
        """The child to go on to; of equals the first."""
        if self.select_by_prior and not tree.visits[node]:
            return tree.rng.choices(list(children), list(children.values()))[0]

        def bound(child: int) -> float:
            n = tree.visits[child]
            q = tree.mean(child) if n else tree.score(child)
            return puct(q, children[child], tree.visits[node], n, self.c_base, self.c_init)

        return max(children, key=bound)


def distinct(tree: Tree, tips: list[int]) -> list[int]:
    """The first tip of each text; the others are closed."""
    first: dict[str, int] = {}
    for tip in tips:
        if first.setdefault(tree.path(tip)[-1].text, tip) != tip:
            tree.close(tip)
    return list(first.values())


def priors(tree: Tree, siblings: list[int]) -> dict[int, float]:
    """exp(mean token log-probability) over its sum, for each sibling; uniform where one is unknown."""
    rates = []
    for node in siblings:
        step = tree.path(node)[-1]
        if step.logprob is not None and step.tokens is not None:
            rates.append(step.logprob / max(1, step.tokens))
    return dict(zip(siblings, softmax(rates if len(rates) == len(siblings) else [0.0] * len(siblings)), strict=True))


def puct(q: float, p: float, parent: int, n: int, base: float, init: float) -> float:
    """Q + (ln((N + base + 1) / base) + init) P sqrt(N) / (n + 1) with N visits of the parent, n of the child."""
    return q + (math.log((parent + base + 1) / base) + init) * p * math.sqrt(parent) / (n + 1)
