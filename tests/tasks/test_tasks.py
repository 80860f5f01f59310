"""Tasks by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from treesearch.errors import ConfigError
from treesearch.tasks import TASKS, Plain, load_task, name_of


def test_built_in_tasks_and_others_are_found_by_name() -> None:
    assert all(load_task(name) is task and task.name == name for name, task in TASKS.items())
    assert load_task("treesearch.tasks.plain:Plain") == Plain()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gsm8", "did you mean 'gsm8k'"),
        ("", "unknown"),
        ("no.such.module:x", "No module named"),
        ("treesearch.tasks:nothing", "no attribute"),
        ("treesearch.types:GREEDY", "has no name, separator"),
        (":x", "cannot be imported"),
    ],
)
def test_an_unknown_task_is_refused_with_a_remedy(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_task(name)


def test_every_task_has_a_name_for_another_process() -> None:
    for task in TASKS.values():
        assert load_task(name_of(task)) == task
    assert load_task(name_of(Plain())) == Plain()


def test_importing_the_tasks_imports_nothing_heavy() -> None:
    code = "import sys, treesearch.tasks, treesearch.tasks.prompts; print(*sys.modules)"
    imported = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"sympy", "math_verify", "torch", "asyncio"} & set(imported)
