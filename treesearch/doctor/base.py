"""What a check is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GB = 1e9


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table. `fix`: one line to paste into a shell, "" where there is nothing to do."""

    name: str
    state: Literal["ok", "note", "problem"]
    found: str
    fix: str = ""


def size(of: float) -> str:
    """Bytes for people."""
    return f"{of / GB:,.1f} GB" if of >= 0.1 * GB else f"{of / 1e6:,.1f} MB"
