"""What is fuzzed: readers of what others wrote, each with a maker of inputs and the errors that it may raise.

An input is made by a `random.Random`: seeded, it is replayed exactly; hypothesis brings one whose choices it can shrink.
Inputs are good ones that were broken, or pieces that matter put together; both find more than noise.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from treesearch import config as configs
from treesearch.backends import recorded
from treesearch.backends.base import Limits
from treesearch.backends.causal import location
from treesearch.backends.detokenizer import Detokenizer
from treesearch.backends.endpoint import well_formed
from treesearch.backends.generative import numbered, shares
from treesearch.backends.judge import choice, fill, verdict
from treesearch.backends.openai import Asked, Begin, OpenAIProposer, read_reply, shared, split
from treesearch.backends.steps import Splitter
from treesearch.errors import ConfigError, FrameError, ProblemError, RequestError
from treesearch.problems import Fields, ProblemSet
from treesearch.report import summary_table
from treesearch.results import Results, Tally, read_rows
from treesearch.run import _read_summary
from treesearch.tasks import TASKS, load_task
from treesearch.terminal import encodable, shown
from treesearch.types import Expansion, Job, Problem, Sampling, Step
from treesearch.wire import (
    VERSION,
    close_of,
    error_of,
    expansion_of,
    expansion_row,
    job_of,
    job_row,
    reply_of,
    scores_of,
    seal,
    step_of,
    step_row,
    unseal,
)

Random = random.Random


@dataclass(frozen=True)
class Target:
    """`make` an input; `run` raises for a wrong outcome; errors in `allowed` are the documented ones. `share` of the inputs
    that others get: some cost more. `run` is given a folder of its own; `warm` comes before all of them."""

    make: Callable[[Random], Any]
    run: Callable[[Any, Path], Any]
    allowed: tuple[type[Exception], ...] = ()
    share: float = 1.0
    warm: Callable[[], Any] = lambda: None


# Pieces

TEXTS = (
    "", " ", "\n", "\n\n", "\r\n", "\t", "\0", "\x1b[31m", "\x85", "\u2028", "\ufeff", "\u202e", "é", "ки", "中", "🎉",
    "\U0010ffff",
    "\ud800", "\udfff", "a", "So", "x", "0", "1", "24", "-1", "007", "1,000", "1/2", "0.5", "1e9", "9" * 30, "١٢",
    "½", "²",
    "+", "-", "*", "/", "=", "(", ")", "[", "]", "{", "}", "<", ">", "|", "$", "%", "\\", "#", ":", ";", ",", ".",
    "'", '"', "^",
    "_", "&", "#### ", "####", "Answer:", "A: ", "answer is", "the final answer is", "\\boxed{", "\\boxed",
    "\\fbox{", "\\frac",
    "\\dfrac{1}{2}", "\\text{", "\\left(", "\\right)", "\\sqrt{", "^{", "\\pi", "\\%", "\\!", "</think>", "<think>",
    "<answer>",
    "</answer>", "<|im_end|>", "<extra_0>", " ки", "</s>", "Step 1:", "## Step 2.", "\\boxed{correct}",
    "\\boxed{incorrect}",
    "Is the solution correct? Yes", "Is the solution correct? no", "The best choice is 1",
    "best choice is 99999999999", "sure",
    "likely", "impossible", "left: ", "(left: 4 4 10)", "13 - 9 = 4 (left: 4 4 10)\n", "4 + 6 = 10\n", "-> 24",
    "4 5 6 10", "null",
    "true", "NaN", "Infinity", "__import__('os').system('true')", "../..", "/etc/passwd", "{question}", "{steps}",
    "%s", "{0}",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 3, 7, 24, 255, 1 << 31, 1 << 53, 1 << 63, (1 << 64) - 1, -(1 << 63), 0.5, -0.5, 1e308, 5e-324)


def text(rng: Random, most: int = 12) -> str:
    """Pieces together, some of them often."""
    parts = [TEXTS[rng.randrange(len(TEXTS))] for _ in range(rng.randrange(most))]
    if parts and rng.randrange(20) == 0:
        parts[rng.randrange(len(parts))] *= 10 ** rng.randrange(1, 5)
    return "".join(parts)


def clean(rng: Random, most: int = 12) -> str:
    """Text that UTF-8 can hold."""
    return text(rng, most).encode("utf-8", "replace").decode()


def value(rng: Random, depth: int = 3) -> Any:
    """What JSON, YAML and MessagePack can say."""
    kind = rng.randrange(10 if depth else 7)
    if kind < 3:
        return text(rng, 4)
    if kind < 5:
        return NUMBERS[rng.randrange(len(NUMBERS))]
    if kind == 5:
        return (None, True, False)[rng.randrange(3)]
    if kind == 6:
        return (float("nan"), float("inf"), -float("inf"), b"ab", 1.5)[rng.randrange(5)]
    if kind < 9:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {text(rng, 2): value(rng, depth - 1) for _ in range(rng.randrange(4))}


def changed(rng: Random, tree: Any) -> Any:
    """A value in which one place, wherever it is, holds something else, or is missing."""
    if isinstance(tree, dict) and tree and rng.randrange(5):
        keys = list(tree)
        key = keys[rng.randrange(len(keys))]
        if rng.randrange(6) == 0:
            return {k: v for k, v in tree.items() if k != key}
        return tree | {key: changed(rng, tree[key])}
    if isinstance(tree, list | tuple) and tree and rng.randrange(5):
        at = rng.randrange(len(tree))
        middle = [] if rng.randrange(8) == 0 else [changed(rng, tree[at])]
        return [*tree[:at], *middle, *tree[at + 1 :]]
    return value(rng, 2)


def broken(rng: Random, data: bytes) -> bytes:
    """Bytes with some of them flipped, cut, doubled, or put in."""
    found = bytearray(data)
    for _ in range(rng.randrange(4)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(5):
            case 0 if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                del found[at : at + rng.randrange(1, 9)]
            case 2:
                found[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
            case 3:
                found[at:at] = found[max(0, at - rng.randrange(1, 40)) : at]
            case _:
                del found[at:]
    return bytes(found)


def dumped(rng: Random, row: Any) -> bytes:
    return json.dumps(row, default=repr, ensure_ascii=rng.randrange(2) == 0).encode("utf-8", "surrogatepass")


# Problem sets


def make_problems(rng: Random) -> Any:
    rows = [
        {"id": f"{clean(rng, 3)}{k}", "question": f"q{clean(rng)}", "answer": clean(rng, 3)}
        for k in range(rng.randrange(1, 4))
    ]
    rows = [changed(rng, row) if rng.randrange(3) == 0 else row for row in rows]
    kind = (".jsonl", ".csv", ".jsonl.gz", ".csv.gz", ".jsonl")[rng.randrange(5)]
    if "csv" in kind:
        data = ("id,question,answer\n" + "\n".join(",".join(clean(rng, 4) for _ in range(3)) for _ in rows)).encode()
    else:
        data = b"\n".join(dumped(rng, row) for row in rows)
    data = broken(rng, data) if rng.randrange(2) else data
    if kind.endswith(".gz"):
        data = gzip.compress(data, 1)
        data = broken(rng, data) if rng.randrange(3) == 0 else data
    fields = Fields(*(clean(rng, 2) if rng.randrange(12) == 0 else None for _ in range(3)))
    return kind, data, fields, sorted(TASKS)[rng.randrange(len(TASKS))]


def run_problems(made: Any, folder: Path) -> None:
    kind, data, fields, task = made
    path = folder / f"set{kind}"
    path.write_bytes(data)
    found = ProblemSet(str(path), TASKS[task], None, fields)
    for problem in found:
        assert type(problem.id) is str and problem.question.strip() and encodable(problem.question + problem.id)
    assert found.count is not None and found.count == len(found.lines) > 0


# Frames

STEP = Step("4 + 6 = 10\n", (5, 9, 12), 3, -1.5, 0.75, "answer", "24", "24", 0.5, "large")
JOB = Job("p/7", Problem("p", "4 5 6 10", "24"), (STEP,), 0, 4, "step", Sampling((0.5, 1.0), 0.9), (1 << 64) - 1)
ROWS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "step": (step_row(STEP), step_of),
    "job": (job_row(JOB), job_of),
    "expansion": (expansion_row(Expansion(3, ((STEP, STEP),), None, 7)), expansion_of),
    "reply": ((3, 1 << 60, 0.5, expansion_row(Expansion(3, ((STEP,), (STEP,)), None, 7))), reply_of),
    "close": (("finished", 1.5, 0, None), close_of),
    "error": (("RequestError", "too long"), error_of),
    "scores": ((((0.5, 1.0),), 8), scores_of),
}
FRAMES = {name: seal(row) for name, (row, _) in ROWS.items()}


def make_frame(rng: Random) -> tuple[str, bytes]:
    names = sorted(ROWS)
    name = names[rng.randrange(len(names))]
    match rng.randrange(4):
        case 0:  # damage
            return name, broken(rng, FRAMES[name])
        case 1:  # forgery of bytes
            body = bytes([VERSION]) + broken(rng, FRAMES[name][5:])
        case _:  # forgery of values
            body = seal(changed(rng, ROWS[name][0]))[4:]
    return name, zlib.crc32(body).to_bytes(4, "little") + body


def run_frame(made: tuple[str, bytes], folder: Path) -> None:
    name, frame = made
    found = ROWS[name][1](unseal(frame))
    if name == "expansion":
        assert expansion_of(unseal(seal(expansion_row(found)))) == found
    if name == "job":
        assert job_of(unseal(seal(job_row(found)))) == found
    hash(found) if name in ("step", "expansion", "job") else None


# Answers


def make_answer(rng: Random) -> Any:
    names = sorted(TASKS)
    question = "4 5 6 10 -> 24" if rng.randrange(2) else text(rng, 4)
    return names[rng.randrange(len(names))], question, [text(rng) for _ in range(rng.randrange(4))], text(rng, 5)


def run_answer(made: Any, folder: Path) -> None:
    name, question, steps, reference = made
    task = TASKS[name]
    answer = task.read(question, steps)
    for form in (answer, reference):
        if form is None:
            continue
        canonical = task.canonical(form)
        assert type(canonical) is str and task.canonical(form) == canonical
        if not getattr(task, "hostile", False):
            assert task.check(Problem("p", question, reference), form) in (True, False)
            assert task.check(Problem("p", question), form) in (True, False, None)
    shown("".join(steps)).encode()


def make_math(rng: Random) -> Any:
    return [text(rng, 6), text(rng, 6)]


def run_math(made: Any, folder: Path) -> None:
    import asyncio

    answer, reference = made
    verdict = asyncio.run(checker().check(TASKS["math"], Problem("p", "", reference), answer))
    assert verdict in (True, False)


@cache
def checker() -> Any:
    import atexit

    from treesearch.checker import Checker

    found = Checker(seconds=0.5)
    atexit.register(found.close)
    return found


# Votes of judges and verifiers


def make_votes(rng: Random) -> Any:
    return [text(rng, 30) for _ in range(rng.randrange(1, 4))], rng.randrange(1, 12), [text(rng) for _ in range(3)]


def run_votes(made: Any, folder: Path) -> None:
    votes, count, steps = made
    said, _ = shares(votes, count)
    assert len(said) == count and all(v is None or 0 <= v <= 1 for v in said)
    assert numbered(steps) is not None and "{question}" not in fill("{question}", question="q")
    for vote in votes:
        assert isinstance(verdict(vote), str) and (choice(vote) or 0) >= 0


# Steps


def make_steps(rng: Random) -> Any:
    ids = [rng.randrange(512) for _ in range(rng.randrange(60))]
    cuts = sorted(rng.randrange(len(ids) + 1) for _ in range(rng.randrange(5)))
    limits = Limits(rng.randrange(1, 20), rng.randrange(1, 60), rng.randrange(1, 8))
    vocabulary = [text(rng, 3) for _ in range(16)]
    return ids, cuts, limits, vocabulary, ("\n", "\n\n", "; ", "ab")[rng.randrange(4)], rng.randrange(1, 70), text(rng)


def run_steps(made: Any, folder: Path) -> None:
    ids, cuts, limits, vocabulary, separator, room, said = made
    detokenizer, size = bundled()
    ids = [i % (size + 4) for i in ids]  # some that there are not
    parts = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    texts, before = [], list[int]()
    for k, part in enumerate(parts):
        texts.append(detokenizer.text(before, part, k == len(parts) - 1))
        before += part
    assert "".join(texts) == detokenizer.decode(ids), "the texts of a chain's parts are the text of the chain"
    small = [i % 16 for i in ids]
    splitter = Splitter(vocabulary, separator, [15], limits)
    pieces = splitter.split(small, 0, 0, room)
    kept = [i for piece in pieces for i in piece.ids]
    assert kept == small[: len(kept)] and all(piece.whole for piece in pieces[:-1])
    assert sum(piece.tokens for piece in pieces) <= min(len(small), max(1, min(room, limits.path_tokens)))
    assert len(pieces) <= limits.depth and all(len(piece.ids) <= limits.step_tokens for piece in pieces)
    used, steps, again = 0, 0, []  # law 8: a step at a time gives the same steps
    while used < len(small) and (not again or again[-1].finish == "step") and steps < limits.depth:
        first = splitter.split(small[used:], used, steps, room - used)[:1]
        again += first
        used, steps = used + first[0].tokens, steps + 1
    assert again == pieces[: len(again)] and len(again) == len(pieces)
    assert "".join(split(said, separator)) == said


@cache
def bundled() -> tuple[Detokenizer, int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(location("bundled", "proposer"))
    return Detokenizer(tokenizer), len(tokenizer)


# Configs

LINES = (
    "search: {type: mcts, simulations: 64}", "search: beam", "search: {type: sample, n: 0}", "problems: game24",
    "limit: 5",
    "answer: {rule: best, aggregate: last}", "sampling: {temperature: [0.5, 1.0], top_p: .9}", "limits: {depth: 3}",
    "task: math",
    "proposer: [{type: bundled, weight: 2}, simulated]", "scorer: {type: judge, votes: 3}", "outcome: {type: none}",
    "budget:",
    "engine: {trees: auto, seed: 1_000}", "cluster: {managers: 2, linger: null}", "prompt: {style: chat}",
    "prompt: &a {style: *a}",
    "fields: {id: a.b}", "x: &x [*x, *x]", "a: &a [1,1]\nb: &b [*a,*a]\nlimit: [*b,*b]", "limit: 2026-13-45",
    "limit: !!int ''",
    "task: !!python/object/apply:os.system ['true']", "limit: !!binary '*'", "limit: .nan", "task: \"\\ud800\"",
    "? [1]: 2",
    "search: {type: dvts, subtrees: 2, branch: 2, lookahead: 1}", "scorer: {type: verifier, function: 'a:b'}",
    "<<: {limit: 3}",
)  # fmt: skip
KEYS = (
    *(f"{section}.{key}" for section, cls in configs.PLAIN.items() for key in cls.__dataclass_fields__),
    "search.type", "search.n", "search.beams", "search.c", "proposer.type", "proposer.model", "scorer.type", "limit",
    "task",
    "problems", "search", "search.value.steps", "proposer.members", "nonsense", "search.nonsense", "",
)  # fmt: skip


def make_config(rng: Random) -> Any:
    lines = [LINES[rng.randrange(len(LINES))] for _ in range(rng.randrange(4))]
    source = "\n".join(lines)
    if rng.randrange(2):
        source = broken(rng, source.encode()).decode("utf-8", "replace")
    given = [f"{KEYS[rng.randrange(len(KEYS))]}={_setting(rng)}" for _ in range(rng.randrange(3))]
    return source, given


def _setting(rng: Random) -> str:
    match rng.randrange(4):
        case 0:
            return text(rng, 3)
        case 1:
            return str(NUMBERS[rng.randrange(len(NUMBERS))])
        case 2:
            return json.dumps(value(rng, 2), default=repr)
        case _:
            return ("beam", "mcts", "sample", "null", "true", "[]", "{}", "math", "chat", "1.5", ".inf")[
                rng.randrange(11)
            ]


def run_config(made: Any, folder: Path) -> None:
    source, given = made
    path = folder / "c.yaml"
    path.write_bytes(source.encode("utf-8", "surrogatepass"))
    config = configs.load(path, given)
    load_task(config.task)
    written = configs.written(config.resolved())
    again = configs.build([configs.parsed(written)])
    assert configs.digest(again) == configs.digest(config), "the written config is the same run"
    written.encode()


# Replies of servers

REPLIES: tuple[Any, ...] = (
    {"choices": [{"text": "4 + 6 = 10\n", "finish_reason": "stop", "stop_reason": "\n",
    "logprobs": {"token_logprobs": [-0.5, -1],
     "tokens": ["4 + 6", " = 10\n"]},
    "token_ids": [5, 9], "prompt_token_ids": [1]}], "usage": {"completion_tokens": 2}},
    {"choices": [{"message": {"content": "24", "reasoning_content": "so"}, "finish_reason": "length", "logprobs":
     {"content": [{"token": "24", "logprob": -0.1}]}}], "usage": {"completion_tokens": 1, "prompt_tokens": 3}},
    {"choices": [{"text": "a", "finish_reason": "stop", "matched_stop": 7}], "usage": None},
)  # fmt: skip


def make_reply(rng: Random) -> Any:
    data = dumped(rng, changed(rng, REPLIES[rng.randrange(len(REPLIES))]))
    if rng.randrange(3) == 0:
        data = broken(rng, data)
    if rng.randrange(200) == 0:
        data = b"[" * 100_000
    return data, (None, "\n")[rng.randrange(2)], rng.randrange(2) == 0, ("step", "answer")[rng.randrange(2)]


def run_reply(made: Any, folder: Path) -> None:
    data, separator, ids, until = made
    reply = well_formed(lambda: json.loads(data), lambda found: read_reply(found, separator, ids))
    assert encodable(reply.text) and all(map(encodable, reply.texts)) and all(v == v for v in reply.logprobs)
    proposer = object.__new__(OpenAIProposer)
    proposer.limits, proposer.separator, proposer._detokenizer = Limits(8, 16, 3), "\n", None
    job = Job("p/0", Problem("p", "q"), (), 0, 1, until, Sampling(), 0, logprobs=True)
    begin = Begin(job, (), Asked("q"), 100, 0)
    chain = proposer._by_ids(begin, reply) if reply.ids else proposer._by_text(begin, reply, 16)
    assert chain and len(chain) <= 3
    for step in chain[:1] if until == "step" else chain:
        assert step_of(unseal(seal(step_row(step)))) == step
    assert sum(filter(None, shared(7, [len(s.text) for s in chain]))) == 7


# A run's folder

ROW: dict[str, Any] = {
    "id": "p", "question": "q", "reference": "1", "answer": "1", "correct": True, "score": 0.5, "text": "1",
    "candidates": [
        {"answer": "1", "text": "1", "score": 0.5, "outcome": None, "correct": True, "tokens": 3}],
    "tokens": {"generated": 3, "scored": 3, "wasted": 0}, "expansions": 1, "seconds": 0.5, "stopped": "finished",
    "error": None,
    "seed": 0,
}  # fmt: skip


def make_results(rng: Random) -> Any:
    rows = [ROW | {"id": f"p{k}"} for k in range(rng.randrange(4))]
    lines = [dumped(rng, changed(rng, row) if rng.randrange(2) else row) for row in rows]
    data = b"".join(line + b"\n" for line in lines)
    summary = dumped(rng, changed(rng, Tally().summary(1.5, ["ORACLE"])))
    return broken(rng, data), broken(rng, summary)


def run_results(made: Any, folder: Path) -> None:
    (folder / "results.jsonl").write_bytes(made[0])
    (folder / "summary.json").write_bytes(made[1])
    results = Results(folder)
    count = len(results)
    assert results.tally.problems == count <= sum(1 for _ in read_rows(folder))
    summary = results.tally.summary(1.0, [])
    json.dumps(summary, allow_nan=False)
    results.open()
    results.close({})
    assert sum(1 for _ in read_rows(folder)) == count, "what is left are the lines that count"
    assert len(Results(folder)) == count
    if (found := _read_summary(folder)) is not None:
        summary_table(found, "t")


def make_recorded(rng: Random) -> bytes:
    row = {"problem": "p", "path": ["a"], "children": [{"text": "b", "score": 0.5, "finish": "step", "tokens": 1}]}
    return broken(rng, b"\n".join(dumped(rng, changed(rng, row)) for _ in range(rng.randrange(3))))


def run_recorded(data: bytes, folder: Path) -> None:
    (folder / "r.jsonl").write_bytes(data)
    recorded.read.cache_clear()
    for steps in recorded.read(str(folder / "r.jsonl")).values():
        for step in steps:
            assert step_of(unseal(seal(step_row(step)))) == step


TARGETS: dict[str, Target] = {
    "problems": Target(make_problems, run_problems, (ProblemError, ConfigError)),
    "frames": Target(make_frame, run_frame, (FrameError,)),
    "answers": Target(make_answer, run_answer, (ConfigError,)),
    "math": Target(make_math, run_math, share=0.05, warm=lambda: run_math(["1", "1"], Path())),
    "votes": Target(make_votes, run_votes),
    "steps": Target(make_steps, run_steps, warm=lambda: bundled()),
    "config": Target(make_config, run_config, (ConfigError,)),
    "replies": Target(make_reply, run_reply, (ValueError, RequestError)),
    "results": Target(make_results, run_results),
    "recorded": Target(make_recorded, run_recorded, (ProblemError, ConfigError)),
}
