"""Where a chain of token ids is cut into steps: the same ids give the same steps, however they were sampled. Pure.

A step ends with the token that completes the task's separator (the token stays in the step), after `step_tokens` tokens
(the next step goes on), at the end-of-text token (kept out of the ids, counted), or where the path reaches a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from treesearch.backends.base import Limits
from treesearch.errors import ConfigError
from treesearch.types import Finish


@dataclass(frozen=True, slots=True)
class Piece:
    """One step as token ids; `tokens` counts an end-of-text token that `ids` leaves out.

    `whole`: it has ended; else sampling stopped in the middle of it.
    """

    ids: tuple[int, ...]
    tokens: int
    finish: Finish
    whole: bool = True


class Splitter:
    """Tables over the vocabulary: which token holds the separator, begins with its rest, or ends with its beginning."""

    def __init__(self, texts: Sequence[str], separator: str, ends: Sequence[int], limits: Limits) -> None:
        if not 1 <= len(separator) <= 2:
            raise ConfigError(f"separator {separator!r} of steps: must be one or two characters, such as a blank line")
        self.separator, self.limits = separator, limits
        self.end_ids = frozenset(ends)
        self.holds = [separator in text for text in texts]
        two = len(separator) == 2
        self.opens = [two and text.endswith(separator[0]) and separator not in text for text in texts]
        self.closes = [two and text.startswith(separator[1]) for text in texts]

    def split(self, ids: Sequence[int], used_tokens: int, used_steps: int, room: int) -> list[Piece]:
        """Steps of the tokens sampled after a path of `used_tokens` in `used_steps`; `room` tokens fit in all.

        Only the last piece may be unfinished.
        """
        pieces: list[Piece] = []
        start, opened = 0, False
        budget = min(room, self.limits.path_tokens - used_tokens)
        for k, token in enumerate(ids):
            if token in self.end_ids:
                return [*pieces, Piece(tuple(ids[start:k]), k + 1 - start, "answer")]
            whole = self.holds[token] or (opened and self.closes[token])
            opened = self.opens[token]
            if k + 1 >= budget:
                return [*pieces, Piece(tuple(ids[start : k + 1]), k + 1 - start, "length")]
            if whole or k + 1 - start >= self.limits.step_tokens:
                last = used_steps + len(pieces) + 1 >= self.limits.depth
                pieces.append(Piece(tuple(ids[start : k + 1]), k + 1 - start, "length" if last else "step"))
                start, opened = k + 1, False
                if last:
                    return pieces
        if start < len(ids):
            pieces.append(Piece(tuple(ids[start:]), len(ids) - start, "step", whole=False))
        return pieces
