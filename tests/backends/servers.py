"""OpenAI-compatible servers in a thread, each with the manners of a real kind: what is told, ignored, refused and dropped.

The model behind them is a function of the text so far and the seed: three steps of two words, then an answer.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from treesearch.types import Problem

Data = dict[str, Any]
WORDS = ["red", "blue", "green", "black"]
STEPS = 3


class Lines:
    """A task whose steps are lines."""

    name, separator, system = "lines", "\n", "Think in lines."

    def prompt(self, question: str) -> str:
        return f"Question: {question}\n"

    def read(self, question: str, steps: Any) -> str | None:
        found = re.search(r"Answer: (\d)", steps[-1]) if steps else None
        return found.group(1) if found else None

    def canonical(self, answer: str) -> str:
        return answer

    def check(self, problem: Problem, answer: str) -> bool | None:
        return None if problem.reference is None else answer == problem.reference

    def problems(self, name: str) -> list[Problem]:
        return [Problem(f"p{k}", f"number {k}?", "1") for k in range(200)]


lines = Lines()


@dataclass(frozen=True)
class Manners:
    """How a server differs from others."""

    completions: bool = True
    chat: bool = True
    ids: bool = False  # gives and takes token ids
    told: str | None = None  # the field that says which stop it was
    templated: bool = False  # completions put the prompt into the chat template
    continues: str = "never"  # a final assistant message: never, asked (continue_final_message), always
    strict: bool = False  # unknown fields are refused
    trims: bool = False  # the template strips messages
    limit: str = "max_tokens"
    usage: bool = True
    context: int | None = None
    secret: str | None = None
    keeps_stop: bool = False
    models: tuple[str, ...] = ("m",)


VLLM = Manners(ids=True, told="stop_reason", continues="asked", context=400)
OLD_VLLM = Manners(told="stop_reason", continues="asked")
SGLANG = Manners(told="matched_stop", continues="asked")
LLAMA_CPP = Manners(continues="always")
OLLAMA = Manners(templated=True)
HOSTED = Manners(completions=False, strict=True, limit="max_completion_tokens", secret="sesame")
CHAT_FIELDS = {"model", "messages", "temperature", "top_p", "seed", "stop", "logprobs"}


class Refusal(Exception):
    def __init__(self, status: int, text: str, code: str | None = None, headers: Data | None = None) -> None:
        super().__init__(text)
        self.status, self.code, self.headers = status, code, headers or {}


class Server:
    """`with Server(VLLM) as server:` listens on `server.url`. `fault(k)` may spoil the k-th request after `probed`:
    500, 429, drop, hang, malformed, empty, or None."""

    def __init__(
        self, manners: Manners, fault: Callable[[int], str | None] = lambda k: None, delay: float = 0.0
    ) -> None:
        self.manners, self.fault, self.delay = manners, fault, delay
        self.requests: list[Data] = []
        self.probed = False
        self.spoiled = self.running = self.most = self.dropped = 0
        self.vocabulary: dict[str, int] = {}

    def __enter__(self) -> Server:
        started = threading.Event()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, args=(started,), daemon=True).start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.over.set)

    def _serve(self, started: threading.Event) -> None:
        async def serve() -> None:
            self.over = asyncio.Event()
            app = web.Application()
            app.add_routes([web.get("/v1/models", self._models), web.post("/v1/{kind:.*}", self._post)])
            # a client that goes away ends its request, as servers of models do
            runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
            self.url = f"http://127.0.0.1:{port}/v1"
            started.set()
            await self.over.wait()
            await runner.cleanup()

        self.loop.run_until_complete(serve())

    async def _models(self, request: web.Request) -> web.Response:
        context = {"max_model_len": self.manners.context} if self.manners.context else {}
        return web.json_response({"data": [{"id": name, **context} for name in self.manners.models]})

    async def _post(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            fault = None
            if self.probed:
                self.requests.append(body)
                fault = self.fault(len(self.requests) - 1)
            if fault is not None:
                self.spoiled += 1
                return await self._spoil(fault, request)
            await asyncio.sleep(self.delay)
            return web.json_response(self._answer(request, body))
        except Refusal as refusal:
            error = {"message": str(refusal), "type": "error", "code": refusal.code}
            return web.json_response({"error": error}, status=refusal.status, headers=refusal.headers)
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        finally:
            self.running -= 1

    async def _spoil(self, fault: str, request: web.Request) -> web.StreamResponse:
        if fault == "drop":
            assert request.transport is not None
            request.transport.abort()
        if fault == "hang":
            await asyncio.sleep(60)
        if fault == "malformed":
            return web.Response(text='{"choices": [{"te', content_type="application/json")
        if fault == "empty":
            return web.json_response({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
        status, headers = (
            (429, {"Retry-After": "0"}) if fault == "429" else (int(fault) if fault.isdigit() else 500, {})
        )
        raise Refusal(status, f"injected {fault}", headers=headers)

    def _answer(self, request: web.Request, body: Data) -> Data:
        kind, manners = request.match_info["kind"], self.manners
        if manners.secret and request.headers.get("Authorization") != f"Bearer {manners.secret}":
            raise Refusal(401, "Incorrect API key provided")
        known = {"completions": manners.completions, "chat/completions": manners.chat}
        if not known.get(kind):
            raise Refusal(404, f"no such route {kind}")
        if body["model"] not in manners.models:
            raise Refusal(404, f"The model `{body['model']}` does not exist.")
        if manners.strict:
            self._only_known(body)
        return self._chat(body) if "messages" in body else self._completion(body)

    def _only_known(self, body: Data) -> None:
        if self.manners.limit == "max_completion_tokens" and "max_tokens" in body:
            raise Refusal(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        for name in sorted(set(body) - CHAT_FIELDS - {self.manners.limit}):
            raise Refusal(400, f"Unrecognized request argument supplied: {name}")

    # Tokens: words, blanks and line ends, each with an id

    def tokens(self, text: str) -> list[str]:
        return re.findall(r"<\w+>|\w+|.|\n", text)

    def id(self, token: str) -> int:
        return self.vocabulary.setdefault(token, len(self.vocabulary) + 1)

    def text(self, ids: list[int]) -> str:
        names = {number: token for token, number in self.vocabulary.items()}
        return "".join(names[i] for i in ids)

    def template(self, messages: list[Data], going_on: bool) -> str:
        """`<user>1<end><assistant>`"""
        content = [m["content"].strip() if self.manners.trims else m["content"] for m in messages]
        parts = [f"<{m['role']}>{text}<end>" for m, text in zip(messages, content, strict=True)]
        if going_on:
            return "".join(parts).removesuffix("<end>")
        return "".join(parts) + "<assistant>"

    def _completion(self, body: Data) -> Data:
        prompt = body["prompt"]
        if isinstance(prompt, list) and not self.manners.ids:
            raise Refusal(400, "prompt must be a text")
        text = self.text(prompt) if isinstance(prompt, list) else prompt
        if self.manners.templated:
            text = self.template([{"role": "user", "content": text}], False)
        choice, count = self._sample(text, body, body["max_tokens"])
        ids = prompt if isinstance(prompt, list) else [self.id(token) for token in self.tokens(text)]
        if self.manners.ids and body.get("return_token_ids"):
            choice["prompt_token_ids"] = ids
        return self._reply(choice, len(ids), count)

    def _chat(self, body: Data) -> Data:
        messages, manners = body["messages"], self.manners
        asked = manners.continues == "asked" and body.get("continue_final_message", False)
        going_on = messages[-1]["role"] == "assistant" and (asked or manners.continues == "always")
        text = self.template(messages, going_on)
        choice, count = self._sample(text, body, body[manners.limit])
        choice["message"] = {"role": "assistant", "content": choice.pop("text")}
        if (told := choice.pop("logprobs", None)) is not None:
            pairs = zip(told["tokens"], told["token_logprobs"], strict=True)
            choice["logprobs"] = {"content": [{"token": token, "logprob": p} for token, p in pairs]}
        return self._reply(choice, len(self.tokens(text)), count)

    def _reply(self, choice: Data, prompt: int, count: int) -> Data:
        usage = {"usage": {"prompt_tokens": prompt, "completion_tokens": count}} if self.manners.usage else {}
        return {"id": "r", "choices": [{"index": 0, **choice}], **usage}

    def _sample(self, text: str, body: Data, most: int) -> tuple[Data, int]:
        if self.manners.context and len(self.tokens(text)) + most > self.manners.context:
            raise Refusal(400, f"maximum context length is {self.manners.context} tokens", "context_length_exceeded")
        stops = body.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        drawn, reason, stop = [], "length", None
        for token in self.drawn(text, body.get("seed", 0))[:most]:
            drawn.append(token)
            if token == "<end>" or token in stops:
                reason, stop = "stop", (token if token in stops else None)
                break
        shown = [token for token in drawn if token != "<end>"]
        if stop and not (body.get("include_stop_str_in_output") or self.manners.keeps_stop):
            shown.pop()
        choice: Data = {"text": "".join(shown), "finish_reason": reason}
        if self.manners.told == "stop_reason":
            choice["stop_reason"] = stop
        elif self.manners.told:
            choice["matched_stop"] = (stop or 2) if reason == "stop" else None
        if self.manners.ids and body.get("return_token_ids"):
            choice["token_ids"] = [self.id(token) for token in drawn]
        if body.get("logprobs") is not None and body.get("logprobs") is not False:
            choice["logprobs"] = {"tokens": drawn, "token_logprobs": [-0.5] * len(drawn)}
        return choice, len(drawn)

    def drawn(self, text: str, seed: int) -> list[str]:
        """What the model writes after a text, to its end."""
        rng = random.Random(f"{text}|{seed}")
        path = re.split(r"<assistant>|\?\n", text)[-1]
        line = path.rpartition("\n")[2]
        out: list[str] = []
        for k in range(path.count("\n"), STEPS + 1):
            begun = self.tokens(line) if k == path.count("\n") else []
            if k == STEPS:
                whole = ["Answer", ":", " ", str(rng.randrange(4)), "<end>"]
            else:
                whole = [rng.choice(WORDS), " ", rng.choice(WORDS), "\n"]
            out += whole[len(begun) :]
        return out or ["<end>"]
