"""Text in, text out."""

from __future__ import annotations

import pytest

from treesearch.errors import ConfigError
from treesearch.tasks import TASKS
from treesearch.types import Problem

TASK = TASKS["plain"]


def test_the_whole_text_is_the_answer_unless_a_label_says_otherwise() -> None:
    assert TASK.read("", ["a\n", " b "]) == "a\n b"
    assert TASK.read("", ["so\n", "Answer: Paris\n"]) == "Paris"
    assert TASK.read("", [" \n"]) is None


def test_white_space_does_not_matter_and_case_does() -> None:
    assert TASK.check(Problem("p", "", "New  York\n"), "New York") is True
    assert TASK.check(Problem("p", "", "Paris"), "paris") is False
    assert TASK.check(Problem("p", ""), "x") is None


def test_there_is_no_packaged_set() -> None:
    with pytest.raises(ConfigError, match="path of a file"):
        TASK.problems("plain")
