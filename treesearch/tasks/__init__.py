"""The tasks that come with the package, and how to name others. Knows no search and no model; imports nothing heavy."""

from __future__ import annotations

import importlib
import sys
from difflib import get_close_matches

from treesearch.errors import ConfigError
from treesearch.tasks.aime import AIME
from treesearch.tasks.base import Prompt, Task
from treesearch.tasks.countdown import Countdown
from treesearch.tasks.game24 import Game24
from treesearch.tasks.gsm8k import GSM8K
from treesearch.tasks.math import Math
from treesearch.tasks.plain import Plain

__all__ = ["AIME", "GSM8K", "TASKS", "Countdown", "Game24", "Math", "Plain", "Prompt", "Task", "load_task", "name_of"]

TASKS: dict[str, Task] = {
    "game24": Game24(),
    "countdown": Countdown(),
    "gsm8k": GSM8K(),
    "math": Math(),
    "aime": AIME(),
    "plain": Plain(),
}
_MEMBERS = ("name", "separator", "prompt", "read", "canonical", "check", "problems")


def load_task(name: str) -> Task:
    """The task of this name: built in, or `package.module:object` (a task, or a class that makes one).

    Raises ConfigError that says why there is none, and the nearest name that there is.
    """
    if name in TASKS:
        return TASKS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        near = get_close_matches(name, TASKS, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"task {name!r} is unknown; did you mean {near!r}? (built in: {', '.join(TASKS)}; or package.module:object)"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
        task: Task = found() if isinstance(found, type) else found
    except (
        ImportError,
        AttributeError,
        ValueError,
        TypeError,
    ) as error:  # TypeError: a relative name, a class with arguments
        raise ConfigError(f"task {name!r} cannot be imported: {error}; give package.module:object") from error
    missing = [member for member in _MEMBERS if not hasattr(task, member)]
    if missing:
        raise ConfigError(f"task {name!r} has no {', '.join(missing)}: see treesearch.tasks.base.Task")
    return task


def name_of(task: Task) -> str:
    """A name from which `load_task` makes this task in another process. Raises ConfigError if there is none."""
    if TASKS.get(task.name) is task:
        return task.name
    kind = type(task)
    for attribute, found in vars(sys.modules[kind.__module__]).items():
        same = found is task or (found is kind and kind() == task)  # a class makes a task with its defaults
        if same and kind.__module__ != "__main__":
            return f"{kind.__module__}:{attribute}"
    raise ConfigError(f"task {task.name!r} is hostile, so it must be importable: make it a module's object")
