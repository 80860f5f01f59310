"""How long prompts, steps and chains are: drawn by key, so that a chain is the same whoever asks for it, and when.

STEP and PROMPT are measured on MATH-500 (`python -m benchmarks.virtual.lengths FILE` measures again): lines of the
written solutions and the problems, in pieces that a byte-pair tokenizer makes of them at least (words, digits, up to two
signs). Solutions written by people are shorter than those of models, so how many steps a chain has is stated, not
measured: at least LEAST, then each ends it with probability ENDS. With these a chain has about 400 tokens.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import mean

STEP = [
    2, 4, 6, 6, 6, 6, 6, 6, 6, 6, 7, 7, 8, 9, 10, 10, 11, 12, 12, 13, 13, 13, 14, 15, 15, 16, 17, 17, 18, 19,
    20, 21, 21, 22, 23, 23, 23, 24, 25, 25, 26, 27, 28, 29, 29, 30, 31, 32, 33, 33, 35, 36, 37, 38, 39, 39, 41,
    41, 42, 44, 45, 46, 47, 48, 50, 51, 53, 54, 55, 56, 58, 60, 61, 63, 65, 66, 68, 70, 73, 75, 77, 80, 83, 85,
    88, 92, 95, 98, 102, 106, 111, 116, 124, 131, 139, 149, 162, 185, 211, 275,
]  # fmt: skip
PROMPT = [
    11, 15, 17, 19, 20, 22, 23, 24, 25, 27, 28, 29, 30, 32, 33, 34, 35, 37, 38, 39, 40, 41, 43, 45, 47, 48, 49,
    51, 53, 56, 58, 60, 62, 64, 67, 69, 71, 74, 78, 81, 88, 93, 99, 107, 124, 150, 184, 213, 263, 490,
]  # fmt: skip
TEMPLATE = 80  # tokens of a system prompt and a chat template; stated
LEAST, ENDS, MOST = 4, 0.2, 24  # steps: mean 8

PIECE = re.compile(r" ?[A-Za-z]+|\d| ?[^\sA-Za-z0-9]{1,2}|\n+")
DRAWING = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)


def step_tokens(rng: random.Random) -> int:
    return STEP[rng.randrange(len(STEP))]


def prompt_tokens(rng: random.Random) -> int:
    return TEMPLATE + PROMPT[rng.randrange(len(PROMPT))]


def is_last(rng: random.Random, steps: int) -> bool:
    """Whether a chain that has so many steps ends with the last of them."""
    return steps >= MOST or (steps >= LEAST and rng.random() < ENDS)


def mean_chain(draws: int = 20_000) -> float:
    """Mean tokens of a chain."""
    rng, tokens = random.Random(0), 0
    for _ in range(draws):
        steps = 0
        while not steps or not is_last(rng, steps):
            steps, tokens = steps + 1, tokens + step_tokens(rng)
    return tokens / draws


def percentiles(values: Iterable[int], bins: int) -> list[int]:
    """Means of equally many values each, in order: the whole has the mean of the values."""
    ordered = sorted(values)
    edges = [round(k * len(ordered) / bins) for k in range(bins + 1)]
    return [round(mean(ordered[a:b])) for a, b in pairwise(edges)]


def measure(path: Path) -> tuple[list[int], list[int]]:
    """(STEP, PROMPT) of a file of problems with solutions."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line for row in rows for line in DRAWING.sub("", row["solution"]).split("\n") if line.strip()]
    steps = [len(PIECE.findall(line)) + 1 for line in lines]  # and the line end
    return percentiles(steps, 100), percentiles([len(PIECE.findall(row["problem"])) for row in rows], 50)


if __name__ == "__main__":
    print("STEP = {}\nPROMPT = {}".format(*measure(Path(sys.argv[1]))))
    print(f"tokens of a chain: {mean_chain():.0f}, of a step: {mean(STEP):.1f}")
