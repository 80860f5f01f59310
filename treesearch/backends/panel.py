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
from treesearch.tasks.base import Prompt
from treesearch.tasks.prompts import THOUGHT, Chat
from treesearch.tasks.readers import THOUGHT_OVER
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
    """The votes on a prompt. `lead`: text that the votes go on with, where the model can."""

    def __init__(self, spec: PanelSpec, lead: str = "") -> None:
        if spec.model is None:
            raise ConfigError("model is not set: give the spec of a proposer (a config fills in the run's own)")
        self.spec = spec
        served = hasattr(spec.model, "base_url")
        self.chats = not (served and spec.style == "direct")  # a model in a chat stops when it is done
        self.thinks = False  # its template opens a thought
        self.proposer: Any = self._built()
        for proposer in getattr(self.proposer, "proposers", [self.proposer]):  # of a mixture, each in its own way
            self._put(proposer)
        self.path = (Step(lead),) if lead and not getattr(self.proposer, "only_answers", None) else ()
        self.max_jobs: int = self.proposer.max_jobs
        self._once: Once[tuple[Any, int | None]] = Once()

    def _built(self) -> Any:
        """The proposer. One with a model of its own is built for direct prompts: whether it can chat, it tells then."""
        model = self.spec.model
        limits = Limits(self.spec.max_tokens, self.spec.max_tokens, DEPTH)
        style = (self.spec.style or "chat") if hasattr(model, "base_url") else "direct"
        try:
            return model.build(Verbatim(), Prompt(style), limits)
        except ConfigError:
            if style != "chat" or getattr(model, "tokenizer", None) is None:
                raise
        self.thinks = True  # the tokenizer's template opens a thought
        return model.build(Verbatim(), Prompt(style, thinking=True), limits)

    def _put(self, proposer: Any) -> None:
        """Have a model asked in its chat template, if it has one and the user does not say otherwise."""
        chat: Chat | None = getattr(proposer, "chat", None)
        if not hasattr(proposer, "chat"):  # a server was told, others read no prompt
            return
        if chat is None and self.spec.style == "chat":
            raise ConfigError("style 'chat' needs a model with a chat template, this one has none; use style direct")
        if chat is None or self.spec.style == "direct":
            self.chats = False
            return
        opens = chat([{"role": "user", "content": "?"}]).rstrip().endswith(THOUGHT)
        proposer.prompt = Prompt("chat", thinking=opens)
        self.thinks |= opens

    def said(self, vote: str) -> str:
        """The part of a vote that counts: nothing before a thought is over, and the first paragraph of a model that is not
        asked in a chat, which does not know when to stop."""
        if self.thinks and THOUGHT_OVER not in vote:
            return ""
        text = vote.rpartition(THOUGHT_OVER)[2].strip()
        return text if self.chats else text.partition("\n\n")[0].rstrip()

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
