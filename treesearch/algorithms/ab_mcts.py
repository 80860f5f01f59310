"""Adaptive branching MCTS, variant A: widen or deepen by Thompson sampling. Knows no text and no clock."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from treesearch.algorithms.base import Wishes, at_least, require
from treesearch.tree import ROOT, TRIES, Tree
from treesearch.types import Expand


@dataclass(frozen=True)
class ABMCTS:
    """AB-MCTS-A (arXiv 2503.04412): each node has a GEN arm (a new child) and a CONT arm (go on below a child).

    Thompson sampling draws the mean of both posteriors and takes the larger; CONT then draws among the children. A new
    score updates GEN and the child's arm at its parent, and CONT and the child's arm at every node above. `unit` step:
    a child is one step, and finished children are not continued; answer: a child is a whole chain, revised at deeper
    levels. `prior` beta needs scores in [0, 1]. `proposers` names members of a mixture: who makes a new child is drawn by
    Thompson sampling over the scores that each of them got anywhere in the tree (Multi-LLM AB-MCTS).
    """

    simulations: int = 32
    unit: Literal["step", "answer"] = "step"
    prior: Literal["gaussian", "beta"] = "gaussian"
    parallel: int = 1
    proposers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        at_least(1, simulations=self.simulations, parallel=self.parallel)
        require(self.unit in ("step", "answer"), "unit", self.unit, "step or answer")
        require(self.prior in ("gaussian", "beta"), "prior", self.prior, "gaussian or beta")

    def search(self, tree: Tree) -> Wishes:
        draw = DRAWS[self.prior]
        nodes: dict[int, _Node] = defaultdict(_Node)
        earned: dict[str, list[float]] = {name: [] for name in self.proposers}
        flying, left = 0, self.simulations
        while True:
            wishes: list[Expand] = []
            while flying < self.parallel and left and self.can_grow(tree, ROOT):
                leaf = self.select(tree, nodes, draw)
                who = max(earned, key=lambda name: draw(earned[name], tree.rng), default=None)
                wishes.append(Expand(leaf, 1, self.until(leaf), proposer=who))
                flying, left = flying + 1, left - 1
            if not flying:
                return
            reply = yield wishes
            flying -= 1
            tips = tree.grow(reply)
            left += reply.error is not None  # asked again, wherever the arms then point
            for tip in tips:
                tree.backup(tip, tree.score(tip))
                nodes[tip].parent = reply.leaf
                nodes[reply.leaf].children.append(tip)
                observe(nodes, tip, tree.score(tip))
                if (author := tree.proposer(tip)) in earned:
                    earned[author].append(tree.score(tip))

    def select(self, tree: Tree, nodes: dict[int, _Node], draw: Draw) -> int:
        """Descend from the root until a GEN arm wins; returns the node that gets a new child."""
        node = ROOT
        while True:
            children = [child for child in nodes[node].children if self.can_grow(tree, child)]
            if not children or draw(nodes[node].gen, tree.rng) >= draw(nodes[node].cont, tree.rng):
                return node
            node = max([(draw(nodes[child].arm, tree.rng), -child, child) for child in children])[2]

    def until(self, leaf: int) -> Literal["step", "answer", "revision"]:
        return "step" if self.unit == "step" else "answer" if leaf == ROOT else "revision"

    def can_grow(self, tree: Tree, node: int) -> bool:
        """Steps go on from open nodes, revisions from finished answers; three failures in a row end either."""
        if self.unit == "step" or node == ROOT:
            return tree.is_open(node)
        return tree.finish(node) == "answer" and tree.failures[node] < TRIES


@dataclass
class _Node:
    """Scores seen by new children (gen), by all below those (cont), and as an arm of its parent: itself and below."""

    parent: int = -1
    children: list[int] = field(default_factory=list)
    gen: list[float] = field(default_factory=list)
    cont: list[float] = field(default_factory=list)
    arm: list[float] = field(default_factory=list)


def observe(nodes: dict[int, _Node], tip: int, score: float) -> None:
    """A new child `tip` got this score."""
    nodes[tip].arm.append(score)
    node = nodes[tip].parent
    nodes[node].gen.append(score)
    for above in _above(nodes, node):
        nodes[node].arm.append(score)
        nodes[above].cont.append(score)
        node = above


def _above(nodes: dict[int, _Node], node: int) -> Iterator[int]:
    while (node := nodes[node].parent) >= 0:
        yield node


def gaussian(x: list[float]) -> tuple[float, float, float, float]:
    """(m, kappa, nu, tau2) of the normal-inverse-chi2 posterior; prior m = 0, kappa = 1, nu = 1, tau2 = 0.1."""
    m, kappa, nu, tau2 = 0.0, 1.0, 1.0, 0.1
    n = len(x)
    mean = math.fsum(x) / n if n else m
    spread = math.fsum((value - mean) ** 2 for value in x)
    kappa_n, nu_n = kappa + n, nu + n
    tau2_n = (nu * tau2 + spread + n * kappa / kappa_n * (m - mean) ** 2) / nu_n
    return (kappa * m + n * mean) / kappa_n, kappa_n, nu_n, tau2_n


def beta(x: list[float]) -> tuple[float, float]:
    """(a, b) of the Beta posterior after fractional successes x in [0, 1]; prior Beta(0.5, 0.5)."""
    successes = math.fsum(min(max(value, 0.0), 1.0) for value in x)
    return 0.5 + successes, 0.5 + len(x) - successes


def draw_gaussian(x: list[float], rng: random.Random) -> float:
    """A mean from the posterior: variance nu tau2 / chi2(nu), then the mean around m with 1 / kappa of it."""
    m, kappa, nu, tau2 = gaussian(x)
    variance = nu * tau2 / max(rng.gammavariate(nu / 2, 2.0), 1e-12)
    return rng.gauss(m, math.sqrt(variance / kappa))


def draw_beta(x: list[float], rng: random.Random) -> float:
    """A mean from the posterior."""
    return rng.betavariate(*beta(x))


Draw = Callable[[list[float], random.Random], float]
DRAWS: dict[str, Draw] = {"gaussian": draw_gaussian, "beta": draw_beta}
