"""Many searches at once: wish -> Job, reply -> its turn -> send. Knows no clock (`now` is an argument), no loop, no model.

The laws it holds: every Expand gets exactly one Expansion (duplicates are dropped, a closed search's wishes end as
cancelled); a generator gets one reply per resume, with `delivery="issue"` the oldest outstanding one; the first reply that
would exceed the token budget is not delivered; the delivered replies alone decide the tree, and whether its answer is sure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Literal

from treesearch.algorithms.base import Search, Wishes
from treesearch.answers import AnswerRule, Standing, choose
from treesearch.errors import JournalError
from treesearch.forms import Forms
from treesearch.tree import ROOT, Tree
from treesearch.types import (
    Answer,
    Chain,
    Expand,
    Expansion,
    Job,
    Problem,
    Sampling,
    Step,
    Stopped,
    digest,
    hashed,
    made_job,
    maker,
    path_digest,
)

Delivery = Literal["issue", "arrival"]
LETTERS = 4  # of a token, where tokens are not counted
STEP = 64  # tokens of a step, before one is known


@dataclass(frozen=True, slots=True)
class Budget:
    """Per problem: generated tokens, and seconds since its search began. None: no limit."""

    tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One delivered reply, as journalled: the wish it answers (issue number and digest), when, and what."""

    seq: int
    wish: int
    at: float  # seconds since the search began
    expansion: Expansion


made_reply = maker(Reply)


@dataclass(frozen=True, slots=True)
class Close:
    """How a search ended, as journalled after its last reply."""

    stopped: Stopped
    seconds: float
    wasted: int | None
    error: str | None = None


@dataclass(slots=True)
class Stats:
    """Live counters of a run; tokens are None once a backend did not say."""

    expansions: int = 0
    generated: int | None = 0
    scored: int | None = 0
    failed: int = 0  # expansions that ended in an error
    scores: int = 0  # steps scored by this process


@dataclass(slots=True)
class Outcome:
    """What a call to the manager leads to: jobs to send, jobs nobody wants any more, a row for the journal, an end."""

    jobs: list[Job] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    delivered: list[Reply] = field(default_factory=list)
    ended: bool = False


@dataclass(slots=True)
class Asked:
    """A wish that waits for its reply: with the digest of its path, the chains asked there before, and its own digest."""

    wish: Expand
    path: int
    first: int
    digest: int


@dataclass(slots=True)
class Live:
    """One search under way."""

    problem: Problem
    tree: Tree
    wishes: Wishes
    started: float
    about: blake2b  # told the run's seed and the problem: what every seed of this search begins with
    digests: dict[int, int]  # node -> digest of the path to it, where it was asked for
    age: int  # searches opened before it
    forms: Forms | None = None  # of its answers, where the task can tell that two are equal
    standing: Standing | None = None  # of its answer, where it ends as soon as that is sure
    outstanding: dict[int, Asked] = field(default_factory=dict)  # seq -> wish; oldest first
    ready: dict[int, Expansion] = field(default_factory=dict)  # arrived, not yet its turn
    asked: dict[int, int] = field(default_factory=dict)  # path digest -> chains asked at that path so far
    issued: int = 0
    oldest: int = 0  # no wish before this one is outstanding
    expansions: int = 0
    generated: int | None = 0
    scored: int | None = 0
    wasted: int | None = 0
    stopped: Stopped | None = None
    error: str | None = None
    failure: str | None = None  # of the last failed request
    working: int = 0  # tokens of its working set, as they were found last
    due: int = 0  # expansions after which they are found again


class Manager:
    """All live searches of one run, by problem id."""

    def __init__(
        self,
        search: Search,
        *,
        sampling: Sampling | None = None,
        budget: Budget | None = None,
        rule: AnswerRule | None = None,
        delivery: Delivery = "issue",
        seed: int = 0,
        forms: bool = False,
    ) -> None:
        """`forms`: answers whose canonical forms differ may be equal; what is found of it is in `Live.forms`."""
        self.search = search
        self.sampling = sampling or Sampling()
        self._drawn = _drawn(self.sampling)
        self.budget = budget or Budget()
        self.rule = rule or AnswerRule()
        self.delivery = delivery
        self.seed = seed
        self.forms = forms
        self.live: dict[str, Live] = {}
        self.stats = Stats()
        self.opened = 0
        self.logprobs = bool(getattr(search, "reads_logprobs", False))

    def open(self, problem: Problem, now: float, journal: Sequence[Reply] = (), close: Close | None = None) -> Outcome:
        """Begin a search, or bring it back to where its journal ends; returns the jobs still unanswered.

        Raises JournalError if the journal was written by another search, naming the first reply that does not fit.
        """
        about = hashed(self.seed, problem.id)
        tree_seed = digest(after=about)
        tree = Tree(seed=tree_seed)
        started = now - (journal[-1].at if journal else 0.0)
        live = Live(problem, tree, self.search.search(tree), started, about, {ROOT: tree_seed}, self.opened,
                    Forms() if self.forms else None, Standing(self.rule) if self.rule.stop else None)  # fmt: skip
        self.opened += 1
        self.live[problem.id] = live
        self._resume(live, None)
        for k, reply in enumerate(journal):
            asked = live.outstanding.get(reply.seq)
            if asked is None or asked.digest != reply.wish:
                raise JournalError(
                    f"problem {problem.id}: reply {k} answers a wish that this search does not make: the journal was written "
                    "with another search, seed or version; use another --out folder"
                )
            self._feed(live, reply.seq, _labelled(live, reply.expansion))
        if close is not None:
            live.stopped, live.error, live.wasted = close.stopped, close.error, close.wasted
        if live.stopped is not None:
            return self._end(live, Outcome(), sent=0)
        return Outcome([self._job(live, seq) for seq in live.outstanding])

    def deliver(self, job_id: str, expansion: Expansion, now: float) -> Outcome:
        """A reply arrived. It is held until its turn; a duplicate, or one for a closed search, changes nothing but waste."""
        out = Outcome()
        problem_id, _, number = job_id.rpartition("/")
        live, seq = self.live.get(problem_id), int(number)
        if live is None:
            return out
        if live.stopped is not None or seq not in live.outstanding or seq in live.ready:
            live.wasted = add(live.wasted, tokens_of(expansion))
            return out
        live.ready[seq] = expansion
        sent = live.issued
        while live.stopped is None and (turn := self._turn(live, seq)) is not None:
            reply = live.ready.pop(turn)
            if self._over(live, reply):
                live.wasted = add(live.wasted, tokens_of(reply))
                break
            reply = _labelled(live, reply)
            out.delivered.append(made_reply(turn, live.outstanding[turn].digest, now - live.started, reply))
            self._feed(live, turn, reply)
        if live.stopped is not None:
            return self._end(live, out, sent)
        out.jobs = [self._job(live, seq) for seq in range(sent, live.issued)]
        return out

    def cancel(self, problem_id: str, reason: Stopped, error: str | None = None) -> Outcome:
        """Close a search from outside: deadline, cancelled client, error. It is whole between two resumes."""
        out, live = Outcome(), self.live.get(problem_id)
        if live is not None and live.stopped is None:
            live.stopped, live.error = reason, error
            self._end(live, out, sent=live.issued)
        return out

    def waste(self, problem_id: str, tokens: int | None) -> None:
        """Tokens were sampled that no reply brings."""
        if (live := self.live.get(problem_id)) is not None:
            live.wasted = add(live.wasted, tokens)

    def working_set(self, live: Live) -> int:
        """Tokens that a cache must hold for what is outstanding: the question, the paths to its wishes, each node once, and
        the steps they will draw. Looked at once a round: when as many replies have come as were outstanding."""
        if live.expansions >= live.due:
            live.working = _working_set(live)
            live.due = live.expansions + len(live.outstanding)
        return live.working

    def overdue(self, now: float) -> list[str]:
        """Problems whose time budget is used up."""
        seconds = self.budget.seconds
        return (
            []
            if seconds is None
            else [p for p, s in self.live.items() if s.stopped is None and now - s.started >= seconds]
        )

    def answer(self, problem_id: str, now: float, seconds: float | None = None) -> Answer:
        """Choose the answer of an ended search from its finished leaves, and forget the search."""
        live = self.live.pop(problem_id)
        assert live.stopped is not None, f"{problem_id} has not ended"
        candidates = live.tree.candidates()
        if not candidates and live.stopped == "finished" and live.failure is not None:
            live.stopped, live.error = "error", live.failure  # nothing was found, and this is why
        chosen, score = choose(candidates, self.rule)
        return Answer(
            problem=live.problem,
            answer=chosen.answer if chosen else None,
            score=score,
            text=chosen.text if chosen else "",
            candidates=tuple(candidates),
            stopped=live.stopped,
            tokens_generated=live.generated,
            tokens_scored=live.scored,
            tokens_wasted=live.wasted,
            expansions=live.expansions,
            seconds=now - live.started if seconds is None else seconds,
            error=live.error,
            nodes=len(live.tree),
        )

    # One search

    def _turn(self, live: Live, arrived: int) -> int | None:
        """The reply to deliver next, if it is here."""
        if self.delivery == "arrival":
            return arrived if arrived in live.ready else None
        while live.oldest < live.issued and live.oldest not in live.outstanding:
            live.oldest += 1
        return live.oldest if live.oldest in live.ready else None

    def _over(self, live: Live, reply: Expansion) -> bool:
        """Whether delivering would exceed the token budget; then the search is closed instead."""
        if self.budget.tokens is None:
            return False
        total = add(live.generated, tokens_of(reply))
        if total is None:
            live.stopped, live.error = "error", "budget.tokens needs token counts, which this proposer does not give"
        elif total > self.budget.tokens:
            live.stopped = "budget"
        return live.stopped is not None

    def _feed(self, live: Live, seq: int, reply: Expansion) -> None:
        del live.outstanding[seq]
        live.failure = reply.error or live.failure
        self.stats.failed += reply.error is not None
        tokens, run = tokens_of(reply), self.stats
        live.expansions, run.expansions = live.expansions + 1, run.expansions + 1
        live.generated, run.generated = add(live.generated, tokens), add(run.generated, tokens)
        live.scored, run.scored = add(live.scored, reply.scored), add(run.scored, reply.scored)
        grown = len(live.tree)
        self._resume(live, reply)
        if self._sure(live, grown) and live.stopped is None:
            live.stopped = "decided"

    def _sure(self, live: Live, grown: int) -> bool:
        """Whether the answer is as sure as `answer.stop` wants it, with the nodes from index `grown` on."""
        stop = self.rule.stop
        if live.standing is None or stop is None or len(live.tree) == grown or live.tree.outputs is not None:
            return False
        return live.standing.add(live.tree.candidates(grown)) >= stop

    def _resume(self, live: Live, reply: Expansion | None) -> None:
        try:
            wishes = next(live.wishes) if reply is None else live.wishes.send(reply)
        except StopIteration:
            live.stopped = "decided" if live.outstanding else "finished"
            return
        for wish in wishes:
            self._stamp(live, wish)
        if not live.outstanding:  # a search that waits for nothing would wait for ever
            live.wishes.close()
            live.stopped, live.error = "error", f"{type(self.search).__name__} waits without an outstanding wish"

    def _stamp(self, live: Live, wish: Expand) -> None:
        """Note the wish as outstanding, the chains already asked at its path counted."""
        path = self._digest(live, wish.leaf)
        first = live.asked.get(path, 0)
        live.asked[path] = first + (wish.n or 0)
        drawn = self._drawn if wish.sampling is None else _drawn(wish.sampling)
        live.outstanding[live.issued] = Asked(wish, path, first, _wish_digest(wish, drawn, path, first))
        live.issued += 1

    def _job(self, live: Live, seq: int) -> Job:
        """An outstanding wish as a Job: the path spelled out, the seed derived."""
        asked = live.outstanding[seq]
        wish, seed = asked.wish, digest(asked.path, after=live.about)
        return made_job(f"{live.problem.id}/{seq}", live.problem, live.tree.path(wish.leaf), asked.first, wish.n,
                        wish.until, wish.sampling or self.sampling, seed, wish.score, wish.proposer, wish.leaf, live.age,
                        self.logprobs)  # fmt: skip

    def _digest(self, live: Live, node: int) -> int:
        """Digest of the path to a node, from the nearest one above that is known."""
        known, tree = live.digests, live.tree
        below: list[int] = []
        at = node
        while at not in known:
            below.append(at)
            at = tree.parent[at]
        for at in reversed(below):
            step = tree.steps[at]
            assert step is not None
            known[at] = path_digest(known[tree.parent[at]], step)
        return known[node]

    def _end(self, live: Live, out: Outcome, sent: int) -> Outcome:
        """Close the generator; what is outstanding of the wishes that were `sent` ends as cancelled, what had arrived too
        early is waste."""
        live.wishes.close()
        out.cancelled = [f"{live.problem.id}/{seq}" for seq in live.outstanding if seq < sent]
        for reply in live.ready.values():
            live.wasted = add(live.wasted, tokens_of(reply))
        live.outstanding.clear()
        live.ready.clear()
        out.ended = True
        return out


def _working_set(live: Live) -> int:
    tree, nodes, drawn = live.tree, set[int](), 0
    for asked in live.outstanding.values():
        if asked.wish.until == "step":  # a chain to the answer is read once, and nothing follows it
            drawn += asked.wish.n or 1
        node = asked.wish.leaf
        while node != ROOT and node not in nodes:
            nodes.add(node)
            node = tree.parent[node]
    mean = (live.generated or 0) / (len(tree) - 1) if len(tree) > 1 else STEP
    return (
        len(live.problem.question) // LETTERS
        + sum(map(_tokens, map(tree.steps.__getitem__, nodes)))
        + round(drawn * mean)
    )


def _tokens(step: Step | None) -> int:
    assert step is not None
    return len(step.text) // LETTERS if step.tokens is None else step.tokens


def _labelled(live: Live, reply: Expansion) -> Expansion:
    """The reply with each answer under the label of its form; what a journal holds has it already."""
    if live.forms is None:
        return reply
    chains = tuple(_with_label(chain, live.forms) for chain in reply.chains)
    return reply if chains == reply.chains else replace(reply, chains=chains)


def _with_label(chain: Chain, forms: Forms) -> Chain:
    form = chain[-1].canonical
    if form is None or (label := forms.label(form)) == form:
        return chain
    return (*chain[:-1], replace(chain[-1], canonical=label))


def _wish_digest(wish: Expand, drawn: str, path: int, first: int) -> int:
    """What a journalled reply must answer: all of the wish, `drawn` as it says, and the path and chains it is about."""
    how = f"{wish.n}, {wish.until!r}, {wish.proposer!r}, {wish.score!r}, {drawn}"
    return digest(f"({wish.leaf}, {path}, {first}, ({how}))")


def _drawn(sampling: Sampling) -> str:
    """The sampling as it stands in the digest of a wish."""
    return f"{sampling.temperature!r}, {sampling.top_p!r}"


def add(a: int | None, b: int | None) -> int | None:
    """Sum of two counts; unknown if either is."""
    return None if a is None or b is None else a + b


def tokens_of(expansion: Expansion) -> int | None:
    """Generated tokens of a reply; None if a count is unknown."""
    known = 0
    for chain in expansion.chains:
        for step in chain:
            if step.tokens is None:
                return None
            known += step.tokens
    return known


def total(counts: Iterable[int | None]) -> int | None:
    """Sum of counts; unknown if one is."""
    known = 0
    for count in counts:
        if count is None:
            return None
        known += count
    return known
