"""Particle filtering by the exact rules of Red-Hat-AI-Innovation-Team/its_hub. Knows no model and no clock."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, Literal

from treesearch.algorithms.base import Wishes, at_least, grow_each, path_value, require, softmax
from treesearch.algorithms.compat import PathAggregate, known_aggregate
from treesearch.algorithms.particles import logit
from treesearch.tree import ROOT, Tree
from treesearch.types import Expand, Expansion

BOX = "\\boxed"


@dataclass(frozen=True)
class ITSParticles:
    r"""`n` particles (the budget there); after each step all of them are drawn anew, with replacement, by weight.

    The weight is the logit of the score, clipped by 1e-7; stopped particles keep theirs and are drawn and copied like
    the others. A particle stops after `max_steps` + 1 steps, or with a step that contains `stop` (null: none), or where
    its chain ends. It ends when all drawn ones have stopped. `selection` names the one output: the particle of the
    largest weight in the last draw, or one sampled by weight; null offers the whole last draw to the answer rule.
    (its_hub e4d00d1, its_hub/algorithms/particle_gibbs.py, with one iteration; arXiv 2502.01618.)
    """

    n: int = 8
    max_steps: int = 50
    stop: str | None = BOX
    aggregate: PathAggregate = "last"
    selection: Literal["argmax", "sample"] | None = "argmax"

    reads_unfinished: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(1, n=self.n, max_steps=self.max_steps)
        known_aggregate(self.aggregate)
        require(self.selection in (None, "argmax", "sample"), "selection", self.selection, "argmax, sample or null")

    def search(self, tree: Tree) -> Wishes:
        particles = [ROOT] * self.n
        while not all(stopped(tree, p, self.max_steps, self.stop) for p in particles):
            particles = yield from advance(tree, particles, self.max_steps, self.stop)
            if not particles:
                return
            particles = tree.rng.choices(particles, softmax(self.weights(tree, particles)), k=self.n)
        tree.outputs = self.chosen(tree, particles)

    def weights(self, tree: Tree, particles: list[int]) -> list[float]:
        """Log-weights, not normalised."""
        return [logit(path_value(tree, particle, self.aggregate)) for particle in particles]

    def chosen(self, tree: Tree, particles: list[int]) -> list[int]:
        weights = self.weights(tree, particles)
        if self.selection == "argmax":
            return [particles[weights.index(max(weights))]]
        return particles if self.selection is None else tree.rng.choices(particles, softmax(weights))


def advance(
    tree: Tree, pool: list[int], max_steps: int, stop: str | None
) -> Generator[list[Expand], Expansion, list[int]]:
    """One step for each member that has not stopped, in its place; those that could not be grown are gone."""
    going = [node for node in pool if not stopped(tree, node, max_steps, stop)]
    grown = iter((yield from grow_each(tree, [Expand(node, 1) for node in going])))
    return [tip for node in pool for tip in ([node] if stopped(tree, node, max_steps, stop) else next(grown))]


def stopped(tree: Tree, node: int, max_steps: int, stop: str | None) -> bool:
    """Whether this path is not continued."""
    if node == ROOT:
        return False
    over = tree.depth[node] > max_steps  # there the step in hand is not counted
    return over or tree.finish(node) != "step" or (stop is not None and stop in tree.path(node)[-1].text)
