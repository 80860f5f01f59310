"""What an OpenAI-compatible server can do, found out by a few tiny requests. Knows no job.

Servers ignore fields that they do not know, so a good status proves nothing. What cannot be faked is `usage.prompt_tokens`:
how long a prompt became tells what was made of it, whatever the model and whatever it answers.

- Completions go on with the very text if a prompt of one character is at most 3 tokens; a server that puts it into a chat
  template (Ollama) counts more.
- Token ids: the reply to `return_token_ids` has them (vLLM since 0.10.2), and a prompt of these ids is taken.
- A final assistant message is gone on with, if the prompt is shorter with `continue_final_message` than without (vLLM,
  SGLang), or if an assistant message of one character makes it longer by one token only (llama.cpp always goes on). And it
  must keep the separator: some templates (Llama 3) cut white space off messages, then the prompt grows by nothing.

Where a server counts no tokens, nothing can be told, and it is used for whole answers only; `mode: completions` is taken at
its word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from treesearch.backends.endpoint import Data, Endpoint, status
from treesearch.errors import ConfigError, RequestError

Mode = Literal["auto", "completions", "chat"]

PLAIN = 3  # tokens of one character by itself: what begins every text, a blank, the character
MOST_TOKENS = 1 << 31  # of a prompt and a reply
BEGUN = "The first of all numbers is 1, and"  # an answer begun
GO_ON = {"continue_final_message": True, "add_generation_prompt": False}
# vLLM: token ids with their texts, the stop string kept, and nothing of the server's own generation config
BY_IDS: Data = {"return_token_ids": True, "logprobs": 0, "include_stop_str_in_output": True, "top_k": 0, "min_p": 0.0,
                "repetition_penalty": 1.0}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a server does for a model. `lacks`: why it cannot go on with a path, None if it can.

    `ids`: takes and gives token ids; `context` in tokens, None: unknown; `limit`: what it calls the most tokens of a
    reply; `refused`: optional fields it does not take.
    """

    model: str
    mode: Literal["completions", "chat"]
    lacks: str | None = None
    ids: bool = False
    context: int | None = None
    limit: str = "max_tokens"
    refused: frozenset[str] = frozenset()

    def __str__(self) -> str:
        how = (
            "whole answers only: " + self.lacks if self.lacks else "steps by token ids" if self.ids else "steps by text"
        )
        context = f", {self.context} tokens of context" if self.context else ""
        return f"model {self.model}, {self.mode}, {how}{context}"


class Probe:
    """Asks one server about one model. Raises ConfigError for what cannot be used, else as Endpoint does."""

    def __init__(self, endpoint: Endpoint, model: str | None, separator: str) -> None:
        self.endpoint, self.model, self.separator = endpoint, model or "", separator
        self.context: int | None = None
        self.limit, self.refused = "max_tokens", set[str]()

    async def abilities(self, mode: Mode, raw: bool) -> Abilities:
        """`raw`: the text of a prompt is known, as completions need it; else only its messages are."""
        await self._choose()
        if mode == "completions" and not raw:
            raise ConfigError(
                "prompt.style 'chat' with proposer.mode 'completions' needs the model's chat template: set "
                "proposer.tokenizer to its hub name or folder, or use mode: chat"
            )
        if mode == "chat":
            return self._as("chat", await self._chat(""))
        found: Abilities | str = "completions would need proposer.tokenizer, for the chat template"
        if raw:
            found = await self._completions(strict=mode == "completions")
        return found if isinstance(found, Abilities) else self._as("chat", await self._chat(f"{found}; "))

    def _as(self, mode: Literal["completions", "chat"], lacks: str | None, ids: bool = False) -> Abilities:
        return Abilities(self.model, mode, lacks, ids, self.context, self.limit, frozenset(self.refused))

    async def _choose(self) -> None:
        """The model, and its context where the server tells it."""
        try:
            listed = await self.endpoint.models()
        except RequestError as error:
            if not self.model:
                raise ConfigError(f"proposer.model must be set: {error}") from error
            return
        names = [str(entry.get("id")) for entry in listed]
        if not self.model:
            if len(names) != 1:
                raise ConfigError(
                    f"proposer.model must be set: {self.endpoint.url} has {', '.join(names) or 'no model'}"
                )
            self.model = names[0]
        entry = next((entry for entry in listed if entry.get("id") == self.model), {})
        context = entry.get("max_model_len")
        self.context = context if isinstance(context, int) else None

    # Completions

    async def _completions(self, strict: bool) -> Abilities | str:
        """What they can do; else why they are of no use."""
        body = {"model": self.model, "prompt": "1", "max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "seed": 0}
        try:
            reply = await self._ask(body | BY_IDS)
        except RequestError as error:
            _only_refused(error)
            try:
                reply = await self._ask(body)
            except RequestError as again:
                if strict or _only_refused(again) is None:
                    raise ConfigError(f"proposer.mode 'completions' is of no use here: {again}") from again
                return f"it has no completions ({again})"
        length = prompt_tokens(reply)
        if length is None and not strict:
            return "its completions count no tokens, so that nobody can tell whether they go on with a text"
        if length is not None and length > PLAIN:
            why = f"its completions put a prompt into a chat template ({length} tokens for one character)"
            if strict:
                raise ConfigError(f"proposer.mode 'completions': {self.endpoint.url} cannot continue a text: {why}")
            return why
        return self._as("completions", None, ids=await self._takes_ids(body, reply))

    async def _takes_ids(self, body: Data, reply: Data) -> bool:
        given = reply["choices"][0].get("prompt_token_ids")
        if not (isinstance(given, list) and given and _has_ids(reply)):
            return False
        try:
            again = await self._ask(body | BY_IDS | {"prompt": given})
        except RequestError as error:
            _only_refused(error)
            return False
        return _has_ids(again) and again["choices"][0].get("prompt_token_ids") == given

    # Chat

    async def _chat(self, before: str) -> str | None:
        """Why a final assistant message is not gone on with, after what was found `before`; None if it is."""
        try:
            asked = await self._length(None)
        except RequestError as error:
            hint = "; does base_url end as this server wants it, mostly in /v1?" if status(error) == 404 else ""
            raise ConfigError(f"{before}{error}{hint}") from error
        if asked is None:
            return f"{before}its chat counts no tokens, so that nobody can tell whether it goes on with a message"
        try:
            on = await self._length(BEGUN, GO_ON)
            off = await self._length(BEGUN)
            short = await self._length("1", GO_ON)
            kept = await self._length(BEGUN + self.separator, GO_ON)
        except RequestError as error:
            _only_refused(error)
            return f"{before}its chat does not go on with a final assistant message ({error})"
        if on is None or off is None or short is None or kept is None:
            return f"{before}its chat does not count the tokens of all prompts"
        if on >= off and short != asked + 1:
            return f"{before}its chat does not go on with a final assistant message: continue_final_message changes nothing"
        if kept == on:
            return f"{before}its chat template drops the separator {self.separator!r} from the end of a message"
        return None

    async def _length(self, begun: str | None, more: Data | None = None) -> int | None:
        """Tokens of a chat's prompt, with an assistant message at its end if there is one."""
        messages = [{"role": "user", "content": "1"}]
        if begun is not None:
            messages.append({"role": "assistant", "content": begun})
        body = {"model": self.model, "messages": messages, "temperature": 1.0, "top_p": 1.0, "seed": 0}
        return prompt_tokens(await self._ask(body | (more or {})))

    async def _ask(self, body: Data) -> Data:
        """The reply; optional fields that a refusal names are left out from then on."""
        while True:
            sent = {name: value for name, value in body.items() if name not in self.refused}
            if "messages" in body:
                sent[self.limit] = 1 if "continue_final_message" in body else 16  # some refuse a chat that ends at once
            try:
                return await self.endpoint.complete(sent, _reply)
            except RequestError as error:
                if status(error) not in (400, 422):
                    raise
                told = str(error)
                if self.limit == "max_tokens" and "max_completion_tokens" in told:
                    self.limit = "max_completion_tokens"
                elif (name := next((n for n in ("seed", "top_p") if n in sent and f"'{n}'" in told), None)) is not None:
                    self.refused.add(name)
                else:
                    raise


def _reply(data: Any) -> Data:
    if not isinstance(data["choices"][0], dict):
        raise ValueError("no choice")
    found: Data = data
    return found


def _has_ids(reply: Data) -> bool:
    choice = reply["choices"][0]
    ids, tokens = choice.get("token_ids"), (choice.get("logprobs") or {}).get("tokens")
    return isinstance(ids, list) and isinstance(tokens, list) and len(ids) == len(tokens)


def prompt_tokens(reply: Data) -> int | None:
    """How many tokens a prompt became; None where the server does not say."""
    return counted((reply.get("usage") or {}).get("prompt_tokens")) or None


def counted(told: Any) -> int | None:
    """A number of tokens as a server tells it; None for what cannot be one."""
    return told if type(told) is int and 0 <= told < MOST_TOKENS else None


def _only_refused(error: RequestError) -> int | None:
    """The status of a refusal; what was given up is raised: it tells nothing about what a server can do."""
    found = status(error)
    if found is None or found in (408, 409, 429) or found >= 500:
        raise error
    return found
