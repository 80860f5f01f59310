"""Strength of a search against its effort, from many games: curves, and how much effort one search is worth in another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 1000


def falling(curve: Sequence[float] | Array) -> Array:
    """The falling curve nearest to this one (isotonic regression: neighbours that rise share their mean)."""
    blocks: list[tuple[float, int]] = []
    for value in curve:
        blocks.append((float(value), 1))
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return np.repeat([value for value, _ in blocks], [count for _, count in blocks])


def effort(curve: Sequence[float] | Array, marks: Sequence[int], regret: float) -> float:
    """Rollouts after which a search with this curve of regrets, one a mark, has come down to `regret`.

    Between marks, rollouts to the same power lead to the same share of the regret: linear in both logarithms. Beyond the
    first and the last mark it is that mark.
    """
    falls = np.maximum(falling(curve), 1e-12)
    x, y = np.log(np.asarray(marks, float)), np.log(falls)
    return float(np.exp(np.interp(-np.log(max(regret, 1e-12)), -y, x)))


def speedup(k: int, sequential: Array, marks: Sequence[int], parallel: Array, rollouts: int) -> float:
    """Strength speed-up of k simulations in flight: how many times faster strength comes than one after the other.

    k * (sequential rollouts that reach the same strength) / (parallel rollouts): Chaslot, Winands and van den Herik,
    "Parallel Monte-Carlo Tree Search" (2008), where rollouts of the parallel search come k times as fast. `sequential`:
    regrets [game, mark]; `parallel`: [game], after `rollouts`; strength is the mean over games.
    """
    return k * effort(sequential.mean(axis=0), marks, float(parallel.mean())) / rollouts


def interval(statistic: Callable[[NDArray[np.intp]], float], games: int, seed: int = 0) -> tuple[float, float]:
    """95 % of the bootstrap: `statistic` of the indices of games drawn with replacement, the same ones for all searches."""
    draw = np.random.default_rng(seed)
    values = [statistic(draw.integers(0, games, games)) for _ in range(RESAMPLES)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
