"""How full do searches keep one GPU? Beside their own requests all at once, and beside a loop with barriers, on vLLM.

    python -m benchmarks.gpu.searches [--shape 0.5B] [--searches sample,beam,mcts] [--out FILE.json] [--allow-cpu --tiny]

Proposer and PRM have random weights and share the GPU (0.6 and 0.3 of its memory); a chain is 10 steps of 50 tokens after a
prompt of 512, MCTS rolls out to that depth. Each way of `benchmarks.levels` begins with empty caches and is cut after
--most seconds, and what was cut says so; all together ends within ten minutes. Tokens are sampled ones, of all requests
that came back; `once` are the generate and pooling requests of `treesearch` handed to the same engines all at once, `drawn`
those of the proposer alone. eta is tokens/s of `treesearch` over those of `once`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from benchmarks.gpu.one_gpu import begun, within
from benchmarks.levels import Bench
from benchmarks.prefix import DEPTH, PROMPT, STEP
from benchmarks.random_models import make, question
from benchmarks.saturation import barrier_search, sized, words_of
from treesearch import config as configs
from treesearch import run as runs
from treesearch.tasks.plain import Plain
from treesearch.types import Problem

SEARCHES = ("sample", "beam", "mcts")


def bench_of(shape: str, problems: int, folder: Path) -> Bench:
    """Engines with random weights, and questions of random words."""
    models = {role: make(folder / role, shape, kind) for role, kind in (("proposer", "causal"), ("scorer", "prm"))}
    config = configs.load(None, [
        "problems=-", "task=plain", "prompt.template='{question}'",
        f"limits={{step_tokens: {STEP}, path_tokens: {10 * STEP * DEPTH}, depth: {DEPTH}}}",
        *(f"{role}={{type: vllm, model: {path}, max_model_len: 2048}}" for role, path in models.items()),
    ])  # fmt: skip
    asked = [Problem(f"p{k}", question(k, PROMPT, shape)) for k in range(problems)]
    return Bench(config, Plain(separator="☃"), runs.Models(), asked)


async def row(bench: Bench, name: str, way: str, work: Coroutine[Any, Any, Any], most: float) -> dict[str, Any]:
    """Tokens per second of what this way asks the engines for, from empty caches; printed."""
    await bench.forget()
    begun = time.monotonic()
    cut = await within(most, work)
    seconds, tokens = time.monotonic() - begun, sum(count for _, count in bench.drawn.trace)
    found = {"search": name, "way": way, "tokens": tokens, "seconds": round(seconds, 2), "cut": cut,
             "tokens/s": round(tokens / seconds, 1), "chains/s": round(tokens / seconds / (STEP * DEPTH), 2)}  # fmt: skip
    print(f"{name:8}{way:12}{tokens:10,} tokens{seconds:8.1f} s{found['tokens/s']:10,.0f} tokens/s"
          f"{found['chains/s']:8.1f} chains/s{'   CUT' if cut else ''}", flush=True)  # fmt: skip
    return found


async def fullness(bench: Bench, name: str, n: int, most: float) -> list[dict[str, Any]]:
    """A row for each way to run this search."""
    rows = [await row(bench, name, "treesearch", bench.ours(sized(name, n)), most)]
    drawn, scored = list(bench.drawn.trace), list(bench.scored.trace)
    rows.append(await row(bench, name, "once", bench.at_once(drawn, scored), most))
    rows.append(await row(bench, name, "drawn", bench.at_once(drawn, ()), most))
    level = bench.by_level(barrier_search(name, n), bench.asked, len(bench.asked), bench.scorer)
    rows.append(await row(bench, name, "level", level, most))
    rate = {found["way"]: found["tokens/s"] for found in rows}
    shares = {way: rate["treesearch"] / rate[way] if rate[way] else float("nan") for way in ("once", "drawn", "level")}
    print(
        f"{name}: eta {shares['once']:.2f}, of the proposer alone {shares['drawn']:.2f}; {shares['level']:.1f} times level"
    )
    rows[0] |= {f"over {way}": share for way, share in shares.items()}
    return rows


async def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    bench, rows = bench_of(args.shape, args.problems, folder), list[dict[str, Any]]()
    try:
        await within(args.most, bench.ours(sized("sample", 1)))  # all is warm
        for name in args.searches:
            rows += await fullness(bench, name, args.n, args.most)
    finally:
        await bench.models.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=words_of, default=SEARCHES)
    parser.add_argument("--n", type=int, default=16, help="chains of a problem at a time, or half its simulations")
    parser.add_argument("--most", type=float, default=30.0, help="seconds for each row")
    args, where = begun(parser, 4)
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measure(args, Path(folder)))
    if args.out:
        args.out.write_text(json.dumps({**where, "shape": args.shape, "n": args.n, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
