"""What a search is, and the two loops most of them share. Knows no model and no clock.

A search is a frozen dataclass with one generator method: `reply = yield wishes` hands out new wishes (maybe none) and
receives exactly one expansion, the oldest outstanding one by default. It ends by returning; the answer is chosen from
the finished leaves (or from `tree.outputs`) by `answers.py`, apart from every search.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from itertools import chain
from typing import Protocol

from treesearch.answers import combine
from treesearch.errors import ConfigError
from treesearch.tree import Tree
from treesearch.types import Expand, Expansion

Wishes = Generator[list[Expand], Expansion, None]


class Search(Protocol):
    """A search: its parameters are its fields.

    One whose `reads_logprobs` is true gets `Step.logprob` from every proposer; one whose `reads_unfinished` is true gets
    the answer read from steps that are not finished too, because its `tree.outputs` may hold some.
    """

    def search(self, tree: Tree) -> Wishes: ...


def grow_all(tree: Tree, wishes: Sequence[Expand]) -> Generator[list[Expand], Expansion, list[int]]:
    """Issue all wishes at once and grow their replies; failed ones are asked again until their leaf closes.

    Returns the tips of all new chains in the order they were delivered.
    """
    tips = yield from grow_each(tree, wishes)
    return sorted(chain.from_iterable(tips))


def grow_each(tree: Tree, wishes: Sequence[Expand]) -> Generator[list[Expand], Expansion, list[list[int]]]:
    """As `grow_all`; returns the tips of each wish apart, in the order of the wishes: none where its leaf closed."""
    tips: list[list[int]] = [[] for _ in wishes]
    waiting: dict[int, list[int]] = {}  # leaf -> its wishes, by index
    for k, wish in enumerate(wishes):
        waiting.setdefault(wish.leaf, []).append(k)
    new, outstanding = list(wishes), len(wishes)
    while outstanding:
        reply = yield new
        new, outstanding = [], outstanding - 1
        k = waiting[reply.leaf].pop(0)
        tips[k] = tree.grow(reply)
        if reply.error is not None and tree.is_open(reply.leaf):
            waiting[reply.leaf].append(k)
            new, outstanding = [wishes[k]], outstanding + 1
    return tips


def path_value(tree: Tree, node: int, aggregate: str) -> float:
    """Step scores of the path to this node put together; a path with a missing score is worth least of all."""
    steps = [tree.steps[node]] if aggregate == "last" else tree.path(node)
    value = combine([step.score for step in steps if step is not None], aggregate)
    return -math.inf if value is None else value


def path_text(tree: Tree, node: int) -> str:
    return "".join([step.text for step in tree.path(node)])


def require(ok: bool, name: str, value: object, rule: str) -> None:
    """Refuse a parameter by name: `beams = 0: must be at least 1`."""
    if not ok:
        raise ConfigError(f"search.{name} = {value!r}: must be {rule}")


def at_least(low: float, **values: float | None) -> None:
    """Refuse every parameter below `low`; None passes (it means "not set")."""
    for name, value in values.items():
        require(value is None or value >= low, name, value, f"at least {low}")


def softmax(x: Sequence[float]) -> list[float]:
    """e^x over its sum; empty for none."""
    top = max(x, default=0.0)  # exponents up to 0 cannot overflow
    e = [math.exp(value - top) for value in x]
    total = math.fsum(e)
    return [value / total for value in e]
