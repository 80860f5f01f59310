"""Any causal language model through transformers, as a proposer. Knows no tree and no task but its separator.

All chains that wait are decoded in one batch: a path is prefilled once and its cache copied to its chains, rows that are
done leave the batch, and a job is answered when its own chains are done. Token ids in, token ids out.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from treesearch.backends.base import Limits
from treesearch.backends.batcher import Batcher
from treesearch.backends.causal import CausalProposer, Draft, context_of, ends_of, location, unloadable
from treesearch.backends.chat import use_template
from treesearch.backends.weights import NO_CODE, check, shared, stamp
from treesearch.tasks.base import Prompt, Task
from treesearch.types import Chain, Job

if TYPE_CHECKING:
    import torch

Chains = tuple[Chain, ...]
BLOCK = 64  # uniform numbers drawn at once for a chain


@dataclass(frozen=True)
class Transformers:
    """Proposer `transformers`: a hub name, a local folder, or `bundled`. `max_batch`: chains decoded at once.

    `chat_template`: path of a Jinja file in place of the model's own; `chat_template_kwargs`: what it is told.
    """

    model: str = "bundled"
    dtype: str | None = None
    device: str | None = None
    max_batch: int = 256
    revision: str | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    label: ClassVar[str | None] = None

    def build(self, task: Task, prompt: Prompt, limits: Limits) -> TransformersProposer:
        """Load the model. Raises ConfigError if there is no such model, or its chat template cannot be used."""
        from transformers import AutoModelForCausalLM

        model, tokenizer = load(self, AutoModelForCausalLM.from_pretrained, "proposer")
        use_template(tokenizer, self.chat_template)
        return TransformersProposer(self, model, tokenizer, task, prompt, limits)


def load(spec: Any, from_pretrained: Callable[..., Any], bundled: str) -> tuple[Any, Any]:
    """(model in evaluation mode on its device, tokenizer) of a spec with model, dtype, device, revision.

    The model is shared with all that run it alike; a tokenizer, which may be given another template, is not.
    """
    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # it would write into ours

    name = location(spec.model, bundled)
    check(name)
    device = spec.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":  # proposer and scorer run side by side: with a thread per core each, they would fight
        torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    dtype = spec.dtype or ("float32" if device == "cpu" else "auto")
    given: dict[str, Any] = {"revision": spec.revision, **NO_CODE}
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # by a service, into somebody else's branch
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **given)
        kind = getattr(torch, dtype, dtype) if dtype != "auto" else "auto"
        key = (from_pretrained, name, spec.revision, dtype, device, stamp(name))
        model = shared(key, lambda: from_pretrained(name, dtype=kind, use_safetensors=True, **given).eval().to(device))
    except (OSError, ValueError) as error:
        raise unloadable(spec.model, error) from error
    return model, tokenizer


@dataclass(slots=True)
class Request:
    """One job under way: its chains, and where they go once all are done."""

    drafts: list[Draft]
    answer: Callable[[Chains | Exception], None]

    def reply(self, proposer: CausalProposer) -> None:
        if all(draft.done for draft in self.drafts):
            self.answer(tuple(proposer.chain(draft) for draft in self.drafts))


class TransformersProposer(CausalProposer):
    """Samples chains; each with uniform numbers of its own (Philox keyed by the chain's seed), whatever batch it is in."""

    def __init__(
        self, spec: Transformers, model: Any, tokenizer: Any, task: Task, prompt: Prompt, limits: Limits
    ) -> None:
        super().__init__(
            tokenizer, task, prompt, limits, context=context_of(model.config),
            size=int(model.get_input_embeddings().num_embeddings), ends=ends_of(tokenizer, model.generation_config),
            chat_template_kwargs=spec.chat_template_kwargs,
        )  # fmt: skip
        self.model = model
        self.max_jobs = max(1, spec.max_batch // 2)  # a job asks for several chains: enough for the next batch to wait
        self._batcher: Batcher[Job, Chains] = Batcher(self._work, lambda job: job.n or 1, spec.max_batch)

    async def propose(self, jobs: Sequence[Job]) -> list[Chains | Exception]:
        """One reply a job, as described in backends.base."""
        return await asyncio.gather(*(self._batcher.run(job) for job in jobs))

    async def close(self) -> None:
        await self._batcher.close()

    # One batch, in the worker thread

    def _work(self, batch: list[tuple[Job, Callable[[Chains | Exception], None]]]) -> None:
        rows: list[Row] = []
        for job, answer in batch:
            try:
                request = Request(self.drafts(self.start(job)), answer)
            except Exception as error:
                answer(error)
                continue
            request.reply(self)  # a thought that must be closed may be a whole step
            rows += [(request, draft) for draft in request.drafts]
        while rows := [row for row in rows if not row[1].done]:  # again, where a thought was mended
            _Decoding(self, rows).run()


Row = tuple[Request, Draft]


class _Decoding:
    """One segment of each row of a batch. R rows, V vocabulary, T tokens so far."""

    def __init__(self, proposer: TransformersProposer, rows: list[Row]) -> None:
        import torch

        self.torch, self.proposer = torch, proposer
        self.device = proposer.model.device
        splitter = proposer.splitter
        size = len(splitter.holds)
        table = torch.zeros(4, size, dtype=torch.bool, device=self.device)  # ends, holds, opens, closes
        table[0, [i for i in splitter.end_ids if i < size]] = True
        for k, column in enumerate((splitter.holds, splitter.opens, splitter.closes), 1):
            table[k] = torch.tensor(column)
        self.table = table
        self.thoughts = proposer.thinking if any(draft.thinking for _, draft in rows) else None
        self.may_close = torch.tensor(self.thoughts.may_close, device=self.device) if self.thoughts else None
        self.rows = rows

    def run(self) -> None:
        with self.torch.inference_mode():
            logits = self._prefill()
            while self.rows:
                token, logprob = self._sample(logits)
                if not self._advance(token, logprob):
                    return
                logits = self._forward()

    def _prefill(self) -> torch.Tensor:
        """Run each different prefix once, left-padded; copy caches and logits to the rows. Returns logits [R, V]."""
        torch = self.torch
        paths: dict[tuple[int, ...], int] = {}
        where = [paths.setdefault(tuple(draft.prefix), len(paths)) for _, draft in self.rows]
        width = max(map(len, paths))
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in paths], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in paths], device=self.device)
        out = self.proposer.model(
            input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=True, logits_to_keep=1
        )  # fmt: skip
        index = torch.tensor(where, device=self.device)
        self.cache = out.past_key_values
        self.cache.reorder_cache(index)
        self.mask = mask[index]
        self._start_rows()
        return out.logits[index, -1].float()

    def _start_rows(self) -> None:
        torch = self.torch
        drafts = [draft for _, draft in self.rows]
        jobs = [draft.start.job for draft in drafts]
        sampling = [(j.sampling.temperature_of(d.number), j.sampling.top_p) for j, d in zip(jobs, drafts, strict=True)]
        self.temperature, self.top_p = torch.tensor(sampling, device=self.device).T
        self.uniforms = [_uniforms(draft.seed) for draft in drafts]
        self.drawn = torch.empty(len(self.rows), 0, device=self.device)
        room = [self.proposer.room(draft) for draft in drafts]
        self.room = torch.tensor([r.tokens for r in room], device=self.device)
        self.steps_left = torch.tensor([r.steps for r in room], device=self.device)
        self.length = torch.tensor([r.length for r in room], device=self.device)  # of the step under way
        self.opened = torch.tensor([r.opened for r in room], device=self.device)
        self.one_step = torch.tensor([job.until == "step" for job in jobs], device=self.device)
        self.thinking = torch.tensor([draft.thinking for draft in drafts], device=self.device)
        self.alive = torch.ones(len(self.rows), dtype=torch.bool, device=self.device)
        self.tokens = torch.empty(len(self.rows), 0, dtype=torch.long, device=self.device)
        self.logprobs = torch.empty(len(self.rows), 0, device=self.device)

    def _sample(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(token, its log-probability at temperature 1) [R] by the inverse of the distribution function at u."""
        torch = self.torch
        u = self._uniform(self.tokens.shape[1])
        probabilities = (logits / self.temperature.clamp(min=1e-6)[:, None]).softmax(-1)
        if bool((self.top_p < 1).any()):
            probabilities = _nucleus(torch, probabilities, self.top_p)
        cumulative = probabilities.cumsum(-1)
        total = cumulative[:, -1]
        # below the total and right of ties, else rounding (u = 0, u = 1 - 2^-24) would pick a token of probability 0
        at = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
        token = torch.searchsorted(cumulative, at[:, None], right=True).squeeze(1)
        token = torch.where(self.temperature > 0, token.clamp(max=logits.shape[1] - 1), logits.argmax(-1))
        return token, logits.log_softmax(-1).gather(1, token[:, None]).squeeze(1)

    def _uniform(self, t: int) -> torch.Tensor:
        if t >= self.drawn.shape[1]:
            block = np.stack([generator.random(BLOCK, dtype=np.float32) for generator in self.uniforms])
            self.drawn = self.torch.cat([self.drawn, self.torch.from_numpy(block).to(self.device)], 1)
        return self.drawn[:, t]

    def _advance(self, token: torch.Tensor, logprob: torch.Tensor) -> bool:
        """Take the tokens in, hand out the chains that are done, drop their rows; False if none is left."""
        torch = self.torch
        self.tokens = torch.cat([self.tokens, token[:, None]], 1)
        self.logprobs = torch.cat([self.logprobs, logprob[:, None]], 1)
        self.length += 1
        ends, holds, opens, closes = self.table[:, token]
        boundary = holds | (self.opened & closes) | (self.length >= self.proposer.limits.step_tokens)
        self.opened = opens & ~boundary
        self.length[boundary] = 0
        self.steps_left -= boundary.long()
        full = (self.tokens.shape[1] >= self.room) | (self.steps_left <= 0)
        done = self.alive & (ends | full | (boundary & self.one_step) | self._closed(token))
        if bool(done.any()):
            self._hand_out(done)
            self.alive &= ~done
            if 2 * int(self.alive.sum()) <= len(self.rows):
                self._keep(self.alive.nonzero().squeeze(1))
        return bool(len(self.rows))

    def _closed(self, token: torch.Tensor) -> torch.Tensor:
        """Rows [R] whose token closes a thought that has a budget."""
        closed = self.torch.zeros_like(self.alive)
        if self.thoughts is None or self.may_close is None:
            return closed
        for row in (self.alive & self.thinking & self.may_close[token]).nonzero().squeeze(1).tolist():
            draft = self.rows[row][1]
            closed[row] = self.thoughts.closes([*draft.start.path, *draft.ids, *self.tokens[row].tolist()])
        return closed

    def _hand_out(self, done: torch.Tensor) -> None:
        rows = done.nonzero().squeeze(1)
        tokens, logprobs = self.tokens[rows].tolist(), self.logprobs[rows].tolist()
        for row, ids, values in zip(rows.tolist(), tokens, logprobs, strict=True):
            request, draft = self.rows[row]
            self.proposer.take(draft, ids, values)
            request.reply(self.proposer)

    def _keep(self, index: torch.Tensor) -> None:
        """Only these rows go on."""
        kept = index.tolist()
        self.rows = [self.rows[k] for k in kept]
        self.uniforms = [self.uniforms[k] for k in kept]
        if not kept:
            return
        self.cache.reorder_cache(index)
        for name in ("mask", "temperature", "top_p", "drawn", "room", "steps_left", "one_step", "length", "opened",
                     "thinking", "alive", "tokens", "logprobs"):  # fmt: skip
            setattr(self, name, getattr(self, name)[index])

    def _forward(self) -> torch.Tensor:
        """Logits [R, V] after the newest token of each row."""
        position = self.mask.sum(1, keepdim=True)
        self.mask = self.torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], 1)
        out = self.proposer.model(input_ids=self.tokens[:, -1:], attention_mask=self.mask, position_ids=position,
                                  past_key_values=self.cache, use_cache=True)  # fmt: skip
        self.cache = out.past_key_values
        return out.logits[:, -1].float()


def _uniforms(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def _nucleus(torch: Any, probabilities: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """The smallest sets of tokens whose probability reaches top_p (arXiv 1904.09751), not renormalised."""
    ordered, index = probabilities.sort(-1, descending=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p[:, None]] = 0
    return torch.zeros_like(probabilities).scatter(-1, index, ordered)
