"""The openai proposer against servers with the manners of real ones: what it finds out, asks, reads, and survives."""

from __future__ import annotations

import asyncio
import functools
import json
import random
import re
import ssl
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import treesearch as ts
from tests.backends.models import job
from tests.backends.servers import HOSTED, LLAMA_CPP, OLD_VLLM, OLLAMA, SGLANG, VLLM, Manners, Server, lines
from treesearch import run
from treesearch.backends import endpoint
from treesearch.backends.base import Limits
from treesearch.backends.endpoint import pause
from treesearch.backends.openai import OpenAI, OpenAIProposer, read_reply, shared
from treesearch.backends.probe import PLAIN, prompt_tokens
from treesearch.config import Config, load, matters
from treesearch.doctor import models
from treesearch.errors import ConfigError, RequestError, RunError
from treesearch.tasks.base import Prompt
from treesearch.types import Chain, Job, Problem, Step, digest

STYLES = {"direct": Prompt(), "chat": Prompt(style="chat")}
STEPPING = [("ids", VLLM, "direct"), ("text", OLD_VLLM, "direct"), ("sglang", SGLANG, "direct"),
            ("llama.cpp", LLAMA_CPP, "direct"), ("kept", replace(LLAMA_CPP, keeps_stop=True), "direct"),
            ("vllm chat", OLD_VLLM, "chat"),
            ("sglang chat", SGLANG, "chat"), ("llama.cpp chat", LLAMA_CPP, "chat")]  # fmt: skip


make_context = functools.cache(ssl.create_default_context)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short, and no key of this machine is used."""
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.002)
    monkeypatch.setattr(ssl, "create_default_context", make_context)  # each takes 30 ms
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def build(server: Server, style: str = "direct", limits: Limits | None = None, **fields: Any) -> OpenAIProposer:
    built = OpenAI(base_url=server.url, **fields).build(lines, STYLES[style], limits or Limits())
    server.probed = True
    return built


def asked(path: Chain = (), n: int = 1, first: int = 0, until: str = "step", **more: Any) -> Job:
    seed = digest("run", *(step.text for step in path))
    problem = Problem("p", "number 4?", "1")
    return replace(job(n=n, first=first, until=until, path=path), problem=problem, seed=seed, **more)


def propose(proposer: OpenAIProposer, *jobs: Job) -> list[Any]:
    async def ask() -> list[Any]:
        try:
            return await proposer.propose(jobs)
        finally:
            await proposer.close()

    return asyncio.run(ask())


# What a server can do


@pytest.mark.parametrize(("manners", "style", "mode", "ids", "lacks"), [
    (VLLM, "direct", "completions", True, None),
    (OLD_VLLM, "direct", "completions", False, None),
    (SGLANG, "direct", "completions", False, None),
    (LLAMA_CPP, "direct", "completions", False, None),
    (VLLM, "chat", "chat", False, None),
    (LLAMA_CPP, "chat", "chat", False, None),
    (OLLAMA, "direct", "chat", False, "chat template .* for one character.*continue_final_message changes nothing"),
    (HOSTED, "direct", "chat", False, "no completions.*Unrecognized request argument"),
    (replace(VLLM, trims=True), "chat", "chat", False, "drops the separator"),
    (replace(SGLANG, usage=False), "direct", "chat", False, "count no tokens"),
])  # fmt: skip
def test_what_a_server_can_do_is_found_out(
    monkeypatch: pytest.MonkeyPatch, manners: Manners, style: str, mode: str, ids: bool, lacks: str | None
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    with Server(manners) as server:
        can = OpenAI(base_url=server.url).probe(lines, STYLES[style])
    assert (can.model, can.mode, can.ids, can.context, can.limit) == ("m", mode, ids, manners.context, manners.limit)
    assert (lacks is None) == (can.lacks is None)
    assert lacks is None or re.search(lacks, can.lacks or "")


def test_a_mode_is_taken_at_its_word_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(replace(SGLANG, usage=False)) as server:
        assert OpenAI(base_url=server.url, mode="completions").probe(lines, Prompt()).lacks is None
    with Server(SGLANG) as server:
        assert OpenAI(base_url=server.url, mode="chat").probe(lines, Prompt()).mode == "chat"
        with pytest.raises(ConfigError, match=r"proposer\.tokenizer"):
            OpenAI(base_url=server.url, mode="completions").probe(lines, STYLES["chat"])
    with Server(OLLAMA) as server, pytest.raises(ConfigError, match=rf"template \({PLAIN + 1} tokens"):
        OpenAI(base_url=server.url, mode="completions").probe(lines, Prompt())
    with Server(replace(SGLANG, completions=False)) as server, pytest.raises(ConfigError, match="no such route"):
        OpenAI(base_url=server.url, mode="completions").probe(lines, Prompt())


# Chains


def grown(proposer: OpenAIProposer) -> list[Chain]:
    """One path, step by step until it ends."""

    async def grow() -> list[Chain]:
        path: Chain = ()
        replies = []
        while not path or path[-1].finish == "step":
            ((chain,),) = await proposer.propose([asked(path)])
            replies.append(chain)
            path += chain
        await proposer.close()
        return replies

    return asyncio.run(grow())


@pytest.mark.parametrize(("manners", "style"), [pytest.param(*row[1:], id=row[0]) for row in STEPPING])
def test_a_path_is_gone_on_with_step_by_step(manners: Manners, style: str) -> None:
    with Server(manners) as server:
        chains = grown(build(server, style))
        sent = server.requests
    steps = [step for (step,) in chains]
    assert [step.finish for step in steps] == ["step"] * 3 + ["answer"]
    assert all(step.text.count("\n") == 1 and step.text.endswith("\n") for step in steps[:3])
    assert steps[3].text.startswith("Answer: ") and "<" not in steps[3].text
    assert [step.tokens for step in steps] == [4, 4, 4, 5]
    assert all(bool(step.ids) == manners.ids for step in steps)
    if manners.ids:  # what is sent is what came back, after the prompt
        assert sent[-1]["prompt"][-12:] == [i for step in steps[:3] for i in step.ids]
        assert [len(step.ids) for step in steps] == [4, 4, 4, 4]  # the end of the text is counted and kept out
    # by ids the prompt's are asked for first; who tells no separator from the end is asked again, unless he keeps it
    redrawn = 0 if manners.told else 1 if manners.keeps_stop else 4
    assert len(sent) == 4 + manners.ids + redrawn


@pytest.mark.parametrize(
    ("manners", "style"), [pytest.param(*row[1:], id=row[0]) for row in STEPPING] + [(OLLAMA, "chat")]
)
def test_whole_answers_are_cut_into_steps(manners: Manners, style: str) -> None:
    with Server(manners) as server:
        (chains,) = propose(build(server, style), asked(n=3, until="answer"))
    for chain in chains:
        assert [step.finish for step in chain] == ["step"] * 3 + ["answer"]
        assert all(step.text.endswith("\n") for step in chain[:3]) and chain[3].text.startswith("Answer: ")
        assert sum(step.tokens or 0 for step in chain) == 17
    assert len({"".join(step.text for step in chain) for chain in chains}) == 3


def test_the_same_chains_come_in_whatever_portions_and_are_cut_the_same_by_ids_and_by_text() -> None:
    found = []
    for manners in (VLLM, OLD_VLLM):
        with Server(manners) as server:
            (together,) = propose(build(server), asked(n=4, until="answer"))
            apart = propose(build(server), *(asked(n=1, first=i, until="answer") for i in range(4)))
        assert list(together) == [chain for (chain,) in apart]
        found.append([[(step.text, step.finish) for step in chain] for chain in together])
    assert found[0] == found[1]


@pytest.mark.parametrize("manners", [VLLM, OLD_VLLM], ids=["ids", "text"])
@pytest.mark.parametrize(("limits", "until", "finishes"), [
    (Limits(step_tokens=3), "step", ["step"]),  # goes on in the next step
    (Limits(path_tokens=6), "step", ["step"]),
    (Limits(path_tokens=4), "step", ["length"]),
    (Limits(path_tokens=2), "step", ["length"]),
    (Limits(depth=1), "step", ["length"]),
    (Limits(depth=2), "answer", ["step", "length"]),
    (Limits(path_tokens=6), "answer", ["step", "length"]),
    (Limits(path_tokens=8), "answer", ["step", "length"]),
])  # fmt: skip
def test_limits_cut_as_in_other_backends(manners: Manners, limits: Limits, until: str, finishes: list[str]) -> None:
    with Server(manners) as server:
        ((chain,),) = propose(build(server, limits=limits), asked(until=until))
    assert [step.finish for step in chain] == finishes
    assert sum(step.tokens or 0 for step in chain) <= limits.path_tokens


def test_a_context_bounds_what_is_asked_for() -> None:
    for manners in (replace(VLLM, context=20), replace(OLD_VLLM, context=20)):  # the prompt has 8 tokens
        with Server(manners) as server:
            ((chain,),) = propose(build(server), asked(until="answer"))
            assert server.requests[-1]["max_tokens"] == 12
        assert chain[-1].finish == "length" and sum(step.tokens or 0 for step in chain) == 12
    with Server(replace(VLLM, context=8)) as server:
        (refusal,) = propose(build(server), asked())
    assert isinstance(refusal, RequestError)


def test_each_chain_has_its_temperature_and_a_seed_that_any_server_takes() -> None:
    sampling = ts.Sampling(temperature=(0.0, 0.5), top_p=0.9)
    with Server(VLLM) as server:
        propose(build(server, extra_body={"top_k": 5}), asked(n=3, sampling=sampling))
        sent = [body for body in server.requests if body.get("stop")]
    assert sorted(body["temperature"] for body in sent) == [0.0, 0.0, 0.5]
    assert {body["top_p"] for body in sent} == {0.9} and {body["top_k"] for body in sent} == {5}
    assert len({body["seed"] for body in sent}) == 3 and all(0 <= body["seed"] < 2**31 for body in sent)


def test_logprobs_come_where_the_search_reads_them() -> None:
    for manners in (VLLM, OLD_VLLM):
        with Server(manners) as server:
            ((chain,),) = propose(build(server), asked(logprobs=True))
            assert chain[0].logprob == pytest.approx(-2.0)
            ((chain,),) = propose(build(server), asked())
            assert chain[0].logprob is None


def test_what_is_not_counted_is_unknown() -> None:
    with Server(replace(SGLANG, usage=False)) as server:
        ((chain,),) = propose(build(server, mode="completions"), asked(until="answer"))
    assert [step.tokens for step in chain] == [None] * 4
    assert shared(7, [1, 1, 1]) == [2, 2, 3] and shared(3, [0]) == [3] and shared(0, [0, 0]) == [0, 0]


@pytest.mark.parametrize(("told", "text", "tokens"), [
    (3, "a", 3), (0, "", 0), (0, "a", None), (-1, "a", None), (True, "a", None), (1.5, "a", None), ("3", "a", None),
    ((1 << 31) - 1, "a", (1 << 31) - 1), (1 << 31, "a", None), (1 << 64, "a", None),
])  # fmt: skip
def test_a_count_that_cannot_be_one_is_unknown(told: object, text: str, tokens: int | None) -> None:
    """2^64 tokens once ended the run: no journal can hold such a number."""
    usage = {"completion_tokens": told, "prompt_tokens": told}
    reply = {"choices": [{"text": text, "finish_reason": "stop"}], "usage": usage}
    assert read_reply(reply, None, False).tokens == tokens
    assert text == "" or prompt_tokens(reply) == tokens


class Tokens:
    """A tokenizer with a chat template: words by their numbers."""

    chat_template, bos_token = "yes", "<bos>"

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        return "<bos>" + "".join(f"<{m['role']}>{m['content']}<end>" for m in messages) + "<assistant>"

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [self.server.id(token) for token in self.server.tokens(text)]}

    def decode(self, ids: Sequence[int], **kwargs: bool) -> str:
        return self.server.text(list(ids))

    server: Server


@pytest.mark.parametrize("manners", [VLLM, OLD_VLLM], ids=["ids", "text"])
def test_a_tokenizer_brings_the_chat_template_to_completions(monkeypatch: pytest.MonkeyPatch, manners: Manners) -> None:
    with Server(manners) as server:
        tokens = Tokens()
        tokens.server = server
        monkeypatch.setattr("treesearch.backends.openai.load_tokenizer", lambda name: tokens if name else None)
        ((step,), *_) = grown(build(server, "chat", tokenizer="t"))
        first = server.requests[0]["prompt"]
    assert step.finish == "step" and step.text.endswith("\n")
    text = "<system>Think in lines.<end><user>number 4?<end><assistant>"
    if manners.ids:
        assert server.text(first) == "<bos>" + text
    else:  # the server puts its own beginning before a text
        assert first == text


# Revisions and thoughts

ATTEMPT = (Step("Answer: 7\n", tokens=3, score=0.25, finish="answer"),)


def test_a_revision_tells_a_chat_what_came_of_it_before() -> None:
    with Server(replace(HOSTED, secret=None)) as server:
        proposer = build(server, "chat")
        after, again = propose(
            proposer, asked(ATTEMPT, until="revision"), asked((*ATTEMPT, *ATTEMPT), until="revision")
        )
        sent = sorted((request["messages"] for request in server.requests), key=len)
    assert all(chain[-1].finish == "answer" for (chain,) in (after, again))
    assert [m["role"] for m in sent[0]] == ["system", "user", "assistant", "user"]
    assert sent[0][2]["content"] == "Answer: 7\n" and "0.25" in sent[0][3]["content"]
    assert len(sent[1]) == 6


def test_a_revision_goes_on_from_the_text_of_its_attempts() -> None:
    with Server(SGLANG) as server:
        ((chain,),) = propose(build(server), asked(ATTEMPT, until="revision"))
        (sent,) = server.requests
    assert chain[-1].finish == "answer"
    assert re.search(r"number 4\?\nAnswer: 7\n\n.*0\.25", sent["prompt"])


def test_only_a_finished_answer_is_revised() -> None:
    with Server(SGLANG) as server:
        replies = propose(build(server), asked(until="revision"), asked((Step("red blue\n"),), until="revision"))
    assert all(isinstance(reply, RequestError) and "no finished answer" in str(reply) for reply in replies)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_thought_that_is_given_apart_is_part_of_the_text(name: str) -> None:
    message = {"content": "Answer: 7", name: "one two"}
    reply = read_reply({"choices": [{"message": message, "finish_reason": "stop"}]}, None, False)
    assert reply.text == "<think>\none two\n</think>\n\nAnswer: 7"


def test_steps_end_where_the_prompt_says() -> None:
    with Server(SGLANG) as server:
        proposer = OpenAI(base_url=server.url).build(lines, Prompt(separator=" "), Limits())
        server.probed = True
        propose(proposer, asked())
        assert server.requests[0]["stop"] == [" "]


def test_a_budget_of_thoughts_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot open or close a thought"):
        OpenAI(base_url="http://127.0.0.1:9/v1").build(lines, Prompt("chat", thinking=True), Limits(think_most=9))


# Refusals


def test_a_search_that_needs_steps_is_refused_before_a_folder_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Server(OLLAMA) as server:
        for search in ("mcts", "beam"):
            with pytest.raises(
                ConfigError, match=r"only write whole answers, for search\.type sample.*changes nothing"
            ):
                asyncio.run(run.run(config(server, search), tmp_path / "out"))
        assert not (tmp_path / "out").exists()
        (refusal,) = propose(build(server), asked())
        assert isinstance(refusal, RunError) and not server.requests
        summary = asyncio.run(run.run(config(server, "{type: sample, n: 3}"), tmp_path / "out"))
    assert summary["problems"] == 4 and summary["tokens_generated"] == 4 * 3 * 17


def config(server: Server, search: str, *more: str) -> Config:
    return load(None, [
        "task=tests.backends.servers:lines", "problems=lines", "limit=4", f"search={search}", "scorer=none",
        "answer.rule=majority", "proposer.type=openai", f"proposer.base_url={server.url}", *more,
    ])  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), [
    ({"api_key": "very-secret"}, "from the environment only"),
    ({"api_key": 31415}, "from the environment only"),
    ({"base_url": "http://me:very-secret@host/v1"}, "from the environment only"),
    ({"base_url": "localhost:8000"}, "http://localhost:8000/v1"),
    ({"max_connections": 0}, "max_connections = 0"),
    ({"retries": -1}, "retries = -1"),
    ({"timeout": 0}, "timeout = 0"),
    ({"extra_body": {"stop": ["x"]}}, "extra_body.stop"),
    ({"mode": "magic"}, "mode = 'magic'"),
])  # fmt: skip
def test_bad_fields_are_refused_and_keys_are_not_shown(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(None, ["proposer.type=openai", *(f"proposer.{name}={json.dumps(v)}" for name, v in fields.items())])
    assert "secret" not in str(caught.value) and "31415" not in str(caught.value)


def test_keys_are_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(HOSTED) as server:
        with pytest.raises(ConfigError, match=r"refuses the key or the account \(401\): Incorrect"):
            build(server)
        with pytest.raises(ConfigError, match="'MY_KEY': this environment variable is not set"):
            build(server, api_key_env="MY_KEY")
        monkeypatch.setenv("MY_KEY", "sesame")
        assert build(server, api_key_env="MY_KEY").can.model == "m"
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        OpenAI(model="m").build(lines, Prompt(), Limits())
    resolved = load(None, ["proposer.type=openai", "proposer.base_url=http://h/v1"]).resolved()
    assert "api_key" not in resolved["proposer"] and "proposer.base_url" not in matters(resolved)


def test_the_model_is_the_only_one_or_must_be_named() -> None:
    with Server(replace(VLLM, models=("a", "b"))) as server:
        with pytest.raises(ConfigError, match=r"proposer\.model must be set: .* has a, b"):
            build(server)
        assert build(server, model="b").can.model == "b"
        with pytest.raises(ConfigError, match="`c` does not exist"):
            build(server, model="c")


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"does not answer \(3 tries\)"):
        OpenAI(model="m", base_url="http://127.0.0.1:9/v1").build(lines, Prompt(), Limits())


def test_jobs_that_no_language_model_does_are_refused() -> None:
    with Server(VLLM) as server:
        proposer = build(server)
        replies = propose(proposer, replace(asked(), n=None), asked(until="revision"))
    assert all(isinstance(reply, RequestError) for reply in replies)


# Faults


def spoiled(seed: int, *kinds: str, share: float = 0.05) -> Any:
    rng = random.Random(seed)
    return lambda k: rng.choice(kinds) if rng.random() < share else None


FAULTS = ("500", "503", "429", "drop", "hang", "malformed", "empty", "408")


@pytest.mark.parametrize(("manners", "search"), [
    (VLLM, "{type: beam, beams: 2, branch: 3}"),
    (LLAMA_CPP, "{type: sample, n: 6}"),
    (OLLAMA, "{type: sample, n: 6}"),
])  # fmt: skip
def test_faults_cost_no_problem_and_change_no_answer(tmp_path: Path, manners: Manners, search: str) -> None:
    rows = []
    scorer = "{type: simulated, noise: 0.3}" if "beam" in search else "none"
    for name, fault in (("well", lambda k: None), ("ill", spoiled(3, *FAULTS, share=0.1))):
        with Server(manners, fault) as server:
            built = build(server)  # the probe of the run itself meets faults too
            asyncio.run(built.close())
            asyncio.run(
                run.run(config(server, search, "limit=8", "proposer.timeout=1.5", f"scorer={scorer}"), tmp_path / name)
            )
            lines_ = [json.loads(line) for line in (tmp_path / name / "results.jsonl").read_text().splitlines()]
            rows.append(sorted(lines_, key=lambda row: row["id"]))
            assert (server.spoiled >= 3) is (name == "ill")
    assert all(row["error"] is None and row["stopped"] == "finished" for row in rows[1])
    assert [[c["text"] for c in row["candidates"]] for row in rows[0]] == [
        [c["text"] for c in row["candidates"]] for row in rows[1]
    ]


def test_what_is_given_up_is_asked_by_nobody_else() -> None:
    """The pool asks again whatever is no RequestError: a request that fails for ever is sent 1 + retries times."""
    from treesearch.engine import proposer_replica
    from treesearch.pool import Pool

    with Server(OLD_VLLM, lambda k: "500") as server:
        proposer = build(server, retries=4)

        async def ask() -> None:
            try:
                await Pool([proposer_replica(proposer)]).run("p/0", asked())
            finally:
                await proposer.close()

        with pytest.raises(RequestError, match=r"given up after 5 tries: .*injected 500"):
            asyncio.run(ask())
        assert len(server.requests) == 5


def test_a_refused_request_is_asked_once() -> None:
    with Server(OLD_VLLM, lambda k: "400") as server:
        (refusal,) = propose(build(server), asked())
        assert isinstance(refusal, RequestError) and "injected 400" in str(refusal) and len(server.requests) == 1


@pytest.mark.parametrize("fault", ["401", "403", "drop"])
def test_what_no_request_survives_ends_the_run_and_fails_no_problem(tmp_path: Path, fault: str) -> None:
    out = tmp_path / "out"
    with Server(OLD_VLLM, lambda k: fault if k >= 40 else None) as server:
        asyncio.run(build(server).close())
        search = config(server, "{type: sample, n: 4}", "limit=50", "proposer.retries=2", "engine.trees=1")
        with pytest.raises(RunError, match=r"refuses the key|does not answer"):
            asyncio.run(run.run(search, out))
        server.fault = lambda k: None
        done = json.loads((out / "summary.json").read_text())["problems"]
        assert 1 <= done < 50
        assert asyncio.run(run.run(search, out))["problems"] == 50  # goes on where it stopped
    assert all(json.loads(line)["error"] is None for line in (out / "results.jsonl").read_text().splitlines())


def test_waits_grow_and_are_what_the_server_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.5)

    class Told(Exception):
        def __init__(self, after: str) -> None:
            self.response = type("Response", (), {"headers": {"retry-after": after}})

    assert [pause(ValueError(), k, lambda: 0.0) for k in (0, 1, 2, 9)] == [0.5, 1.0, 2.0, 30.0]
    assert pause(ValueError(), 2, lambda: 1.0) == 1.0
    assert pause(Told("7"), 0, lambda: 0.0) == 7.0 and pause(Told("9999"), 0, lambda: 0.0) == 60.0
    assert pause(Told("Wed, 21 Oct 2026 07:28:00 GMT"), 1, lambda: 0.0) == 1.0


def test_no_more_requests_are_in_flight_than_connections() -> None:
    with Server(OLD_VLLM, delay=0.02) as server:
        proposer = build(server, max_connections=3)
        assert proposer.max_jobs == 3
        propose(proposer, *(replace(asked(n=5), id=f"p/{k}") for k in range(3)))
        assert server.most == 3 and len(server.requests) == 15


def test_an_aborted_job_drops_its_requests_and_replies_early() -> None:
    with Server(OLD_VLLM, lambda k: "hang" if k else None) as server:
        proposer = build(server, max_connections=2)

        async def ask() -> list[Any]:
            jobs = asyncio.ensure_future(proposer.propose([asked(n=4)]))
            while server.running < 2 or len(server.requests) < 3:
                await asyncio.sleep(0.01)
            proposer.abort(["p/0"])
            replies = await asyncio.wait_for(jobs, 2)
            while server.dropped < 2:
                await asyncio.sleep(0.01)
            await proposer.close()
            return replies

        ((done, *others),) = asyncio.run(ask())
    assert done[0].text.endswith("\n") and done[0].tokens == 4
    # two were under way, so nobody knows what they cost; one was never sent
    assert sorted((chain[0].tokens for chain in others), key=str) == [0, None, None]


# The doctor


def test_the_doctor_asks_the_endpoint_and_looks_for_no_files(tmp_path: Path) -> None:
    from treesearch.doctor import examine

    with Server(VLLM) as server:
        found = {check.name: check for check in examine(config(server, "mcts"), tmp_path, None, "treesearch run")}
    assert "proposer model" not in found and "plan: proposer" not in found
    check = found["proposer endpoint"]
    assert check.state == "ok" and "model m, completions, steps by token ids, 400 tokens of context" in check.found

    def fails() -> None:
        raise ConfigError("does not answer")

    assert models.endpoint("proposer", "http://h/v1", fails).fix == "curl http://h/v1/models"
