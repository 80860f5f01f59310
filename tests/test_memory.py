"""What must not grow with the number of problems: caches, and answers that nobody has taken yet."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest

from tests.fakes import FakeProposer, FakeScorer, InlineChecker, problems
from treesearch.algorithms import SEARCHES
from treesearch.backends import causal, reading
from treesearch.backends.base import Limits
from treesearch.backends.causal import CausalProposer
from treesearch.backends.reading import Reader
from treesearch.engine import MOST_BEHIND, Engine, Settings
from treesearch.errors import ProblemError
from treesearch.store import Store
from treesearch.tasks import TASKS
from treesearch.tasks.base import Prompt
from treesearch.tree import Tree
from treesearch.types import Problem


def test_a_finished_tree_goes_without_the_collector() -> None:
    """Managers let it run seldom."""
    engine = Engine(SEARCHES["mcts"](simulations=6), TASKS["plain"], [FakeProposer()], [FakeScorer()],
                    checker=InlineChecker(), settings=Settings(trees=2))  # type: ignore[arg-type]  # fmt: skip

    async def most() -> int:
        gc.collect()
        gc.disable()
        before, found = trees(), 0
        async for _ in engine.answers(problems(8)):
            found = max(found, trees() - before)
        return found

    def trees() -> int:
        return sum(type(thing) is Tree for thing in gc.get_objects())

    try:
        assert 1 <= asyncio.run(most()) <= 2
    finally:
        gc.enable()


class Letters:
    """A tokenizer with a token a letter."""

    chat_template = bos_token_id = None

    def __len__(self) -> int:
        return 128

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, ids: list[int], **_: bool) -> str:
        return "".join(map(chr, ids))


def test_the_ids_of_questions_and_texts_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    proposer = CausalProposer(Letters(), TASKS["plain"], Prompt(), Limits(), context=100, size=128, ends=[0],
                              chat_template_kwargs={})  # fmt: skip
    reader = Reader(Letters(), 100)
    monkeypatch.setattr(causal, "MOST_PROMPTS", 50)
    monkeypatch.setattr(reading, "MOST_TEXT", 1000)
    for k in range(500):
        assert proposer.prompt_ids(f"question {k}") == [ord(c) for c in f"question {k}\n"]
        assert reader.after("", f"text {k}") == [ord(c) for c in f"text {k}"]
        assert len(proposer._prompts) <= 50 and sum(len(text) for _, text in reader._cache) <= 1010
    assert len(proposer._prompts) > 1 and len(reader._cache) > 1


def engine(**more: Any) -> Engine:
    return Engine(
        SEARCHES["sample"](n=1), TASKS["plain"], [FakeProposer()], [FakeScorer()], checker=InlineChecker(), **more
    )  # type: ignore[arg-type]


def test_a_slow_reader_of_the_answers_holds_the_engine_back() -> None:
    async def main() -> tuple[int, int]:
        running, most, seen = engine(), 0, 0
        async for _ in running.answers(problems(3 * MOST_BEHIND)):
            seen += 1
            if seen in (1, MOST_BEHIND):
                for _ in range(10_000):
                    await asyncio.sleep(0)
            most = max(most, running._out.qsize() + len(running._unpublished))
        return seen, most

    seen, most = asyncio.run(main())
    assert seen == 3 * MOST_BEHIND
    assert MOST_BEHIND / 2 < most <= MOST_BEHIND + 16


def test_an_answer_waits_for_its_own_rows_not_for_a_moment_without_any(tmp_path: Any) -> None:
    """A busy engine always has rows that wait."""
    behind: list[int] = []

    class Slow(Store):
        def append(self, rows: Any) -> None:
            time.sleep(0.002)
            super().append(rows)

    async def main() -> None:
        store = Slow.open(tmp_path / "run.db", "a")
        running = engine(store=store)
        async for _ in running.answers(problems(400)):
            behind.append(len(running._unpublished))
        store.close()

    asyncio.run(main())
    assert len(behind) == 400 and behind[0] < 200, "the first answer came long before the last search began"


def test_an_engine_leaves_nothing_of_a_problem_behind() -> None:
    async def main() -> Engine:
        running = engine()
        async for _ in running.answers(problems(300)):
            pass
        return running

    done = asyncio.run(main())
    left = {name: value for name, value in vars(done).items() if isinstance(value, dict | set | list) and len(value)}
    assert not left and not done.manager.live
    for pool in done.pools():
        assert not pool._turns and not pool._running and not pool.dispatch._home and not pool.dispatch._age
        assert all(len(queue._heap) < 300 and not queue._jobs for queue in pool.dispatch._queues.values())


def test_what_is_wrong_with_a_later_problem_ends_the_answers_from_a_callback_too() -> None:
    class Gate:
        """Two problems, then none at the moment, then something that is none."""

        def __init__(self) -> None:
            self.first, self.open = problems(2), False

        def __iter__(self) -> Gate:
            return self

        def __next__(self) -> Problem | None:
            if self.open:
                raise ProblemError("a.jsonl:3: not JSON")
            return self.first.pop() if self.first else None

    async def main() -> int:
        running, gate, seen = engine(), Gate(), 0

        def more() -> None:
            gate.open = True
            running.more()

        with pytest.raises(ProblemError, match=":3"):
            async for _ in running.answers(gate):
                seen += 1
                if seen == 2:
                    asyncio.get_running_loop().call_soon(more)
        return seen

    assert asyncio.run(main()) == 2
