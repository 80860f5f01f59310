"""How much of what is known is computed again? Prefix-cache hits of the proposer, tokens computed by the PRM, on vLLM.

    python -m benchmarks.prefix [--problems 8] [--block 32] [--out FILE.json]

The real engine drives real vLLM engines with random-weight models: prompts of 512 tokens, 10 steps of 50. Tokens queried
and hit are vLLM's own counters (`scheduler_stats.prefix_cache_stats`, those behind the metrics vllm:prefix_cache_queries
and vllm:prefix_cache_hits), taken by a StatLogger in each engine. What full blocks allow is computed from the requests:
each may hit the longest run of whole blocks that an earlier request, its reply included, had computed, but never its last
token. With two replicas it is counted as if they shared one cache. A PRM's unique tokens are those of its tries of
sequences, prompts and marks included; `at 16` is what blocks of 16 tokens, the smallest on GPUs, would allow: computed from
the requests, not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.optimum import hits
from benchmarks.random_models import make, question
from treesearch.algorithms import SEARCHES
from treesearch.backends import vllm_engine
from treesearch.backends.base import Limits
from treesearch.backends.vllm import VLLM, VLLMPRM
from treesearch.checker import Checker
from treesearch.engine import Engine
from treesearch.tasks.base import Prompt
from treesearch.tasks.plain import Plain
from treesearch.types import Answer, Problem

PROMPT, STEP, DEPTH = 512, 50, 10  # tokens, tokens, steps
ASKED = Prompt(template="{question}")  # the proposer knows words alone, no line end
CASES: dict[str, dict[str, Any]] = {
    "beam 4x4": {"type": "beam", "beams": 4, "branch": 4},
    "mcts": {"type": "mcts", "rollouts": 1},
    "mcts, no rollouts": {"type": "mcts"},  # the default; its trees are not 10 steps deep
}


@dataclass
class Counters:
    """Tokens of vLLM's own count since the last reset; preempted ones are computed again, so they count as queried."""

    queries: int = 0
    hits: int = 0
    requests: int = 0
    preempted: int = 0

    def add(self, stats: Any) -> None:
        self.queries += stats.queries + stats.preempted_queries
        self.hits += stats.hits + stats.preempted_hits
        self.requests += stats.requests
        self.preempted += stats.preempted_requests


@dataclass
class Watched:
    """An engine's counters, and its requests as they were sent and answered."""

    counters: Counters = field(default_factory=Counters)
    noting: bool = True  # whether events are kept, which takes memory
    events: list[tuple[float, tuple[int, ...], bool]] = field(default_factory=list)  # time, ids, whether it is a reply
    trace: list[tuple[tuple[int, ...], int]] = field(default_factory=list)  # ids, tokens sampled after them

    def reset(self) -> None:
        self.events.clear()
        self.trace.clear()
        for name in ("queries", "hits", "requests", "preempted"):
            setattr(self.counters, name, 0)


def logger_of(counters: Counters) -> Any:
    """A StatLogger factory, as AsyncLLM takes them."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Count(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None: ...

        def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
            if scheduler_stats is not None:
                counters.add(scheduler_stats.prefix_cache_stats)

        def log_engine_initialized(self) -> None: ...

    return Count


def start(build: Any, watched: Watched) -> Any:
    """A backend whose engine is watched."""
    vllm_engine.STAT_LOGGERS[:] = [logger_of(watched.counters)]
    backend = build()
    vllm_engine.STAT_LOGGERS.clear()
    engine = backend.engine
    for name in ("generate", "encode"):
        setattr(engine, name, noting(getattr(engine, name), watched))
    return backend


def noting(call: Any, watched: Watched) -> Any:
    async def noted(ids: Sequence[int], *given: Any) -> Any:
        if watched.noting:
            watched.events.append((time.monotonic(), tuple(ids), False))
        reply = await call(ids, *given)
        if watched.noting:
            watched.events.append((time.monotonic(), (*ids, *reply.ids), True))
        watched.trace.append((tuple(ids), len(reply.ids)))
        return reply

    return noted


def just(tokens: int, seed: int) -> Any:
    """SamplingParams of so many tokens, whatever they are: what a replay of a request asks for."""
    return vllm_engine.sampling(temperature=1.0, seed=seed, max_tokens=tokens, ignore_eos=True, detokenize=False)


def allowed(events: Iterable[tuple[float, tuple[int, ...], bool]], block: int) -> int:
    """Tokens that could be hit with one cache that forgets nothing, in the order of the events."""
    ordered = sorted(events, key=lambda event: event[0])
    inner, whole = ([list(blocks(ids[:end], block)) for _, ids, _ in ordered] for end in (-1, None))
    return block * hits(
        ((), known) if answered else (known, full)
        for (_, _, answered), known, full in zip(ordered, inner, whole, strict=True)
    )


def blocks(ids: Sequence[int], block: int) -> Iterable[int]:
    """A key for each whole block, of all ids up to its end."""
    key = 0
    for start in range(0, len(ids) - block + 1, block):
        key = hash((key, tuple(ids[start : start + block])))
        yield key


def unique(events: Iterable[tuple[float, tuple[int, ...], bool]]) -> int:
    """Nodes of the trie of all sequences that were asked."""
    return len({key for _, ids, answered in events if not answered for key in blocks(ids, 1)})


def check(answers: Sequence[Answer], case: dict[str, Any]) -> None:
    """Raises if steps and chains are not of the length that was to be measured. MCTS without rollouts ends no chain here."""
    tokens = {c.tokens for answer in answers for c in answer.candidates}
    odd = [a for a in answers if a.error or (a.tokens_generated or 1) % STEP]
    shallow = case["type"] == "mcts" and not case.get("rollouts")
    if odd or tokens - {STEP * DEPTH} or not (tokens or shallow):
        raise SystemExit(
            f"a failed measurement: chains of {tokens} tokens, not {STEP * DEPTH}; {odd[0] if odd else ''}"
        )


async def measure(
    case: dict[str, Any], proposers: list[Any], scorer: Any, seen: list[Watched], n: int, block: int
) -> Any:
    """One row: a search over `n` problems; the last of `seen` watches the scorer."""
    for watched in seen:
        watched.reset()
    for backend in (*proposers, scorer):
        await backend.forget()
    search = SEARCHES[case["type"]](**{k: v for k, v in case.items() if k != "type"})
    checker, begun = Checker(), time.monotonic()
    engine = Engine(search, Plain(separator="☃"), proposers, [scorer], checker=checker)
    asked = [Problem(f"p{k}", question(k, PROMPT)) for k in range(n)]
    answers = [answer async for answer in engine.answers(asked)]
    seconds = time.monotonic() - begun
    checker.close()
    check(answers, case)
    sampled, scored = [w.counters for w in seen[:-1]], seen[-1].counters
    could = allowed([event for w in seen[:-1] for event in w.events], block)
    queries, hits = sum(c.queries for c in sampled), sum(c.hits for c in sampled)
    fresh, computed = unique(seen[-1].events), scored.queries - scored.hits
    if not could or not fresh or not queries:
        raise SystemExit("a failed measurement: a denominator is zero")
    return {
        "replicas": len(proposers), "block": block, "requests": [c.requests for c in sampled], "queried": queries,
        "hit": hits, "allowed": could, "hit_of_allowed": hits / could, "hit_rate": hits / queries,
        "prm_requests": scored.requests, "prm_queried": scored.queries, "prm_computed": computed, "prm_unique": fresh,
        "prm_ratio": computed / fresh,
        "prm_ratio_at_16": (scored.queries - allowed(seen[-1].events, 16)) / fresh,
        "preempted": sum(w.counters.preempted for w in seen),
        "tokens_generated": sum(a.tokens_generated or 0 for a in answers), "seconds": round(seconds, 1),
    }  # fmt: skip


async def run(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    task, limits = Plain(separator="☃"), Limits(step_tokens=STEP, path_tokens=10 * STEP * DEPTH, depth=DEPTH)
    proposer = VLLM(str(make(folder / "proposer", "tiny", "causal")), block_size=args.block, max_model_len=2048)
    prm = VLLMPRM(str(make(folder / "prm", "tiny", "prm")), block_size=args.block, max_model_len=2048)
    seen = [Watched(), Watched(), Watched()]
    first = start(lambda: proposer.build(task, ASKED, limits), seen[0])
    second = start(lambda: proposer.build(task, ASKED, limits), seen[1])
    scorer = start(lambda: prm.build(task, Prompt()), seen[2])
    block = first.engine.llm.vllm_config.cache_config.block_size
    rows = []
    version = vllm_engine.installed()
    print(f"random weights, {args.problems} problems, blocks of {block} tokens; counters of vLLM {version}")
    print(f"{'search':18} {'replicas':>8} {'queried':>11} {'hit':>11} {'allowed':>11} {'hit/allowed':>11}"
          f" {'PRM computed':>12} {'unique':>9} {'ratio':>6} {'at 16':>6} {'seconds':>8}")  # fmt: skip
    try:
        for name, case in CASES.items():
            for replicas, watched in (([first], [seen[0], seen[2]]), ([first, second], seen)):
                row = {"search": name, **await measure(case, replicas, scorer, watched, args.problems, block)}
                rows.append(row)
                print(f"{name:18} {row['replicas']:8} {row['queried']:11,} {row['hit']:11,} {row['allowed']:11,}"
                      f" {row['hit_of_allowed']:11.1%} {row['prm_computed']:12,} {row['prm_unique']:9,}"
                      f" {row['prm_ratio']:6.3f} {row['prm_ratio_at_16']:6.3f} {row['seconds']:8.1f}", flush=True)  # fmt: skip
    finally:
        for backend in (first, second, scorer):
            await backend.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--block", type=int, default=None, help="tokens a block; default: 32 on a CPU, else vLLM's own")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(run(args, Path(folder)))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
