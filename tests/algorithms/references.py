"""The compat searches once more, as plain loops over lists, from the rules alone: no tree, no wishes, no package code.

A path is a tuple of steps. `draw(path, until)` samples one continuation, `draw(path, until, greedy=True)` the greedy one.
Each function returns the outputs, in order, as paths.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.algorithms.driver import FakeModel
from treesearch.types import Step, digest, path_digest

Path = tuple[Step, ...]
AGGREGATES: dict[str, Callable[[list[float]], float]] = {"last": lambda s: s[-1], "min": min, "prod": math.prod}


@dataclass(frozen=True)
class Salted(FakeModel):
    """Another model for each salt. Few `grades` make scores tie, few `letters` texts; some steps hold a box."""

    salt: int = 0
    grades: int = 1000
    boxes: float = 0.0

    def _step(self, key: int, depth: int) -> Step:
        key = digest(self.salt, key)
        rng = random.Random(key)
        text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz"[: self.letters], k=1 if self.letters < 26 else 8))
        text += "\\boxed{7}" if rng.random() < self.boxes else ""
        score, logprob, tokens = rng.randint(0, self.grades) / self.grades, -rng.randint(1, 9) / 2, rng.randint(1, 3)
        done = depth >= self.depth or rng.random() < 0.25
        answer = str(rng.randrange(self.answers)) if done else None
        return Step(text, tokens=tokens, logprob=logprob, score=score, finish="answer" if done else "step",
                    answer=answer, canonical=answer)  # fmt: skip


class Draws:
    """Samples of a model, each path with a count of its own."""

    def __init__(self, model: FakeModel) -> None:
        self.model, self.count = model, Counter[int]()

    def __call__(self, path: Path, until: str = "step", greedy: bool = False) -> Path:
        place = 0
        for step in path:
            place = path_digest(place, step)
        index = 0 if greedy else self.count[place]
        self.count[place] += 1
        return path + self.model.chain(place, len(path), index, until)


def ended(path: Path) -> bool:
    return bool(path) and path[-1].finish != "step"


def text(path: Path) -> str:
    return "".join(step.text for step in path)


def value(path: Path, how: str) -> float:
    return AGGREGATES[how]([step.score or 0.0 for step in path])


def sal_beam(draw: Draws, n: int, m: int, iterations: int, how: str, merge: bool, best_first: bool) -> list[Path]:
    beams: list[Path] = [()] * n
    completed: list[Path] = []
    for i in range(iterations):
        if len(beams) != n:
            beams = (beams * (n // len(beams) + 1))[:n]
        beams = [draw(beam, "answer" if i == iterations - 1 else "step") for beam in beams]
        completed += [beam for beam in beams if ended(beam)]
        beams = [beam for beam in beams if not ended(beam)]
        if not beams:
            break
        if merge:
            beams = [beam for k, beam in enumerate(beams) if text(beam) not in map(text, beams[:k])]
        top = np.argsort([value(beam, how) for beam in beams], kind="stable")[-(n // m) :]
        beams = [beam for k, beam in enumerate(beams) if k in top]
    if best_first:
        completed = sorted(completed, key=lambda beam: value(beam, how), reverse=True)
    completed = completed[:n]
    return (completed * (n // len(completed) + 1))[:n] if completed else []


def sal_dvts(draw: Draws, n: int, m: int, iterations: int, lookahead: int, how: str) -> list[Path]:
    stem: list[Path] = [()] * (n // m)
    last: list[list[Path]] = [[] for _ in stem]
    pruned: set[int] = set()
    for i in range(iterations):
        going = [k for k in range(len(stem)) if k not in pruned]
        final = i == iterations - 1
        for k in going:
            last[k] = [draw(stem[k], "answer" if final else "step") for _ in range(m)]
        ahead = {(k, j): last[k][j] for k in going for j in range(m)}
        for _ in range(0 if final else lookahead):
            ahead |= {kj: draw(path, greedy=True) for kj, path in ahead.items() if not ended(path)}
        for k in going:
            stem[k] = last[k][int(np.argmax([value(ahead[k, j], how) for j in range(m)]))]
            if ended(stem[k]) or "boxed{" in text(stem[k]):
                pruned.add(k)
    return [path for paths in last for path in paths]


class Place:
    """A node of OpenR's tree."""

    def __init__(self, path: Path, prior: float) -> None:
        self.path, self.prior = path, prior
        self.below: list[Place] | None = None
        self.backed: list[float] = []

    @property
    def q(self) -> float:
        return sum(self.backed) / len(self.backed) if self.backed else float(self.path[-1].score or 0.0)


def openr_mcts(
    draw: Draws, paths: int, width: int, depth: int, by_prior: bool, rng: random.Random
) -> tuple[list[Path], Place]:
    """The ends of all paths, and the root of the tree with what was backed up."""

    def bound(parent: Place, child: Place) -> float:
        n, visits = len(child.backed), len(parent.backed)
        return child.q + (math.log((visits + 19652 + 1) / 19652) + 1.25) * child.prior * math.sqrt(visits) / (n + 1)

    def expand(place: Place) -> None:
        drawn = [draw(place.path) for _ in range(width)]
        kept = [path for k, path in enumerate(drawn) if path[-1].text not in [p[-1].text for p in drawn[:k]]]
        rates = [math.exp((path[-1].logprob or 0.0) / (path[-1].tokens or 1)) for path in kept]
        place.below = [Place(path, rate / sum(rates)) for path, rate in zip(kept, rates, strict=True)]

    root, ends = Place((), 1.0), []
    for _ in range(paths):
        line = [root]
        while not ended(line[-1].path) and len(line[-1].path) < depth:
            here = line[-1]
            if here.below is None:
                expand(here)
            assert here.below is not None
            if by_prior and not here.backed:
                line.append(rng.choices(here.below, [child.prior for child in here.below])[0])
                continue
            best = here.below[0]
            for child in here.below[1:]:
                if bound(here, child) > bound(here, best):
                    best = child
            line.append(best)
        leaf = line[-1].q
        for place in line:
            place.backed.append(leaf)
        ends.append(line[-1].path)
    return ends, root


def tot_bfs(draw: Draws, steps: int, samples: int, keep: int, select: str, rng: random.Random) -> list[Path]:
    states: list[Path] = [()]
    for _ in range(steps):
        if all(map(ended, states)):
            break
        new = [path for s in states for path in ([s] if ended(s) else [draw(s) for _ in range(samples)])]
        values = [0.0 if text(path) in map(text, new[:k]) else float(path[-1].score or 0) for k, path in enumerate(new)]
        ids = list(range(len(new)))
        if select == "greedy":
            chosen = sorted(ids, key=lambda k: values[k], reverse=True)[:keep]
        else:
            chosen = rng.choices(ids, values if sum(values) else None, k=keep)
        states = [new[k] for k in chosen]
    return states


def _stopped(path: Path, max_steps: int) -> bool:
    return bool(path) and (len(path) > max_steps or ended(path) or "\\boxed" in path[-1].text)


def its_particles(draw: Draws, n: int, max_steps: int, how: str, select: str | None, rng: random.Random) -> list[Path]:
    def softmax(logits: Any) -> Any:
        e = np.exp(np.array(logits) - np.max(logits))
        return e / np.sum(e)

    def logit(path: Path) -> float:
        x = np.clip(value(path, how), 1e-7, 1 - 1e-7)
        return float(np.log(x / (1 - x)))

    particles: list[Path] = [()] * n
    while not all(_stopped(p, max_steps) for p in particles):
        particles = [p if _stopped(p, max_steps) else draw(p) for p in particles]
        particles = rng.choices(particles, weights=softmax([logit(p) for p in particles]), k=n)
    logits = [logit(p) for p in particles]
    if select == "argmax":
        return [particles[int(np.argmax(logits))]]
    return particles if select is None else rng.choices(particles, weights=softmax(logits), k=1)


def its_beam(draw: Draws, n: int, width: int, max_steps: int, how: str) -> list[Path]:
    copies = n // width
    pool: list[Path] = [()] * copies
    while not all(_stopped(p, max_steps) for p in pool):
        pool = [p if _stopped(p, max_steps) else draw(p) for p in pool]
        pool.sort(key=lambda p: value(p, how), reverse=True)
        pool = [p for _ in range(copies) for p in pool[:width]]
    return [pool[int(np.argmax([value(p, how) for p in pool]))]]
