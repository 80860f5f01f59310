"""What does the same code do on one GPU? The main job on vLLM, then a search's tokens/s beside those of plain generation.

    python -m benchmarks.gpu.one_gpu [--out FILE.json] [--shape 0.5B] [--allow-cpu --tiny]

Ends within ten minutes: each part has a time of its own and is cut there, and what was cut says so. Part 1 is
`treesearch run` with `proposer.type=vllm scorer.type=vllm` on the 100 test puzzles. Part 2 makes a proposer and a PRM with
random weights (prompts of 512 tokens, 10 steps of 50) and runs MCTS over many problems; `replay` then sends the proposer
requests of that search to the same engine, all at once, from an empty cache, and `plain` samples as many tokens in whole
chains of 500. Tokens per second count sampled tokens; engine starts are outside the time. Proposer and PRM share the GPU
(0.6 and 0.3 of its memory) while the search runs; in `replay` and `plain` the PRM is idle. `ladder` calibrates the SIMULATED
engine of `virtual/` for this GPU (batches of `virtual.twin.LADDER`, twice: the second time counts); at the end its constants
are printed, and what it predicts for `replay` and `plain` beside what was measured, where these were not cut.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterable
from contextlib import aclosing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.calibration import again, real, serving_of
from benchmarks.prefix import ASKED, DEPTH, PROMPT, STEP, Watched, just, start
from benchmarks.random_models import SHAPES, make, question
from benchmarks.virtual.constants import CPU, H100, H200, OTHER, Hardware
from benchmarks.virtual.engine import Request
from benchmarks.virtual.twin import LADDER, Twin, at_once, model_of, timed
from treesearch.algorithms.mcts import MCTS
from treesearch.backends import vllm_engine
from treesearch.backends.base import Limits
from treesearch.backends.vllm import VLLM, VLLMPRM
from treesearch.checker import Checker
from treesearch.engine import Engine
from treesearch.tasks.base import Prompt
from treesearch.tasks.plain import Plain
from treesearch.types import Problem

TOTAL = 590  # seconds; whatever is under way then, engines that start included, ends
MAIN, WARM, LADDER_MOST, SEARCH, REPLAY, PLAIN = 220.0, 15.0, 40.0, 70.0, 40.0, 40.0  # seconds each part may take
PREDICT = 15.0  # and each prediction, of the clock
Rows = list[dict[str, Any]]
Parts = dict[str, list[Request]]  # what was asked in them


def main_job(out: Path, limit: int | None) -> dict[str, Any]:
    """The main job in a process of its own, so that its engines leave the GPU; its summary, and whether it was cut."""
    command = [sys.executable, "-m", "treesearch", "run", "--out", str(out), "--set", "proposer.type=vllm",
               "--set", "scorer.type=vllm", *(["--set", f"limit={limit}"] if limit else [])]  # fmt: skip
    begun = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        code: int | None = process.wait(MAIN)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    path = out / "summary.json"
    summary = json.loads(path.read_text()) if path.exists() else {}
    keys = ("problems", "correct", "accuracy", "tokens_generated", "seconds", "tokens_per_second")
    return {"exit": code, "wall": round(time.monotonic() - begun, 1), **{key: summary.get(key) for key in keys}}


async def search(proposer: Any, scorer: Any, shape: str, problems: int) -> dict[str, Any]:
    """MCTS over the problems until all are done, or the time is."""
    checker = Checker()
    engine = Engine(MCTS(), Plain(separator="☃"), [proposer], [scorer], checker=checker)
    asked = [Problem(f"p{k}", question(k, PROMPT, shape)) for k in range(problems)]
    done, begun = 0, time.monotonic()

    async def drain() -> None:
        nonlocal done
        async with aclosing(engine.answers(asked)) as answers:
            async for answer in answers:
                if answer.error:
                    raise SystemExit(f"a failed measurement: {answer.error}")
                done += 1

    cut = await within(SEARCH, drain())
    seconds = time.monotonic() - begun
    checker.close()
    return {"part": "search", "tokens": engine.stats.generated or 0, "seconds": seconds, "done": done, "cut": cut}


async def plain(part: str, proposer: Any, work: Iterable[tuple[tuple[int, ...], int]], most: float) -> dict[str, Any]:
    """All of (prompt ids, tokens to sample) at once on the proposer's engine."""
    await proposer.engine.llm.reset_prefix_cache()
    sampled = 0

    async def one(k: int, ids: tuple[int, ...], tokens: int) -> None:
        nonlocal sampled
        reply = await proposer.engine.generate(ids, just(tokens, k), proposer.engine.name(part))
        sampled += len(reply.ids)

    async def every() -> None:
        await asyncio.gather(*(one(k, *item) for k, item in enumerate(work)))

    begun = time.monotonic()
    cut = await within(most, every())
    return {"part": part, "tokens": sampled, "seconds": time.monotonic() - begun, "cut": cut}


async def ladder(proposer: Any) -> list[float]:
    """Seconds of each batch of LADDER, the second time; as many as the time allows."""
    found: list[float] = []

    async def every() -> None:
        for turn in range(2):
            found.clear()
            for k, batch in enumerate(LADDER):
                await proposer.engine.llm.reset_prefix_cache()
                found.append(await timed(at_once(batch.requests((turn, k))), real(proposer)))

    await within(LADDER_MOST, every())
    return found


async def within(seconds: float, work: Coroutine[Any, Any, None]) -> bool:
    """Run it; whether it was cut off."""
    try:
        await asyncio.wait_for(work, seconds)
    except TimeoutError:
        return True
    return False


def calibrated(rows: Rows, twin: Twin, climbed: list[float], parts: Parts) -> dict[str, Any]:
    """The law that the ladder's seconds give, and what it predicts for these parts; printed."""
    if len(climbed) < len(LADDER):
        print("calibration CUT: the ladder was not climbed to its end")
        return {}
    twin = replace(twin, law=twin.law_of(climbed))
    print("calibrated", json.dumps(asdict(twin.law)))
    told = {}
    for row in rows:
        name, seconds = row["part"], row["seconds"]
        if name not in parts or row["cut"]:
            continue
        try:
            predicted = twin.seconds(at_once(parts[name]), PREDICT)
        except TimeoutError:
            print(f"{name:8} prediction CUT")
            continue
        told[name] = {"measured": seconds, "predicted": predicted, "error": predicted / seconds - 1}
        print(f"{name:8} measured {seconds:7.1f} s, SIMULATED {predicted:7.1f} s, error {predicted / seconds - 1:+.1%}")
    return {"label": "SIMULATED", "law": asdict(twin.law), "ladder": climbed, "predictions": told}


async def throughput(
    shape: str, problems: int, folder: Path, hardware: Hardware
) -> tuple[Rows, Twin, list[float], Parts]:
    """Tokens per second of search, replay and plain generation with random-weight models; and what calibrates."""
    task, limits = Plain(separator="☃"), Limits(step_tokens=STEP, path_tokens=10 * STEP * DEPTH, depth=DEPTH)
    own, other = Watched(noting=False), Watched(noting=False)
    given = {"max_model_len": 2048}
    causal, prm = str(make(folder / "proposer", shape, "causal")), str(make(folder / "prm", shape, "prm"))
    proposer = start(lambda: VLLM(causal, **given).build(task, ASKED, limits), own)
    scorer = start(lambda: VLLMPRM(prm, **given).build(task, Prompt()), other)
    serving = serving_of(proposer)
    try:
        await plain("warm-up", proposer, [(tuple(range(PROMPT)), STEP)] * 8, WARM)
        climbed = await ladder(proposer)
        own.reset()
        rows = [shown(await search(proposer, scorer, shape, problems))]
        work = list(own.trace)
        rows.append(shown(await plain("replay", proposer, work, REPLAY)))
        chains = max(1, sum(tokens for _, tokens in work) // (STEP * DEPTH))
        prompts = [tuple(range(k % 500, k % 500 + PROMPT)) for k in range(chains)]
        rows.append(shown(await plain("plain", proposer, [(ids, STEP * DEPTH) for ids in prompts], PLAIN)))
    finally:
        await proposer.close()
        await scorer.close()
    twin = Twin(model_of(shape, 4 if hardware is CPU else 2), serving, hardware)
    parts = {
        "replay": again(work, PROMPT, STEP),
        "plain": [Request(((("plain", k % 500), PROMPT),), ((("said", k), STEP * DEPTH),)) for k in range(chains)],
    }
    return rows, twin, climbed, parts


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its rate, printed at once: what comes after it may take too long."""
    row["tokens_per_second"] = round(row["tokens"] / row["seconds"], 1)
    row["seconds"] = round(row["seconds"], 1)
    print(f"{row['part']:8} {row['tokens']:10,} tokens {row['seconds']:7.1f} s {row['tokens_per_second']:10,.0f} tokens/s"
          f"{'   CUT' if row['cut'] else ''}", flush=True)  # fmt: skip
    return row


def late(*_: Any) -> None:
    raise SystemExit(f"not done after {TOTAL} s: the lines above are what was measured")


def hardware_of(device: str) -> Hardware:
    """What the law's shares are of; of a GPU that is not known here, GB/s and GFLOP/s."""
    return next((known for known in (H200, H100) if known.name in device), CPU if "CPU" in device else OTHER)


def device(allow_cpu: bool) -> str:
    """The GPU's name. Refuses to go on without one."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    if allow_cpu:
        return "CPU (a rehearsal, no figure)"
    raise SystemExit("no CUDA GPU is visible: run this on one, or rehearse it with --allow-cpu --tiny")


def begun(parser: argparse.ArgumentParser, few: int) -> tuple[argparse.Namespace, dict[str, str]]:
    """The arguments, with those that all benchmarks of one GPU have, and where they are measured; from now on TOTAL runs.

    `few`: problems of a rehearsal with tiny models.
    """
    parser.add_argument("--shape", choices=[s for s in SHAPES if s != "tiny"], default="0.5B")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--allow-cpu", action="store_true", help="go on without a GPU, to rehearse")
    parser.add_argument("--tiny", action="store_true", help="tiny models, few problems")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    where = {"device": device(args.allow_cpu), "vllm": vllm_engine.installed()}
    signal.signal(signal.SIGALRM, late)
    signal.alarm(TOTAL)
    if args.tiny:
        args.shape, args.problems = "tiny", few
    print(
        f"{where['device']}, vLLM {where['vllm']}, random weights of shape {args.shape}, {args.problems} problems",
        flush=True,
    )
    return args, where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args, where = begun(parser, 2)
    hardware = hardware_of(where["device"])
    with tempfile.TemporaryDirectory() as folder:
        job = main_job(Path(folder) / "main", 10 if args.tiny else None)
        print("main job", json.dumps(job), flush=True)
        rows, twin, climbed, parts = asyncio.run(throughput(args.shape, args.problems, Path(folder), hardware))
    rates = {row["part"]: row["tokens_per_second"] for row in rows}
    shares = {part: round(rates["search"] / rate, 3) if rate else None for part, rate in rates.items()}
    print(f"search / replay {shares['replay']}, search / plain {shares['plain']}", flush=True)
    constants = calibrated(rows, twin, climbed, parts)
    if args.out:
        found = {**where, "main": job, "rows": rows, "search_of": shares}
        args.out.write_text(json.dumps({**found, "calibration": constants}, indent=2) + "\n")


if __name__ == "__main__":
    main()
