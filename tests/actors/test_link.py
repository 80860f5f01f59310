"""A line between a manager and a replica, both in this process: batches, aborts, silence, epochs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from actors.link import Link, cause, node_died
from actors.proposer import Proposer
from actors.replica import with_share
from actors.scorer import Scorer
from tests.backends.models import job
from treesearch.backends import VLLM, Generative, Judge, Member, Mixture
from treesearch.backends.base import Scored
from treesearch.backends.simulated import Simulated
from treesearch.errors import RemoteError, RequestError
from treesearch.pool import ReplicaLost
from treesearch.types import Chain, Job, Step
from treesearch.wire import seal, unseal


class Backend:
    """Answers when it is told to."""

    max_jobs = 8

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Future[Any]] = {}
        self.aborted: list[str] = []
        self.rested: list[bool] = []
        self.usage = {"prompt_tokens": 0, "cached_tokens": 0}

    async def propose(self, jobs: Sequence[Job]) -> list[Any]:
        (one,) = jobs
        self.gates[one.id] = asyncio.get_running_loop().create_future()
        self.usage["prompt_tokens"] += 1
        return [await self.gates[one.id]]

    def abort(self, job_ids: Sequence[str]) -> None:
        self.aborted += job_ids

    def rest(self, rests: bool) -> None:
        self.rested.append(rests)

    def answer(self, job_id: str, value: Any = None) -> None:
        self.gates.pop(job_id).set_result(value if value is not None else ((Step(job_id, (1,), 1),),))


class Line:
    """A link and its replica; `frames` are the requests that went over it."""

    def __init__(self, silence: float = 1.0, gap: float = 0.0, epoch: int = 1) -> None:
        self.replica = Proposer({}, "proposer", 0, epoch, None)
        self.replica.backend = self.backend = Backend()
        self.frames: list[Any] = []
        self.lost: list[Exception] = []
        self.mute = False
        self.link = Link(self.exchange, client="m", role="proposer", epoch=1, silence=silence, gap=lambda: gap,
                         lost=self.lost.append)  # fmt: skip

    async def exchange(self, frame: bytes) -> bytes:
        self.frames.append(unseal(frame))
        if self.mute:
            await asyncio.Event().wait()
        return await self.replica.exchange(frame)

    async def until(self, ready: Callable[[], bool]) -> None:
        for _ in range(2000):
            if ready():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it never came")


def a(number: int) -> Job:
    return Job(**{**{f: getattr(job(), f) for f in Job.__slots__}, "id": f"t/{number}"})


def running(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


def test_a_replica_rests_while_every_manager_that_waits_for_it_wants_so() -> None:
    async def main() -> None:
        line = Line()
        other = Link(line.exchange, client="n", role="proposer", epoch=1, silence=1.0, gap=lambda: 0.0, lost=print)
        mine, theirs = (asyncio.create_task(link.call([a(k)])) for k, link in enumerate((line.link, other)))
        await line.until(lambda: len(line.backend.gates) == 2)
        line.link.rest(True)
        await line.until(lambda: line.frames[-1][0] == "m" and line.frames[-1][6])
        assert line.backend.rested == []
        other.rest(True)
        await line.until(lambda: line.backend.rested == [True])
        line.link.rest(False)
        await line.until(lambda: line.backend.rested == [True, False])
        line.backend.answer("t/0")
        await mine
        await line.until(lambda: not line.replica.mail["m"].running and line.backend.rested[-1])  # it waits for nothing
        line.backend.answer("t/1")
        await theirs
        more = asyncio.create_task(line.link.call([a(2)]))
        await line.until(lambda: line.backend.rested == [True, False, True, False])
        more.cancel()
        other.close()

    running(main)


def test_a_manager_that_is_gone_lets_nobody_rest() -> None:
    async def main() -> None:
        replica = Proposer({}, "proposer", 0, 1, None)
        replica.backend = backend = Backend()
        rows = [Line().link.codec.item(a(k))[1] for k in range(2)]
        await replica.exchange(seal(["dead", [(1, rows[0], None)], [], [], 0, 0.01, True]))
        assert backend.rested == [True]
        await asyncio.sleep(0.1)
        await replica.exchange(seal(["alive", [(1, rows[1], None)], [], [], 0, 0.01, False]))
        assert backend.rested == [True, False]

    running(main)


def test_what_waits_goes_in_one_call_and_each_reply_comes_when_it_is_ready() -> None:
    async def main() -> None:
        line = Line()
        calls = [asyncio.create_task(line.link.call([a(k)])) for k in range(10)]
        await line.until(lambda: len(line.backend.gates) == 10)
        assert [len(frame[1]) for frame in line.frames] == [10]
        line.backend.answer("t/7")
        ((chains,),) = await asyncio.gather(calls[7])
        assert chains == ((Step("t/7", (1,), 1),),) and not calls[6].done()
        for k in range(10):
            if k != 7:
                line.backend.answer(f"t/{k}")
        await asyncio.gather(*calls)
        assert line.link.calls <= 4 and line.link.usage["prompt_tokens"] == 10

    running(main)


def test_what_a_dead_manager_never_fetched_is_not_kept() -> None:
    async def main() -> None:
        line = Line(silence=0.06)
        dead = Link(line.exchange, client="dead", role="proposer", epoch=1, silence=0.06, gap=lambda: 0.0,
                    lost=lambda error: None)  # fmt: skip
        call = asyncio.create_task(dead.call([a(0)]))
        await line.until(lambda: "t/0" in line.backend.gates)
        dead.close()
        line.backend.answer("t/0")
        await line.until(lambda: len(line.replica.mail["dead"].ready) == 1)
        await asyncio.sleep(0.1)
        other = asyncio.create_task(line.link.call([a(1)]))
        await line.until(lambda: "t/1" in line.backend.gates)
        assert list(line.replica.mail) == ["m"]
        call.cancel()
        other.cancel()

    running(main)


def test_new_items_do_not_wait_for_the_replies_of_older_ones() -> None:
    async def main() -> None:
        line = Line()
        first = asyncio.create_task(line.link.call([a(0)]))
        await line.until(lambda: "t/0" in line.backend.gates)
        second = asyncio.create_task(line.link.call([a(1)]))
        await line.until(lambda: "t/1" in line.backend.gates)
        line.backend.answer("t/1")
        await second
        line.backend.answer("t/0")
        await first

    running(main)


def test_a_gap_gathers_what_comes_meanwhile() -> None:
    async def main() -> None:
        line = Line(gap=0.05)
        calls, loop = [], asyncio.get_running_loop()
        began = loop.time()
        for k in range(20):
            calls.append(asyncio.create_task(line.link.call([a(k)])))
            await asyncio.sleep(0.005)
        await line.until(lambda: len(line.backend.gates) == 20)
        assert len(line.frames) <= 2 + (loop.time() - began) / 0.05  # which a busy machine stretches
        for k in range(20):
            line.backend.answer(f"t/{k}")
        await asyncio.gather(*calls)

    running(main)


def test_errors_come_back_by_kind() -> None:
    async def main() -> None:
        line = Line()
        calls = [asyncio.create_task(line.link.call([a(k)])) for k in range(3)]
        await line.until(lambda: len(line.backend.gates) == 3)
        line.backend.answer("t/0", RequestError("too long"))
        line.backend.answer("t/1", ZeroDivisionError("oh"))
        line.backend.answer("t/2", ((Step("x", (1,), 1), "no step"),))
        (refused,), (failed,), (broken,) = await asyncio.gather(*calls)
        assert isinstance(refused, RequestError)
        assert isinstance(failed, RemoteError) and failed.kind == "ZeroDivisionError"
        assert isinstance(broken, Exception)

    running(main)


def test_a_silent_replica_is_lost_with_all_items_and_not_heard_again() -> None:
    async def main() -> None:
        line = Line(silence=0.1)
        line.mute = True
        (reply,) = await line.link.call([a(0)])
        assert isinstance(reply, ReplicaLost) and reply.death == "silent" and "no word" in str(reply)
        assert [str(e) for e in line.lost] == [str(reply)]
        (late,) = await line.link.call([a(1)])
        assert isinstance(late, ReplicaLost) and not late.begun
        assert len(line.frames) == 1

    running(main)


def test_a_replica_that_works_long_is_not_silent() -> None:
    async def main() -> None:
        line = Line(silence=0.1)
        call = asyncio.create_task(line.link.call([a(0)]))
        await asyncio.sleep(0.5)
        assert not line.lost
        line.backend.answer("t/0")
        await call

    running(main)


def test_another_life_of_the_replica_is_refused() -> None:
    async def main() -> None:
        line = Line(epoch=2)
        call = asyncio.create_task(line.link.call([a(0)]))
        await line.until(lambda: "t/0" in line.backend.gates)
        line.backend.answer("t/0")
        (reply,) = await call
        assert isinstance(reply, ReplicaLost) and "epoch 2" in str(reply)

    running(main)


def test_aborts_reach_the_backend_and_so_do_timeouts() -> None:
    async def main() -> None:
        line = Line()
        wanted, dropped = (asyncio.create_task(line.link.call([a(k)])) for k in range(2))
        await line.until(lambda: len(line.backend.gates) == 2)
        line.link.abort(["t/0", "t/99"])
        await line.until(lambda: line.backend.aborted == ["t/0"])
        dropped.cancel()
        await line.until(lambda: line.backend.aborted == ["t/0", "t/1"])
        await line.until(lambda: line.backend.gates["t/1"].cancelled())
        line.backend.answer("t/0")
        await wanted
        assert not line.link._replies and not line.link._numbers

    running(main)


def test_a_manager_that_is_gone_is_forgotten_and_its_jobs_aborted() -> None:
    async def main() -> None:
        replica = Proposer({}, "proposer", 0, 1, None)
        replica.backend = backend = Backend()
        row = Line().link.codec.item(a(0))[1]
        await replica.exchange(seal(["dead", [(1, row, None)], [], [], 0, 0.01, False]))
        await asyncio.sleep(0.1)
        await replica.exchange(seal(["alive", [], [], [], 0, 0.01, False]))
        assert backend.aborted == ["t/0"] and set(replica.mail) == {"alive"}

    running(main)


def test_the_death_of_an_engine_is_told_to_all_managers_before_its_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[int] = []

    def end(code: int) -> None:
        ends.append(code)

    monkeypatch.setattr("actors.replica.FAREWELL", 0.05)
    monkeypatch.setattr("actors.replica.os._exit", end)

    async def main() -> None:
        first, second = two_managers()
        calls = [asyncio.create_task(line.link.call([a(k)])) for k, line in enumerate((first, second))]
        await first.until(lambda: len(first.backend.gates) == 2)
        first.backend.dead = True  # type: ignore[attr-defined]
        first.backend.gates.pop("t/0").set_exception(RuntimeError("CUDA error: an illegal memory access"))
        replies = [(await call)[0] for call in calls]
        assert not ends, "they know before it ends"
        assert [reply.death for reply in replies] == ["engine", "engine"]
        assert all("engine died: CUDA error: an illegal memory access" in str(reply) for reply in replies)
        await first.until(lambda: ends == [1])

    running(main)


def two_managers() -> tuple[Line, Line]:
    """Their lines to one replica; both see its one backend."""
    first, second = Line(), Line()
    second.link.exchange, second.link.client, second.backend = first.exchange, "n", first.backend
    return first, second


def test_suspects_run_one_at_a_time_whoever_sends_them_and_only_the_one_that_ran_had_begun() -> None:
    async def main() -> None:
        first, second = two_managers()
        calls = [asyncio.create_task(line.link.trial([a(k)], False)) for k, line in enumerate((first, second))]
        beside = asyncio.create_task(first.link.call([a(2)]))
        await first.until(lambda: {"t/0", "t/2"} == set(first.backend.gates))
        for line in (first, second):
            line.link.lose(ReplicaLost("died"))
        begun = [(await call)[0].begun for call in (*calls, beside)]
        assert begun == [True, False, True]

    running(main)


def test_the_next_suspect_runs_when_the_one_before_has_ended() -> None:
    async def main() -> None:
        line = Line()
        calls = [asyncio.create_task(line.link.trial([a(k)], False)) for k in range(3)]
        for k in range(3):
            await line.until(lambda k=k: [f"t/{k}"] == list(line.backend.gates))
            line.backend.answer(f"t/{k}")
        assert [chains[0][0].text for chains in [(await call)[0] for call in calls]] == ["t/0", "t/1", "t/2"]

    running(main)


def test_a_suspect_that_kills_at_once_is_known_to_have_begun() -> None:
    async def main() -> None:
        line = Line()
        died: list[bool] = []

        async def kill(jobs: Sequence[Job]) -> list[Any]:
            line.mute = True  # nothing of what this process has not sent yet will be
            line.link.lose(ReplicaLost("died"))
            died.append(True)
            await asyncio.Event().wait()
            return []

        line.backend.propose = kill  # type: ignore[method-assign]
        (lost,) = await line.link.trial([a(0)], False)
        assert died and lost.begun and lost.alone

    running(main)


def test_the_next_suspect_waits_until_the_manager_of_the_one_before_knows_its_end_though_messages_are_lost() -> None:
    async def main() -> None:
        first, second = two_managers()
        exchange, lost = first.link.exchange, set()

        async def once_lost(frame: bytes) -> bytes:
            epoch, replies, usage = unseal(await exchange(frame))
            said = {(number, well) for number, well, _ in replies} - lost
            lost.update(said)
            return seal([epoch, [] if said else replies, usage])

        first.link.exchange = once_lost
        calls = [asyncio.create_task(line.link.trial([a(k)], False)) for k, line in enumerate((first, second))]
        await first.until(lambda: "t/0" in first.backend.gates)
        assert list(first.link._trials.values()) == [True], "known to have begun before it does"
        first.backend.answer("t/0")
        await first.until(lambda: "t/1" in first.backend.gates)
        assert calls[0].done() and not first.lost and lost == {(1, None), (1, True)}
        first.backend.answer("t/1")
        await asyncio.gather(*calls)

    running(main)


def test_a_suspect_beside_another_managers_items_does_not_run_alone_unless_it_must() -> None:
    async def main() -> None:
        first, second = two_managers()
        other = asyncio.create_task(second.link.call([a(0)]))
        await first.until(lambda: set(first.backend.gates) == {"t/0"})
        beside = asyncio.create_task(first.link.trial([a(1)], False))
        await first.until(lambda: set(first.backend.gates) == {"t/0", "t/1"})
        assert list(first.link._trials.values()) == [False]
        first.backend.answer("t/1")
        await beside
        alone = asyncio.create_task(first.link.trial([a(2)], True))
        own = asyncio.create_task(first.link.call([a(3)]))
        await first.until(lambda: set(first.backend.gates) == {"t/0", "t/3"})
        late = asyncio.create_task(second.link.call([a(4)]))
        await asyncio.sleep(0.05)
        assert set(first.backend.gates) == {"t/0", "t/3"}, "it waits for what runs, and what comes waits for it"
        first.backend.answer("t/0")
        await first.until(lambda: set(first.backend.gates) == {"t/2", "t/3"})
        assert list(first.link._trials.values()) == [True]
        for job_id in ("t/2", "t/3"):
            first.backend.answer(job_id)
        await first.until(lambda: set(first.backend.gates) == {"t/4"})
        first.backend.answer("t/4")
        await asyncio.gather(other, alone, own, late)

    running(main)


def test_a_suspect_that_hangs_makes_room_for_the_next_once_nobody_waits_for_it() -> None:
    async def main() -> None:
        line = Line()
        hangs, waits, next_ = (asyncio.create_task(line.link.trial([a(k)], True)) for k in range(3))
        await line.until(lambda: set(line.backend.gates) == {"t/0"})
        waits.cancel()
        hangs.cancel()
        await line.until(lambda: "t/2" in line.backend.gates)
        line.backend.answer("t/2")
        await next_
        assert "t/1" not in line.backend.gates

    running(main)


def test_scores_travel_both_ways() -> None:
    class Judge:
        max_jobs = 4

        async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Scored]:
            return [Scored(tuple(tuple(float(len(s.text)) for s in c) for c in chains), 7) for _, chains in items]

    async def main() -> None:
        replica = Scorer({}, "scorer", 0, 1, None)
        replica.backend = Judge()
        link = Link(replica.exchange, client="m", role="scorer", epoch=1, silence=1, gap=lambda: 0, lost=print)
        (reply,) = await link.call([(a(0), ((Step("ab"), Step("c")), (Step("def"),)))])
        assert reply == Scored(((2.0, 1.0), (3.0,)), 7)

    running(main)


def test_the_cause_is_what_ray_says_after_because() -> None:
    told = "The actor died unexpectedly before finishing this task.\n\tpid: 7\nThe actor is dead because its worker process"
    told += " has died. Worker exit type: SYSTEM_ERROR. Some common causes include: (1) the process was killed"
    assert cause(RuntimeError(told)) == "its worker process has died. Worker exit type: SYSTEM_ERROR"
    assert cause(RuntimeError("a\nb")) == "a" and cause(RuntimeError()) == "RuntimeError()"


@pytest.mark.parametrize("text, gone", [
    ("The actor died because its node has died. Node Id: 12", True),
    ("Worker unexpectedly exits with a connection error code 2", False),
])  # fmt: skip
def test_a_machine_that_went_is_told_from_a_process_that_died(text: str, gone: bool) -> None:
    assert node_died(RuntimeError(text)) is gone


def test_a_machine_without_memory_is_no_fault_of_a_request() -> None:
    from ray.exceptions import OutOfMemoryError

    async def main() -> None:
        line = Line()

        async def ended(frame: bytes) -> bytes:
            raise OutOfMemoryError("1 worker(s) were killed due to the node running low on memory. Memory on the node")

        line.link.exchange = ended
        (lost,) = await line.link.call([a(0)])
        assert isinstance(lost, ReplicaLost) and lost.death == "other" and str(lost) == "its machine ran out of memory"

    running(main)


def test_a_share_of_a_card_is_a_share_of_its_memory_unless_the_user_says_so() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Spec:
        gpu_memory_utilization: float | None = None

    assert with_share(Spec(), 0.5) == Spec(0.45)
    assert with_share(Spec(0.3), 0.5) == Spec(0.3)
    assert with_share(Simulated(), 1.0) == Simulated()


def test_a_share_reaches_the_model_that_a_judge_asks_and_is_shared_out_in_a_mixture() -> None:
    assert with_share(Judge(model=VLLM("a")), 0.5) == Judge(model=VLLM("a", gpu_memory_utilization=0.45))
    judge = Generative(model=VLLM("a", gpu_memory_utilization=0.3))
    assert with_share(judge, 0.5) == judge
    assert with_share(Judge(model=Simulated()), 0.5) == Judge(model=Simulated())
    mixed = with_share(
        Mixture((Member(VLLM("a")), Member(VLLM("b", gpu_memory_utilization=0.2)), Member(VLLM("c")))), 1.0
    )
    assert [member.model.gpu_memory_utilization for member in mixed.members] == [0.45, 0.2, 0.45]
