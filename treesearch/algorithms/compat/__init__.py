"""Exact rules of other projects, one file each, for comparison with published runs. Know no model and no clock.

README.md beside this file says what is equal to each original, and what is knowingly different.
"""

from __future__ import annotations

from typing import Literal, get_args

from treesearch.algorithms.base import require

PathAggregate = Literal["last", "min", "prod"]  # how search-and-learn and its_hub put the scores of a path together


def known_aggregate(value: str) -> None:
    """Refuse any other than these."""
    known = get_args(PathAggregate)
    require(value in known, "aggregate", value, f"one of {', '.join(known)}")
