"""Reads the history of a world after the run and says which invariants it breaks. Knows how nothing is done, only what was.

I1 a reply is applied once. I2 visits add up, and none is in flight at the end. I3 what is committed stays, and an answer is
published after the replies behind it. I4 every problem ends once. I5 tokens counted are tokens returned. I6 the same
replies give the same tree, and faults change none. I7 nobody who was replaced is heard. I8 a search ends by its deadline.
I9 what fails is what was bound to.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

from tests.simulation.world import TIMEOUT, World
from treesearch.errors import RunError, TreesearchError
from treesearch.manager import Close, Reply, add, tokens_of
from treesearch.pool import TRIES
from treesearch.types import Stopped

DEATHS = 2  # replicas that a poisonous prompt may take with it; one more where they go without a word
LATE = 1.0  # seconds that messages and commits may take beyond a request's own time


@dataclass
class _Search:
    """One search of a problem in one process: what it was opened with and what was applied since."""

    process: Any
    applied: list[Reply]
    close: Close | None
    began: int  # replies it was opened with
    tree: Any = None  # when it ended
    returned: int = 0  # tokens that came back from proposers since
    again: int = 0  # tokens of replies that were delivered twice, and had to be counted as waste


@dataclass
class _Problem:
    kept: list[Reply] = field(default_factory=list)  # the journal, as far as it is committed
    close: Close | None = None
    holder: _Search | None = None  # whoever opened it last
    published: int = 0


@dataclass
class _Job:
    """The attempts of one process at one job, or at one prompt."""

    failed: int = 0
    refused: int = 0
    lost: list[tuple[int, int]] = field(default_factory=list)  # (pool, replica's number in it)


def check(world: World) -> list[str]:
    """Violations, each with its invariant; none if all is well."""
    return [f"{when:.3f} s: {text}" for when, text in _Reader(world).violations()]


class _Reader:
    def __init__(self, world: World) -> None:
        self.world, self.now = world, 0.0
        self.problems: dict[str, _Problem] = defaultdict(_Problem)
        self.searches: dict[tuple[Any, str], _Search] = {}
        self.jobs: dict[tuple[Any, str], _Job] = defaultdict(_Job)
        self.prompts: dict[tuple[Any, Any], _Job] = defaultdict(_Job)
        self.epochs: dict[tuple[int, int], tuple[int, int]] = {}  # (pool, number) -> life, epoch
        self.frozen: dict[Any, float] = defaultdict(float)
        self.life = 0
        self.gone: set[Any] = set()  # managers that were given up
        self.faulty = False  # the store of this life failed

    def violations(self) -> Iterator[tuple[float, str]]:
        for when, kind, *what in self.world.history:
            self.now = when
            reader: Callable[..., Iterator[str] | None] | None = getattr(self, f"_{kind.replace(' ', '_')}", None)
            for text in (reader(*what) if reader is not None else None) or ():
                yield when, text
        for text in self._whole():
            yield self.now, text

    # What happened, kind by kind

    def _life(self, driver: Any) -> None:
        self.faulty, self.life = False, driver.life

    def _disk(self, fault: str) -> None:
        self.faulty = True

    def _stuck(self, why: str) -> Iterator[str]:
        yield f"I4: the run does not end: {why}"

    def _exit(self, driver: Any, error: BaseException | None) -> Iterator[str]:
        told = isinstance(error, RunError) and "cannot write" in str(error) and self.faulty
        told |= isinstance(error, RunError) and "can start: CUDA" in str(error)
        if error is not None and not told and "Cancelled" not in type(error).__name__:
            yield f"I4: the run ended with {type(error).__name__}: {error}"

    def _given_up(self, process: Any) -> None:
        self.gone.add(process)

    def _freeze(self, process: Any, seconds: float) -> None:
        self.frozen[process] += seconds

    def _join(self, process: Any, pool: int, number: int, epoch: tuple[int, int]) -> None:
        self.epochs[pool, number] = epoch

    def _call(
        self, process: Any, role: str, job_id: str, kind: str, number: int, pool: int, tokens: int, kin: Any
    ) -> None:
        job = self.jobs[process, job_id]
        job.failed += kind == "failed"
        job.refused += kind == "refused"
        if kind == "lost":
            self.prompts[process, kin].lost.append((pool, number))
        if role == "proposer" and (search := self.searches.get((process, job_id.rpartition("/")[0]))) is not None:
            search.returned += tokens

    def _load(self, process: Any, problem_id: str, replies: list[Reply], close: Close | None) -> Iterator[str]:
        problem = self.problems[problem_id]
        if replies != problem.kept or close != problem.close:
            yield (
                f"I3: {problem_id} is loaded with {len(replies)} replies and {close}, committed were "
                f"{len(problem.kept)} and {problem.close}"
            )
        problem.holder = None

    def _open(self, process: Any, problem_id: str, journal: list[Reply], close: Close | None) -> Iterator[str]:
        problem, search = self.problems[problem_id], _Search(process, list(journal), close, len(journal))
        self.searches[process, problem_id] = search
        if process.life != self.life or process in self.gone:
            return  # it does not know yet that nobody listens
        if journal != problem.kept or close != problem.close:
            yield f"I3: {problem_id} is opened with another journal than is committed"
        problem.holder = search

    def _deliver(self, process: Any, job_id: str, expansion: Any, delivered: list[Reply]) -> Iterator[str]:
        problem_id = job_id.rpartition("/")[0]
        search = self.searches[process, problem_id]
        done = {reply.seq for reply in search.applied}
        for reply in delivered:
            if reply.seq in done:
                yield f"I1: reply {reply.seq} of {problem_id} is applied twice"
            done.add(reply.seq)
            if reply.expansion.error is not None:
                yield from self._explained(process, f"{problem_id}/{reply.seq}", reply.expansion.error)
        search.applied += delivered

    def _again(self, process: Any, job_id: str, expansion: Any, delivered: list[Reply]) -> Iterator[str]:
        if delivered:
            yield f"I1: the second copy of the reply to {job_id} led to {len(delivered)} replies"
            yield from self._deliver(process, job_id, expansion, delivered)
        self.searches[process, job_id.rpartition("/")[0]].again += tokens_of(expansion) or 0

    def _commit(self, process: Any, rows: list[Any]) -> Iterator[str]:
        for problem_id, k, what, _ in rows:
            problem = self.problems[problem_id]
            if problem.holder is None or problem.holder.process in self.gone:
                yield f"I7: {problem_id} is committed to by somebody who does not hold it"
                continue
            applied = problem.holder.applied
            if isinstance(what, Close):
                if problem.kept != applied:
                    yield f"I3: {problem_id} is closed after {len(problem.kept)} of {len(applied)} replies"
                problem.close = what
            elif k != len(problem.kept):
                yield f"I3: reply {k} of {problem_id} is committed after {len(problem.kept)}"
            elif k >= len(applied) or applied[k] != what:
                yield f"I7: reply {k} of {problem_id} is committed, its holder applied another"
            else:
                problem.kept.append(what)

    def _damage(self, problem_id: str, k: int) -> None:
        problem = self.problems[problem_id]
        problem.kept, problem.close = problem.kept[:k], None

    def _answer(self, process: Any, problem_id: str, tree: Any, ended: list[int], answer: Any) -> Iterator[str]:
        search = self.searches[process, problem_id]
        search.tree = tree
        parent, _, visits, _, held, _ = tree
        through = list(ended)
        for node in range(1, len(parent)):
            through[parent[node]] += visits[node]
        if through != list(visits):
            yield f"I2: the visits of {problem_id} do not add up"
        if any(held):
            yield f"I2: {problem_id} has ended with {held[0]} visits in flight"
        if search.close is None:
            before = add(0, sum(tokens_of(r.expansion) or 0 for r in search.applied[: search.began]))
            counted = answer.tokens_generated - before + answer.tokens_wasted
            if counted != search.returned + search.again:
                yield f"I5: {problem_id} counts {counted} tokens, {search.returned} + {search.again} were returned"
        limit = self.world.plan.budget.seconds  # of a search that ended before, it was looked at then
        if (
            search.close is None
            and limit is not None
            and answer.seconds > limit + TIMEOUT + LATE + self.frozen[process]
        ):
            yield f"I8: {problem_id} took {answer.seconds:.2f} s, its deadline is {limit:.2f} s"

    def _publish(self, problem_id: str, row: Any) -> Iterator[str]:
        problem = self.problems[problem_id]
        problem.published += 1
        if problem.close is None or problem.holder is None or problem.kept != problem.holder.applied:
            yield f"I3: {problem_id} is published before all behind it is committed"
        if row["stopped"] not in get_args(Stopped) or row["stopped"] == "cancelled":
            yield f"I4: {problem_id} ended as {row['stopped']}"

    # Whether what failed was bound to

    def _explained(self, process: Any, job_id: str, error: str) -> Iterator[str]:
        """A failure is by design, or by as many misfortunes as are borne."""
        job = self.jobs[process, job_id]
        if job_id in self.world.spoiled:
            return
        if error.startswith("RequestError: poison"):
            kin = self.world.kin[process, job_id]
            lost = self.prompts[process, kin].lost + self.prompts[process, job_id].lost
            causes = [self._culprit(*where) for where in set(lost)]
            if causes.count(None) < self._unexplained():
                yield f"I9: {job_id} is called poison, others killed its replicas: {causes}"
        elif job.failed < TRIES:
            yield f"I9: {job_id} failed after {job.failed} failures and {job.refused} refusals: {error}"

    def _culprit(self, pool: int, number: int) -> str | None:
        """The poisonous job that ended a replica; None where it was something else."""
        return self.world.culprits.get(self.epochs[pool, number])

    def _unexplained(self) -> int:
        """Deaths that no poisonous job is the cause of, without which an innocent one is never called poison."""
        return DEATHS if len({process for process, _ in self.searches}) == 1 else 1

    # At the end

    def _whole(self) -> Iterator[str]:
        plan = self.world.plan
        if len(self.world.published) < plan.problems:
            return  # it was stuck, and said so
        if plan.managers == len(plan.keys.poison) == 1 and not plan.faults:
            deaths, most = len(self.world.culprits), DEATHS + plan.keys.silent
            if deaths > most:
                yield f"I9: one prompt has killed {deaths} replicas, at most {most} may go"
        expected = self.world.expected() if self._certain() else {}
        for problem in plan.asked:
            found = self.problems[problem.id]
            if found.published != 1:
                yield f"I4: {problem.id} is published {found.published} times"
            if self.world.journals[problem.id] != (found.kept, found.close):
                yield f"I3: the final journal of {problem.id} is not what was committed"
            row, tree = self.world.published[problem.id], found.holder.tree if found.holder is not None else None
            if tree is None:
                yield f"I4: {problem.id} has a line, but no search of it has ended"
                continue
            sample = (
                problem.id not in expected
                or self._by_chance(problem.id)
                or problem.id == f"p{plan.seed % plan.problems}"
            )
            if found.close is not None and sample and (wrong := self._replayed(problem, tree, row)):
                yield f"I6: {problem.id}: {wrong}"
            if problem.id in expected and not self._by_chance(problem.id):
                calm_tree, calm_row = expected[problem.id]
                if calm_tree != tree:
                    yield f"I6: {problem.id} has another tree than undisturbed ({len(tree[0])} nodes, {len(calm_tree[0])})"
                if _line(calm_row) != _line(row):
                    yield f"I6: {problem.id} has another line than undisturbed: {_differ(calm_row, row)}"

    def _certain(self) -> bool:
        """Whether the results do not depend on what takes how long."""
        return self.world.plan.delivery == "issue" and self.world.plan.budget.seconds is None

    def _by_chance(self, problem_id: str) -> bool:
        """Whether something in its search failed that was not bound to (its journal may have been damaged since)."""
        holder = self.problems[problem_id].holder
        return any(
            reply.expansion.error is not None and f"{problem_id}/{reply.seq}" not in self.world.spoiled
            for reply in (*self.problems[problem_id].kept, *(holder.applied if holder is not None else ()))
        )

    def _replayed(self, problem: Any, tree: Any, row: Any) -> str:
        try:
            calm_tree, calm_row = self.world.replayed(problem)
        except (TreesearchError, AssertionError) as error:
            return f"its journal does not lead to its end: {error}"
        if calm_tree != tree:
            return f"its journal replays to another tree ({len(calm_tree[0])} nodes, it had {len(tree[0])})"
        if _line(calm_row) != _line(row):
            return f"its journal replays to another line: {_differ(calm_row, row)}"
        return ""


def _line(row: Any) -> str:
    """A line without what time and chance decide."""
    tokens = {name: count for name, count in row["tokens"].items() if name != "wasted"}
    error = row["error"] is not None
    return json.dumps({**row, "tokens": tokens, "seconds": 0, "error": error})


def _differ(a: Any, b: Any) -> str:
    return ", ".join(
        f"{key}: {a[key]!r:.80} is {b[key]!r:.80}" for key in a if json.dumps(a[key]) != json.dumps(b[key])
    )
