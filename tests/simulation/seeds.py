"""Seeds that once failed, and what they showed. They are run always; a change of `Plan.of` makes other worlds of them."""

from __future__ import annotations

KEPT: dict[int, str] = {}
