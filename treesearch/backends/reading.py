"""What a reward model is given to read, as token ids, and where its verdicts stand. Knows no model and no batch.

Steps are tokenised one by one with the scorer's own tokenizer, each as it stands after the mark before it, so the ids of a
path are those of its whole text and a prefix of the ids of its continuations: what was computed for a path serves all.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from treesearch.backends.formats import Format
from treesearch.errors import ConfigError, RequestError
from treesearch.types import Chain, Job

if TYPE_CHECKING:
    import torch

Ids = tuple[int, ...]
MOST_TEXT = 4_000_000  # characters of text whose ids are kept, some 20 bytes each
MOST_OPENINGS = 20_000  # questions with a first step whose ids are kept, 4 bytes a token
MOST_KEPT = 200_000  # values kept, some 100 bytes each


class Reader:
    """Question and chain -> (token ids, positions whose values are the scores). `context`: tokens the model can read."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        self.tokenizer, self.context = tokenizer, context
        self._cache: dict[tuple[str, str], list[int]] = {}
        self._cached = 0  # characters

    def ids(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a text; `special`: with what the tokenizer puts around every text."""
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def after(self, before: str, text: str) -> list[int]:
        """Token ids of `text` where it follows `before` (a tokenizer may put a space before a text that stands alone);
        alone, if the two grow together. Equal pieces (steps repeat a lot) are tokenised once."""
        key = before, text
        if key not in self._cache:
            head = self.after("", before) if before else []
            if self._cached > MOST_TEXT:
                self._cache.clear()
                self._cached = 0
            self._cached += len(before) + len(text)
            whole = self.ids(before + text)
            self._cache[key] = whole[len(head) :] if whole[: len(head)] == head else self.ids(text)
        return self._cache[key]

    def read(self, job: Job, chain: Chain) -> tuple[Ids, list[int]]:
        """Raises RequestError if it is too long for the model."""
        raise NotImplementedError

    def _fits(self, ids: list[int]) -> Ids:
        if len(ids) > self.context:
            raise RequestError(
                f"question and chain of {len(ids)} tokens do not fit the scorer's context of {self.context}"
            )
        return tuple(ids)


class StepReader(Reader):
    """Each step in the form of its PRM family; a value is read at the mark of each new step. An empty step has one too."""

    def __init__(self, tokenizer: Any, context: int, form: Format) -> None:
        super().__init__(tokenizer, context)
        self.form = form.fit(tokenizer)
        # apart from the step: ".\n" is one token to many tokenizers, and authors who mark by a line end part the two
        self.mark = self.after("x", self.form.mark)
        self._openings: dict[tuple[str, str], array[int]] = {}

    def read(self, job: Job, chain: Chain) -> tuple[Ids, list[int]]:
        """One position for each step of `chain`, which follows the job's path."""
        ids: list[int] = []
        positions = []
        for k, step in enumerate((*job.path, *chain)):
            ids += self._piece(job.problem.question, self.form.inner(step.text), first=k == 0) + self.mark
            if k >= len(job.path):
                positions.append(len(ids) - 1)
        return self._fits(ids), positions

    def _piece(self, question: str, step: str, first: bool) -> list[int]:
        """Ids of a step before its mark, those of the first with the question before it."""
        if not first:
            return self.after(self.form.mark, self.form.between + step)
        key = question, step
        if key not in self._openings:
            if len(self._openings) > MOST_OPENINGS:
                self._openings.clear()
            text = self.form.begin(question, step, self.tokenizer)
            self._openings[key] = array("i", self.ids(text, self.form.special))
        return self._openings[key].tolist()

    def labels(self) -> tuple[int, int]:
        """Token ids of (wrong, right) in a family of language models. Raises ConfigError if one is no single token."""
        assert self.form.labels is not None
        found = []
        for text in reversed(self.form.labels):
            ids = [i for i in self.ids(text) if self.tokenizer.decode([i]).strip()]  # some tokenizers put a space first
            if len(ids) != 1:
                raise ConfigError(
                    f"scorer.family {self.form.name}: its label {text!r} is {len(ids)} tokens to this model, must be one; "
                    "use a model of this family"
                )
            found.append(ids[0])
        return found[0], found[1]


class ChainReader(Reader):
    """A whole chain as the answer to its question; its one value is read at the last token.

    With a chat template: the conversation with the finished answer, as it stands in the model cards of reward models.
    """

    def __init__(self, tokenizer: Any, context: int, system: str | None = None) -> None:
        super().__init__(tokenizer, context)
        self.system = [] if system is None else [{"role": "system", "content": system}]

    def read(self, job: Job, chain: Chain) -> tuple[Ids, list[int]]:
        answer = "".join(step.text for step in (*job.path, *chain))
        ids = self._fits(self.ids(self._text(job.problem.question, answer)))
        return ids, [len(ids) - 1]

    def _text(self, question: str, answer: str) -> str:
        if getattr(self.tokenizer, "chat_template", None) is None:
            return f"{question}\n{answer}"
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()}]
        text: str = self.tokenizer.apply_chat_template([*self.system, *turns], tokenize=False)
        return text


class Kept:
    """Values by the ids they were read after. One, once given, stays, and what repeats (steps do a lot) costs nothing."""

    def __init__(self) -> None:
        self._values: dict[bytes, float] = {}

    def find(self, ids: Ids, positions: Sequence[int]) -> tuple[dict[int, float], dict[int, bytes]]:
        """(known values by position, keys of the positions whose value is not known)"""
        keys = dict(zip(positions, digests(ids, positions), strict=True))
        known = {p: self._values[key] for p, key in keys.items() if key in self._values}
        return known, {p: key for p, key in keys.items() if p not in known}

    def keep(self, keys: Mapping[int, bytes], values: Mapping[int, float]) -> None:
        """Values read at positions that `find` did not know."""
        if len(self._values) > MOST_KEPT:
            self._values.clear()
        self._values |= {key: values[p] for p, key in keys.items() if math.isfinite(values[p])}

    def clear(self) -> None:
        self._values.clear()


def digests(ids: Ids, positions: Sequence[int]) -> Iterator[bytes]:
    """A key of the ids up to and with each position."""
    h, start = blake2b(digest_size=16), 0
    for p in positions:
        h.update(array("q", ids[start : p + 1]).tobytes())
        start = p + 1
        yield h.digest()


def probability(logits: torch.Tensor) -> torch.Tensor:
    """P(class 1) [...] of logits [..., classes]: softmax of two, sigmoid of one."""
    return logits.sigmoid()[..., 0] if logits.shape[-1] == 1 else logits.softmax(-1)[..., 1]


def outcome(logits: torch.Tensor) -> torch.Tensor:
    """Value [...] of a whole chain by logits [..., classes]: the raw logit of one class, P(class 1) of two."""
    return logits[..., 0] if logits.shape[-1] == 1 else probability(logits)


def unusable(scores: tuple[tuple[float, ...], ...]) -> RequestError | None:
    """The error that is the reply where a score is no finite number."""
    bad = [v for row in scores for v in row if not -float("inf") < v < float("inf")]
    return RequestError(f"the reward model gave {bad[0]} as a score") if bad else None
