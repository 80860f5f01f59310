"""The same replies in any order, any number of times, grow one tree (`delivery: issue`)."""

from __future__ import annotations

import os
import random

import pytest

from tests.fakes import keyed_reply, problems, shape
from treesearch.algorithms import SEARCHES
from treesearch.algorithms.base import Search
from treesearch.manager import Manager
from treesearch.types import Expansion, Job, Problem, digest

SEED = 7
SHARED = {  # some 500 replies each, of several searches at once; and how many of 10,000 orders
    "sample": (SEARCHES["sample"](n=64, parallel=16), 8, 5_000),
    "beam": (SEARCHES["beam"](beams=8, branch=4), 16, 3_000),
    "mcts": (SEARCHES["mcts"](simulations=48, parallel=12, branch=3), 7, 1_000),
    "ab_mcts": (SEARCHES["ab_mcts"](simulations=96), 5, 1_000),
}


def grown(search: Search, asked: list[Problem], replies: dict[str, Expansion], rng: random.Random | None) -> tuple:
    """(hash of all trees, replies that came, of these duplicates): in an order that `rng` draws, some of them again."""
    manager, trees = Manager(search, seed=3), {}
    waiting: list[Job] = []
    seen: set[str] = set()
    came = again = 0

    def took(problem_id: str, outcome) -> None:
        waiting.extend(outcome.jobs)
        if outcome.ended and problem_id not in trees:
            trees[problem_id] = shape(manager.live[problem_id].tree)

    for problem in asked:
        took(problem.id, manager.open(problem, 0.0))
    while waiting:
        k = rng.randrange(len(waiting)) if rng else 0
        job = waiting[k]
        if rng is None or rng.random() > 0.2:  # else it comes once more, some time
            waiting[k] = waiting[-1]
            waiting.pop()
        if job.id not in replies:
            replies[job.id] = keyed_reply(job, 0.05)
        came += 1
        again += job.id in seen
        seen.add(job.id)
        took(job.problem.id, manager.deliver(job.id, replies[job.id], 0.0))
    return digest(*(repr(trees[problem.id]) for problem in asked)), came, again


def permuted(name: str, count: int) -> None:
    search, of, _ = SHARED[name]
    asked, replies, hashes, came, again = problems(of), {}, set(), 0, 0
    for seed in range(count):
        found, replied, repeated = grown(search, asked, replies, random.Random(f"{SEED} {seed}") if seed else None)
        hashes.add(found)
        came, again = came + replied, again + repeated
        assert len(hashes) == 1, f"{name}: another tree with seed {SEED} {seed}"
    print(
        f"{name}: {count:,} orders of {len(replies)} replies, {came:,} arrivals, {again:,} of them again: one tree hash"
    )
    assert again > came / 10


@pytest.mark.parametrize("name", SHARED)
def test_replies_in_any_order_and_again_grow_one_tree(name: str):
    permuted(name, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_many_orders_grow_one_tree(name: str):
    """A twentieth of the 10,000 here, all of them with TREESEARCH_ORDERS=1 (a quarter of an hour)."""
    permuted(name, int(SHARED[name][2] * float(os.environ.get("TREESEARCH_ORDERS", 0.05))))
