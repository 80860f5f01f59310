"""The SIMULATED engines of the benchmarks against cases computed by hand; a step takes 1 s where nothing else is said."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from benchmarks.virtual import lengths
from benchmarks.virtual.cache import BLOCK, Cache, blocks_of, keys
from benchmarks.virtual.card import Card
from benchmarks.virtual.constants import PROFILES, Hardware, Law, Model, Serving, Step
from benchmarks.virtual.engine import Request, VirtualEngine
from benchmarks.virtual.loops import at_once, by_level, ours, problems, virtually
from benchmarks.virtual.models import Machine
from treesearch.algorithms import SEARCHES

SLOW = Hardware("slow", bandwidth=1.0, flops=1e9, memory=1e9)
UNIT = Model("weights are read in 1 s", parameters=0.0, weights=1.0, kv=0.0)
EXACT = Law(read=1.0, reached=1.0, base=0.0, each=0.0)


def engine(
    seqs: int = 8, tokens: int = 1000, blocks: int = 1000, model: Model = UNIT, law: Law = EXACT, reuse: bool = True
) -> VirtualEngine:
    return VirtualEngine(model, Serving(seqs, tokens, blocks=blocks, reuse=reuse), SLOW, law, Card())


def ends(made: VirtualEngine, *requests: Request) -> list[float]:
    """When each request is done, all asked at 0."""

    async def main() -> list[float]:
        clock, found = asyncio.get_running_loop().time, {}
        for k, request in enumerate(requests):
            made.submit(request).add_done_callback(lambda _, k=k: found.update({k: clock()}))
        while len(found) < len(requests):
            await asyncio.sleep(0.5)
        return [round(found[k], 6) for k in range(len(requests))]

    return virtually(main)  # type: ignore[no-any-return]


def asked(name: str, prompt: int, sampled: int, priority: int = 0) -> Request:
    return Request(((name, prompt),), ((f"{name} says", sampled),) if sampled else (), priority)


def test_a_sequence_alone_takes_a_step_a_token_and_the_prompt_comes_with_the_first() -> None:
    made = engine()
    assert ends(made, asked("a", 100, 5)) == [5.0]
    assert (made.usage.steps, made.usage.sampled, made.usage.computed) == (5, 5, 104)  # the last token is not computed


def test_a_pooling_request_takes_one_step() -> None:
    made = engine()
    assert ends(made, asked("a", 100, 0)) == [1.0]
    assert (made.usage.sampled, made.usage.computed) == (0, 100)


def test_a_step_takes_the_longer_of_memory_and_compute_and_then_the_cpu() -> None:
    model = Model("m", parameters=2e8, weights=1.0, kv=0.01)
    made = engine(model=model, law=Law(read=0.5, reached=0.4, base=3.0, each=0.5))
    assert made.step_seconds(Step(4, 4, 200)) == (6.0, 5.0)  # (1 + 2) bytes at 0.5 a second; 3 + 4 x 0.5
    assert made.step_seconds(Step(1, 10, 0)) == (10.0, 3.5)  # 2 x 2e8 x 10 / 4e8 against 1 / 0.5
    assert ends(engine(model=model), asked("a", 10, 2)) == [4.0 + 1.11]  # 10 tokens computed; then 11 of KV read


def test_max_num_seqs_run_and_the_next_one_starts_when_one_ends() -> None:
    assert ends(engine(seqs=2), asked("a", 5, 2), asked("b", 5, 4), asked("c", 5, 3)) == [2.0, 4.0, 5.0]


def test_the_smallest_priority_starts_first_and_then_who_asked_first() -> None:
    order = ends(engine(seqs=1), asked("a", 5, 1, 2), asked("b", 5, 1, 1), asked("c", 5, 1, 1))
    assert order == [3.0, 1.0, 2.0]


def test_a_long_prompt_is_computed_in_chunks_beside_those_that_decode() -> None:
    made = engine(tokens=10)
    # step 1: a's 4 and 6 of b; then a decodes and b gets 9 a step: 6, 15, 24, 25 with the fourth
    assert ends(made, asked("a", 4, 9), asked("b", 25, 2)) == [9.0, 5.0]
    assert made.usage.computed == 4 + 8 + 25 + 1


def test_a_prompt_hits_whole_blocks_of_what_was_computed_before_but_not_its_last_token() -> None:
    made = engine()
    parent = Request((("q", 20),), (("step", 30),))  # 49 tokens computed: 3 blocks
    child = Request((("q", 20), ("step", 30)), (("next", 5),))
    other = Request((("q", 20), ("other", 28)))  # another content from its 21st token on: 1 block in common

    async def main() -> list[int]:
        return [await made.submit(parent), await made.submit(child), await made.submit(child), await made.submit(other)]

    assert virtually(main) == [0, 48, 48, 16]
    assert (made.usage.queried, made.usage.hit) == (20 + 50 + 50 + 48, 112)


def test_blocks_may_be_of_another_size() -> None:
    made = VirtualEngine(UNIT, Serving(8, 1000, blocks=3, block=32), SLOW, EXACT, Card())

    async def main() -> list[int]:
        return [await made.submit(asked("q", tokens, 0)) for tokens in (60, 60)]

    assert virtually(main) == [0, 32]
    with pytest.raises(ValueError, match="more than all 3 blocks"):
        made.submit(asked("q", 97, 0))


def test_what_begins_and_what_attends_costs_where_the_law_says_so() -> None:
    law = Law(read=1.0, reached=1.0, base=0.0, each=0.0, start=0.5, pair=0.01)
    # weights in 1 s; two begin; 10 tokens with 10 before each, halved
    assert ends(engine(law=law), asked("a", 10, 2), asked("b", 10, 1)) == [4.0, 3.0]


def test_a_prompt_of_whole_blocks_computes_its_last_block_again() -> None:
    made = engine()

    async def main() -> list[int]:
        return [await made.submit(asked("q", 2 * BLOCK, 0)) for _ in range(2)]

    assert virtually(main) == [0, BLOCK]


def test_siblings_of_one_step_share_their_prompt_and_nothing_is_shared_without_reuse() -> None:
    siblings = [Request((("q", 40),), ((f"chain {k}", 3),)) for k in range(3)]
    made = engine()
    ends(made, *siblings)
    assert (made.usage.hit, made.usage.computed) == (64, 40 + 2 * 8 + 3 * 2)
    made = engine(reuse=False)
    ends(made, *siblings)
    assert (made.usage.hit, made.usage.computed) == (0, 3 * 42)


def test_content_is_forgotten_least_recently_used_first_and_its_end_before_its_beginning() -> None:
    made = engine(blocks=4)

    async def main() -> list[int]:
        hits = []
        for name, tokens in (("a", 33), ("b", 17), ("a", 33)):  # 3 blocks with content, 2 of them whole; then 2
            hits.append(await made.submit(asked(name, tokens, 0)))
        return hits

    # a: blocks 1 and 2 stay, its open one is unused again. b takes both unused ones. a finds both of its own
    assert virtually(main) == [0, 0, 32]
    made = engine(blocks=4)

    async def pressed() -> list[int]:
        hits = []
        for name, tokens in (("a", 33), ("b", 33), ("a", 33)):  # b needs 3: two unused ones and a's second
            hits.append(await made.submit(asked(name, tokens, 0)))
        return hits

    assert virtually(pressed) == [0, 0, 16]


def test_where_the_memory_ends_the_least_important_starts_anew() -> None:
    made = engine(blocks=3)
    # both start with a block; at 17 tokens each needs a second one: a gets it, b waits until a has ended
    first, second = ends(made, asked("a", 16, 10), asked("b", 16, 10))
    assert made.usage.preempted == 1
    assert first == 10.0
    assert second > 10.0
    assert made.usage.sampled == 20  # no token twice
    assert made.cache.free == 3


def test_a_sequence_that_can_never_run_is_refused() -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="a sequence of 100 tokens needs more than all 3 blocks"):
            engine(blocks=3).submit(asked("a", 90, 10))

    virtually(main)


def test_steps_of_two_engines_on_one_card_take_twice_as_long_while_both_are_under_way() -> None:
    card = Card()

    async def main() -> list[float]:
        loop, seen = asyncio.get_running_loop(), []
        for after, seconds in ((0, 4), (1, 2)):
            loop.call_later(after, card.work, seconds, lambda: seen.append(loop.time()))
        await asyncio.sleep(10)
        return seen

    # alone for 1 s, shared until the second has its 2 s at 5, then the rest of the first
    assert virtually(main) == [5.0, 6.0]
    assert card.busy == 6.0


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_lost_and_no_limit_is_passed_whatever_is_asked(seed: int) -> None:
    rng = random.Random(seed)
    made = engine(seqs=rng.randint(1, 6), tokens=rng.randint(6, 40), blocks=rng.randint(6, 12))
    requests = [
        Request(tuple((f"p{rng.randrange(3)}.{k}", rng.randint(1, 30)) for k in range(rng.randint(1, 2))),
                ((f"s{n}", rng.randint(1, 30)),) if rng.random() < 0.7 else (), rng.randrange(3))
        for n in range(40)
    ]  # fmt: skip
    schedule = made._schedule

    def checked() -> Any:
        ran, before = len(made._running), made.usage.preempted
        batch = schedule()
        if made.usage.preempted > before:  # nobody starts where memory is short
            assert len(made._running) == ran - (made.usage.preempted - before)
        decoding = len(made._running) - len(made._filling)
        assert len(made._running) <= made.serving.max_num_seqs
        assert 0 < decoding + sum(batch.values()) <= made.serving.max_num_batched_tokens
        used = {block for sequence in made._running for block in sequence.blocks}
        assert len(used) + made.cache.free == made.cache.capacity
        return batch

    made._schedule = checked  # type: ignore[method-assign]
    ends(made, *requests)
    assert made.usage.sampled == sum(tokens for r in requests for _, tokens in r.sampled)
    assert made.cache.free == made.cache.capacity
    assert made._live == 0
    if not made.usage.preempted:
        prompts = sum(tokens for r in requests for _, tokens in r.given)
        again = sum(r.sampled[0][1] - 1 for r in requests if r.sampled)
        assert made.usage.queried == prompts
        assert made.usage.computed == prompts - made.usage.hit + again


def test_keys_are_of_all_content_up_to_the_end_of_their_block() -> None:
    assert len(keys((("a", 40), ("b", 30)))) == 4
    assert keys((("a", 40), ("b", 30)))[:2] == keys((("a", 40), ("c", 30)))[:2]
    assert not set(keys((("a", 40), ("b", 30)))[2:]) & set(keys((("a", 40), ("c", 30)))[2:])
    assert (blocks_of(0), blocks_of(16), blocks_of(17)) == (0, 1, 2)


def test_equal_blocks_written_side_by_side_are_two_and_one_is_found() -> None:
    cache = Cache(4)
    (one,), (other,) = cache.take(1) or [], cache.take(1) or []
    cache.name(one, 7)
    cache.name(other, 7)
    assert cache.find([7]) == [one]
    cache.release([other])
    assert cache.unused == 3
    cache.release([one])
    assert (cache.unused, cache.free) == (3, 4)
    assert cache.take(5) is None


@pytest.mark.parametrize("name", ["beam", "mcts"])
def test_the_level_loop_grows_the_trees_that_the_engine_grows_and_takes_longer(name: str) -> None:
    given = {"beam": {"beams": 2, "branch": 2}, "mcts": {"simulations": 6, "parallel": 2, "branch": 2}}[name]
    search = SEARCHES[name](**given)
    asked = problems(3)
    here, there = Machine(PROFILES[0]), Machine(PROFILES[0])
    mine, levels = ours(here, search, asked, 3), by_level(there, search, asked, 3)
    assert (mine.generated, mine.expansions) == (levels.generated, levels.expansions)
    assert mine.wasted == 0
    assert mine.generated == sum(e.usage.sampled for e in here.proposers)
    assert mine.scored == sum(e.usage.computed for e in here.scorers)
    assert mine.seconds < levels.seconds
    assert at_once(Machine(PROFILES[0]), mine.traces) < mine.seconds
    assert {r.given for r in mine.traces[0]} == {r.given for r in levels.traces[0]}


def test_the_prm_reads_a_mark_after_each_step() -> None:
    machine = Machine(PROFILES[0])
    ours(machine, SEARCHES["beam"](beams=1, branch=2), problems(1), 1)
    drawn, read = ({r.given + r.sampled for r in engine.trace} for engine in machine.engines)
    assert {(path[0], *((text, tokens + 1) for text, tokens in path[1:])) for path in drawn} == read


@pytest.mark.parametrize("drive", [ours, by_level])
def test_with_two_replicas_each_problem_stays_with_one(drive: Any) -> None:
    machine = Machine(PROFILES[1])
    drive(machine, SEARCHES["beam"](beams=2, branch=2), problems(4), 4)
    assert all(engine.trace for engine in machine.proposers)
    for pair in (machine.proposers, machine.scorers):
        homes = [{request.given[0] for request in engine.trace} for engine in pair]
        assert not homes[0] & homes[1]
        assert len(homes[0] | homes[1]) == 4


def test_the_lengths_are_those_of_the_data(data: Path) -> None:
    assert lengths.measure(data / "math500_test.jsonl") == (lengths.STEP, lengths.PROMPT)


def test_a_chain_has_about_400_tokens_in_8_steps() -> None:
    rng, steps = random.Random(1), []
    for _ in range(2000):
        steps.append(1)
        while not lengths.is_last(rng, steps[-1]):
            steps[-1] += 1
    assert 7.5 < mean(steps) < 8.5
    assert max(steps) <= lengths.MOST
    assert 380 < lengths.mean_chain(2000) < 420


def test_an_engine_that_rests_ends_its_step_takes_requests_and_goes_on_where_it_was() -> None:
    made = engine()

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        loop.call_at(2.5, made.rest, True)
        loop.call_at(10.5, made.rest, False)
        done = [made.submit(asked("a", 5, 5))]
        await asyncio.sleep(5)
        done.append(made.submit(asked("b", 5, 1)))
        return [(await each, loop.time())[1] for each in reversed(done)]

    assert virtually(main) == [11.5, 12.5]  # a: three steps before, two after; b begins with the first of those
    assert made.usage.steps == 5


def test_an_engine_may_rest_before_it_is_asked() -> None:
    made = engine()

    async def main() -> float:
        made.rest(True)
        done = made.submit(asked("a", 5, 1))
        asyncio.get_running_loop().call_at(3.0, made.rest, False)
        await done
        return asyncio.get_running_loop().time()

    assert virtually(main) == 4.0
