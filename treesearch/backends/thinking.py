"""Budgets of a thought: it is kept open until `think_least` tokens and closed after `think_most`. Knows no sampler.

Budget forcing, after s1 (arXiv 2501.19393): a thought that is closed too early, by its tag or by the end of the text,
loses that end and goes on with "Wait"; one that is too long is closed for the model. What is forced is a function of the
ids alone, so step by step and at once force the same. Taken-back tokens are in no step and counted nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from treesearch.backends.base import Limits
from treesearch.backends.detokenizer import Detokenizer
from treesearch.tasks.readers import THOUGHT_OVER

if TYPE_CHECKING:
    from treesearch.backends.causal import Draft

WAIT = "Wait"
CLOSING = f"\n{THOUGHT_OVER}\n\n"  # as thinking models write it
TAIL = 12  # tokens that hold the tag, if they end with it: it has 8 characters


class Thinking:
    """The budget of a proposer's thoughts. Positions and budgets count the tokens of a path, the prompt excluded."""

    def __init__(self, detokenizer: Detokenizer, texts: Sequence[str], ends: Iterable[int], limits: Limits) -> None:
        self.decode = detokenizer.decode
        self.ends, self.least, self.most = frozenset(ends), limits.think_least or 0, limits.think_most
        self.wait = detokenizer.ids(WAIT, after="\n")
        self._closing = detokenizer.ids(CLOSING, after="a")
        self._closing_line = detokenizer.ids(CLOSING[1:], after="\n")  # where the thought's last line has ended
        tag = detokenizer.ids(THOUGHT_OVER, after="a")
        self.tag = tag[0] if len(tag) == 1 else None  # models that think by themselves have a token for it
        self.may_close = [k == self.tag if self.tag is not None else ">" in text for k, text in enumerate(texts)]

    def is_open(self, path: Sequence[int]) -> bool:
        """Whether a path is in its thought, or closed it only because it had to."""
        return THOUGHT_OVER not in self.decode(path[: self.most])

    def closes(self, written: Sequence[int]) -> bool:
        """Whether the ids end with what completes the closing tag."""
        return written[-1] == self.tag if self.tag is not None else THOUGHT_OVER in self.decode(written[-TAIL:])

    def due(self, path: Sequence[int]) -> list[int]:
        """What must follow an open thought: the closing, or the rest of one that a step's end has cut."""
        if self.most is None or len(path) < self.most:
            return []
        thought, forced = path[: self.most], list(path[self.most :])
        closing = self._closing_line if self.decode(thought[-TAIL:]).endswith("\n") else self._closing
        return closing[len(forced) :] if closing[: len(forced)] == forced else []

    def begin(self, draft: Draft) -> None:
        """Close the thought of a chain that begins at the end of its budget."""
        if draft.thinking and self.most is not None and len(draft.start.path) >= self.most:
            draft.thinking = False
            if due := self.due(draft.start.path):
                draft.force(due)

    def correct(self, draft: Draft, new: int, step: int) -> bool:
        """Mend a draft whose last `new` tokens were sampled in an open thought; its last step begins at `step`.

        True: sampling must go on.
        """
        path, forced = len(draft.start.path), False
        end = self._end(draft, new, step)
        if end is not None and path + end < self.least:
            draft.cut(end)
            draft.force(self.wait if self.most is None else self.wait[: self.most - path - end])
            end, forced = None, True
        if end is not None:
            draft.thinking = False
            draft.segment += 1
            return draft.ids[-1] not in self.ends
        if self.most is not None and path + len(draft.ids) >= self.most:
            draft.thinking = False
            draft.force(self.due([*draft.start.path, *draft.ids]))
            return True
        return forced

    def _end(self, draft: Draft, new: int, step: int) -> int | None:
        """Where in the draft's ids the end of the thought begins: its tag (in the last step), or an end of the text."""
        if new and draft.ids[-1] in self.ends:
            return len(draft.ids) - 1
        written = [*draft.start.path, *draft.ids]
        if THOUGHT_OVER not in self.decode(written[-new - TAIL :]):
            return None
        for back in range(1, TAIL + 1):
            if THOUGHT_OVER in self.decode(written[-back:]):
                return max(step, len(draft.ids) - back)
        return len(draft.ids)
