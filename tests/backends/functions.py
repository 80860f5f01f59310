"""Functions for the verifier that do everything wrong, each when a step says so. They live in a process of their own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from typing import Any

from treesearch.tasks.arithmetic import reachable
from treesearch.tasks.game24 import Game24
from treesearch.types import Problem

WRONG: dict[str, Any] = {
    "none": None,
    "text": "0.9",
    "nan": float("nan"),
    "infinite": float("inf"),
    "list": [0.5] * 1000,
}


def judge(question: str, steps: list[str]) -> Any:
    """The share of steps that say "good", unless the last one says otherwise."""
    assert isinstance(question, str) and isinstance(steps, list)
    last = steps[-1].strip()
    if last in WRONG:
        return WRONG[last]
    if last == "pid":
        return os.getpid()
    act = globals().get(f"_{last}")
    if act is not None:
        act()
    return sum(step.strip() == "good" for step in steps) / len(steps)


def _raise() -> None:
    raise KeyError("no such thing" * 1000)


def _hang() -> None:
    time.sleep(1000)


def _spin() -> None:
    9 ** (9**9)  # C code that no signal stops


def _memory() -> None:
    bytearray(1 << 34)


def _exit() -> None:
    sys.exit(0)


def _crash() -> None:
    ctypes.string_at(0)


def _flood() -> None:
    for _ in range(1000):
        print("x" * 100_000)
        print("x" * 100_000, file=sys.stderr)


def _file() -> None:
    with open(os.environ["FLOODED"], "w") as file:
        file.write("x" * (1 << 21))


def _child() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    with open(os.environ["CHILD"], "w") as file:
        file.write(str(child.pid))
    _hang()


def spy(question: str, steps: list[str]) -> float:
    """1.0 if anything on the stack of this process holds S3CRET."""
    frame, seen = sys._getframe(1), [question, *steps, *sys.argv]
    while frame is not None:
        seen.append(repr(frame.f_locals))
        frame = frame.f_back  # type: ignore[assignment]
    return float(any("S3CRET" in text for text in seen))


def solvable(question: str, steps: list[str]) -> bool:
    """Whether the numbers left by a Game of 24 can still make 24; of an answer, whether it does."""
    task, (given, _) = Game24(), Game24().puzzle(question)
    if "left:" not in steps[-1]:
        answer = task.read(question, steps)
        return answer is not None and task.check(Problem("", question), answer)
    left = sorted(int(number) for number in steps[-1].rpartition("left:")[2].strip(" )\n").split())
    return len(left) == len(given) - len(steps) and reachable(tuple(left), 24)


NOT_A_FUNCTION = 3
