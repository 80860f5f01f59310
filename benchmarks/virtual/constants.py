"""Every constant of the SIMULATED engines, with its unit and where it is from; for GPUs none was measured by us yet.

`python -m benchmarks.virtual.constants` prints the table, and the constants that `benchmarks.calibration` found for vLLM on a
CPU. What a step takes is `Law`'s to say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.virtual.cache import BLOCK

GB = 1e9
CALIBRATED = Path(__file__).with_name("calibrated.json")  # what `benchmarks.calibration` found last


@dataclass(frozen=True)
class Hardware:
    name: str
    bandwidth: float  # bytes/s
    flops: float  # 1/s, dense bf16
    memory: float  # bytes


@dataclass(frozen=True)
class Model:
    name: str
    parameters: float
    weights: float  # bytes
    kv: float  # bytes per token


@dataclass(frozen=True)
class Law:
    """step = max((weights + live KV) / (bandwidth read), 2 parameters tokens / (flops reached)) + base + each x sequences.

    `apart`: attention reads the KV after the matrices are multiplied, not meanwhile: max(weights, arithmetic) + live KV.
    Then, 0 where nothing was measured: start x sequences that begin, pair x (new tokens of prompts x tokens before each).
    base, each and start are CPU time of the engine's own process; all else is on the card, and shared.
    """

    read: float = 0.6  # share of the bandwidth
    reached: float = 0.5  # share of the flops
    base: float = 1e-3  # s
    each: float = 3e-6  # s per sequence
    start: float = 0.0  # s per sequence that begins
    pair: float = 0.0  # s per pair of tokens in a prompt's attention
    again: float = 1.0  # of what KV costs that several sequences share: what it costs each but the first
    apart: bool = False

    def seconds(self, step: Step, model: Model, hardware: Hardware) -> tuple[float, float]:
        """(seconds on the card, seconds of the CPU) of a step."""
        rate = hardware.bandwidth * self.read
        shared = step.context - step.distinct if step.distinct else 0
        live = (step.context - (1 - self.again) * shared) * model.kv
        compute = 2 * model.parameters * step.tokens / (hardware.flops * self.reached)
        if self.apart:
            card = max(model.weights / rate, compute) + live / rate
        else:
            card = max((model.weights + live) / rate, compute)
        return card + self.pair * step.pairs, self.base + self.each * step.sequences + self.start * step.begun


class Step(NamedTuple):
    """What a step of an engine computes."""

    sequences: int
    tokens: int  # new ones
    context: int  # tokens of live KV, the new ones included
    begun: int = 0  # sequences that were not in the step before
    pairs: int = 0  # of each new token of a prompt with each token before it
    distinct: int = 0  # of the context, what several sequences share counted once; 0: nothing is shared


@dataclass(frozen=True)
class Serving:
    """How an engine is set up. `share`: of the card's memory, weights included; `blocks` of KV, None: what that holds."""

    max_num_seqs: int
    max_num_batched_tokens: int = 8192
    share: float = 0.6
    blocks: int | None = None
    reuse: bool = True  # whether prompts read the prefix cache
    block: int = BLOCK  # tokens


@dataclass(frozen=True)
class Profile:
    """Which models run on how many cards. `apart`: proposers and PRMs have cards of their own, else each card has both."""

    name: str
    proposer: tuple[Model, Serving]
    prm: tuple[Model, Serving]
    hardware: Hardware
    cards: int = 1
    apart: bool = False
    law: Law = Law()


H200 = Hardware("H200", 4.8e12, 989e12, 141 * GB)
H100 = Hardware("H100", 3.35e12, 989e12, 80 * GB)
CPU, OTHER = (Hardware(name, 1e9, 1e9, GB) for name in ("CPU", "other"))  # no data sheet: shares are GB/s and GFLOP/s
LLAMA_1B = Model("Llama-3.2-1B", 1.24e9, 2.5 * GB, 32 * 1024)
PRM_8B = Model("Llama-3.1-8B PRM", 8.0e9, 16.1 * GB, 128 * 1024)
QWEN_7B = Model("Qwen2.5-7B", 7.6e9, 15.2 * GB, 56 * 1024)
PRM_7B = Model("Qwen2.5-Math-PRM-7B", 7.1e9, 14.2 * GB, 56 * 1024)

SMALL = Profile("1B + 8B PRM", (LLAMA_1B, Serving(1024)), (PRM_8B, Serving(256, share=0.3)), H200)
LARGE = Profile("7B + 7B PRM", (QWEN_7B, Serving(512)), (PRM_7B, Serving(256, share=0.3)), H200)


def on(profile: Profile, cards: int, apart: bool = False) -> Profile:
    """The profile on so many cards."""
    how = "one card" if cards == 1 else f"{cards} cards, PRM {'apart' if apart else 'beside'}"
    return replace(profile, name=f"{profile.name}, {how}", cards=cards, apart=apart)


PROFILES = [on(p, *where) for p in (SMALL, LARGE) for where in ((1,), (2,), (2, True))]

UNITS = {
    "read": "GB/s", "reached": "GFLOP/s", "base": "s", "each": "s per sequence", "start": "s per sequence that begins",
    "pair": "s per pair of tokens in a prompt's attention", "again": "of what shared KV costs the first", "apart": "",
}  # fmt: skip
LINES = [
    ("H200", "4.8 TB/s, 989 TFLOP/s bf16 dense, 141 GB", "NVIDIA's data sheet"),
    ("H100", "3.35 TB/s, 989 TFLOP/s bf16 dense, 80 GB", "NVIDIA's data sheet (SXM)"),
    ("Llama-3.2-1B", "1.24e9 parameters; 16 layers x 8 KV heads x 64 x 2 x 2 bytes = 32 KiB", "its config.json"),
    ("Llama-3.1-8B", "8.0e9 parameters; 32 layers x 8 KV heads x 128 x 2 x 2 bytes = 128 KiB", "its config.json"),
    ("Qwen2.5-7B", "7.6e9 parameters (7.1e9 without the head); 28 x 4 x 128 x 2 x 2 bytes = 56 KiB", "its config.json"),
    ("read", "0.6 of the bandwidth", "estimate: 85,000 tokens/s at 1,024 x 600 tokens with 1B, 32,000 at 512 x 800 with 7B"),
    ("reached", "0.5 of the flops", "estimate: 33,000 tokens/s of prefill with 7.6e9 parameters"),
    ("base, each", "1 ms a step and 3 us a sequence", "estimate: a few ms at 1,024 sequences"),
    ("card", "k steps under way at once go at 1/k speed; CPU time overlaps", "time slices between processes"),
    ("serving", "1,024 and 512 sequences, PRM 256, 8,192 tokens a step, 0.6 and 0.3 of the memory", "chosen"),
    ("start, pair", "0 s: what a sequence costs that begins, and the attention of prompts", "not known of a GPU"),
    ("again, apart", "1 and no: shared KV is read as often as it is used, while matrices are multiplied", "as before"),
    ("not modelled", "stop-string overrun, tokenisation, messages between processes", ""),
]  # fmt: skip


def main() -> None:
    for name, what, source in LINES:
        print(f"{name:14} {what:96} {source}")
    calibrated()


def calibrated(path: Path = CALIBRATED) -> None:
    """What was found for real engines, and how far predictions with it were from what was measured."""
    found = json.loads(path.read_text())
    told = ", ".join(f"{row['workload']} {row['error']:+.1%}" for row in found["rows"] if "workload" in row)
    print(f"\ncalibrated, SIMULATED: vLLM {found['vllm']} on a CPU ({found['processor']}, {found['cores']} cores), shape"
          f" {found['shape']}, {found['date']}: `python -m benchmarks.calibration --keep`")  # fmt: skip
    for name, value in found["law"].items():
        print(f"{name:14} {value:<12.4g} {UNITS[name]}")
    print(f"{'errors':14} {told}")


if __name__ == "__main__":
    main()
