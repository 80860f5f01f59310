"""Every constant of the SIMULATED engines, with its unit and where it is from. Nothing here was measured by us yet.

`python -m benchmarks.virtual.constants` prints the table. What a step takes is `Law`'s to say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

GB = 1e9


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

    The first term is on the card and shared; base and each are CPU time of the engine's own process.
    """

    read: float = 0.6  # share of the bandwidth
    reached: float = 0.5  # share of the flops
    base: float = 1e-3  # s
    each: float = 3e-6  # s per sequence


@dataclass(frozen=True)
class Serving:
    """How an engine is set up. `share`: of the card's memory, weights included; `blocks` of KV, None: what that holds."""

    max_num_seqs: int
    max_num_batched_tokens: int = 8192
    share: float = 0.6
    blocks: int | None = None
    reuse: bool = True  # whether prompts read the prefix cache


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

LINES = [
    ("H200", "4.8 TB/s, 989 TFLOP/s bf16 dense, 141 GB", "NVIDIA's data sheet"),
    ("Llama-3.2-1B", "1.24e9 parameters; 16 layers x 8 KV heads x 64 x 2 x 2 bytes = 32 KiB", "its config.json"),
    ("Llama-3.1-8B", "8.0e9 parameters; 32 layers x 8 KV heads x 128 x 2 x 2 bytes = 128 KiB", "its config.json"),
    ("Qwen2.5-7B", "7.6e9 parameters (7.1e9 without the head); 28 x 4 x 128 x 2 x 2 bytes = 56 KiB", "its config.json"),
    ("read", "0.6 of the bandwidth", "estimate: 85,000 tokens/s at 1,024 x 600 tokens with 1B, 32,000 at 512 x 800 with 7B"),
    ("reached", "0.5 of the flops", "estimate: 33,000 tokens/s of prefill with 7.6e9 parameters"),
    ("base, each", "1 ms a step and 3 us a sequence", "estimate: a few ms at 1,024 sequences"),
    ("card", "k steps under way at once go at 1/k speed; CPU time overlaps", "time slices between processes"),
    ("serving", "1,024 and 512 sequences, PRM 256, 8,192 tokens a step, 0.6 and 0.3 of the memory", "chosen"),
    ("not modelled", "attention's flops, stop-string overrun, tokenisation, messages between processes", ""),
]  # fmt: skip


def main() -> None:
    for name, what, source in LINES:
        print(f"{name:14} {what:96} {source}")


if __name__ == "__main__":
    main()
