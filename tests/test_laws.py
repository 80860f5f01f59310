"""The laws of the core, for every search: order, duplicates, failures, kills, budgets and cancellation change nothing."""

from __future__ import annotations

import itertools

import pytest

from tests.fakes import World, keyed_chain, keyed_reply, problems
from treesearch.algorithms import SEARCHES
from treesearch.answers import AnswerRule, Standing
from treesearch.errors import JournalError
from treesearch.manager import Budget, Manager, Reply, tokens_of
from treesearch.types import Job, Problem, Sampling

SMALL = {
    "sample": SEARCHES["sample"](n=6),
    "sample_parallel": SEARCHES["sample"](n=8, parallel=3),
    "sample_certain": SEARCHES["sample"](n=12, parallel=3, stop="certain"),
    "beam": SEARCHES["beam"](beams=3, branch=3),
    "beam_lookahead": SEARCHES["beam"](beams=2, branch=2, lookahead=1),
    "dvts": SEARCHES["dvts"](subtrees=2, branch=2),
    "rebase": SEARCHES["rebase"](width=6),
    "particles": SEARCHES["particles"](n=5),
    "best_first": SEARCHES["best_first"](branch=3, expansions=8),
    "ab_mcts": SEARCHES["ab_mcts"](simulations=12),
    "mcts": SEARCHES["mcts"](simulations=16, parallel=4, branch=3, rollouts=1),
    "mcts_default": SEARCHES["mcts"](simulations=24),
    "mcts_no_rollout": SEARCHES["mcts"](simulations=16, parallel=4, branch=3, rollouts=0, widening=None),
    "mcts_puct": SEARCHES["mcts"](simulations=12, parallel=4, branch=3, selection="puct", backup="max"),
    "sal_best_of_n": SEARCHES["sal_best_of_n"](n=6),
    "sal_beam": SEARCHES["sal_beam"](n=4, beam_width=2, iterations=6),
    "sal_dvts": SEARCHES["sal_dvts"](n=4, beam_width=2, iterations=4, lookahead=1),
    "openr_mcts": SEARCHES["openr_mcts"](num_sequence=6, width=2),
    "openr_mcts_by_prior": SEARCHES["openr_mcts"](num_sequence=6, width=3, select_by_prior=True),
    "tot_bfs": SEARCHES["tot_bfs"](n_generate_sample=3, n_select_sample=2),
    "tot_bfs_sample": SEARCHES["tot_bfs"](n_generate_sample=2, n_select_sample=3, method_select="sample"),
    "its_particles": SEARCHES["its_particles"](n=4, selection=None),
    "its_beam": SEARCHES["its_beam"](n=4, beam_width=2),
}
every_search = pytest.mark.parametrize("name", SMALL)
ASKED = problems(6)
WEIGHTED = AnswerRule("weighted", "last")


def world(
    name: str,
    workers: int = 1,
    seed: int = 0,
    failures: float = 0.05,
    budget: Budget | None = None,
    rule: AnswerRule = WEIGHTED,
) -> World:
    manager = Manager(SMALL[name], seed=7, budget=budget, rule=rule)
    return World(manager, workers, seed, failures)


@every_search
def test_fifty_workers_grow_the_same_trees_as_one(name: str) -> None:
    """Random latencies, reordered and duplicated replies, 5 % failed requests."""
    one, fifty = world(name).run(ASKED), world(name, workers=50, seed=3).run(ASKED)
    assert one.trees == fifty.trees
    assert {p: (a.answer, a.candidates) for p, a in one.answers.items()} == {
        p: (a.answer, a.candidates) for p, a in fifty.answers.items()
    }
    assert len(one.trees) == len(ASKED)


@every_search
def test_a_run_stopped_after_any_reply_resumes_to_the_same_trees(name: str) -> None:
    whole = world(name, workers=9).run(ASKED)
    total = sum(map(len, whole.journal.values()))
    for k in range(1, total, max(1, total // 100)):
        stopped = world(name, workers=9, seed=k).run(ASKED, stop_after=k)
        resumed = world(name, workers=4, seed=k + 1).run(ASKED, journals=stopped.journal)
        assert resumed.trees == whole.trees, f"stopped after {k} of {total} replies"
        assert {p: [r.expansion for r in j] for p, j in resumed.journal.items()} == {
            p: [r.expansion for r in j] for p, j in whole.journal.items()
        }


@every_search
def test_every_wish_is_answered_exactly_once(name: str) -> None:
    """Each job is delivered once or cancelled once, never both, whatever is sent twice."""
    run = world(name, workers=20, seed=5).run(ASKED)
    answered = [f"{p}/{reply.seq}" for p, journal in run.journal.items() for reply in journal]
    assert len(set(answered)) == len(answered)
    assert sorted(answered + run.cancelled) == sorted(job.id for job in run.jobs)


@every_search
@pytest.mark.parametrize("tokens", [0, 1, 7, 25, 60, 100])
def test_a_token_budget_holds_to_the_token(name: str, tokens: int) -> None:
    """Nothing is delivered beyond the budget, and the search ends with the first reply that would exceed it."""
    free = world(name, failures=0.0).run(ASKED)
    held = world(name, workers=7, failures=0.0, budget=Budget(tokens=tokens)).run(ASKED)
    for problem in ASKED:
        costs = [tokens_of(r.expansion) or 0 for r in free.journal[problem.id]]
        within = list(itertools.takewhile(lambda used: used <= tokens, itertools.accumulate(costs)))
        answer = held.answers[problem.id]
        assert answer.tokens_generated == (within[-1] if within else 0) <= tokens
        assert len(held.journal[problem.id]) == len(within)
        assert answer.stopped == ("budget" if len(within) < len(costs) else free.answers[problem.id].stopped)


@pytest.mark.parametrize("name", ["sample_parallel", "beam", "particles", "mcts_default"])
@pytest.mark.parametrize("kind", ["majority", "best", "weighted"])
def test_a_search_ends_with_the_first_reply_that_makes_its_answer_sure(name: str, kind: str) -> None:
    """Whatever arrives when, and resumed anywhere: the delivered replies alone decide."""
    rule = AnswerRule(kind, stop=0.9)  # type: ignore[arg-type]
    free, sure = world(name).run(ASKED), world(name, workers=9, seed=2, rule=rule).run(ASKED)
    for problem in ASKED:
        whole, journal = free.journal[problem.id], sure.journal[problem.id]
        assert [r.expansion for r in journal] == [r.expansion for r in whole[: len(journal)]]
        answer = sure.answers[problem.id]
        if len(journal) < len(whole):
            assert answer.stopped == "decided"
            assert Standing(rule).add(answer.candidates) >= 0.9
        else:
            assert answer.candidates == free.answers[problem.id].candidates
    stopped = world(name, workers=9, seed=3, rule=rule).run(ASKED, stop_after=sum(map(len, sure.journal.values())) // 2)
    assert world(name, workers=4, rule=rule).run(ASKED, journals=stopped.journal).trees == sure.trees


def test_a_stop_saves_replies_of_every_search_that_does_not_name_its_own_outputs() -> None:
    """Those that do follow other projects' rules to the end."""
    rule, asked = AnswerRule("best", stop=0.9), ASKED[:3]
    for name in SMALL:
        free, sure = (sum(map(len, world(name, rule=r).run(asked).journal.values())) for r in (WEIGHTED, rule))
        assert sure < free or name.startswith(("sal_", "its_", "tot_", "openr_")), name


@every_search
def test_tokens_of_a_run_are_in_the_tree_or_wasted(name: str) -> None:
    run = world(name, workers=11, seed=2)
    run.duplicates = 0.0
    run.run(ASKED)
    for problem in ASKED:
        live_tokens = sum(step.tokens for step in run.trees[problem.id][1] if step is not None)
        assert run.answers[problem.id].tokens_generated == live_tokens


@every_search
def test_nothing_is_in_flight_at_the_end_and_visits_add_up(name: str) -> None:
    run = world(name, workers=5, seed=1)
    run.run(ASKED)
    for parent, _, visits, _, held, _ in run.trees.values():
        assert not any(held)
        through = [0] * len(visits)
        for node in range(1, len(parent)):
            through[parent[node]] += visits[node]
        assert all(v >= t for v, t in zip(visits, through, strict=True))


@every_search
def test_a_search_closes_cleanly_at_any_resume(name: str) -> None:
    """Cancelled after k replies: outstanding wishes end as cancelled, and the answer comes from the leaves there are."""
    total = len(world(name).run(ASKED[:1]).journal["p0"])
    for k in range(1, total + 1):
        run = world(name, workers=6).run(ASKED[:1], stop_after=k)
        if "p0" in run.answers:
            continue
        before = set(run.cancelled)
        outcome = run.manager.cancel("p0", "cancelled")
        answered = {f"p0/{reply.seq}" for reply in run.journal["p0"]}
        assert answered | set(outcome.cancelled) | before == {job.id for job in run.jobs}
        assert run.manager.answer("p0", 0.0).stopped == "cancelled"


def test_one_wish_of_four_chains_and_four_of_one_draw_the_same_chains() -> None:
    def job(first: int, n: int) -> Job:
        return Job("p/0", Problem("p", "q"), (), first, n, "answer", Sampling(), seed=99)

    together = keyed_reply(job(0, 4)).chains
    assert together == tuple(keyed_reply(job(i, 1)).chains[0] for i in range(4))
    assert len(set(together)) == 4


@every_search
def test_seeds_know_no_order_of_asking(name: str) -> None:
    """All chains asked at one path have the indices 0, 1, 2, ... once each, so no chain is drawn twice."""
    run = world(name, workers=8, seed=4).run(ASKED)
    asked: dict[int, list[int]] = {}
    for job in run.jobs:
        asked.setdefault(job.seed, []).extend(range(job.first, job.first + (job.n or 0)))
    assert all(sorted(indices) == list(range(len(indices))) for indices in asked.values())


@every_search
def test_a_journal_of_another_search_is_refused_by_name(name: str) -> None:
    run = world(name).run(ASKED[:1])
    journal = run.journal["p0"]
    foreign = [Reply(journal[0].seq, journal[0].wish + 1, 0.0, journal[0].expansion), *journal[1:]]
    with pytest.raises(JournalError, match="problem p0: reply 0"):
        world(name).run(ASKED[:1], journals={"p0": foreign})


@pytest.mark.parametrize("name", ["beam", "mcts", "sample"])
def test_delivery_by_arrival_replays_exactly(name: str) -> None:
    def manager() -> Manager:
        return Manager(SMALL[name], seed=7, delivery="arrival")

    live = World(manager(), 10, seed=1).run(ASKED)
    replayed = World(manager(), 1, seed=2).run(ASKED, journals=live.journal)
    assert replayed.trees == live.trees


def test_keyed_chains_start_the_same_however_far_they_are_sampled() -> None:
    job = Job("p/0", Problem("p", "q"), (), 0, 1, "step", Sampling(), seed=5)
    whole = Job("p/0", Problem("p", "q"), (), 0, 1, "answer", Sampling(), seed=5)
    assert all(keyed_chain(job, i)[0] == keyed_chain(whole, i)[0] for i in range(50))
