"""What a search is, and the two loops most of them share. Knows no model and no clock.

A search is a frozen dataclass with one generator method: `reply = yield wishes` hands out new wishes (maybe none) and
receives exactly one expansion, the oldest outstanding one by default. It ends by returning; the answer is chosen from
the finished leaves by `answers.py`, apart from every search.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from typing import Protocol

from treesearch.errors import ConfigError
from treesearch.tree import Tree
from treesearch.types import Expand, Expansion

Wishes = Generator[list[Expand], Expansion, None]


class Search(Protocol):
    """A search: its parameters are its fields. One whose `reads_logprobs` is true gets `Step.logprob` from every proposer."""

    def search(self, tree: Tree) -> Wishes: ...


def grow_all(tree: Tree, wishes: Sequence[Expand]) -> Generator[list[Expand], Expansion, list[int]]:
    """Issue all wishes at once and grow their replies; failed ones are asked again until their leaf closes.

    Returns the tips of all new chains in the order they were delivered.
    """
    tips: list[int] = []
    waiting: dict[int, list[Expand]] = {}
    for wish in wishes:
        waiting.setdefault(wish.leaf, []).append(wish)
    new, outstanding = list(wishes), len(wishes)
    while outstanding:
        reply = yield new
        new, outstanding = [], outstanding - 1
        asked = waiting[reply.leaf].pop(0)
        tips += tree.grow(reply)
        if reply.error is not None and tree.is_open(reply.leaf):
            waiting[reply.leaf].append(asked)
            new, outstanding = [asked], outstanding + 1
    return tips


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
