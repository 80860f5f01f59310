"""Trees whose values are known, and a manager's jobs answered from them. SIMULATED: no model, no clock but a virtual one.

A reply is a function of the job, so that all searches of a tree meet the same chances.
"""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from treesearch.algorithms.base import Search
from treesearch.answers import AnswerRule
from treesearch.backends.legal import render
from treesearch.manager import Manager
from treesearch.tasks.arithmetic import Move, Numbers, moves, reachable
from treesearch.tree import ROOT, Tree
from treesearch.types import Answer, Chain, Expansion, Job, Problem, Step, chain_seed, digest

LEFT = re.compile(r"\(left: ([\d ]+)\)")


class KnownTree:
    """A game of one player: `branching` moves a node, `depth` moves to the end, a number at each end.

    An end is worth 0.5 + the sum of its moves' values, each uniform in +-`spread` / `depth`; a node is worth its best end.
    A reply sees an end's value through normal noise of deviation `noise`; steps that do not end are not scored.
    """

    def __init__(self, seed: int, branching: int, depth: int, spread: float = 0.6, noise: float = 0.1) -> None:
        self.branching, self.depth, self.noise = branching, depth, noise
        draw, ends = np.random.default_rng(seed), np.full(1, 0.5)
        for level in range(depth):
            moved = draw.uniform(-spread, spread, branching ** (level + 1)) / depth
            ends = np.repeat(ends, branching) + moved
        self.ends: list[float] = ends.tolist()
        self.moves: list[float] = ends.reshape(branching, -1).max(axis=1).tolist()
        self.inner: tuple[Chain, ...] = tuple((Step(str(move), tokens=1),) for move in range(branching))

    def regret(self, tree: Tree) -> float:
        """What the search's move, the one most visited at the root, is worth less than the best: simple regret."""
        children = [i for i in tree.children[ROOT] if tree.visits[i]]
        if not children:
            return max(self.moves) - sum(self.moves) / len(self.moves)  # nothing was seen: any move
        step = tree.steps[max(children, key=lambda i: (tree.visits[i], -i))]
        assert step is not None
        return max(self.moves) - self.moves[int(step.text)]

    def reply(self, job: Job) -> Expansion:
        at = 0
        for step in job.path:
            at = at * self.branching + int(step.text)
        if job.until == "step":
            if len(job.path) + 1 < self.depth:
                return Expansion(job.leaf, self.inner)
            return Expansion(job.leaf, tuple(self._last(job, at, move) for move in range(self.branching)))
        assert job.n is not None
        return Expansion(job.leaf, tuple(self._playout(job, at, i) for i in range(job.first, job.first + job.n)))

    def _last(self, job: Job, at: int, move: int) -> Chain:
        return (self._end(move, at * self.branching + move, random.Random(chain_seed(job.seed, move))),)

    def _playout(self, job: Job, at: int, i: int) -> Chain:
        rng, chain = random.Random(chain_seed(job.seed, i)), list[Step]()
        for _ in range(len(job.path), self.depth - 1):
            move = int(rng.random() * self.branching)
            at = at * self.branching + move
            chain += self.inner[move]
        move = int(rng.random() * self.branching)
        return (*chain, self._end(move, at * self.branching + move, rng))

    def _end(self, move: int, at: int, rng: random.Random) -> Step:
        return Step(
            str(move), tokens=1, score=self.ends[at] + self.noise * rng.gauss(0, 1), finish="answer", answer="end"
        )


class NoisyGame24:
    """Game of 24 with random legal moves, and a scorer that knows what can be solved but sees it through noise.

    A score is 0.5 +- 0.2, plus normal noise of deviation `noise`, cut to [0, 1]; by default as telling as the bundled PRM's
    after one step (AUC 0.995).
    """

    def __init__(self, noise: float = 0.11) -> None:
        self.noise = noise

    def reply(self, job: Job) -> Expansion:
        numbers = _left(job.path[-1].text) if job.path else tuple(sorted(map(int, job.problem.question.split())))
        assert job.n is not None
        chains = tuple(self._chain(job, numbers, i) for i in range(job.first, job.first + job.n))
        return Expansion(job.leaf, chains, scored=0)

    def _chain(self, job: Job, numbers: Numbers, i: int) -> Chain:
        rng, chain = random.Random(chain_seed(job.seed, i)), list[Step]()
        while not chain or (job.until == "answer" and len(numbers) > 1):
            move = rng.choice(_moves(numbers))
            numbers = move.left
            text = render(move)
            ended = len(numbers) == 1
            path = tuple(step.text for step in (*job.path, *chain))
            answer = " ".join((*path, text)) if ended else None
            chain.append(Step(text, tokens=8 + len(numbers), score=self._score(job.problem.id, path, move),
                              finish="answer" if ended else "step", answer=answer, canonical=answer))  # fmt: skip
        return tuple(chain)

    def _score(self, problem: str, path: tuple[str, ...], move: Move) -> float:
        """The same path always gets the same score."""
        truth = 0.7 if reachable(move.left, 24) else 0.3
        noise = random.Random(digest(problem, *path, render(move))).gauss(0, self.noise)
        return min(1.0, max(0.0, truth + noise))


_moves = cache(moves)


def _left(text: str) -> Numbers:
    found = LEFT.search(text)
    assert found is not None
    return tuple(map(int, found[1].split()))


def solved(answer: Answer) -> bool:
    """Whether the moves of the answer leave 24."""
    return answer.answer is not None and answer.answer.endswith("(left: 24)")


class Played(NamedTuple):
    """A search that has ended. `time` is in requests' durations, each 1; `met`: jobs whose path another was out for."""

    answer: Answer
    time: float
    jobs: int
    met: int


def play(
    search: Search,
    problem: Problem,
    reply: Callable[[Job], Expansion],
    seed: int = 0,
    rule: AnswerRule | None = None,
    watch: Callable[[Tree, float], None] = lambda tree, time: None,
) -> Played:
    """One search through the real manager, all its jobs run at once; `watch` is called after each delivery."""
    manager = Manager(search, seed=seed, rule=rule)
    flying = deque((1.0, job) for job in manager.open(problem, 0.0).jobs)  # oldest first: the order of delivery
    paths = [job.seed for _, job in flying]
    tree, now, jobs, met = manager.live[problem.id].tree, 0.0, len(flying), 0
    while flying:
        done, job = flying.popleft()
        paths.remove(job.seed)
        now = max(now, done)
        for new in manager.deliver(job.id, reply(job), now).jobs:
            jobs, met = jobs + 1, met + (new.seed in paths)
            paths.append(new.seed)
            flying.append((now + 1.0, new))
        watch(tree, now)
    return Played(manager.answer(problem.id, now), now, jobs, met)
