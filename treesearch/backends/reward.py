"""Reward models through transformers: PRMs that score steps, outcome models that score whole chains. Know no tree.

All that waits is scored in one right-padded batch; equal texts are computed once. What a model reads: backends.reading.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from treesearch.backends.base import Scored
from treesearch.backends.batcher import Batcher
from treesearch.backends.causal import context_of
from treesearch.backends.formats import Format, check_family, form_of, system_of
from treesearch.backends.reading import ChainReader, Ids, Kept, Reader, StepReader, outcome, probability, unusable
from treesearch.backends.transformers import load
from treesearch.backends.weights import NO_CODE
from treesearch.errors import ConfigError
from treesearch.tasks.base import Prompt, Task
from treesearch.types import Chain, Job

if TYPE_CHECKING:
    import torch

Item = tuple[Job, tuple[Chain, ...]]


@dataclass(frozen=True)
class TransformersPRM:
    """Scorer `transformers`: a PRM by hub name, local folder, or `bundled`. `family` null: recognised by its config, a
    language model by its hub name."""

    model: str = "bundled"
    family: str | None = None
    dtype: str | None = None
    device: str | None = None
    max_batch: int = 256
    revision: str | None = None
    label: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_family(self.family)

    def build(self, task: Task, prompt: Prompt) -> StepScorer | LabelScorer:
        """Load the model. Raises ConfigError if it cannot be loaded or is no PRM."""
        model, tokenizer = load(self, _prm(self), "prm")
        form = _form(self, model.config, getattr(tokenizer, "chat_template", None) is not None)
        reader = StepReader(tokenizer, context_of(model.config), form)
        return (LabelScorer if form.labels else StepScorer)(model, reader, self.max_batch)


@dataclass(frozen=True)
class TransformersORM:
    """Outcome model `transformers`: a Qwen2ForRewardModel or a sequence-classification model; its one logit, or P(class 1)
    of two."""

    model: str
    dtype: str | None = None
    device: str | None = None
    max_batch: int = 64
    revision: str | None = None
    label: ClassVar[str | None] = None

    def build(self, task: Task, prompt: Prompt) -> OutcomeScorer:
        """Load the model. Raises ConfigError if it cannot be loaded or is no outcome model."""
        model, tokenizer = load(self, _orm, "prm")
        if not hasattr(model, "score"):
            raise ConfigError(
                f"outcome.model {self.model!r}: a {type(model).__name__} reads both ways and has no value at its last token; "
                "use a reward model with the body of a language model"
            )
        system = system_of(model.config.architectures or [])
        return OutcomeScorer(model, ChainReader(tokenizer, context_of(model.config), system), self.max_batch)


def _form(spec: TransformersPRM, config: Any, has_chat: bool = True) -> Format:
    names = (spec.model, getattr(config, "_name_or_path", None) or "")
    return form_of(spec.family, config.architectures or [], names, has_chat)


@cache  # one function for equal specs: models are shared by what loads them
def _prm(spec: TransformersPRM) -> Callable[..., Any]:
    """What loads a PRM by its family's class."""

    def from_pretrained(name: str, **given: Any) -> Any:
        import transformers

        from treesearch.models import qwen2_prm

        form = _form(spec, transformers.AutoConfig.from_pretrained(name, revision=given["revision"], **NO_CODE))
        own = getattr(qwen2_prm, form.architecture, None)
        return _whole(own or getattr(transformers, f"AutoModel{form.architecture}"), name, given)

    return from_pretrained


def _orm(name: str, **given: Any) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from treesearch.models.qwen2_prm import Qwen2ForRewardModel

    classes = AutoConfig.from_pretrained(name, revision=given["revision"], **NO_CODE).architectures or []
    system_of(classes)
    own = "Qwen2ForRewardModel" in classes
    return _whole(Qwen2ForRewardModel if own else AutoModelForSequenceClassification, name, given)


def _whole(kind: Any, name: str, given: dict[str, Any]) -> Any:
    """The model, if its checkpoint holds all its weights: transformers would draw a missing head at random."""
    model, told = kind.from_pretrained(name, output_loading_info=True, **given)
    if told["missing_keys"]:
        raise ValueError(
            f"its checkpoint lacks {', '.join(sorted(told['missing_keys'])[:4])}, so it is no {type(model).__name__}; "
            "use the published reward model, or another family"
        )
    return model


@dataclass(frozen=True, slots=True)
class _Sequence:
    """Token ids, the positions whose values are asked for, values that are known, and keys of those that are not."""

    ids: Ids
    positions: list[int]
    known: dict[int, float]
    keys: dict[int, bytes]

    @property
    def cut(self) -> Ids:
        """As far as must be read."""
        return self.ids[: max(self.keys) + 1]


class _Reward:
    """What all kinds share: batching, limits, one forward for all different sequences."""

    def __init__(self, model: Any, reader: Reader, max_batch: int) -> None:
        self.model, self.reader, self.most = model, reader, max_batch
        self.max_jobs = 2 * max_batch
        self._kept = Kept()
        self._batcher: Batcher[Item, Scored] = Batcher(self._work, lambda item: len(item[1]), max_batch)

    async def score(self, items: Sequence[Item]) -> list[Scored | Exception]:
        """One reply an item, as described in backends.base."""
        return [await self._batcher.run(item) for item in items]

    async def forget(self) -> None:
        self._kept.clear()

    async def close(self) -> None:
        await self._batcher.close()

    def _work(self, batch: list[tuple[Item, Callable[[Scored | Exception], None]]]) -> None:
        wanted: dict[Ids, list[int]] = {}  # sequence, up to its last unknown value -> positions whose value is read
        asked: list[tuple[list[_Sequence], Callable[[Scored | Exception], None], int]] = []
        for (job, chains), answer in batch:
            try:
                sequences = [
                    _Sequence(*read, *self._kept.find(*read))
                    for chain in chains
                    for read in [self.reader.read(job, chain)]
                ]
            except Exception as error:
                answer(error)
                continue
            before = set(wanted)
            for sequence in sequences:
                if sequence.keys:
                    wanted[sequence.cut] = sorted({*wanted.get(sequence.cut, []), *sequence.keys})
            asked.append((sequences, answer, sum(map(len, wanted.keys() - before))))
        values = self._values(wanted)
        for sequences, answer, tokens in asked:
            for sequence in sequences:
                if sequence.keys:
                    self._kept.keep(sequence.keys, values[sequence.cut])
                    sequence.known.update(values[sequence.cut])
            scores = tuple(tuple(sequence.known[p] for p in sequence.positions) for sequence in sequences)
            answer(unusable(scores) or Scored(scores, tokens))

    def _values(self, wanted: dict[Ids, list[int]]) -> dict[Ids, dict[int, float]]:
        """Run all sequences, longest first so that each batch pads little; value at each wanted position."""
        import torch

        out: dict[Ids, dict[int, float]] = {}
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

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, rows: list[int], at: list[int]) -> torch.Tensor:
        """Values [len(rows)] read at (row, position)."""
        raise NotImplementedError


class StepScorer(_Reward):
    """P(right so far) after each new step: softmax over two classes (or a sigmoid of one) at the step's mark."""

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, rows: list[int], at: list[int]) -> torch.Tensor:
        out = self.model(input_ids=ids, attention_mask=mask, use_cache=False)
        return probability((out if not hasattr(out, "logits") else out.logits)[rows, at].float())


class LabelScorer(_Reward):
    """P(right so far) by a language model: softmax over its two labels as the token after the step's mark."""

    def __init__(self, model: Any, reader: StepReader, max_batch: int) -> None:
        super().__init__(model, reader, max_batch)
        self.labels = list(reader.labels())

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, rows: list[int], at: list[int]) -> torch.Tensor:
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return probability(logits[rows, at][:, self.labels].float())


class OutcomeScorer(_Reward):
    """The value of a whole chain, read at its last token: the raw logit of one class, or P(class 1) of two."""

    def __init__(self, model: Any, reader: Reader, max_batch: int) -> None:
        super().__init__(model, reader, max_batch)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = reader.tokenizer.pad_token_id

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, rows: list[int], at: list[int]) -> torch.Tensor:
        body = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return outcome(self.model.score(body[rows, at]).float())
