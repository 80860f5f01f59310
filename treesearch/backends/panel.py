"""A language model asked for its opinion: a prompt in, the texts of its votes out. Knows no verdict.

It is asked through the Proposer protocol, so every proposer can judge. A prompt's votes have seeds that follow from the
prompt alone: whoever asks, whenever, after whatever, the votes are the same, so equal prompts are asked once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from treesearch.backends.base import Limits, Scored
from treesearch.backends.once import Once
from treesearch.errors import ConfigError, RequestError
from treesearch.manager import add, total
from treesearch.tasks import prompts
from treesearch.tasks.base import Prompt
from treesearch.types import Chain, Job, Problem, Sampling, Step, digest

Value = TypeVar("Value")
DEPTH = 1 << 30  # pieces of a vote: its tokens are the only limit


@dataclass(frozen=True)
class PanelSpec:
    """Whom to ask and how; the fields that judge and generative verifier share.

    `model` is the spec of any proposer (null: the run's own); `votes` texts are drawn for a prompt at `temperature`, each of
    `max_tokens` at most. `style`: `chat` puts the prompt into the model's chat template, `direct` does not; null: chat if
    the model has one or is behind an API. Another `seed`, other votes.
    """

    model: Any = field(default=None, metadata={"section": "proposer"})
    votes: int = 3
    temperature: float = 0.7
    max_tokens: int = 1024
    style: Literal["direct", "chat"] | None = None
    seed: int = 0
    label: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        for name in ("votes", "max_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)!r}: must be at least 1")
        if self.temperature < 0:
            raise ConfigError(f"temperature = {self.temperature!r}: must be 0 (greedy) or more")
        if self.votes > 1 and self.temperature == 0:
            raise ConfigError(f"votes = {self.votes} at temperature 0 are all the same; use votes: 1 or a temperature")


@dataclass(frozen=True, slots=True)
class Verbatim:
    """The task of a model that is asked for its opinion: the question is the prompt, all that it says is the answer."""

    name: str = "verbatim"
    separator: str = "\n\n"

    def prompt(self, question: str) -> str:
        return question

    def read(self, question: str, steps: Sequence[str]) -> str | None:
        return "".join(steps)

    def canonical(self, answer: str) -> str:
        return answer

    def check(self, problem: Problem, answer: str) -> bool | None:
        return None

    def problems(self, name: str) -> list[Problem]:
        raise ConfigError(f"problems {name!r}: an opinion has none")


class Panel:
    """The votes on a prompt. `lead`: text that the votes go on with, where the model can; `chats`: whether it is asked in a
    chat, so that it stops when it is done."""

    def __init__(self, spec: PanelSpec, lead: str = "") -> None:
        if spec.model is None:
            raise ConfigError("model is not set: give the spec of a proposer (a config fills in the run's own)")
        self.spec = spec
        served = hasattr(spec.model, "base_url") and spec.style != "direct"  # a server has its templates
        style = "chat" if served else "direct"
        limits = Limits(spec.max_tokens, spec.max_tokens, DEPTH)
        self.proposer: Any = spec.model.build(Verbatim(), Prompt(style), limits)
        self.chats = served or self._chats_if_it_can()
        if spec.style == "chat" and not self.chats:
            raise ConfigError("style 'chat' needs a model with a chat template, this one has none; use style direct")
        self.path = self._begun(lead)
        self.max_jobs: int = self.proposer.max_jobs
        self._once: Once[tuple[Any, int | None]] = Once()

    def _chats_if_it_can(self) -> bool:
        """Whether all models in the proposer are asked in a chat: those with a template, unless the user said direct, and
        those that do not tell."""
        chats = True
        for proposer in getattr(self.proposer, "proposers", [self.proposer]):
            if getattr(proposer, "chat", None) is not None and self.spec.style != "direct":
                proposer.prompt = Prompt("chat", thinking=opens_thought(proposer))
            else:
                chats = chats and not hasattr(proposer, "chat")
        return chats

    def _begun(self, lead: str) -> Chain:
        if not lead or getattr(self.proposer, "only_answers", None):
            return ()
        tokenizer = getattr(self.proposer, "tokenizer", None)
        return (Step(lead, tuple(tokenizer(lead, add_special_tokens=False)["input_ids"]) if tokenizer else ()),)

    async def ask(self, prompt: str, read: Callable[[list[str]], Value], priority: int = 0) -> tuple[Value, int | None]:
        """What `read` makes of the votes on a prompt, and the tokens computed: none if the prompt was asked before.

        Counted are the prompt, once, and all tokens of the votes; None where the model does not tell either. Raises the
        model's error, or the RequestError of `read` (which stays: the votes would be the same).
        """
        (value, tokens), new = await self._once.get(digest(prompt), lambda: self._votes(prompt, read, priority))
        if isinstance(value, RequestError):
            raise value
        return value, tokens if new else 0

    async def _votes(
        self, prompt: str, read: Callable[[list[str]], Value], priority: int
    ) -> tuple[Value | RequestError, int | None]:
        seed, spec = digest(self.spec.seed, prompt), self.spec
        job = Job(f"votes/{seed}", Problem(prompt, prompt), self.path, 0, spec.votes, "answer", Sampling(spec.temperature),
                  seed, priority=priority)  # fmt: skip
        (reply,) = await self.proposer.propose([job])
        if isinstance(reply, Exception):
            raise reply
        ids = getattr(self.proposer, "prompt_ids", None)
        said = total(step.tokens for chain in reply for step in chain)
        tokens = add(None if ids is None else len(ids(prompt)), said)
        try:
            return read(["".join(step.text for step in chain) for chain in reply]), tokens
        except RequestError as error:
            return error, tokens

    def forget(self) -> None:
        self._once.clear()

    def cancel(self) -> None:
        self._once.cancel()


def opens_thought(proposer: Any) -> bool:
    """Whether the model's chat template begins its turn with a thought."""
    return bool(proposer.chat([{"role": "user", "content": "?"}]).rstrip().endswith(prompts.THOUGHT))


class PanelScorer:
    """What the scorers that ask a panel share. `Scored.tokens`: see `Panel.ask`. An item's failure is its own."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.max_jobs = panel, panel.max_jobs

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of all prompts, and how many of them a cache held, where the model counts them."""
        found: dict[str, int] = getattr(self.panel.proposer, "usage", {})
        return found

    @property
    def dead(self) -> bool:
        return bool(getattr(self.panel.proposer, "dead", False))

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored | Exception]:
        """One reply an item, as described in backends.base."""
        return await asyncio.gather(*(self._answered(job, chains) for job, chains in items))

    async def forget(self) -> None:
        """A new run begins: it asks for itself."""
        self.panel.forget()
        if (forget := getattr(self.panel.proposer, "forget", None)) is not None:
            await forget()

    async def close(self) -> None:
        self.panel.cancel()
        await self.panel.proposer.close()

    async def _answered(self, job: Job, chains: tuple[Chain, ...]) -> Scored | Exception:
        try:
            return await self.item(job, chains)
        except Exception as error:
            return error

    async def item(self, job: Job, chains: tuple[Chain, ...]) -> Scored:
        """Scores of one item. Raises what is wrong with it."""
        raise NotImplementedError
