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
        self.step_tokens = limits.step_tokens
        self.wait = detokenizer.ids(WAIT, after="\n")
        self._closing = detokenizer.ids(CLOSING, after="a")
        self._closing_line = detokenizer.ids(CLOSING[1:], after="\n")  # where the thought's last line has ended
        tag = detokenizer.ids(THOUGHT_OVER, after="a")
        self.tag = tag[0] if len(tag) == 1 else None  # models that think by themselves have a token for it
        self.may_close = [k == self.tag if self.tag is not None else ">" in text for k, text in enumerate(texts)]

    def is_open(self, path: Sequence[int]) -> bool:
        """Whether a path is in its thought, or closed it only because it had to."""
        return not self._has_tag(path[: self.most])

    def closes(self, written: Sequence[int]) -> bool:
        """Whether the last of the ids completes the closing tag of a thought that was open before it."""
        return written[-1] == self.tag if self.tag is not None else self._has_tag(written[-TAIL:])

    def _has_tag(self, ids: Sequence[int]) -> bool:
        return self.tag in ids if self.tag is not None else THOUGHT_OVER in self.decode(ids)

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

    def correct(self, draft: Draft, end: int | None, step: int) -> bool:
        """Mend a draft sampled in an open thought that ends at `end`; its last step begins at `step`.

        True: sampling must go on.
        """
        path, forced = len(draft.start.path), False
        if end is not None and path + end < self.least:
            end = max(end, step)  # what stands in an earlier step, stands: the rest of the tag is no tag
            draft.cut(end)
            left = self.step_tokens - (end - step)  # the word ends with its step: the next one goes on by itself
            draft.force(self.wait[: left if self.most is None else min(left, self.most - path - end)])
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

    def end(self, draft: Draft, new: int) -> int | None:
        """Where the end of a thought begins, counted as the draft's ids are: its tag, or an end of the text.

        `new` tokens were sampled since it was known to be open. What a sampler wrote beyond the tag, because its stops
        saw only a part of it, is dropped.
        """
        path = len(draft.start.path)
        written = [*draft.start.path, *draft.ids]
        if self._has_tag(written[-new - TAIL :]):
            for at in range(len(written) - new + 1, len(written) + 1):
                if self.closes(written[:at]):
                    draft.cut(at - path)
                    return next(k for k in range(at - 1, -1, -1) if self._has_tag(written[k:at])) - path
        return len(draft.ids) - 1 if draft.ids[-1] in self.ends else None
