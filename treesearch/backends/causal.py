"""What every backend of a causal language model needs beside its sampler: prompt ids, checks, chains cut from ids.

Knows no library that runs models but its tokenizers. The same ids give the same chain whichever library sampled them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from treesearch.backends.base import Limits
from treesearch.backends.steps import Splitter, vocabulary
from treesearch.errors import ConfigError, RequestError
from treesearch.tasks import prompts
from treesearch.tasks.base import Prompt, Task
from treesearch.types import Chain, Job, Step

UNBOUNDED = 1 << 30  # tokens of context where a model's config names no limit
MOST_PROMPTS = 4096  # questions whose token ids are kept


def location(model: str, bundled: str) -> str:
    """What a library loads for a spec's `model`: the folder of the bundled model of that name, else `model` itself."""
    from treesearch.models import folder

    return str(folder(bundled)) if model == "bundled" else model


def unloadable(model: str, error: BaseException) -> ConfigError:
    return ConfigError(f"model {model!r} cannot be loaded: {error}")


def context_of(config: Any) -> int:
    """Tokens that fit a model, by its transformers config."""
    return int(getattr(config, "max_position_embeddings", None) or UNBOUNDED)


def ends_of(tokenizer: Any, generation_config: Any) -> list[int]:
    """Token ids that end a text: the tokenizer's, and those the model's generation config adds."""
    more = getattr(generation_config, "eos_token_id", None)
    ids = [tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])]
    return list(dict.fromkeys(i for i in ids if i is not None))


def chat_of(tokenizer: Any, **given: Any) -> prompts.Chat | None:
    """The model's chat template, ending where the assistant begins; None if it has none."""
    if getattr(tokenizer, "chat_template", None) is None:
        return None

    def chat(messages: list[dict[str, str]]) -> str:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **given)
        return text

    return chat


@dataclass(slots=True)
class Start:
    """Where the chains of a job begin."""

    job: Job
    prefix: list[int]  # prompt and path
    room: int  # tokens that fit after the prefix
    used: int  # tokens of the path


class CausalProposer:
    """The part of a proposer that knows text and limits. `size` is the number of rows of the model's embedding."""

    def __init__(
        self, tokenizer: Any, task: Task, prompt: Prompt, limits: Limits, *, context: int, size: int,
        ends: Iterable[int], chat_template_kwargs: dict[str, Any],
    ) -> None:  # fmt: skip
        self.tokenizer, self.task, self.prompt, self.limits, self.context = tokenizer, task, prompt, limits, context
        texts = vocabulary(lambda ids: tokenizer.decode(ids), min(size, len(tokenizer)))
        texts += [""] * (size - len(texts))
        self.splitter = Splitter(texts, task.separator, list(ends), limits)
        self.chat = chat_of(tokenizer, **chat_template_kwargs)
        self._prompts: dict[str, list[int]] = {}

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids before the first step; tokenised once a question. A chat template brings its own special tokens."""
        if question not in self._prompts:
            if len(self._prompts) >= MOST_PROMPTS:  # a judge's questions are all different
                self._prompts.clear()
            text = prompts.build(self.task, self.prompt, question, self.chat)
            special = self.prompt.style != "chat"
            self._prompts[question] = list(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        return self._prompts[question]

    def start(self, job: Job) -> Start:
        """What to sample after. Raises RequestError for a job that a causal language model cannot do."""
        if job.n is None:
            raise RequestError("a language model cannot list all continuations; set the search's branch to a number")
        if job.until == "revision":
            raise RequestError("this proposer does not revise finished answers yet; use a search with unit: step")
        prefix = self.prompt_ids(job.problem.question) + [i for step in job.path for i in step.ids]
        if not prefix:
            raise RequestError("the prompt is empty: a model needs at least one token; ask a question")
        room = self.context - len(prefix)
        if room < 1:
            raise RequestError(f"prompt and path of {len(prefix)} tokens do not fit the context of {self.context}")
        return Start(job, prefix, room, sum(step.tokens or 0 for step in job.path))

    def chain(self, start: Start, ids: Sequence[int], logprobs: Sequence[float] | None) -> Chain:
        """The steps of the sampled ids; `logprobs` one a token in nats, or None where nobody asked."""
        steps, at = [], 0
        for piece in self.splitter.split(ids, start.used, len(start.job.path), start.room):
            logprob = None if logprobs is None else float(sum(logprobs[at : at + piece.tokens]))
            at += piece.tokens
            text = self.tokenizer.decode(list(piece.ids))
            steps.append(Step(text, piece.ids, piece.tokens, logprob, finish=piece.finish))
        return tuple(steps)
