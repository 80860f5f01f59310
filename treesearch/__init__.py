"""Search with language models at test time. Names are loaded when they are first used: importing this costs nothing.

    import treesearch as ts
    answers = ts.solve(problems, ts.MCTS(simulations=64), proposer=ts.Transformers("..."), scorer=ts.PRM("..."))

`solve` is a plain call; `Engine` is its asynchronous form. Searches and backends are called as in a config.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treesearch.types import Answer, Problem

__version__ = "0.1.0"

_HOMES = {
    "Engine": "engine",
    "Settings": "engine",
    "Checker": "checker",
    "Store": "store",
    "Config": "config",
    "AnswerRule": "answers",
    "Budget": "manager",
    "Fields": "problems",
    "Limits": "backends.base",
    "Prompt": "tasks.base",
    "load_task": "tasks",
    **dict.fromkeys(("Problem", "Sampling", "Step", "Expand", "Expansion", "Answer", "Candidate"), "types"),
    **dict.fromkeys(("ConfigError", "ProblemError", "RunError", "TreesearchError"), "errors"),
}
_ROOMS = ("algorithms", "backends")  # whose public names are all ours


def solve(
    problems: str | Iterable[Problem | str],
    search: Any = None,
    proposer: Any = None,
    scorer: Any = None,
    *,
    task: Any = None,
    seed: int = 0,
    **sections: Any,
) -> list[Answer]:
    """Search problems and return their answers in the order given.

    `problems` is a problem set as in a config, or questions (text or `Problem`). What is None is as in the default
    config; `sections` are further ones by name: fields, outcome, prompt, sampling, limits, answer, budget. `task` is a
    name or a task object; None: the one that fits a set that has a name, else game24. Raises ConfigError for what
    cannot be, RunError if the run cannot go on.
    """
    import asyncio

    from treesearch import run
    from treesearch.config import Config, EngineConfig
    from treesearch.errors import ConfigError
    from treesearch.problems import read
    from treesearch.tasks import load_task
    from treesearch.tasks.sets import TASK_OF

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise ConfigError("ts.solve was called inside a running event loop; there, use ts.Engine and `async for`")
    if task is None:
        task = TASK_OF.get(problems, Config.task) if isinstance(problems, str) else Config.task
    found = load_task(task) if isinstance(task, str) else task
    if isinstance(problems, str):
        asked = read(problems, found, fields=sections.get("fields"))
    else:
        asked = [_problem(k, p) for k, p in enumerate(problems, 1)]
    given = {"search": search, "proposer": proposer, "scorer": scorer}
    sections |= {name: value for name, value in given.items() if value is not None}
    config = Config(task=found.name, engine=EngineConfig(seed=seed), **sections)
    return asyncio.run(run.answer_all(config, asked, found))


def _problem(number: int, given: Problem | str) -> Problem:
    from treesearch.types import Problem

    return Problem(f"line-{number}", given) if isinstance(given, str) else given


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"treesearch.{_HOMES[name]}"), name)
    if name == "PRM":
        return importlib.import_module("treesearch.backends").SCORERS["transformers"]
    if name[:1].isupper():
        for room in _ROOMS:
            module = importlib.import_module(f"treesearch.{room}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'treesearch' has no attribute {name!r}")


def __dir__() -> list[str]:
    rooms = [importlib.import_module(f"treesearch.{room}") for room in _ROOMS]
    return sorted({*globals(), *_HOMES, "PRM", *(name for room in rooms for name in room.__all__)})
