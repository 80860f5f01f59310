"""Retry, timeout, replicas that die: who is asked again, who is blamed, who gives up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from treesearch.dispatch import NOWHERE
from treesearch.errors import RequestError, RunError
from treesearch.pool import Death, Pool, Replica, ReplicaLost


class Mortal:
    """A replica that dies of some items, and takes all that run on it with it."""

    def __init__(
        self, pool: Pool, poison: Sequence[str] = (), credits: int = 8, slow: Mapping[str, float] | None = None
    ) -> None:
        self.pool, self.poison, self.slow = pool, poison, slow or {}
        self.running: dict[str, asyncio.Future[object]] = {}
        self.seen: list[str] = []
        self.number = pool.join(Replica(self.call, credits))

    async def call(self, items: Sequence[str]) -> list[object]:
        (item,) = items
        if self.dead:
            return [ReplicaLost("died", begun=False)]
        self.seen.append(item)
        self.running[item] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(self.slow.get(item, 0.001), self.finish, item)
        return [await self.running[item]]

    def finish(self, item: str) -> None:
        if self.dead:
            return
        if item in self.poison:
            self.die()
        elif item in self.running and not self.running[item].done():
            self.running.pop(item).set_result(f"reply {item}")

    @property
    def dead(self) -> bool:
        return self.number not in self.pool.dispatch.credits

    def die(self, death: Death = "engine") -> None:
        self.pool.leave(self.number)
        for future in self.running.values():
            if not future.done():
                future.set_result(ReplicaLost("died", death))


def outcomes(
    items: Sequence[str], poison: Sequence[str], replicas: int = 4
) -> tuple[dict[str, object], list[Mortal], Pool]:
    async def main() -> tuple[dict[str, object], list[Mortal], Pool]:
        pool = Pool()
        herd = [Mortal(pool, poison) for _ in range(replicas)]
        replies = await asyncio.gather(*(pool.run(item, item) for item in items), return_exceptions=True)
        return dict(zip(items, replies, strict=True)), herd, pool

    return asyncio.run(main())


def test_a_poisonous_item_kills_two_replicas_and_fails_alone() -> None:
    items = [f"t{k}/0" for k in range(30)]
    replies, herd, pool = outcomes(items, poison=["t7/0"])
    assert isinstance(replies["t7/0"], RequestError) and "poison" in str(replies["t7/0"])
    assert all(replies[item] == f"reply {item}" for item in items if item != "t7/0")
    assert sum("t7/0" in mortal.seen for mortal in herd) == 2 and len(pool.dispatch.credits) == 2
    explained = [k for k, mortal in enumerate(herd) if mortal.dead]
    assert sorted(pool.explained()) == explained and pool.explained() == [], "told once"


def test_a_poisonous_prompt_takes_two_replicas_however_often_it_is_asked() -> None:
    async def main() -> tuple[list[object], int]:
        pool = Pool()
        poison = [f"p/{k}" for k in range(8)]
        for _ in range(4):
            Mortal(pool, poison, credits=8)
        runs = [pool.run(item, item, kin="bad" if item in poison else item) for item in [*poison, "q/0", "q/1"]]
        replies = await asyncio.gather(*runs, return_exceptions=True)
        again = await asyncio.gather(pool.run("p/99", "p/99", kin="bad"), return_exceptions=True)
        return [*replies, *again], len(pool.dispatch.credits)

    replies, left = asyncio.run(main())
    assert all(isinstance(r, RequestError) and "poison" in str(r) for r in [*replies[:8], replies[-1]])
    assert replies[8:10] == ["reply q/0", "reply q/1"]
    assert left == 2


async def turns() -> None:
    """Let all go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Herd:
    """Replicas that are replaced when they die; counts deaths."""

    def __init__(
        self,
        pool: Pool,
        size: int,
        poison: Sequence[str],
        slow: Mapping[str, float] | None = None,
        death: Death = "engine",
    ) -> None:
        self.pool, self.poison, self.slow, self.death, self.deaths = pool, poison, slow, death, 0
        self.alive = [self.born() for _ in range(size)]

    def born(self) -> Mortal:
        mortal = Mortal(self.pool, self.poison, slow=self.slow)
        die = mortal.die

        def died() -> None:
            die(self.death)
            self.deaths += 1
            self.alive[self.alive.index(mortal)] = self.born()

        mortal.die = died  # type: ignore[method-assign, assignment]
        return mortal


def test_an_innocent_in_its_trial_beside_an_unknown_poison_is_not_convicted() -> None:
    async def main() -> tuple[list[object], int]:
        pool = Pool()
        herd = Herd(pool, 1, ["y/0"], slow={"a/0": 0.3})
        first = asyncio.create_task(pool.run("a/0", "a/0"))
        await asyncio.sleep(0.001)
        herd.alive[0].die()  # of something else
        await asyncio.sleep(0.001)
        replies = await asyncio.gather(first, pool.run("y/0", "y/0"), return_exceptions=True)
        return list(replies), herd.deaths

    (innocent, poison), deaths = asyncio.run(main())
    assert innocent == "reply a/0"
    assert isinstance(poison, RequestError) and "poison" in str(poison) and deaths == 4


def test_what_ran_on_a_killed_replica_is_sent_again_at_once_and_to_wherever_there_is_room() -> None:
    async def main() -> tuple[list[object], list[str]]:
        pool = Pool()
        still = {f"t{k}/0": 60.0 for k in range(8)}
        killed = Mortal(pool, slow=still)
        asked = [asyncio.create_task(pool.run(item, item)) for item in still]
        await turns()
        assert len(killed.running) == 8
        others = [Mortal(pool, slow=still) for _ in range(2)]
        killed.die("silent")
        await turns()
        running = [item for other in others for item in other.running]
        for other in others:
            for item in list(other.running):
                other.finish(item)
        return list(await asyncio.gather(*asked)), running

    replies, running = asyncio.run(asyncio.wait_for(main(), 10))
    assert sorted(running) == [f"t{k}/0" for k in range(8)]
    assert replies == [f"reply t{k}/0" for k in range(8)]


def test_a_prompt_that_takes_processes_without_a_word_is_tried_after_the_second_and_named_after_the_third() -> None:
    async def main() -> tuple[list[object], int]:
        pool = Pool()
        items = [f"t{k}/0" for k in range(20)]
        herd = Herd(pool, 2, ["t7/0"], slow={item: 0.002 + k / 1e4 for k, item in enumerate(items)}, death="silent")
        replies = await asyncio.gather(*(pool.run(item, item) for item in items), return_exceptions=True)
        return list(replies), herd.deaths

    replies, deaths = asyncio.run(asyncio.wait_for(main(), 10))
    assert isinstance(replies[7], RequestError) and "poison" in str(replies[7]) and deaths == 3
    assert [r for k, r in enumerate(replies) if k != 7] == [f"reply t{k}/0" for k in range(20) if k != 7]


@pytest.mark.parametrize("poisons", range(6))
def test_however_many_poisons_there_are_they_alone_are_convicted(poisons: int) -> None:
    """One costs two replicas; several at once cost more, but no neighbour."""

    async def main(rng: random.Random) -> None:
        pool = Pool(timeout=2)
        items = [f"t{k % 20}/{k}" for k in range(60)]
        poison = rng.sample(items, poisons)
        herd = Herd(pool, 3, poison, slow={item: rng.uniform(0.001, 0.01) for item in items})
        replies = await asyncio.gather(*(pool.run(item, item) for item in items), return_exceptions=True)
        for item, reply in zip(items, replies, strict=True):
            assert ("poison" in str(reply)) is (item in poison), (item, reply)
        assert herd.deaths == 2 * poisons if poisons < 2 else herd.deaths <= 10 * poisons
        assert not pool._held and not pool._suspects and pool.dispatch.waiting() == pool.dispatch.running() == 0

    for seed in range(5):
        asyncio.run(asyncio.wait_for(main(random.Random(f"{poisons} {seed}")), 20))


@pytest.mark.parametrize("end", ["abort", "shut", "cancel", "verdict", "verdict and abort"])
def test_who_waits_for_a_verdict_waits_no_longer_than_he_must(end: str) -> None:
    async def main() -> tuple[object, object]:
        pool = Pool()
        asked, still = [], {"a/0": 60.0, "b/0": 60.0}
        for item in still:  # a replica dies of something else, then one that tries a, with b beside it
            asked.append(asyncio.create_task(pool.run(item, item)))
            mortal = Mortal(pool, slow=still)
            await turns()
            mortal.die()
        last = Mortal(pool, slow=still)
        await turns()
        assert set(mortal.running) == {"a/0", "b/0"}
        assert set(last.running) == {"b/0"} and pool.waits("a/0")
        if end == "abort":
            pool.abort("a/0")
        elif end == "shut":
            pool.shut(RunError("none is left"))
        elif end == "cancel":
            asked[0].cancel()
        if "verdict" not in end:
            await turns()
            assert asked[0].done()
        last.finish("b/0")
        if end == "verdict and abort":  # in the same moment
            pool.abort("a/0")
        return tuple(await asyncio.gather(*asked, return_exceptions=True)), pool.dispatch.waiting()

    (a, b), waiting = asyncio.run(asyncio.wait_for(main(), 10))
    said = {"shut": "none is left", "cancel": "", "verdict": "poison"}.get(end, "nobody wants")
    assert isinstance(a, BaseException) and said in str(a) and b == "reply b/0" and waiting == 0


@pytest.mark.parametrize("unwanted", [False, True])
def test_of_one_kin_one_is_tried_and_the_others_wait_for_what_becomes_of_it(unwanted: bool) -> None:
    async def main() -> list[object]:
        pool = Pool()
        first = Mortal(pool, slow={"a/0": 60, "a/1": 60})
        asked = [asyncio.create_task(pool.run(item, item, kin="a")) for item in ("a/0", "a/1")]
        await turns()
        first.die()
        second = Mortal(pool, slow={"a/0": 60, "a/1": 60})
        await turns()
        assert set(second.running) == {"a/0"}
        if unwanted:
            pool.abort("a/1")
        second.finish("a/0")
        await turns()
        assert asked[1].done() or "a/1" in second.running
        second.finish("a/1")
        return list(await asyncio.gather(*asked, return_exceptions=True))

    tried, other = asyncio.run(asyncio.wait_for(main(), 10))
    assert tried == "reply a/0"
    assert "nobody wants" in str(other) if unwanted else other == "reply a/1"


def test_a_suspect_that_had_not_begun_is_not_to_blame_and_a_reply_clears_its_kin() -> None:
    async def main() -> tuple[list[object], list[bool]]:
        trials: list[bool] = []
        deaths = [ReplicaLost("died", "engine"), ReplicaLost("died", begun=False), ReplicaLost("died", "other")]

        async def call(items: Sequence[object], trial: bool = False) -> list[object]:
            trials.append(trial)
            return [deaths.pop(0) if deaths else "ok"]

        async def trial(items: Sequence[object], alone: bool) -> list[object]:
            return await call(items, True)

        pool = Pool([Replica(call, 1, trial=trial)])
        return [await pool.run(f"a/{k}", 0, kin="a") for k in range(2)], trials

    assert asyncio.run(main()) == (["ok", "ok"], [False, True, True, True, False])


def test_an_item_lost_without_suspicion_is_asked_until_it_is_answered() -> None:
    async def main() -> object:
        pool = Pool()
        running = asyncio.create_task(pool.run("a/0", "a/0"))
        for _ in range(5):
            mortal = Mortal(pool)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            mortal.die("other")
        Mortal(pool)
        return await running

    assert asyncio.run(main()) == "reply a/0"


def test_what_waits_for_a_slot_while_its_kin_falls_under_suspicion_is_not_sent_before_the_trial() -> None:
    calls: list[str] = []

    async def plain(items: Sequence[object]) -> list[object]:
        calls.append("plain")
        return ["ok"]

    async def trial(items: Sequence[object], *_: object) -> list[object]:
        calls.append("trial")
        await asyncio.sleep(0.001)
        calls.append("cleared")
        return ["ok"]

    async def main() -> list[object]:
        pool = Pool()
        first = Mortal(pool, credits=1)
        runs = [asyncio.create_task(pool.run(item, item, kin="k")) for item in ("a/0", "b/0", "c/0")]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.die()  # of a/0, as far as one can tell; the others wait for a slot as plain items, and get it at once
        pool.join(Replica(plain, 8, trial=trial))
        return await asyncio.gather(*runs)

    assert asyncio.run(main()) == ["ok"] * 3
    assert calls[:2] == ["trial", "cleared"]


def test_what_waits_for_a_slot_while_its_kin_proves_to_be_poison_is_not_sent() -> None:
    """Seed 5831 of the simulation: it killed a third replica."""

    async def main() -> list[Mortal]:
        pool = Pool()
        herd = [Mortal(pool, ["a/0", "b/0"], credits=1)]
        runs = [asyncio.create_task(pool.run(item, item, kin="k")) for item in ("a/0", "b/0")]
        for _ in range(2):
            while herd[-1].number in pool.dispatch.credits:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.001)  # until a/0 is suspected: it goes before b/0, which waits as a plain item
            herd.append(Mortal(pool, ["a/0", "b/0"], credits=1))
        found = await asyncio.gather(*runs, return_exceptions=True)
        assert all(isinstance(error, RequestError) and "poison" in str(error) for error in found)
        return herd

    assert [mortal.seen for mortal in asyncio.run(main())] == [["a/0"], ["a/0"], []]


def test_nobody_waits_for_replicas_that_will_never_come() -> None:
    async def main() -> list[object]:
        pool = Pool()
        waiting = asyncio.create_task(pool.run("a/0", 1))
        await asyncio.sleep(0)
        pool.shut(RunError("none is left"))
        return await asyncio.gather(waiting, pool.run("b/0", 2), return_exceptions=True)

    assert [str(error) for error in asyncio.run(main())] == ["none is left"] * 2


def test_a_failure_is_tried_three_times_and_a_hang_is_timed_out() -> None:
    calls: list[float] = []

    async def hangs(items: Sequence[object]) -> list[object]:
        calls.append(1)
        await asyncio.sleep(60)
        return []

    pool = Pool([Replica(hangs, 1)], timeout=0.01)
    with pytest.raises(TimeoutError):
        asyncio.run(pool.run("a/0", 1))
    assert len(calls) == 3 and pool.retries == 2 and pool.dispatch.free == {0: 1}


@pytest.mark.parametrize("error", [RequestError("too long"), RunError("the key is refused")])
def test_what_would_not_help_is_not_tried_again(error: Exception) -> None:
    calls: list[object] = []

    async def refuses(items: Sequence[object]) -> list[object]:
        calls.append(items)
        return [error]

    pool = Pool([Replica(refuses, 1)])
    with pytest.raises(type(error), match=str(error)):
        asyncio.run(pool.run("a/0", 1))
    assert len(calls) == 1 and pool.retries == 0


def test_an_item_cancelled_in_the_moment_it_is_sent_gives_its_slot_back() -> None:
    async def main() -> None:
        async def call(items: Sequence[object]) -> list[object]:
            await asyncio.sleep(0)
            return ["ok"]

        pool = Pool([Replica(call, 1)])
        first = asyncio.create_task(pool.run("a/0", 1))
        second = asyncio.create_task(pool.run("b/0", 2))
        await asyncio.sleep(0)
        second.cancel()  # its turn is cancelled now, its task hears of it later
        assert await first == "ok"
        with pytest.raises(asyncio.CancelledError):
            await second
        assert pool.dispatch.free == {0: 1} and not pool.waits("b/0") and pool.dispatch.waiting() == 0

    asyncio.run(main())


def test_only_a_running_item_is_aborted_and_a_waiting_one_ends() -> None:
    told: list[str] = []

    async def main() -> list[object]:
        async def call(items: Sequence[object]) -> list[object]:
            await asyncio.sleep(0.01)
            return ["ok"]

        pool = Pool([Replica(call, 1, abort=told.extend)])
        runs = [asyncio.create_task(pool.run(item, 0)) for item in ("a/0", "b/0")]
        await asyncio.sleep(0)
        pool.abort("a/0")
        pool.abort("b/0")
        replies = await asyncio.gather(*runs, return_exceptions=True)
        assert pool.dispatch.free == {0: 1} and pool.dispatch.waiting() == 0
        return replies

    kept, dropped = asyncio.run(main())
    assert told == ["a/0"] and kept == "ok"
    assert isinstance(dropped, RequestError) and "nobody wants it" in str(dropped)


def test_an_item_that_nobody_wants_is_not_tried_again() -> None:
    calls: list[int] = []

    async def main() -> None:
        async def call(items: Sequence[object]) -> list[object]:
            calls.append(1)
            await asyncio.sleep(0.01)
            raise ConnectionError("oh")

        pool = Pool([Replica(call, 1)])
        running = asyncio.create_task(pool.run("a/0", 0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        pool.abort("a/0")
        with pytest.raises(ConnectionError):
            await running

    asyncio.run(main())
    assert len(calls) == 1


def test_an_item_that_is_cancelled_in_the_moment_it_is_sent_gives_its_slot_back() -> None:
    async def main() -> None:
        pool = Pool()
        waiting = asyncio.create_task(pool.run("a", "a"))
        await asyncio.sleep(0)
        Mortal(pool, credits=1)  # sends it; its task does not know yet
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await pool.run("b", "b") == "reply b"

    asyncio.run(main())


def test_a_pool_that_is_shut_ends_who_waits_and_minds_nobody_who_was_cancelled() -> None:
    async def main() -> None:
        pool = Pool()
        waiting = [asyncio.create_task(pool.run(name, name)) for name in "abc"]
        await asyncio.sleep(0)
        waiting[1].cancel()
        pool.shut(RunError("none is left"))
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in found] == [RunError, asyncio.CancelledError, RunError]

    asyncio.run(main())


def test_an_item_is_at_home_where_its_tree_is_and_it_is_known_what_is_enough_there_and_kept() -> None:
    async def call(items: Sequence[Any]) -> list[Any]:
        return list(items)

    async def main() -> None:
        pool = Pool()
        assert pool.home("a/0") == (NOWHERE, None) and not pool.paced and not pool.caching
        replicas = [Replica(call, 4, enough=10), Replica(call, 4)]
        some = [pool.join(replica) for replica in replicas]
        assert pool.paced and not pool.caching
        homes = dict([pool.home("a/0"), pool.home("b/0")])
        assert homes == dict(zip(some, replicas, strict=True)) and pool.home("a/1") == pool.home("a/0")
        pool.join(Replica(call, 4, keeps=1000))
        assert pool.caching

    asyncio.run(main())
