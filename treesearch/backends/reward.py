"""Reward models through transformers: PRMs that score steps, outcome models that score whole chains. Know no tree.

Steps are tokenised one by one with the scorer's own tokenizer, so the ids of a path are a prefix of the ids of its
continuations. All that waits is scored in one right-padded batch; equal texts are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from treesearch.backends.base import Scored
from treesearch.backends.batcher import Batcher
from treesearch.backends.formats import FORMATS, Format, recognise
from treesearch.backends.transformers import chat_of, load
from treesearch.errors import ConfigError, RequestError
from treesearch.tasks.base import Prompt, Task
from treesearch.types import Chain, Job

if TYPE_CHECKING:
    import torch

Item = tuple[Job, tuple[Chain, ...]]


@dataclass(frozen=True)
class TransformersPRM:
    """Scorer `transformers`: a PRM by hub name, local folder, or `bundled`. `family` null: recognised by its config."""

    model: str = "bundled"
    family: str | None = None
    dtype: str | None = None
    device: str | None = None
    max_batch: int = 256
    revision: str | None = None
    label: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if self.family is not None and self.family not in FORMATS:
            raise ConfigError(f"scorer.family = {self.family!r}: unknown; known: {', '.join(FORMATS)}")

    def build(self, task: Task, prompt: Prompt) -> StepScorer:
        """Load the model. Raises ConfigError if it cannot be loaded or is no PRM."""
        model, tokenizer = load(self, _load_prm, "prm")
        architectures = list(model.config.architectures or [type(model).__name__])
        has_chat = getattr(tokenizer, "chat_template", None) is not None
        form = FORMATS[self.family] if self.family else recognise(architectures, has_chat)
        return StepScorer(model, tokenizer, form, self.max_batch)


@dataclass(frozen=True)
class TransformersORM:
    """Outcome model `transformers`: a sequence-classification model; its one logit, or P(class 1) of two."""

    model: str
    dtype: str | None = None
    device: str | None = None
    max_batch: int = 64
    revision: str | None = None
    label: ClassVar[str | None] = None

    def build(self, task: Task, prompt: Prompt) -> OutcomeScorer:
        """Load the model. Raises ConfigError if it cannot be loaded."""
        from transformers import AutoModelForSequenceClassification

        return OutcomeScorer(*load(self, AutoModelForSequenceClassification.from_pretrained, "prm"), self.max_batch)


def _load_prm(name: str, **given: Any) -> Any:
    """Qwen2ForProcessRewardModel by our own class (its remote code is not run), else token classification."""
    from transformers import AutoConfig, AutoModelForTokenClassification

    config = AutoConfig.from_pretrained(name, revision=given["revision"])
    if "Qwen2ForProcessRewardModel" in (config.architectures or []):
        from treesearch.models.qwen2_prm import Qwen2ForProcessRewardModel

        return Qwen2ForProcessRewardModel.from_pretrained(name, dtype=given["dtype"], revision=given["revision"])
    if not any(a.endswith("ForTokenClassification") for a in config.architectures or []):
        raise ValueError(f"architectures {config.architectures} are no PRM that transformers can load")
    return AutoModelForTokenClassification.from_pretrained(name, **given)


class _Reward:
    """What both kinds share: batching, limits, one forward for all different sequences."""

    def __init__(self, model: Any, tokenizer: Any, max_batch: int) -> None:
        self.model, self.tokenizer, self.most = model, tokenizer, max_batch
        self.chat = chat_of(tokenizer)
        self.max_jobs = 2 * max_batch
        self.context = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        self._batcher: Batcher[Item, Scored] = Batcher(self._work, lambda item: len(item[1]), max_batch)
        self._cache: dict[str, list[int]] = {}

    async def score(self, items: Sequence[Item]) -> list[Scored | Exception]:
        """One reply an item, as described in backends.base."""
        return [await self._batcher.run(item) for item in items]

    async def close(self) -> None:
        await self._batcher.close()

    def ids(self, text: str, special: bool = False) -> list[int]:
        """Token ids of a piece of text; equal pieces (steps repeat a lot) are tokenised once."""
        if text not in self._cache:
            if len(self._cache) > 100_000:
                self._cache.clear()
            self._cache[text] = list(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        return self._cache[text]

    def _work(self, batch: list[tuple[Item, Callable[[Scored | Exception], None]]]) -> None:
        wanted: dict[tuple[int, ...], list[int]] = {}  # sequence -> positions whose value is read
        asked: list[tuple[list[tuple[tuple[int, ...], list[int]]], Callable[[Scored | Exception], None], int]] = []
        for (job, chains), answer in batch:
            try:
                sequences = [self._sequence(job, chain) for chain in chains]
            except Exception as error:
                answer(error)
                continue
            new = {ids for ids, _ in sequences} - wanted.keys()
            for ids, positions in sequences:
                wanted[ids] = sorted({*wanted.get(ids, []), *positions})
            asked.append((sequences, answer, sum(map(len, new))))
        values = self._values(wanted)
        for sequences, answer, tokens in asked:
            scores = tuple(tuple(values[ids][p] for p in positions) for ids, positions in sequences)
            bad = [v for row in scores for v in row if not math.isfinite(v)]
            answer(RequestError(f"the reward model gave {bad[0]} as a score") if bad else Scored(scores, tokens))

    def _values(self, wanted: dict[tuple[int, ...], list[int]]) -> dict[tuple[int, ...], dict[int, float]]:
        """Run all sequences, longest first so that each batch pads little; value at each wanted position."""
        import torch

        out: dict[tuple[int, ...], dict[int, float]] = {}
        ordered = sorted(wanted, key=len, reverse=True)
        with torch.inference_mode():
            for start in range(0, len(ordered), self.most):
                block = ordered[start : start + self.most]
                width = len(block[0])
                ids = torch.tensor([[*s, *[0] * (width - len(s))] for s in block], device=self.model.device)
                mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in block], device=self.model.device)
                rows = [k for k, s in enumerate(block) for _ in wanted[s]]
                at = [p for s in block for p in wanted[s]]
                read = iter(self._forward(ids, mask, rows, at).tolist())
                for sequence in block:
                    out[sequence] = {p: next(read) for p in wanted[sequence]}
        return out

    def _fits(self, ids: list[int]) -> tuple[int, ...]:
        if len(ids) > self.context:
            raise RequestError(
                f"question and chain of {len(ids)} tokens do not fit the scorer's context of {self.context}"
            )
        return tuple(ids)

    def _sequence(self, job: Job, chain: Chain) -> tuple[tuple[int, ...], list[int]]:
        """Token ids of question and chain, and the positions whose values are the scores."""
        raise NotImplementedError

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, rows: list[int], at: list[int]) -> torch.Tensor:
        """Values [len(rows)] read at (row, position)."""
        raise NotImplementedError


class StepScorer(_Reward):
    """P(right so far) after each new step: softmax over two classes (or a sigmoid of one) at the step's mark."""

    def __init__(self, model: Any, tokenizer: Any, form: Format, max_batch: int) -> None:
        super().__init__(model, tokenizer, max_batch)
        self.form = form

    def _sequence(self, job: Job, chain: Chain) -> tuple[tuple[int, ...], list[int]]:
        ids = list(self.ids(self.form.prefix(job.problem.question, self.chat)))
        positions = []
        for k, step in enumerate((*job.path, *chain)):
            ids += self.ids(self.form.step(step.text))
            if k >= len(job.path):
                positions.append(len(ids) - 1)
        return self._fits(ids), positions

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, rows: list[int], at: list[int]) -> torch.Tensor:
        out = self.model(input_ids=ids, attention_mask=mask, use_cache=False)
        return _probability((out if not hasattr(out, "logits") else out.logits)[rows, at].float())


class OutcomeScorer(_Reward):
    """The value of a whole chain, read at its last token: the raw logit of one class, or P(class 1) of two."""

    def __init__(self, model: Any, tokenizer: Any, max_batch: int) -> None:
        super().__init__(model, tokenizer, max_batch)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id

    def _sequence(self, job: Job, chain: Chain) -> tuple[tuple[int, ...], list[int]]:
        text = "".join(step.text for step in (*job.path, *chain))
        before = (
            self.chat([{"role": "user", "content": job.problem.question}]) if self.chat else job.problem.question + "\n"
        )
        ids = self._fits(self.ids(before) + self.ids(text))
        return ids, [len(ids) - 1]

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, rows: list[int], at: list[int]) -> torch.Tensor:
        body = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        logits = self.model.score(body[rows, at]).float()
        return logits[:, 0] if logits.shape[-1] == 1 else _probability(logits)


def _probability(logits: torch.Tensor) -> torch.Tensor:
    """P(class 1): softmax of two logits, sigmoid of one."""
    return logits.sigmoid()[..., 0] if logits.shape[-1] == 1 else logits.softmax(-1)[..., 1]
