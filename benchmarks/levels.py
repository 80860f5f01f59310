"""How many problems a second does vLLM give under treesearch, and how many under loops with a barrier after each level?

    python -m benchmarks.levels [--searches beam,mcts] [--n 16] [--problems 100] [--json FILE]

The bundled models on two real vLLM engines, each in a process of its own, driven from this one; the Game of 24's test
puzzles. Every way begins with empty caches and runs to the end of its last problem:

- `treesearch`: the engine of the product, its defaults;
- `level`: `benchmarks.barrier` over the same engines with all problems side by side: the honest baseline;
- `one`: the same with one problem at a time, on a few problems;
- `public`: one problem at a time, and a PRM that is asked four chains at a time and computes every prompt anew, as the
  beam search of search-and-learn does (huggingface/search-and-learn, its defaults). Not its code: this loop, in that way.

MCTS runs one simulation at a time in the loops, as public implementations do. `eta`: the seconds that the requests which
`treesearch` made, generate and pooling, take when handed to the same engines all at once, over its seconds; `proposer`:
the same without the pooling requests. Processor seconds are of this process (front end, tree, answers) and of the two
engines, over seconds: with two cores their sum cannot be above 2.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.barrier import levels
from benchmarks.cluster import numbers
from benchmarks.prefix import Watched, just, noting
from benchmarks.processes import family, usage
from benchmarks.saturation import barrier_search, sized, words_of
from treesearch import config as configs
from treesearch import run as runs
from treesearch.algorithms.base import Search
from treesearch.backends import vllm_engine
from treesearch.manager import Manager
from treesearch.problems import ProblemSet
from treesearch.tasks import load_task
from treesearch.types import Answer, Chain, Job, Problem

FEW = 8  # problems of the ways that take them one at a time
PRM_BATCH = 4  # of search-and-learn
WAYS = ("treesearch", "level", "one", "public")


class Fours:
    """A PRM that is asked four chains at a time and remembers nothing from one call to the next."""

    def __init__(self, scorer: Any) -> None:
        self.scorer = scorer

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Any]:
        found = []
        for job, chains in items:
            values: list[Any] = []
            tokens = 0
            for first in range(0, len(chains), PRM_BATCH):
                await self.scorer.forget()
                (reply,) = await self.scorer.score([(job, chains[first : first + PRM_BATCH])])
                values += reply.scores
                tokens += reply.tokens
            found.append(replace(reply, scores=tuple(values), tokens=tokens))
        return found


@dataclass
class Bench:
    """The models, their watched engines, and what is asked of them."""

    config: configs.Config
    task: Any
    models: runs.Models
    asked: list[Problem]

    def __post_init__(self) -> None:
        (self.proposer,), (self.scorer,) = (
            self.models.proposers(self.config, self.task), self.models.scorers(self.config, self.task),
        )  # fmt: skip
        self.drawn, self.scored = Watched(noting=False), Watched(noting=False)
        for backend, watched in ((self.proposer, self.drawn), (self.scorer, self.scored)):
            for name in ("generate", "encode"):
                setattr(backend.engine, name, noting(getattr(backend.engine, name), watched))

    async def forget(self) -> None:
        await self.models.forget()
        self.drawn.reset()
        self.scored.reset()

    async def measured(self, work: Callable[[], Awaitable[Any]]) -> tuple[Any, dict[str, float]]:
        """What it gives; its seconds, and the processor seconds of this process and of the engines over them."""
        await self.forget()
        engines = family(os.getpid())
        before, own, begun = _processor(engines), time.process_time(), time.monotonic()
        found = await work()
        seconds = time.monotonic() - begun
        spent = [after - there for after, there in zip(_processor(engines), before, strict=True)]
        return found, {
            "seconds": seconds,
            "own": (time.process_time() - own) / seconds,
            "engines": sum(spent) / seconds,
        }

    async def ours(self, search: Search) -> list[Answer]:
        engine = runs.engine(replace(self.config, search=search), self.models, self.task)
        async with aclosing(engine.answers(self.asked)) as answers:
            return [answer async for answer in answers]

    async def by_level(self, search: Search, asked: Sequence[Problem], together: int, scorer: Any) -> list[Answer]:
        found, settings = list[Answer](), runs.settings(self.config)
        for first in range(0, len(asked), together):
            manager = Manager(search, sampling=settings.sampling, rule=settings.rule, seed=settings.seed)
            found += await levels(manager, asked[first : first + together], [self.proposer], [scorer], self.read)
        return found

    async def read(self, job: Job, chain: Chain) -> Chain:
        if chain[-1].finish == "step":
            return chain
        texts = [step.text for step in (*job.path, *chain)]
        answer, canonical = await self.models.checker.read(self.task, job.problem.question, texts)
        return (*chain[:-1], replace(chain[-1], answer=answer, canonical=canonical))

    async def right(self, answers: Sequence[Answer]) -> float:
        """Share of the problems that are solved."""
        rows = [await runs.result(answer, self.config, self.task, self.models.checker) for answer in answers]
        return sum(bool(row["correct"]) for row in rows) / len(rows)

    async def at_once(self, drawn: Sequence[Any], scored: Sequence[Any]) -> None:
        """These requests, when nobody waits for anybody: as many tokens after the same prompts."""
        generate, encode = self.proposer.engine.generate, self.scorer.engine.encode

        async def draw(k: int, ids: tuple[int, ...], tokens: int) -> None:
            await generate(ids, just(tokens, k), self.proposer.engine.name("once"))

        async def score(ids: tuple[int, ...]) -> None:
            await encode(ids, vllm_engine.pooling("token_classify"), self.scorer.engine.name("once"))

        await asyncio.gather(*(draw(k, *item) for k, item in enumerate(drawn)), *(score(ids) for ids, _ in scored))

    async def row(self, way: str, search: str, n: int) -> dict[str, Any]:
        few, loop = self.asked[:: max(1, len(self.asked) // FEW)][:FEW], barrier_search(search, n)
        work: dict[str, Callable[[], Awaitable[list[Answer]]]] = {
            "treesearch": lambda: self.ours(sized(search, n)),
            "level": lambda: self.by_level(loop, self.asked, len(self.asked), self.scorer),
            "one": lambda: self.by_level(loop, few, 1, self.scorer),
            "public": lambda: self.by_level(loop, few, 1, Fours(self.scorer)),
        }
        answers, spent = await self.measured(work[way])
        tokens = sum(answer.tokens_generated or 0 for answer in answers)
        row = {
            "search": search, "n": n, "way": way, "problems": len(answers), **spent,
            "rate": len(answers) / spent["seconds"], "accuracy": await self.right(answers), "tokens": tokens / len(answers),
            "tokens/s": tokens / spent["seconds"],
        }  # fmt: skip
        if way == "treesearch":
            drawn, scored = list(self.drawn.trace), list(self.scored.trace)
            _, once = await self.measured(lambda: self.at_once(drawn, scored))
            _, alone = await self.measured(lambda: self.at_once(drawn, ()))
            row |= {"eta": once["seconds"] / spent["seconds"], "proposer": alone["seconds"] / spent["seconds"],
                    "requests": len(drawn) + len(scored), "once": once}  # fmt: skip
        return row


def _processor(pids: Sequence[int]) -> list[float]:
    return [found.processor if (found := usage(pid)) is not None else 0.0 for pid in pids]


def line(row: dict[str, Any]) -> str:
    cells = [
        f"{row['search']:8}{row['n']:5}  {row['way']:12}{row['problems']:5}{row['seconds']:9.1f}{row['rate']:9.2f}"
    ]
    cells.append(f"{row['accuracy']:9.1%}{row['tokens']:9,.0f}{row['tokens/s']:10,.0f}")
    cells.append(f"{row['own']:7.2f}{row['engines']:9.2f}")
    if "eta" in row:
        cells.append(f"{row['eta']:8.2f}{row['proposer']:10.2f}")
    return "".join(cells)


def verdicts(rows: Sequence[dict[str, Any]]) -> None:
    """Ratios to each loop, search by search, and the goals."""
    for search, n in dict.fromkeys((row["search"], row["n"]) for row in rows):
        by = {row["way"]: row for row in rows if (row["search"], row["n"]) == (search, n)}
        if "treesearch" not in by:
            continue
        mine = by["treesearch"]
        said = [f"{mine['rate'] / by[way]['rate']:.1f} times {way} (goal {goal})"
                for way, goal in (("level", 3), ("one", "-"), ("public", 8)) if way in by]  # fmt: skip
        print(f"{search} {n}: {', '.join(said)}; eta {mine['eta']:.2f} (goal 0.5)")


async def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    config = configs.load(
        None, ["proposer.type=vllm", "scorer.type=vllm", "answer.rule=best", f"limit={args.problems}"]
    )
    task, models, rows = load_task(config.task), runs.Models(), list[dict[str, Any]]()
    try:
        bench = Bench(config, task, models, list(ProblemSet(config.problems, task, config.limit, config.fields)))
        await bench.ours(sized("beam", 4))  # all is warm
        print(f"{'search':8}{'n':>5}  {'way':12}{'':5}{'seconds':>9}{'prob/s':>9}{'right':>9}{'tokens':>9}{'tokens/s':>10}"
              f"{'own':>7}{'engines':>9}{'eta':>8}{'proposer':>10}")  # fmt: skip
        for search, n, way in ((s, n, w) for s in args.searches for n in args.n for w in args.ways):
            rows.append(await bench.row(way, search, n))
            print(line(rows[-1]), flush=True)
    finally:
        await models.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=words_of, default=["beam", "mcts"])
    parser.add_argument(
        "--n", type=numbers, default=[16], help="chains of a problem at a time, or half its simulations"
    )
    parser.add_argument("--ways", type=words_of, default=WAYS)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    version = vllm_engine.installed()
    print(f"vLLM {version}, bundled models, {args.problems} puzzles, {os.cpu_count()} cores")
    rows = asyncio.run(measure(args))
    verdicts(rows)
    if args.json:
        where = {"machine": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}
        args.json.write_text(json.dumps({**where, "vllm": version, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
