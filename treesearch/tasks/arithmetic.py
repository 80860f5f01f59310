"""Moves of number puzzles: combine two of the numbers left into one. Knows no text and no model."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import NamedTuple

Numbers = tuple[int, ...]  # sorted, a multiset


class Move(NamedTuple):
    """`a op b = result`, written with the larger operand first, and the numbers left after it (sorted)."""

    a: int
    op: str
    b: int
    result: int
    left: Numbers


def moves(numbers: Numbers, largest: int = 99) -> list[Move]:
    """All different legal moves in whole numbers: no negative, no inexact and no result above `largest`."""
    return list(dict.fromkeys(_moves(numbers, largest)))


def _moves(numbers: Numbers, largest: int) -> Iterator[Move]:
    for i, small in enumerate(numbers):
        for j in range(i + 1, len(numbers)):
            a, b = numbers[j], small
            rest = numbers[:i] + numbers[i + 1 : j] + numbers[j + 1 :]
            for op, result in (("+", a + b), ("-", a - b), ("*", a * b), ("/", a // b if b and a % b == 0 else None)):
                if result is not None and result <= largest:
                    yield Move(a, op, b, result, tuple(sorted((*rest, result))))


@cache
def reachable(numbers: Numbers, target: int, largest: int = 99) -> bool:
    """Whether some sequence of whole-number moves turns `numbers` (sorted) into `target` alone."""
    if len(numbers) == 1:
        return numbers[0] == target
    return any(reachable(move.left, target, largest) for move in moves(numbers, largest))


@cache
def solvable(numbers: tuple[Fraction | int, ...], target: int) -> bool:
    """Whether `target` can be made at all, fractions and negative numbers allowed: the truth, exact and slow."""
    if len(numbers) == 1:
        return numbers[0] == target
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            if i == j:
                continue
            rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
            results = [a - b] + ([a + b, a * b] if i < j else []) + ([Fraction(a) / b] if b else [])
            if any(solvable(tuple(sorted((*rest, r))), target) for r in results):
                return True
    return False
