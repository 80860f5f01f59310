"""From measured seconds to the constants of the law: least squares over steps that were computed. Knows no engine.

The law is linear in its constants but for one roofline, so that one ratio is searched and all else is solved for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar, nnls

from benchmarks.virtual.constants import Hardware, Law, Model, Step

CONSTANTS = 7
# log of bytes a FLOP, where reading takes as long as arithmetic: about -5 on an H200, -2 on a CPU
RIDGES = np.linspace(-9.0, 5.0, 141)


@dataclass(frozen=True)
class Measured:
    """`seconds` that an engine took for these steps, one after another."""

    steps: Sequence[Step]
    seconds: float


def calibrate(found: Sequence[Measured], model: Model, hardware: Hardware) -> Law:
    """The law whose seconds have the least squares of relative errors, none of its constants negative.

    A constant that the measurements do not tell from the others is 0, a rate then infinite. Raises ValueError for fewer
    measurements than constants.
    """
    if len(found) < CONSTANTS:
        raise ValueError(f"{len(found)} measurements: the law has {CONSTANTS} constants")
    seconds = np.array([measured.seconds for measured in found])
    columns = [np.array(measured.steps, float).T for measured in found]

    def solved(ridge: float) -> tuple[np.ndarray, float]:
        """(what each column costs, root of the sum of squares)."""
        rows = np.array([features(steps, model, np.exp(ridge)) for steps in columns])
        return nnls(rows / seconds[:, None], np.ones(len(found)))  # type: ignore[no-any-return]

    near = min(RIDGES, key=lambda ridge: solved(ridge)[1])
    best = minimize_scalar(lambda ridge: solved(ridge)[1], bounds=(near - 0.1, near + 0.1), method="bounded").x
    (byte, again, base, each, start, pair), ridge = solved(best)[0].tolist(), float(np.exp(best))
    read, reached = (1 / (cost * of) if cost else float("inf")
                     for cost, of in ((byte, hardware.bandwidth), (byte * ridge, hardware.flops)))  # fmt: skip
    return Law(read, reached, base, each, start, pair, again / byte if byte else 1.0, apart=True)


def features(steps: np.ndarray, model: Model, ridge: float) -> list[float]:
    """What each constant is multiplied with, over all steps; their columns as the fields of `Step`."""
    sequences, tokens, context, begun, pairs, distinct = steps
    shared = np.where(distinct > 0, context - distinct, 0)
    moved = np.maximum(model.weights, ridge * 2 * model.parameters * tokens) + (context - shared) * model.kv
    return [moved.sum(), shared.sum() * model.kv, float(len(tokens)), sequences.sum(), begun.sum(), pairs.sum()]


def predicted(measured: Measured, law: Law, model: Model, hardware: Hardware) -> float:
    """Seconds of the same steps by the law."""
    return sum(sum(law.seconds(step, model, hardware)) for step in measured.steps)
