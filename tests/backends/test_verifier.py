"""The verifier: values come back, and nothing that the function does to its process reaches ours."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.backends.models import job
from treesearch.backends import OUTCOMES, SCORERS
from treesearch.backends.base import Scored
from treesearch.backends.verifier import Verifier, VerifierScorer
from treesearch.config import load
from treesearch.errors import ConfigError, RequestError, RunError
from treesearch.run import answer_all
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt
from treesearch.types import Chain, Job, Problem, Step

HOME = "tests.backends.functions"


def build(function: str = "judge", kind: Any = Verifier, **settings: Any) -> Any:
    return kind(f"{HOME}:{function}", **settings).build(load_task("plain"), Prompt())


@pytest.fixture(scope="module")
def verifier() -> Iterator[VerifierScorer]:
    found = build(seconds=1.0)
    yield found
    asyncio.run(found.close())


def chain(*texts: str) -> Chain:
    return tuple(Step(f"{text}\n") for text in texts)


def score(scorer: Any, *chains: Chain, asked: Job | None = None) -> Scored | Exception:
    (reply,) = asyncio.run(scorer.score([(asked or job(), chains)]))
    return reply


def test_each_new_step_is_judged_by_the_path_up_to_it(verifier: VerifierScorer) -> None:
    asked = job(path=chain("good", "bad"))
    assert score(verifier, chain("good"), chain("bad", "good"), asked=asked) == Scored(((2 / 3,), (1 / 3, 1 / 2)), 0)


def test_an_outcome_is_one_call_for_the_whole_chain() -> None:
    scorer = build(kind=OUTCOMES["verifier"])
    assert score(scorer, chain("raise", "good")) == Scored(((1 / 2,),), 0)
    asyncio.run(scorer.close())


@pytest.mark.parametrize(
    "does, reason",
    [
        ("raise", "KeyError: 'no such thing"),
        ("none", "None of type NoneType"),
        ("text", "'0.9' of type str"),
        ("list", r"\.\.\. of type list"),
        ("nan", "nan, must be a finite number"),
        ("infinite", "inf, must be a finite number"),
        ("memory", "MemoryError"),
        ("hang", r"no reply within 1.0 s"),
        ("spin", r"no reply within 1.0 s"),
        ("exit", "the process ended"),
        ("crash", "the process ended"),
    ],
)
def test_what_goes_wrong_is_an_error_of_its_job_and_the_next_call_is_answered(
    verifier: VerifierScorer, does: str, reason: str
) -> None:
    reply = score(verifier, chain("good", does))
    assert isinstance(reply, RequestError) and len(str(reply)) < 700
    with pytest.raises(RequestError, match=f"{HOME}:judge .* after '{does}.n': .*{reason}"):
        raise reply
    assert score(verifier, chain("good")) == Scored(((1.0,),), 0)


def test_a_failure_leaves_the_items_beside_it_alone(verifier: VerifierScorer) -> None:
    async def both() -> list[Scored | Exception]:
        return await verifier.score([(job(), (chain("none"),)), (job(), (chain("good", "bad"),))])

    bad, good = asyncio.run(both())
    assert isinstance(bad, RequestError) and good == Scored(((1.0, 0.5),), 0)


def test_what_is_printed_is_dropped_and_a_file_has_a_limit(
    verifier: VerifierScorer, capfd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert score(verifier, chain("flood")) == Scored(((0.0,),), 0)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("FLOODED", str(tmp_path / "flood"))
    scorer = build(output=1 << 20)
    assert "File too large" in str(score(scorer, chain("file")))
    assert (tmp_path / "flood").stat().st_size <= 1 << 20
    asyncio.run(scorer.close())


def test_what_the_function_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHILD", str(tmp_path / "pid"))
    scorer = build(seconds=1.0)
    assert isinstance(score(scorer, chain("child")), RequestError)
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while _runs(child):
        assert time.monotonic() < deadline, "the child of a killed process still runs"
        time.sleep(0.01)
    asyncio.run(scorer.close())


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_killed_while_it_waits_is_replaced() -> None:
    scorer = build()
    first = score(scorer, chain("pid"))
    assert isinstance(first, Scored)
    pid = int(first.scores[0][0])
    os.kill(pid, signal.SIGKILL)
    for worker in scorer._workers.all:
        worker._program.wait()
    again = score(scorer, chain("good", "pid"))
    assert isinstance(again, Scored) and int(again.scores[0][1]) != pid
    asyncio.run(scorer.close())


def test_equal_states_are_asked_once_and_forgotten_with_the_run(verifier: VerifierScorer) -> None:
    asked = []
    exchange = verifier._workers.exchange
    verifier._workers.exchange = lambda request, name: asked.append(request) or exchange(request, name)  # type: ignore[method-assign]
    try:
        fresh = chain("good", "good", "once")
        assert score(verifier, fresh, fresh, chain("good")) == score(verifier, fresh, fresh, chain("good"))
        assert len(asked) <= 3
        asyncio.run(verifier.forget())
        score(verifier, chain("good"))
        assert len(asked) <= 4 and asked[-1]["steps"] == ("good\n",)
    finally:
        verifier._workers.exchange = exchange  # type: ignore[method-assign]


def test_processes_run_side_by_side() -> None:
    scorer = build(processes=2, seconds=1000.0)

    async def beside() -> tuple[bool, Scored | Exception]:
        hangs = asyncio.ensure_future(scorer.score([(job(), (chain("hang"),))]))
        (answered,) = await scorer.score([(job(), (chain("good"),))])
        waited = hangs.done()
        await scorer.close()
        await hangs
        return waited, answered

    assert asyncio.run(beside()) == (False, Scored(((1.0,),), 0))


def test_the_reference_is_nowhere_in_the_process() -> None:
    scorer = build("spy")
    asked = replace(job(), problem=Problem("p", "what?", "S3CRET"))
    assert score(scorer, chain("a"), asked=asked) == Scored(((0.0,),), 0)
    seen = replace(job(), problem=Problem("p", "what is S3CRET?", None))
    assert score(scorer, chain("a"), asked=seen) == Scored(((1.0,),), 0), "the spy sees what there is to see"
    asyncio.run(scorer.close())


@pytest.mark.parametrize(
    "function, reason",
    [
        ("no.such.module:f", "ModuleNotFoundError: No module named 'no'"),
        (f"{HOME}:nothing", "has no attribute 'nothing'"),
        (f"{HOME}:NOT_A_FUNCTION", "is a int, no function"),
        ("tests.backends", "must be module:function"),
    ],
)
def test_a_function_that_cannot_be_imported_is_an_error_of_the_config(function: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        SCORERS["verifier"](function).build(load_task("plain"), Prompt())


@pytest.mark.parametrize("settings", [{"processes": 0}, {"seconds": 0.0}, {"memory": 0}, {"output": -1}])
def test_limits_must_be_positive(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        Verifier(f"{HOME}:judge", **settings)


def test_a_search_is_led_by_a_function() -> None:
    """Random legal moves and a function that knows which of them are still good solve every puzzle."""
    verifier = f"scorer={{type: verifier, function: '{HOME}:solvable'}}"
    config = load(None, ["proposer=legal", verifier, "search={type: beam, beams: 4, branch: 16}", "limit=5"])
    answers = asyncio.run(answer_all(config, load_task("game24").problems("game24")[:5]))
    assert [load_task("game24").check(answer.problem, answer.answer or "") for answer in answers] == [True] * 5
    assert {score for answer in answers for c in answer.candidates for score in c.scores} <= {0.0, 1.0}
    assert {answer.tokens_scored for answer in answers} == {0}


def test_what_waits_for_a_process_when_it_is_closed_gets_an_error_too() -> None:
    """It was cancelled, which no reply is."""
    scorer = build(seconds=1000.0)

    async def closed_meanwhile() -> list[Scored | Exception]:
        asked = asyncio.ensure_future(scorer.score([(job(), (chain("hang", str(k)),)) for k in range(4)]))
        await asyncio.sleep(0.1)
        await scorer.close()
        return await asked

    replies = asyncio.run(closed_meanwhile())
    assert len(replies) == 4 and all(isinstance(reply, RequestError | RunError) for reply in replies)


def test_closing_ends_what_is_running() -> None:
    scorer = build(seconds=1000.0)

    async def closed_meanwhile() -> Scored | Exception:
        task = asyncio.ensure_future(scorer.score([(job(), (chain("hang"),))]))
        await asyncio.sleep(0.1)
        await scorer.close()
        (reply,) = await task
        return reply

    assert isinstance(asyncio.run(closed_meanwhile()), RequestError | RunError)
