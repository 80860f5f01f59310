"""The only event loop: propose -> read -> score -> deliver. Decides nothing about trees (manager) and placement (dispatch).

Problems are admitted while replicas have credits to spare, so a tree that waits never leaves a model idle, but where a
scorer with enough to read shares its GPU (`backpressure`). An answer is published when the replies behind it are committed
and its last running request has come back, so its waste is known.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Protocol

from treesearch.algorithms.base import Search
from treesearch.answers import AnswerRule
from treesearch.backends.base import Proposer, Scored, Scorer
from treesearch.backpressure import Backpressure, tokens_in
from treesearch.checker import Checker
from treesearch.errors import RunError, told
from treesearch.forms import Forms
from treesearch.manager import Budget, Close, Delivery, Live, Manager, Outcome, Reply, add, tokens_of
from treesearch.pool import Pool, Replica
from treesearch.residents import Residents
from treesearch.store import Row
from treesearch.tasks.base import Task
from treesearch.tasks.readers import has_answer
from treesearch.types import Answer, Chain, Expansion, Job, Problem, Sampling, finite, made_expansion, under_way

GROUP = 0.01  # seconds in which replies gather for one commit: many share its cost, and no more are lost by a kill
AGAIN = 0.2  # seconds after which what does not end is interrupted again
HERE = "here"  # the card of models in this process that name none
TEXT = (str, type(None))  # what a task may read from a chain
MOST_BEHIND = 1024  # ended searches that wait for the disk or for whoever reads the answers


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for every search of a run. `trees` bounds the live ones; None: as many as keep all credits used."""

    rule: AnswerRule = field(default_factory=AnswerRule)
    sampling: Sampling = field(default_factory=Sampling)
    budget: Budget = field(default_factory=Budget)
    trees: int | None = None
    delivery: Delivery = "issue"
    seed: int = 0
    timeout: float | None = None  # seconds for one request to a replica
    thinking: bool = False  # whether there is no answer before the thought is over


class Journal(Protocol):
    """Where delivered replies are kept: a `store.Store`, or whoever brings them to one."""

    def lease(self, problem: str) -> int:
        """The epoch under which rows of this problem are written from now on; those of an older one are refused."""
        ...

    def load(self, problem: str) -> tuple[list[Reply], Close | None]: ...

    def append(self, rows: Sequence[Row]) -> Future[Collection[str]] | None:
        """Commit the rows before it returns, or before the future that it returns is done. Called in one thread.

        The future's result: problems that somebody else has been given, so that their rows were refused.
        """
        ...


class Engine:
    """Runs one search over many problems, on in-process or remote replicas alike.

    `scorers` or `outcomes` None: steps stay unscored, ends without an outcome. Replicas may also join the pools later.
    """

    def __init__(
        self,
        search: Search,
        task: Task,
        proposers: Sequence[Proposer],
        scorers: Sequence[Scorer] | None = None,
        outcomes: Sequence[Scorer] | None = None,
        *,
        settings: Settings | None = None,
        checker: Checker,
        store: Journal | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        s = self.settings = settings or Settings()
        self.manager = Manager(
            search, sampling=s.sampling, budget=s.budget, rule=s.rule, delivery=s.delivery, seed=s.seed,
            forms=hasattr(task, "equal"),
        )  # fmt: skip
        self.task, self.checker, self.store, self.clock = task, checker, store, clock
        self._reads_unfinished = bool(getattr(search, "reads_unfinished", False))
        self.proposers = Pool([proposer_replica(p) for p in proposers], s.timeout)
        self.scorers = Pool([scorer_replica(p) for p in scorers], s.timeout) if scorers is not None else None
        self.outcomes = Pool([scorer_replica(p) for p in outcomes], s.timeout) if outcomes is not None else None
        self.backpressure = Backpressure(self._rest)
        self.residents = Residents()
        self.stats = self.manager.stats
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._running: Counter[str] = Counter()  # requests of a problem that have not come back
        self._delivered: Counter[str] = Counter()
        self._epochs: dict[str, int] = {}  # of the lease on each problem
        self._dropped: set[str] = set()  # problems that somebody else has been given
        self._unpublished: set[str] = set()
        self._compared: dict[str, dict[str, asyncio.Task[None]]] = {}  # problem -> form -> its comparisons
        self._rows: list[Row] = []
        self._committed: asyncio.Future[None] | None = None  # of the rows that wait, where somebody wants to know
        self._commit: asyncio.Task[None] | None = None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._broken = False  # a commit failed: nothing may be published any more
        self._stopped = False  # requests end, and nothing begins
        self._background: set[asyncio.Task[None]] = set()
        self._out: asyncio.Queue[Answer | BaseException | None] = asyncio.Queue()
        self._source: Iterator[Problem | None] = iter(())
        self._more = False

    async def answers(self, problems: Iterable[Problem | None]) -> AsyncGenerator[Answer, None]:
        """Search all problems; their answers in order of completion. Raises RunError if the run cannot go on.

        A None among the problems means "none at the moment": call `admit` when there are more.
        """
        self._source = iter(problems)
        self._more = True
        try:
            self.admit()
            while self._unpublished or self._more or not self._out.empty():
                item = await self._out.get()
                if isinstance(item, BaseException):
                    raise item
                if item is not None:
                    yield item
                self.admit()
        finally:
            await self._stop()

    def pools(self) -> list[Pool]:
        return [pool for pool in (self.proposers, self.scorers, self.outcomes) if pool is not None]

    def cancel(self, problem_id: str) -> None:
        """Close the search of a problem now; its answer is chosen from the leaves it has."""
        self._apply(problem_id, self.manager.cancel(problem_id, "cancelled"))

    # Admission

    def admit(self) -> None:
        """Open searches while there is room for them."""
        while self._more and self.room():
            try:
                problem = next(self._source)
            except StopIteration:
                self._more = False
                self._out.put_nowait(None)  # whoever waits for the last answer may have it already
                return
            if problem is None:
                return
            self._open(problem)

    def more(self) -> None:
        """`admit` as a callback of the loop, after a None: what goes wrong with the problems ends `answers`."""
        try:
            self.admit()
        except Exception as error:
            self._out.put_nowait(error)

    def room(self) -> bool:
        """Whether one more live search would find something to do."""
        trees, credits = self.settings.trees, self.proposers.credits
        if len(self._unpublished) + self._out.qsize() >= (credits if trees is None else trees) + MOST_BEHIND:
            return False
        return len(self._tasks) < credits if trees is None else len(self._unpublished) < trees

    def _open(self, problem: Problem) -> None:
        if problem.id in self._unpublished:
            raise RunError(f"problem id {problem.id!r} is given twice; ids must differ")
        self._unpublished.add(problem.id)
        journal, close = self._journalled(problem.id)
        outcome = self.manager.open(problem, self.clock(), journal, close)
        self._delivered[problem.id] = len(journal)
        if close is not None and outcome.ended:
            self._finish(self.manager.answer(problem.id, self.clock(), close.seconds))
            return
        if self.settings.budget.seconds is not None and not outcome.ended:
            spent = journal[-1].at if journal else 0.0
            asyncio.get_running_loop().call_later(max(0.0, self.settings.budget.seconds - spent), self._expire)
        if outcome.jobs:
            self._reside(self.manager.live[problem.id], outcome.jobs[0])
        self._apply(problem.id, outcome)

    def _journalled(self, problem_id: str) -> tuple[list[Reply], Close | None]:
        if self.store is None:
            return [], None
        self._epochs[problem_id] = self.store.lease(problem_id)
        return self.store.load(problem_id)

    def _expire(self) -> None:
        now = self.clock()
        for problem_id in self.manager.overdue(now + 1e-3):
            self._apply(problem_id, self.manager.cancel(problem_id, "deadline"))

    # One request

    def _apply(self, problem_id: str, outcome: Outcome) -> None:
        """Carry out what the manager decided: journal, send, withdraw, publish."""
        self._journal(problem_id, outcome.delivered)
        if outcome.ended and (live := self.manager.live.get(problem_id)) is not None:
            self.residents.end(live.age)
        loop = asyncio.get_running_loop()
        for job in outcome.jobs:
            self._running[problem_id] += 1
            self._tasks[job.id] = loop.create_task(self._serve(job))
        for job_id in outcome.cancelled:
            if self.proposers.waits(job_id) or self.backpressure.waits(job_id) or self.residents.waits(job_id):
                self._tasks[job_id].cancel()
            else:  # its reply comes back all the same, so that its tokens are counted
                for pool in self.pools():
                    pool.abort(job_id)
        if outcome.ended and not self._running[problem_id]:
            self._spawn(self._publish(problem_id))

    def _reside(self, live: Live, job: Job) -> None:
        """Note what the tree needs of the cache of this job's scorer. Where seconds are counted none waits: all are slow."""
        if self.scorers is None or not self.scorers.caching or self.settings.budget.seconds is not None:
            return
        number, replica = self.scorers.home(job.id)
        if replica is not None and replica.keeps is not None:
            self.residents.note(live.age, self.manager.working_set(live), number, replica.keeps)

    async def _serve(self, job: Job) -> None:
        """A job, then the last of those that its reply leads to, and so on: to go on costs less than a task for each."""
        live = self.manager.live[job.problem.id]
        while True:
            outcome = await self._reply(job, live)
            task = self._tasks.pop(job.id)
            if self._stopped:
                return
            following = outcome.jobs.pop() if outcome.jobs else None
            if following is None:
                self._running[live.problem.id] -= 1
            else:
                self._tasks[following.id] = task
            try:
                if following is not None:
                    self._reside(live, following)
                self._apply(live.problem.id, outcome)
                self.admit()
            except Exception as error:
                self._out.put_nowait(error)
            if following is None:
                return
            job = following
            await asyncio.sleep(0)  # in its turn, as one with a task of its own

    async def _reply(self, job: Job, live: Live) -> Outcome:
        """Ask for the reply to a job and deliver it."""
        outcome = Outcome()
        try:
            expansion = await self._expand(job, live)
            outcome = self.manager.deliver(job.id, expansion, self.clock())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self._out.put_nowait(error)
        outcome.ended = live.stopped is not None
        return outcome

    async def _expand(self, job: Job, live: Live) -> Expansion:
        """The one reply to a job: chains read and scored, or an error as a value."""
        if job.score is not None and self.scorers is not None and live.stopped is None:
            await self._turn(job, live, self.scorers)
        if live.stopped is not None:
            return Expansion(job.leaf, error="cancelled")
        chains: tuple[Chain, ...] = ()
        try:
            chains = await self.proposers.run(job.id, job, kin=job.seed)
            if live.stopped is not None:
                return Expansion(job.leaf, chains)  # nobody will look at it: counted, not scored
            _check_chains(job, chains)
            path = under_way(job.path)
            if len(path) < len(job.path):  # what is read and judged is one attempt
                job = replace(job, path=path)
            compared: Sequence[asyncio.Task[None]] = ()
            if self._reads_unfinished or any([chain[-1].finish != "step" for chain in chains]):
                chains = tuple([await self._read(job, chain) for chain in chains])
                compared = self._compare(live, chains)
            expansion = await self._judge(job, chains)
            for task in compared:
                await asyncio.shield(task)  # before delivery, which only looks up; others may wait for it too
            return expansion
        except RunError:  # no replica is left, or the checker cannot start: no fault of this job
            raise
        except Exception as error:
            self.manager.waste(job.problem.id, _sampled(chains))
            return Expansion(job.leaf, error=told(error))

    async def _turn(self, job: Job, live: Live, scorers: Pool) -> None:
        """Wait until its tree is one of those that go on, and its scorer has not enough to read."""
        if scorers.caching:
            await self.residents.turn(live.age, job.id)
        if scorers.paced and live.stopped is None:
            await self.backpressure.turn(*_pace(scorers, job.id), job.id, job.priority)

    async def _read(self, job: Job, chain: Chain) -> Chain:
        """The chain with its last step's answer, if it ended, or its search reads unfinished ones; no thought has one."""
        if chain[-1].finish == "step" and not self._reads_unfinished:
            return chain
        texts = [step.text for step in (*job.path, *chain)]
        if not has_answer(texts, self.settings.thinking):
            return chain
        answer, canonical = await self.checker.read(self.task, job.problem.question, texts)
        if not isinstance(answer, TEXT) or not isinstance(canonical, TEXT):
            raise ValueError(
                f"task {self.task.name} read {answer!r} ({canonical!r}) as an answer: they must be text or None"
            )
        return (*chain[:-1], chain[-1].read(answer, canonical))

    def _compare(self, live: Live, chains: Sequence[Chain]) -> list[asyncio.Task[None]]:
        """Begin to find out which forms before those of these chains are equal to them: one task a form."""
        if live.forms is None:
            return []
        tasks = self._compared.setdefault(live.problem.id, {})
        forms = [chain[-1].canonical for chain in chains if chain[-1].canonical is not None]
        for form in forms:
            if form not in tasks:
                tasks[form] = asyncio.create_task(self._ask(live.forms, form, live.forms.arrive(form)))
        return [tasks[form] for form in forms]

    async def _ask(self, forms: Forms, form: str, others: Sequence[str]) -> None:
        for other in others:
            if await self.checker.equal(self.task, form, other):
                forms.join(form, other)

    async def _judge(self, job: Job, chains: tuple[Chain, ...]) -> Expansion:
        """Scores of the new steps, and of the whole chains that ended where there is an outcome model."""
        scored: int | None = 0
        if job.score is not None and self.scorers is not None:
            score = self._paced if self.scorers.paced else self.scorers.run
            result: Scored = await score(job.id, (job, chains))
            chains = _with_scores(chains, result.scores)
            scored = result.tokens
            self.stats.scores += sum(map(len, chains))
        if self.outcomes is None:
            return made_expansion(job.leaf, chains, None, scored)
        ended = [k for k, chain in enumerate(chains) if chain[-1].finish != "step"]
        if ended:
            result = await self.outcomes.run(job.id, (job, tuple(chains[k] for k in ended)))
            values = dict(zip(ended, (_single(s) for s in result.scores), strict=True))
            chains = tuple(
                (*c[:-1], replace(c[-1], outcome=values[k])) if k in values else c for k, c in enumerate(chains)
            )
            scored = add(scored, result.tokens)
        return Expansion(job.leaf, chains, scored=scored)

    async def _paced(self, job_id: str, item: tuple[Job, tuple[Chain, ...]]) -> Scored:
        """The scorer's reply; while it is waited for, the scorer has these chains to read."""
        assert self.scorers is not None
        with self.backpressure.reading(*_pace(self.scorers, job_id), tokens_in(item[1])):
            return await self.scorers.run(job_id, item)  # type: ignore[no-any-return]

    def _rest(self, scorer: int, rests: bool) -> None:
        """Proposers that share the scorer's card rest, or go on if no other scorer there has enough."""
        assert self.scorers is not None
        replicas = self.scorers.replicas
        card = replicas[scorer].card
        self.proposers.rest(card, rests or any(replicas[other].card == card for other in self.backpressure.full))

    # Journal and answers

    def _journal(self, problem_id: str, replies: Sequence[Reply]) -> None:
        if self.store is None:
            return
        for reply in replies:
            self._rows.append((problem_id, self._delivered[problem_id], reply, self._epochs[problem_id]))
            self._delivered[problem_id] += 1
        if self._rows and self._commit is None:
            self._commit = asyncio.create_task(self._write())

    async def _write(self) -> None:
        """Commit what waits, in groups, off the loop."""
        try:
            while self._rows and not self._broken:
                await asyncio.sleep(GROUP)
                rows, self._rows = self._rows, []
                committed, self._committed = self._committed, None
                for problem_id in await self._append(rows):
                    self._drop(problem_id)
                if committed is not None:
                    committed.set_result(None)
        except Exception as error:
            self._broken = True  # what comes after the rows that are missing must not be written either
            self._out.put_nowait(error)
        finally:
            self._commit = None

    async def _publish(self, problem_id: str) -> None:
        now = self.clock()
        live = self.manager.live.get(problem_id)
        if live is None or live.stopped is None:
            return
        answer = self.manager.answer(problem_id, now)
        if self.store is not None and problem_id not in self._dropped:
            close = Close(answer.stopped, answer.seconds, answer.tokens_wasted, answer.error)
            self._rows.append((problem_id, self._delivered[problem_id], close, self._epochs[problem_id]))
            if self._committed is None:
                self._committed = asyncio.get_running_loop().create_future()
            if self._commit is None and not self._broken:
                self._commit = asyncio.create_task(self._write())
            await asyncio.shield(self._committed)  # for ever, if a commit failed: then the run ends
        self._finish(answer)

    def _drop(self, problem_id: str) -> None:
        """Somebody else has been given this problem: its search ends, and has no answer here."""
        if problem_id not in self._unpublished:  # rows of it were on their way when it was dropped
            return
        self._dropped.add(problem_id)
        self._apply(problem_id, self.manager.cancel(problem_id, "cancelled"))

    def _finish(self, answer: Answer) -> None:
        problem_id = answer.problem.id
        self._unpublished.discard(problem_id)
        del self._running[problem_id], self._delivered[problem_id]
        self._compared.pop(problem_id, None)
        for pool in self.pools():
            pool.dispatch.forget(problem_id)
        self._epochs.pop(problem_id, None)
        dropped = problem_id in self._dropped
        self._dropped.discard(problem_id)
        self._out.put_nowait(None if dropped else answer)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _stop(self) -> None:
        """End everything that runs; commit what was delivered."""
        self._stopped = True
        tasks = {*self._tasks.values(), *self._background}
        tasks |= {task for forms in self._compared.values() for task in forms.values()}
        while tasks:  # whoever swallows an interrupt gets another
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=AGAIN)
        if self._commit is not None:
            await asyncio.wait([self._commit])
        for live in self.manager.live.values():
            live.wishes.close()
        if self.store is not None and self._rows and not self._broken:
            rows, self._rows = self._rows, []
            await self._append(rows)
        self._writer.shutdown(wait=True)

    async def _append(self, rows: Sequence[Row]) -> Collection[str]:
        """Commit on the one writer thread: a commit whose task was cancelled is finished before the next begins.

        Returns the problems whose rows were refused.
        """
        assert self.store is not None
        committed = await asyncio.get_running_loop().run_in_executor(self._writer, self.store.append, rows)
        return () if committed is None else await asyncio.wrap_future(committed)


def proposer_replica(proposer: Proposer) -> Replica:
    rest, card = getattr(proposer, "rest", None), getattr(proposer, "card", HERE)
    return Replica(proposer.propose, proposer.max_jobs, getattr(proposer, "abort", None), rest=rest, card=card)


def scorer_replica(scorer: Scorer) -> Replica:
    enough, keeps = getattr(scorer, "enough", None), getattr(scorer, "keeps", None)
    return Replica(scorer.score, scorer.max_jobs, enough=enough, keeps=keeps, card=getattr(scorer, "card", HERE))


def _pace(scorers: Pool, job_id: str) -> tuple[int, int | None]:
    """The scorer of the job, and what is enough for it."""
    number, replica = scorers.home(job_id)
    return number, None if replica is None else replica.enough


def _check_chains(job: Job, chains: Sequence[Chain]) -> None:
    if job.n is not None and len(chains) != job.n:
        raise ValueError(f"the proposer gave {len(chains)} chains, asked were {job.n}")
    for chain in chains:
        if not chain:
            raise ValueError("the proposer gave a chain without a step")
        if job.until != "step" and chain[-1].finish == "step":
            raise ValueError("the proposer was asked for the answer and stopped before it")
        for step in chain:
            if step.logprob != step.logprob:
                raise ValueError("the proposer gave nan as a log-probability")


def _sampled(chains: Sequence[Chain]) -> int | None:
    """Tokens of a reply that came to nothing; None where they cannot be counted."""
    try:
        return tokens_of(Expansion(0, tuple(chains)))
    except Exception:  # a proposer's reply that is no chains at all
        return None


def _with_scores(chains: Sequence[Chain], scores: Sequence[Sequence[float]]) -> tuple[Chain, ...]:
    """The chains with their scores, if there is one finite number for each step; never a silent 0."""
    if len(scores) != len(chains):
        raise ValueError(f"the scorer gave scores for {len(scores)} chains, asked were {len(chains)}")
    for chain, values in zip(chains, scores, strict=True):
        if len(values) != len(chain):
            raise ValueError(f"the scorer gave {len(values)} scores for {len(chain)} steps")
        for score in values:
            if not isinstance(score, (int, float)) or not isfinite(score):
                raise ValueError(f"the scorer gave {score!r} as a score; scores must be finite numbers")
    return tuple(
        [
            tuple([step.scored(float(score)) for step, score in zip(chain, values, strict=True)])
            for chain, values in zip(chains, scores, strict=True)
        ]
    )


def _single(scores: Sequence[float]) -> float:
    if len(scores) != 1 or not finite(scores[0]):
        raise ValueError(f"the outcome model gave {list(scores)!r}; it must give one finite number a chain")
    return float(scores[0])
