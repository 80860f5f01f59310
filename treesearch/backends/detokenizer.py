"""Token ids -> text, so that the texts of a chain's steps add up to the text of the chain. Knows no step and no model.

A token's text depends on what stands before it: SentencePiece tokenizers drop the space of the first token alone, and a
character may be cut by a step's end. Nothing is ever tokenised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MOST_KEPT = 16_384  # texts of steps that are kept: small models repeat themselves
CUT = "\ufffd"  # what a decoder writes for bytes that are no whole character
NEAR = 4  # tokens before a step that its decoder is shown first


class Detokenizer:
    """Decodes with a tokenizer's own decoder, special tokens included and no space cleaned away: what was written."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._kept: dict[tuple[int, ...], str] = {}

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids by themselves."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def text(self, before: Sequence[int], ids: Sequence[int], last: bool) -> str:
        """What `ids` add to the text of the ids `before` them; `last`: nothing follows.

        A character that is cut off at the end is left to what follows. So the texts of all parts of a chain, however it
        is cut, make up the decode of the whole. (One exception: byte-fallback decoders take back whole characters beside
        bytes that are no text. Here what was given stays.)
        """
        size, head = NEAR, self._once(tuple(before[-NEAR:]))
        while size < len(before) and (not head or head.startswith(CUT)):  # begins in mid-character, or says nothing
            size *= 4
            head = self.decode(before[-size:])
        known = list(before[-size:])
        whole = [*known, *ids]
        text = self._once(tuple(whole))
        return (text if last else self._settled(whole, text))[len(self._settled(known, head)) :]

    def _settled(self, ids: list[int], text: str) -> str:
        """The text of ids without a character that their end cuts: of at most four bytes, so of three tokens before."""
        shorter = text
        for back in range(1, 4):
            if shorter.endswith(CUT):
                shorter = self.decode(ids[: max(0, len(ids) - back)])
        return text.rstrip(CUT) if shorter.endswith(CUT) else shorter

    def _once(self, ids: tuple[int, ...]) -> str:
        """`decode`, with what repeats decoded once."""
        if ids not in self._kept:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[ids] = self.decode(ids)
        return self._kept[ids]

    def vocabulary(self, size: int) -> list[str]:
        """Text of each token id below `size` in the middle of a text; empty for ids the tokenizer does not have."""
        anchor = self.ids("a")[-1:]
        start = len(self.decode(anchor))
        known = min(size, len(self.tokenizer))
        return [self.decode([*anchor, token])[start:] for token in range(known)] + [""] * (size - known)

    def ids(self, text: str, after: str = "") -> list[int]:
        """Token ids of a piece of text that follows `after`: SentencePiece tokenizers put a space before a beginning."""
        lead, whole = self._ids(after), self._ids(after + text)
        return whole[len(lead) :] if whole[: len(lead)] == lead else self._ids(text)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
