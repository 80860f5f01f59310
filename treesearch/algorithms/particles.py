"""Particle filtering over partial solutions. Knows no text and no clock; resampling draws from the tree's generator."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from treesearch.algorithms.base import Wishes, at_least, grow_all, require, softmax
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand

CLIP = 1e-7


@dataclass(frozen=True)
class Particles:
    """Particle filtering (arXiv 2502.01618): after every step all `n` particles are drawn anew by weight.

    A particle's weight is the logit of its last score, which must lie in [0, 1]; finished particles keep theirs and
    take part. Copies of one particle are one wish. `temperature` divides the logits.
    """

    n: int = 16
    depth: int = 64
    temperature: float = 1.0

    def __post_init__(self) -> None:
        at_least(1, n=self.n, depth=self.depth)
        require(self.temperature > 0, "temperature", self.temperature, "above 0")

    def search(self, tree: Tree) -> Wishes:
        particles = [ROOT] * self.n
        for _ in range(self.depth):
            finished = [p for p in particles if not tree.is_open(p)]
            copies = Counter(p for p in particles if tree.is_open(p))
            if not copies:
                return
            tips = yield from grow_all(tree, [Expand(leaf, count) for leaf, count in copies.items()])
            particles = finished + tips
            if not particles:
                return
            probabilities = softmax([logit(tree.score(p)) / self.temperature for p in particles])
            particles = tree.rng.choices(particles, probabilities, k=self.n)


def logit(p: float) -> float:
    """ln(p / (1 - p)) of a probability clipped to [1e-7, 1 - 1e-7]."""
    p = min(max(p, CLIP), 1 - CLIP)
    return math.log(p / (1 - p))
