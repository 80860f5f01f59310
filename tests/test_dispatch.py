"""Which replica gets which job: homes, age, overflow, suspects, replicas that come and go."""

from __future__ import annotations

import random
from collections import Counter

from treesearch.dispatch import NOWHERE, Dispatch


def dispatch(*credits: int) -> Dispatch:
    d = Dispatch()
    for replica, count in enumerate(credits):
        d.join(replica, count)
    return d


def test_the_oldest_tree_goes_first_and_within_it_the_oldest_job() -> None:
    d = dispatch(1)
    for job in ("old/0", "young/0", "young/1", "old/1", "old/2"):
        d.add(job)
    order = []
    while taken := d.take():
        ((replica, job),) = taken
        order.append(job)
        d.done(replica, job)
    assert order == ["old/0", "old/1", "old/2", "young/0", "young/1"]


def test_a_tree_keeps_its_home_between_its_jobs_until_it_is_forgotten() -> None:
    d = dispatch(4, 4)
    homes = {}
    for k in range(6):
        d.add(f"t{k}/0")
        ((homes[f"t{k}"], _),) = d.take()
    assert Counter(homes.values()) == {0: 3, 1: 3}
    for k, home in homes.items():
        d.done(home, f"{k}/0")
    for k, home in homes.items():
        d.add(f"{k}/1")
        assert d.take() == [(home, f"{k}/1")]
        d.done(home, f"{k}/1")
        d.forget(k)
    assert not d._home and not d._age


def test_new_trees_are_spread_over_replicas_that_idle_by_the_trees_at_home() -> None:
    dispatch = Dispatch()
    for replica, credits in enumerate((4, 4, 8)):
        dispatch.join(replica, credits)
    homes = []
    for tree in range(8):  # each job is answered before the next comes
        homes.append(dispatch.at_once(f"t{tree}/0"))
        dispatch.done(homes[-1], f"t{tree}/0")
    assert homes == [0, 1, 2, 2, 0, 1, 2, 2]
    for tree in (0, 4):
        dispatch.forget(f"t{tree}")
    assert [dispatch.at_once(f"u{k}/0") for k in range(2)] == [0, 1], "the jobs there go before the trees"


def test_a_full_home_is_waited_for_unless_another_replica_idles() -> None:
    d = dispatch(4, 4)
    d.add("a/0")
    d.add("b/0")
    assert d.take() == [(0, "a/0"), (1, "b/0")]
    for seq in range(1, 5):
        d.add(f"b/{seq}")
    d.add("a/1")
    d.add("a/2")
    assert Counter(replica for replica, _ in d.take()) == {0: 2, 1: 3}  # b/4 waits for 1: 0 is not half idle
    assert d.waiting() == 1
    d.done(0, "a/1")
    assert d.take() == []  # half busy still
    d.done(0, "a/2")
    assert d.take() == [(0, "b/4")]  # the whole tree moves
    d.add("b/5")
    assert d.take() == [(0, "b/5")]


def test_jobs_wait_while_there_is_no_replica_and_follow_one_that_leaves() -> None:
    d = Dispatch()
    d.add("a/0")
    assert d.take() == [] and d._home["a"] == NOWHERE
    d.join(7, 1)
    d.add("b/0")
    assert d.take() == [(7, "a/0")]
    d.leave(7)
    assert d.take() == [] and d.waiting() == 1
    d.done(7, "a/0")  # its owner gives the slot back of a replica that is gone
    d.join(8, 2)
    assert d.take() == [(8, "b/0")]
    assert d.free == {8: 1}


def test_a_suspect_runs_on_a_replica_only_while_no_other_suspect_does() -> None:
    d = dispatch(8, 8)
    for k in range(5):
        d.add(f"s{k}/0", suspect=True)
    d.add("a/0")
    first = d.take()
    assert sorted(job for _, job in first) == ["a/0", "s3/0", "s4/0"], "the newest are tried first"
    assert sorted(d.suspect) == [0, 1] and d.suspects() == ["s2/0", "s1/0", "s0/0"]
    replica = next(r for r, job in first if job == "s4/0")
    d.done(replica, "s4/0")
    assert d.take() == [(replica, "s2/0")]
    d.drop("s1/0")
    d.done(replica, "s2/0")
    assert d.take() == [(replica, "s0/0")]


def test_a_dropped_job_is_not_sent() -> None:
    d = dispatch(1)
    for job in ("a/0", "a/1", "b/0"):
        d.add(job)
    assert d.take() == [(0, "a/0")]
    d.drop("a/1")
    d.done(0, "a/0")
    assert d.take() == [(0, "b/0")]


def test_whatever_comes_and_goes_every_job_is_sent_once_and_no_credit_is_lost() -> None:
    for seed in range(200):
        rng, d = random.Random(seed), Dispatch()
        waiting: set[str] = set()
        running: dict[str, int] = {}
        numbers, jobs = iter(range(1000)), iter(range(1000))
        for _ in range(300):
            match rng.randrange(6):
                case 0 if len(d.credits) < 4:
                    d.join(next(numbers), rng.randint(1, 5))
                case 1 if d.credits and rng.random() < 0.2:
                    gone = rng.choice(list(d.credits))
                    d.leave(gone)
                    for job in [job for job, replica in running.items() if replica == gone]:
                        del running[job]
                        d.done(gone, job)
                        d.add(job, suspect=True)
                        waiting.add(job)
                case 2 if waiting:
                    job = rng.choice(sorted(waiting))
                    waiting.remove(job)
                    d.drop(job)
                case 3 if running:
                    job = rng.choice(sorted(running))
                    d.done(running.pop(job), job)
                case _:
                    job = f"t{rng.randrange(6)}/{next(jobs)}"
                    d.add(job)
                    waiting.add(job)
            for replica, job in d.take():
                waiting.remove(job)
                running[job] = replica
            assert d.waiting() == len(waiting) and d.running() == len(running)
            load = Counter(running.values())
            assert all(d.free[r] == d.credits[r] - load[r] >= 0 for r in d.credits)
            normal = [job for job in waiting if job not in d._suspects]
            assert not normal or all(2 * d.free[r] <= d.credits[r] for r in d.credits), (
                "work waits beside an idle replica"
            )
