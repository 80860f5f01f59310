"""How far is the virtual engine from a real one? Its constants from one workload; four others predicted and measured.

    python -m benchmarks.calibration [--rounds 3] [--keep] [--json FILE]

Two real vLLM engines with random-weight models, a proposer and a PRM. The trace of `virtual.twin.LADDER`, batches of equal
generate requests one after another, calibrates the law of `virtual.constants` (least squares, `virtual.fit`). With these
constants, and nothing else, the SIMULATED engines say how long four other workloads take:
`lengths`  256 sequences at once, prompts and two steps as long as `virtual.lengths` draws them;
`search`   a beam search over both engines in closed loop, driven by the real engine in both worlds;
`replay`   the proposer's requests of that search, all at once, from an empty cache;
`prefixes` the PRM reads the prefixes of 64 chains, each when it has read the one before.
All of it is measured `--rounds` times in turn, and medians count, of what calibrates as of what is predicted. An error is
predicted / measured - 1; the goal is 15 %. `--keep` writes constants and errors to virtual/calibrated.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.prefix import ASKED, Watched, just, start
from benchmarks.random_models import make, question
from benchmarks.virtual import lengths
from benchmarks.virtual.cache import Part
from benchmarks.virtual.constants import CALIBRATED, CPU, Law, Serving
from benchmarks.virtual.costs import where
from benchmarks.virtual.engine import Request
from benchmarks.virtual.fit import predicted
from benchmarks.virtual.loops import virtually
from benchmarks.virtual.models import VirtualProposer, VirtualScorer
from benchmarks.virtual.twin import LADDER, Ask, Even, Twin, Workload, at_once, model_of, timed
from treesearch.algorithms.beam import Beam
from treesearch.backends import vllm_engine
from treesearch.backends.base import Limits
from treesearch.backends.vllm import VLLM, VLLMPRM
from treesearch.checker import Checker
from treesearch.engine import Engine
from treesearch.tasks.base import Prompt
from treesearch.tasks.plain import Plain
from treesearch.types import Problem

SHAPE = "small"
PROMPT, STEP, DEPTH = 256, 40, 6  # of the search: tokens, tokens, steps
SEARCH, PROBLEMS = Beam(beams=4, branch=4), 4
GOAL = 0.15
Trace = list[tuple[tuple[int, ...], int]]  # ids of a prompt, tokens sampled after them


# Both worlds


def drawn(count: int) -> list[Request]:
    """Prompts with two steps each, of drawn lengths."""
    rng, requests = random.Random(0), []
    for k in range(count):
        said = tuple((("said", k, i), lengths.step_tokens(rng)) for i in range(2))
        requests.append(Request(((("drawn", k), lengths.prompt_tokens(rng)),), said))
    return requests


async def prefixes(ask: Ask) -> None:
    """64 chains, each read prefix by prefix."""

    async def chain(k: int) -> None:
        parts: list[Part] = [(("chain", k), PROMPT)]
        for depth in range(DEPTH):
            parts.append((("step", k, depth), STEP + 1))
            await ask(Request(tuple(parts)))

    await asyncio.gather(*map(chain, range(64)))


async def search(proposer: Any, scorer: Any) -> None:
    """The search over all problems by these."""
    clock, checker = asyncio.get_running_loop().time, Checker()
    engine = Engine(SEARCH, Plain(separator="☃"), [proposer], [scorer], checker=checker, clock=clock)
    async for answer in engine.answers([Problem(f"p{k}", question(k, PROMPT, SHAPE)) for k in range(PROBLEMS)]):
        if answer.error or {c.tokens for c in answer.candidates} != {STEP * DEPTH}:
            raise SystemExit(f"a failed measurement: {answer.error or 'chains of another length'}")
    checker.close()


# The real one


@dataclass(frozen=True)
class Spelled:
    """The name of a part that was seen: its token ids."""

    ids: tuple[int, ...]


@cache
def ids_of(part: Part) -> tuple[int, ...]:
    """Token ids for a part: those that it is named by, else drawn by its name."""
    name, tokens = part
    if isinstance(name, Spelled):
        return name.ids
    rng = random.Random(repr(name))
    return tuple(rng.choices(range(1000), k=tokens))


def real(backend: Any) -> Ask:
    """Ask a vLLM engine, as `backends.vllm` does: a seed for each request, only the final reply."""
    engine = backend.engine

    async def ask(request: Request) -> None:
        ids = [i for part in request.given for i in ids_of(part)]
        name, tokens = engine.name("calibration"), sum(count for _, count in request.sampled)
        if not tokens:
            await engine.encode(ids, vllm_engine.pooling("token_classify"), name)
            return
        await engine.generate(ids, just(tokens, int(name.rpartition("~")[2])), name)

    return ask


def again(trace: Trace, prompt: int, step: int) -> list[Request]:
    """The requests of a search that was seen, cut where its steps are. What they sample is drawn anew."""
    requests = []
    for k, (ids, sampled) in enumerate(trace):
        ends = [0, *range(prompt, len(ids) + 1, step)]
        given = tuple((Spelled(ids[a:b]), b - a) for a, b in pairwise(ends))
        requests.append(Request(given, ((("anew", k), sampled),)))
    return requests


def serving_of(backend: Any) -> Serving:
    """How a vLLM engine is set up."""
    config = backend.engine.llm.vllm_config
    given, memory = config.scheduler_config, config.cache_config
    return Serving(
        given.max_num_seqs, given.max_num_batched_tokens, blocks=memory.num_gpu_blocks, block=memory.block_size
    )


# Measured


@dataclass
class Seen:
    """How the engines are set up, the requests of the first search, and seconds, a list a round: of each batch of LADDER,
    of each workload."""

    proposer: Serving
    scorer: Serving
    trace: Trace = field(default_factory=list)
    ladder: list[list[float]] = field(default_factory=list)
    workloads: list[dict[str, float]] = field(default_factory=list)

    def medians(self) -> tuple[list[float], dict[str, float]]:
        """Over the rounds."""
        ladder = [median(seconds) for seconds in zip(*self.ladder, strict=True)]
        return ladder, {name: median(found[name] for found in self.workloads) for name in self.workloads[0]}


async def measure(rounds: int, folder: Path) -> Seen:
    task, limits = Plain(separator="☃"), Limits(step_tokens=STEP, path_tokens=10 * STEP * DEPTH, depth=DEPTH)
    causal, prm = (str(make(folder / kind, SHAPE, kind)) for kind in ("causal", "prm"))
    watched = Watched(noting=False)
    proposer = start(lambda: VLLM(causal, max_model_len=2048).build(task, ASKED, limits), watched)
    scorer = start(lambda: VLLMPRM(prm, max_model_len=2048).build(task, Prompt()), Watched(noting=False))
    seen = Seen(serving_of(proposer), serving_of(scorer))
    draws, reads = real(proposer), real(scorer)

    async def fresh(work: Workload, ask: Ask = draws) -> float:
        for backend in (proposer, scorer):
            await backend.forget()
        return await timed(work, ask)

    async def once(number: int) -> None:
        seen.ladder.append([await fresh(at_once(batch.requests((number, k)))) for k, batch in enumerate(LADDER)])
        found = {"lengths": await fresh(at_once(drawn(256)))}
        watched.reset()
        found["search"] = await fresh(lambda _: search(proposer, scorer))
        seen.trace = seen.trace or list(watched.trace)
        found["replay"] = await fresh(at_once(again(seen.trace, PROMPT, STEP)))
        found["prefixes"] = await fresh(prefixes, reads)
        seen.workloads.append(found)
        print(f"round {number + 1}:", {name: round(seconds, 2) for name, seconds in found.items()}, flush=True)

    try:
        await fresh(at_once(LADDER[0].requests("warm")))
        await fresh(prefixes, reads)
        for number in range(rounds):
            await once(number)
    finally:
        await proposer.close()
        await scorer.close()
    return seen


# Predicted


def simulated(seen: Seen, law: Law) -> dict[str, float]:
    """Seconds of the workloads by the law."""
    model = model_of(SHAPE, 4)
    draws, reads = (Twin(model, serving, CPU, law) for serving in (seen.proposer, seen.scorer))
    even = Even(PROMPT, STEP, DEPTH)

    async def closed() -> float:
        pair = VirtualProposer(draws.engine(), even), VirtualScorer(reads.engine(), even)
        return await timed(lambda _: search(*pair), None)  # type: ignore[arg-type]

    return {
        "lengths": draws.seconds(at_once(drawn(256))),
        "search": float(virtually(closed)),
        "replay": draws.seconds(at_once(again(seen.trace, PROMPT, STEP))),
        "prefixes": reads.seconds(prefixes),
    }


def compared(seen: Seen) -> dict[str, Any]:
    """The law by the medians, and predicted beside measured: batches that calibrated it, and workloads that did not."""
    ladder, workloads = seen.medians()
    twin = Twin(model_of(SHAPE, 4), seen.proposer, CPU)
    law = twin.law_of(ladder)
    rows: list[dict[str, Any]] = [
        {"batch": asdict(batch), "measured": found.seconds, "predicted": predicted(found, law, twin.model, CPU),
         "rounds": [seconds[k] for seconds in seen.ladder]}
        for k, (batch, found) in enumerate(zip(LADDER, twin.measured(ladder), strict=True))
    ]  # fmt: skip
    told = simulated(seen, law)
    rows += [
        {"workload": name, "measured": seconds, "predicted": told[name], "rounds": [w[name] for w in seen.workloads]}
        for name, seconds in workloads.items()
    ]
    for row in rows:
        row["error"] = row["predicted"] / row["measured"] - 1
    return {"law": asdict(law), "rows": rows}


def shown(rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{'':34} {'measured s':>11} {'SIMULATED s':>12} {'error':>8}   rounds")
    for row in rows:
        name = row.get("workload") or "{sequences} x {prompt} + {sampled}".format(**row["batch"])
        if "batch" in row:
            name += ", one prompt" if row["batch"]["shared"] else ""
        verdict = "" if "batch" in row else f"   {'met' if abs(row['error']) <= GOAL else 'MISSED'}"
        print(f"{'calibrates' if 'batch' in row else 'predicted':11}{name:23} {row['measured']:11.2f} {row['predicted']:12.2f}"
              f" {row['error']:+8.1%}   {', '.join(f'{s:.2f}' for s in row['rounds'])}{verdict}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="write virtual/calibrated.json")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(measure(args.rounds, Path(folder)))
    setting = {"label": "predicted: SIMULATED", "vllm": vllm_engine.installed(), "shape": SHAPE}
    found = {**where(), **setting, "serving": asdict(seen.proposer), **compared(seen)}
    print({key: value for key, value in found.items() if key != "rows"})
    shown(found["rows"])
    for path in [args.json] * bool(args.json) + [CALIBRATED] * args.keep:
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
