"""The recorded backend: what a bad line and a missing reply say."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.backends.models import job
from treesearch.backends.base import Limits
from treesearch.backends.recorded import Recorded, read
from treesearch.errors import ProblemError, RequestError
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt


def line(**changed: Any) -> str:
    return json.dumps({"problem": "p", "path": [], "children": [{"text": "a"}], **changed})


@pytest.mark.parametrize(
    "bad",
    [
        line(children=[{"text": "a", "score": 10**400}]),
        "[" * 100_000,
        line(problem={"id": 1}),
        line(problem=None),
        line(children={}),
        line(children={"text": "a"}),
    ],
    ids=["score that overflows", "deep nesting", "problem object", "problem null", "children empty object", "children"],
)
def test_a_line_that_no_reader_can_take_is_named_and_not_raised_raw(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(line(problem="another") + "\n" + bad + "\n")
    with pytest.raises(ProblemError, match=r"steps\.jsonl:2: "):
        read(str(path))


def test_a_number_is_a_problem_id(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(line(problem=7))
    assert list(read(str(path))) == [("7", ())]


@pytest.mark.parametrize(("n", "asked"), [(None, "asked were all"), (2, "asked were 0 to 1")])
def test_what_is_missing_is_named_by_problem_path_and_index(tmp_path: Path, n: int | None, asked: str) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(line(children=[]))
    proposer = Recorded(str(path)).build(load_task("plain"), Prompt(), Limits())
    (reply,) = asyncio.run(proposer.propose([job(n=n)]))
    assert isinstance(reply, RequestError)
    assert all(part in str(reply) for part in ("problem p", "after []", asked))
