"""Any OpenAI-compatible server as a proposer: vLLM, SGLang, llama.cpp, Ollama, hosted ones. A chain is a request.

How a path is gone on with depends on what the server can do, which `probe` finds out once:

- completions by token ids (vLLM): ids in, ids out, as in `backends.vllm`; no text is ever tokenised twice. Chains are cut
  into steps by the tokens' own texts, which come with their log-probabilities.
- completions by text: the text of prompt and path is tokenised anew by the server at each step.
- chat with the path as an unfinished assistant message.
- whole answers by chat, where the server can do none of these: `until: answer` at the root only.

A step ends where the server stopped at the task's separator, which is put back where the server drops it. vLLM
(`stop_reason`) and SGLang (`matched_stop`) tell the separator from the end of the text. Others do not, so the next token is
drawn once more at the same temperature: if it is the end, the chain has ended, else the step has. That draw follows the
model's own odds of the two; its token or two are in no count.

By text, tokens are the server's `usage` (None where it has none); those of several steps of one reply are shared out by
length, so that only their sum is exact, and whole answers are cut at separators but not after `step_tokens`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal, TypeVar

from treesearch.backends.base import Limits
from treesearch.backends.causal import MOST_PROMPTS, UNBOUNDED, parted, unloadable
from treesearch.backends.chat import chat_of
from treesearch.backends.detokenizer import Detokenizer
from treesearch.backends.endpoint import KEY_NAME, Data, Endpoint, address, key
from treesearch.backends.probe import BY_IDS, GO_ON, Abilities, Mode, Probe, counted, prompt_tokens
from treesearch.backends.steps import Splitter
from treesearch.backends.weights import NO_CODE
from treesearch.errors import ConfigError, RequestError, RunError
from treesearch.tasks import prompts
from treesearch.tasks.base import Prompt, Task
from treesearch.tasks.readers import THOUGHT_OVER
from treesearch.terminal import mended
from treesearch.types import Chain, Finish, Job, Step, chain_seed, digest

Chains = tuple[Chain, ...]
T = TypeVar("T")
LARGEST_ID = 1 << 31
SEEDS = (1 << 31) - 1  # llama.cpp keeps 32 bits of a seed and takes all ones for "any"
PROBE_RETRIES = 2  # a wrong address shall be told soon
OURS = frozenset({"model", "prompt", "messages", "n", "stop", "stream", "echo"})
KEY_RULE = "a key is taken from the environment only, never from a config: name its variable in api_key_env"


@dataclass(frozen=True)
class OpenAI:
    """Proposer `openai`: a model behind an OpenAI-compatible API.

    `model` null: the only one that the server lists. `base_url` null: $OPENAI_BASE_URL, or OpenAI's own; it mostly ends
    in /v1. The key is read from the environment variable `api_key_env` and sent to that address. `mode` auto: as told
    above. `max_connections` requests are in flight at once, each for at most `timeout` seconds and tried `retries` times
    again (`backends.endpoint` says when). `tokenizer`: hub name or folder of the model's tokenizer, with which
    completions can do prompt.style chat; `chat_template_kwargs` go to its template. `extra_body`: further fields of
    each request, above ours.

    What a server adds by the model's own generation config (top_k, penalties) stays, but for vLLM by token ids.
    """

    model: str | None = None
    base_url: str | None = None
    api_key_env: str = KEY_NAME
    mode: Mode = "auto"
    max_connections: int = 64
    timeout: float = 300.0
    retries: int = 8
    tokenizer: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    extra_body: dict[str, Any] = field(default_factory=dict)
    api_key: Any = field(default=None, repr=False, compare=False)  # here to be refused
    label: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if self.api_key is not None:
            raise ConfigError(f"proposer.api_key: {KEY_RULE}")
        for name, least in (("max_connections", 1), ("retries", 0)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"proposer.{name} = {value!r}: must be at least {least}")
        if not self.timeout > 0:
            raise ConfigError(f"proposer.timeout = {self.timeout!r}: must be above 0 seconds")
        if self.base_url is not None:
            address(self.base_url)
        for name in OURS & set(self.extra_body):
            raise ConfigError(f"proposer.extra_body.{name}: is set by treesearch itself; leave it out")

    def build(self, task: Task, prompt: Prompt, limits: Limits) -> OpenAIProposer:
        """Probe the server. Raises ConfigError if there is none, it refuses the key, or it has no such model."""
        if limits.think_least is not None or limits.think_most is not None:
            raise ConfigError(
                "limits.think_least, think_most: type openai cannot open or close a thought; use vllm or transformers, or "
                "the server's own setting in proposer.extra_body"
            )
        tokenizer = load_tokenizer(self.tokenizer)
        if prompts.is_chat(prompt) and tokenizer is not None and chat_of(tokenizer) is None:
            raise ConfigError(
                f"proposer.tokenizer {self.tokenizer!r}: has no chat template, which style {prompt.style!r} needs"
            )
        return OpenAIProposer(self, self.probe(task, prompt), tokenizer, task, prompt, limits)

    def probe(self, task: Task, prompt: Prompt) -> Abilities:
        """What the server can do for this model. Raises ConfigError as `build`."""
        raw = not prompts.is_chat(prompt) or self.tokenizer is not None

        async def ask() -> Abilities:
            to = self.connect(min(PROBE_RETRIES, self.retries))
            try:
                return await Probe(to, self.model, prompts.separator(task, prompt)).abilities(self.mode, raw)
            finally:
                await to.close()

        try:
            return at_once(ask())
        except (RequestError, RunError) as error:
            raise ConfigError(f"proposer.type 'openai': {error}") from error

    def connect(self, retries: int) -> Endpoint:
        """Raises ConfigError if the key is missing."""
        url = address(self.base_url)
        secret = key(self.api_key_env, url)
        return Endpoint(url, secret, connections=self.max_connections, timeout=self.timeout, retries=retries)


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, in a thread of its own: backends are built inside event loops and outside of them."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def load_tokenizer(name: str | None) -> Any:
    if name is None:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, **NO_CODE)
    except (OSError, ValueError) as error:
        raise unloadable(name, error) from error


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as the server gets it: text, or messages for a chat; its token ids and their number where known."""

    text: str = ""
    messages: tuple[dict[str, str], ...] = ()
    ids: tuple[int, ...] = ()
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """Where the chains of a job begin. `room`: tokens that fit after the path; `used`: tokens of the path."""

    job: Job
    path: Chain  # of the attempt under way
    asked: Asked
    room: int
    used: int


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. `stop`: what ended it: the separator, the end of the text, one of the two, or a limit.

    `ids`, `texts` and `logprobs` are one a token; the ids and texts only where the server works by ids.
    """

    text: str
    stop: Literal["separator", "end", "either", "limit"]
    tokens: int | None
    ids: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()


class OpenAIProposer:
    """Samples chains, each a request with a seed of its own, so that it can be repeated where the server honours seeds.

    `only_answers`: why steps cannot be asked for, None if they can.
    """

    def __init__(
        self, spec: OpenAI, can: Abilities, tokenizer: Any, task: Task, prompt: Prompt, limits: Limits
    ) -> None:
        self.spec, self.can, self.tokenizer, self.limits = spec, can, tokenizer, limits
        self.task, self.prompt, self.separator = task, prompt, prompts.separator(task, prompt)
        self.max_jobs = spec.max_connections
        self.usage = {"prompt_tokens": 0, "cached_tokens": 0}  # of requests whose cache hits the server tells
        self.endpoint = spec.connect(spec.retries)
        self.only_answers = can.lacks and (
            f"proposer.type 'openai': {self.endpoint.url} can only write whole answers, for search.type sample; steps "
            f"need a server that goes on with a given text, and here: {can.lacks}"
        )
        self._template = None if tokenizer is None else chat_of(tokenizer, **spec.chat_template_kwargs)
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer)
        self._asked: dict[tuple[str, tuple[Chain, ...]], asyncio.Task[Asked]] = {}
        self._running: dict[str, list[asyncio.Task[Chain]]] = {}
        self._sent: set[tuple[str, int]] = set()  # chains whose request has left

    async def propose(self, jobs: Sequence[Job]) -> list[Chains | Exception]:
        """One reply a job, as described in backends.base."""
        return await asyncio.gather(*(self._job(job) for job in jobs))

    def abort(self, job_ids: Iterable[str]) -> None:
        """Nobody wants these any more: their requests are dropped, which makes servers stop. What they sampled is lost, so
        that the tokens of those chains are unknown."""
        for job_id in job_ids:
            for task in self._running.get(job_id, ()):
                task.cancel()

    async def close(self) -> None:
        for task in [*self._asked.values(), *(t for tasks in self._running.values() for t in tasks)]:
            task.cancel()
        await self.endpoint.close()

    async def _job(self, job: Job) -> Chains | Exception:
        if (refusal := self._refusal(job)) is not None:
            return refusal
        numbers = range(job.first, job.first + (job.n or 0))
        tasks = self._running[job.id] = [asyncio.create_task(self._chain(job, i)) for i in numbers]
        try:
            replies = await asyncio.gather(*tasks, return_exceptions=True)
            chains: list[Chain] = []
            for i, reply in zip(numbers, replies, strict=True):
                if isinstance(reply, asyncio.CancelledError):
                    reply = (Step("", (), None if (job.id, i) in self._sent else 0),)
                if isinstance(reply, Exception):
                    return reply
                if isinstance(reply, BaseException):
                    raise reply
                chains.append(reply)
        finally:
            self._running.pop(job.id, None)
            self._sent.difference_update([(job.id, i) for i in numbers])
        if all(step.tokens == 0 and not step.text and step.finish == "step" for chain in chains for step in chain):
            return RequestError("aborted")
        return tuple(chains)

    def _refusal(self, job: Job) -> Exception | None:
        """Why this job cannot be done at all."""
        if job.n is None:
            return RequestError("a language model cannot list all continuations; set the search's branch to a number")
        try:
            open_, _ = parted(job)
        except RequestError as error:
            return error
        if self.only_answers and (job.until == "step" or open_):
            return RunError(self.only_answers)
        return None

    async def _chain(self, job: Job, i: int) -> Chain:
        begin = await self._begin(job)
        body = self.body(begin, i)
        reply = await self._ask(body, lambda: self._sent.add((job.id, i)))
        if reply.stop == "either":
            reply = await self._ended(begin, i, reply)
        chain = self._by_ids(begin, reply) if reply.ids else self._by_text(begin, reply, body[self.can.limit])
        return chain[:1] if job.until == "step" else chain

    # Where a chain begins

    async def _begin(self, job: Job) -> Begin:
        path, before = parted(job)
        key = job.problem.question, before
        task = self._asked.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            if len(self._asked) >= MOST_PROMPTS:
                self._asked = {key: task for key, task in self._asked.items() if not task.done()}
            task = self._asked[key] = asyncio.create_task(self._measured(*key))
        asked = await asyncio.shield(task)
        used = sum(step.tokens or 0 for step in path)
        room = UNBOUNDED
        if self.can.context is not None and asked.tokens is not None:
            room = self.can.context - asked.tokens - used
        if room < 1:
            raise RequestError(
                f"prompt and path of {(asked.tokens or 0) + used} tokens do not fit the context of {self.can.context}"
            )
        return Begin(job, path, asked, room, used)

    def question_of(self, question: str, before: Sequence[Chain] = ()) -> Asked:
        """The question as it is asked, its tokens where the tokenizer is known. Raises ConfigError as `prompts.build`."""
        messages: list[dict[str, str]] = []

        def catch(given: list[dict[str, str]]) -> str:
            messages.extend(given)
            return ""

        chat = self.can.mode == "chat"
        text = prompts.build(self.task, self.prompt, question, catch if chat else self._template, before)
        if chat:
            return Asked(messages=tuple(messages or [{"role": "user", "content": text}]))
        if not text:
            raise RequestError("the prompt is empty: a model needs at least one token; ask a question")
        if self.tokenizer is None:
            return Asked(text)
        special = not prompts.is_chat(self.prompt)  # a chat template brings its own
        ids = tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        start = "" if special else self.tokenizer.bos_token or ""  # the server begins a text with it by itself
        return Asked(text.removeprefix(start), ids=ids if self.can.ids else (), tokens=len(ids))

    async def _measured(self, question: str, before: Sequence[Chain]) -> Asked:
        """The same with its tokens, where they are needed: a request for one token tells them."""
        asked = self.question_of(question, before)
        if asked.tokens is not None or not (self.can.ids or self._may_not_fit(asked)):
            return asked
        body = self._question(asked) | {"temperature": 1.0, self.can.limit: 1} | (BY_IDS if self.can.ids else {})

        def read(data: Data) -> tuple[tuple[int, ...], int | None]:
            ids = tuple(data["choices"][0]["prompt_token_ids"]) if self.can.ids else ()
            return ids, len(ids) or prompt_tokens(data)

        ids, tokens = await self.endpoint.complete(body, read)
        return Asked(asked.text, asked.messages, ids, tokens)

    def _may_not_fit(self, asked: Asked) -> bool:
        """Whether prompt and longest path could be too long, at a token a byte and some for the template."""
        if self.can.context is None:
            return False
        texts = [asked.text, *(message["content"] for message in asked.messages)]
        size = sum(len(text.encode("utf-8", "replace")) + 16 for text in texts)
        return size + self.limits.path_tokens > self.can.context

    def _question(self, asked: Asked, path: Chain = (), more: str = "") -> Data:
        """The fields that say what to go on with: the question, a path, and more text after it."""
        text = "".join(step.text for step in path) + more
        if asked.messages:
            begun: list[dict[str, str]] = [{"role": "assistant", "content": text}] if text else []
            return {"model": self.can.model, "messages": [*asked.messages, *begun], **(GO_ON if begun else {})}
        if asked.ids and not more and all(step.ids or not step.text for step in path):
            return {"model": self.can.model, "prompt": [*asked.ids, *(i for step in path for i in step.ids)]}
        return {"model": self.can.model, "prompt": asked.text + text}

    # One request

    def body(self, begin: Begin, i: int) -> Data:
        """The request for chain i of a job."""
        job, limits = begin.job, self.limits
        one = job.until == "step"
        steps = 1 if one else limits.depth - len(begin.path)
        most = max(1, min(steps * limits.step_tokens, limits.path_tokens - begin.used, begin.room))
        body = self._question(begin.asked, begin.path) | self._drawn(job, i, chain_seed(job.seed, i))
        body[self.can.limit] = most
        if one:
            body["stop"] = [self.separator]
        if self.can.ids:
            body |= BY_IDS
        elif job.logprobs:
            body["logprobs"] = 1 if self.can.mode == "completions" else True
        return body | self.spec.extra_body

    def _drawn(self, job: Job, i: int, seed: int) -> Data:
        top_p = job.sampling.top_p
        given = {"temperature": job.sampling.temperature_of(i), "seed": seed & SEEDS, "top_p": top_p}
        return {name: v for name, v in given.items() if name not in self.can.refused or (name == "top_p" and v != 1)}

    async def _ask(self, body: Data, sent: Callable[[], None]) -> Reply:
        def read(data: Data) -> Reply:
            reply = read_reply(data, self.separator if "stop" in body else None, self.can.ids)
            self._count(data)
            return reply

        return await self.endpoint.complete(body, read, sent)

    def _count(self, data: Data) -> None:
        details = (data.get("usage") or {}).get("prompt_tokens_details") or {}
        cached, asked = counted(details.get("cached_tokens")), prompt_tokens(data)
        if cached is not None and asked is not None:
            self.usage["prompt_tokens"] += asked
            self.usage["cached_tokens"] += cached

    async def _ended(self, begin: Begin, i: int, reply: Reply) -> Reply:
        """The reply with what ended it: the token after its text is drawn again, without a stop."""
        job = begin.job
        body = self._question(begin.asked, begin.path, reply.text)
        body |= self._drawn(job, i, digest(job.seed, i, "end")) | {self.can.limit: 1} | self.spec.extra_body
        again = await self.endpoint.complete(body, lambda data: read_reply(data, None, False))
        over = again.stop == "end" and not again.text
        return Reply(reply.text, "end" if over else "separator", reply.tokens, logprobs=reply.logprobs)

    # Steps of a reply

    def _by_ids(self, begin: Begin, reply: Reply) -> Chain:
        """Cut at tokens, by the rules of backends.steps: its vocabulary is the tokens of this reply, by their places."""
        job, count = begin.job, len(reply.ids)
        ends = [count - 1] if reply.stop == "end" else []
        splitter = Splitter(reply.texts, self.separator, ends, self.limits)
        pieces = splitter.split(range(count), begin.used, len(begin.path), begin.room)
        before = [i for step in begin.path for i in step.ids]
        steps, at = [], 0
        for piece in pieces:
            ids = tuple(reply.ids[k] for k in piece.ids)
            text = "".join(reply.texts[k] for k in piece.ids)
            if self._detokenizer is not None:
                text = self._detokenizer.text(before, ids, piece.finish != "step")
            before += ids
            logprob = sum(reply.logprobs[at : at + piece.tokens]) if job.logprobs else None
            at += piece.tokens
            steps.append(Step(text, ids, piece.tokens, logprob, finish=piece.finish))
        if job.until != "step" and steps[-1].finish == "step":  # the server's own limit was shorter
            steps[-1] = with_finish(steps[-1], "length")
        return tuple(steps)

    def _by_text(self, begin: Begin, reply: Reply, most: int) -> Chain:
        """Cut at separators. `most`: the tokens that were asked for."""
        job, separator, limits = begin.job, self.separator, self.limits
        left = limits.depth - len(begin.path)
        last: Finish = "answer" if reply.stop == "end" else "length"
        texts = split(reply.text, separator)
        if job.until == "step":
            whole = len(texts) > 1 or reply.stop == "separator"  # the separator is kept here, dropped there
            texts = [texts[0].removesuffix(separator) + separator * whole]
            short = reply.stop == "limit" and most < limits.step_tokens  # a path's limit, or the context's
            used = reply.tokens or 0
            full = begin.used + used >= limits.path_tokens or used >= begin.room or left <= 1
            if whole or reply.stop != "end":
                last = "length" if short or full else "step"
        elif reply.stop == "limit" and len(texts) > 1 and not texts[-1]:
            del texts[-1]
        if len(texts) > left:
            texts, last = texts[:left], "length"
        counts = shared(reply.tokens, [len(text) for text in texts])
        logprob = sum(reply.logprobs) if reply.logprobs and len(texts) == 1 else None
        on: Finish = "step"
        finishes = [*[on] * (len(texts) - 1), last]
        return tuple(
            Step(text, (), count, logprob, finish=finish)
            for text, count, finish in zip(texts, counts, finishes, strict=True)
        )


def with_finish(step: Step, finish: Finish) -> Step:
    return Step(step.text, step.ids, step.tokens, step.logprob, finish=finish)


def split(text: str, separator: str) -> list[str]:
    """Pieces that each end with the separator, but for the last: what is after it, maybe nothing."""
    *whole, rest = text.split(separator)
    return [*(piece + separator for piece in whole), rest]


def shared(total: int | None, sizes: Sequence[int]) -> list[int | None]:
    """A total shared out over pieces by their sizes, so that it adds up; unknown stays unknown."""
    if total is None:
        return [None] * len(sizes)
    whole = sum(sizes)
    ends = [total * size // whole if whole else total for size in accumulate(sizes)]
    return [b - a for a, b in pairwise([0, *ends])]


def read_reply(data: Any, separator: str | None, ids: bool) -> Reply:
    """A completion or a chat's reply. Raises ValueError, LookupError, TypeError or AttributeError if it is malformed."""
    choice = data["choices"][0]
    chat = "message" in choice
    text = said(choice["message"]) if chat else choice["text"]
    reason = choice.get("finish_reason")
    if not isinstance(text, str) or reason in ("abort", "error"):
        raise ValueError(f"finish_reason {reason!r}")
    if reason == "content_filter":
        raise RequestError("the server's content filter withheld the reply")
    count = counted((data.get("usage") or {}).get("completion_tokens"))
    tokens = None if count == 0 and text else count
    told = choice.get("logprobs") or {}  # of completions; those of chats, and of llama.cpp, are under `content`
    logprobs = told.get("token_logprobs") or [entry["logprob"] for entry in told.get("content") or ()]
    stop = stopped(choice, text, separator)
    text, logprobs = mended(text), tuple(map(float, logprobs))
    if any(math.isnan(value) for value in logprobs):
        raise ValueError("a log-probability is no number")
    if not ids:
        return Reply(text, stop, tokens, logprobs=logprobs)
    if not len(choice["token_ids"]) == len(told["tokens"]) == len(logprobs) > 0:
        raise ValueError("token ids, their texts and log-probabilities do not match")
    if not all(type(i) is int and 0 <= i < LARGEST_ID for i in choice["token_ids"]):
        raise ValueError("a token id is no whole number from 0")
    return Reply(text, stop, tokens, tuple(choice["token_ids"]), tuple(map(mended, told["tokens"])), logprobs)


def said(message: Data) -> str:
    """What a chat's reply says, with the thought that some servers give apart: as the model wrote it."""
    text, thought = message.get("content") or "", message.get("reasoning_content") or message.get("reasoning")
    return f"{prompts.THOUGHT}\n{thought}\n{THOUGHT_OVER}\n\n{text}" if thought and isinstance(thought, str) else text


def stopped(choice: Data, text: str, separator: str | None) -> Literal["separator", "end", "either", "limit"]:
    """What ended a reply, of which a `separator` was asked to be the end (None: it was not)."""
    if choice.get("finish_reason") == "length":
        return "limit"
    if separator is None:
        return "end"
    if "stop_reason" in choice:  # vLLM: null at the end of the text, or the id of another token that ends it
        return "separator" if isinstance(choice["stop_reason"], str) else "end"
    if choice.get("matched_stop") is not None:  # SGLang
        return "separator" if isinstance(choice["matched_stop"], str) else "end"
    return "separator" if text.endswith(separator) else "either"
