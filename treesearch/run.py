"""Problems in, results out: builds what a Config names, drives the engine, writes the run's folder. Knows no search.

run.db is the truth; results.jsonl and summary.json are views of it. A folder is resumed by running it again.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from treesearch import models as bundled
from treesearch.algorithms.base import Search
from treesearch.answers import aggregate
from treesearch.backends.base import LastScore, Proposer, Scorer
from treesearch.backends.weights import fingerprint
from treesearch.checker import Checker
from treesearch.config import Config, digest, matters, written
from treesearch.config import read as read_config
from treesearch.engine import Engine, Settings
from treesearch.errors import ConfigError, ProblemError, RunError, told
from treesearch.problems import ProblemSet
from treesearch.problems.ahead import Ahead
from treesearch.progress import Counters, Progress
from treesearch.results import Results, Row, Summary, is_summary, replace_file
from treesearch.store import Store
from treesearch.tasks import load_task, prompts
from treesearch.tasks.base import Task
from treesearch.tree import Tree
from treesearch.types import Answer, Candidate, Problem

TICK = 0.5  # seconds
ROOM = 1 << 16  # bytes that a run needs to begin
END = "end"  # of the problems
FILES = (
    "config.yaml",
    "run.db",
    "run.db-wal",
    "run.db-shm",
    "run.db-journal",
    "run.lock",
    "results.jsonl",
    "summary.json",
)


@dataclass(slots=True)
class Models:
    """Backends that were built, kept by their spec so that the runs of a sweep share them. Close it at the end."""

    checker: Checker = field(default_factory=Checker)
    _built: list[tuple[tuple[Any, ...], Any]] = field(default_factory=list)

    def proposers(self, config: Config, task: Task) -> list[Proposer]:
        key = ("proposer", config.proposer, task.name, config.prompt, config.limits)
        return self._get(key, lambda: config.proposer.build(task, config.prompt, config.limits))

    def scorers(self, config: Config, task: Task, section: str = "scorer") -> list[Scorer]:
        spec = getattr(config, section)
        return self._get((section, spec, task.name, config.prompt), lambda: spec.build(task, config.prompt))

    def _get(self, key: tuple[Any, ...], make: Any) -> list[Any]:
        """The one backend of this key as a list; empty where the spec builds nothing (`none`)."""
        for known, built in self._built:
            if known == key:
                return [built] if built is not None else []
        built = make()
        self._built.append((key, built))
        return [built] if built is not None else []

    async def forget(self) -> None:
        """Empty what the backends keep of earlier runs, so that each run counts all of its own work."""
        for _, built in self._built:
            if (forget := getattr(built, "forget", None)) is not None:
                await forget()

    async def close(self) -> None:
        for _, built in self._built:
            if built is not None:
                await built.close()
        self._built.clear()
        self.checker.close()


@dataclass(frozen=True, slots=True)
class Todo:
    """The problems of a run that have no line yet, each read when it is asked for. `count`: None if only reading tells."""

    first: Problem
    rest: Iterator[Problem | None]
    count: int | None

    def reading(self, ring: Callable[[], None]) -> Iterator[Problem | None]:
        """The problems; None while there is none at the moment: `ring` is called, from any thread, when there is again."""
        if isinstance(self.rest, Ahead):
            self.rest.ring = ring
        return chain((self.first,), self.rest)

    def close(self) -> None:
        """Close the file that is read, whatever is left of it."""
        if isinstance(self.rest, Ahead | Generator):
            self.rest.close()


class Driver(Protocol):
    """Who searches the problems of a run: an engine in this process, or a cluster."""

    @property
    def stats(self) -> Counters: ...

    def rows(self, todo: Todo) -> AsyncGenerator[Row, None]:
        """A line of results.jsonl for each problem, in order of completion, once all behind it is committed."""
        ...

    def prefix_hit_rate(self) -> float | None:
        """Share of the proposers' prompt tokens that their caches held; None if nobody counted."""
        ...


Drive = Callable[[Config, Task, Store], Driver]


class _Local:
    """The engine of this process as a driver."""

    def __init__(self, config: Config, models: Models, task: Task, store: Store) -> None:
        self.config, self.models, self.task = config, models, task
        self.engine = engine(config, models, task, store)
        self.stats = self.engine.stats

    async def rows(self, todo: Todo) -> AsyncGenerator[Row, None]:
        problems = todo.reading(_from_thread(self.engine.more))
        async with _stream(self.engine, problems) as answers:
            async for answer in answers:
                yield await result(answer, self.config, self.task, self.models.checker)

    def prefix_hit_rate(self) -> float | None:
        return hit_rate([usage_of(proposer) for proposer in self.models.proposers(self.config, self.task)])


def settings(config: Config) -> Settings:
    """What the config says about every search."""
    return Settings(
        rule=config.answer,
        sampling=config.sampling,
        budget=config.budget,
        trees=None if config.engine.trees == "auto" else config.engine.trees,
        delivery=config.engine.delivery or "issue",
        seed=config.engine.seed,
        thinking=prompts.thinks(config.prompt),
    )


def engine(config: Config, models: Models, task: Task, store: Store | None = None) -> Engine:
    """An engine as the config wants it. Raises ConfigError for a search that its proposer cannot do."""
    proposers = models.proposers(config, task)
    check_search(config.search, proposers)
    return Engine(
        config.search,
        task,
        proposers,
        models.scorers(config, task) or None,
        [LastScore(model) for model in models.scorers(config, task, "outcome")] or None,  # a PRM serves as one too
        settings=settings(config),
        checker=models.checker,
        store=store,
    )


def check_search(search: Search, proposers: Iterable[Proposer]) -> None:
    """Refuse a search whose first wishes are for steps where a proposer writes whole answers only."""
    reasons = [reason for proposer in proposers if (reason := getattr(proposer, "only_answers", None))]
    if reasons and any(wish.until != "answer" for wish in next(search.search(Tree()), [])):
        raise ConfigError(reasons[0])


def _stream(
    engine: Engine, asked: Iterable[Problem | None]
) -> AbstractAsyncContextManager[AsyncGenerator[Answer, None]]:
    """The engine's answers, closed with the block: an interrupted run commits what it had."""
    return aclosing(engine.answers(asked))


async def answer_all(config: Config, asked: Sequence[Problem], task: Task | None = None) -> list[Answer]:
    """Search `asked` without a run's folder; answers in the order asked."""
    models = Models()
    try:
        found: dict[str, Answer] = {}
        async with _stream(engine(config, models, task or load_task(config.task)), asked) as answers:
            async for answer in answers:
                found[answer.problem.id] = answer
        return [found[problem.id] for problem in asked]
    finally:
        await models.close()


async def run(
    config: Config,
    out: Path,
    progress: Progress | None = None,
    models: Models | None = None,
    drive: Drive | None = None,
) -> Summary:
    """Search the config's problem set; write config.yaml, run.db, results.jsonl and summary.json under `out`.

    By default with models in this process (`models`: those of earlier runs); `drive` lets others search. Problems that
    have a line in results.jsonl are not searched again. A problem set that can be read twice is checked before anything
    begins. Raises ConfigError if it is malformed or `out` holds another run; RunError if this one cannot go on, be it for
    a row of a stream; what it had is kept.
    """
    progress = progress or Progress()
    task = load_task(config.task)
    asked = ProblemSet(config.problems, task, config.limit, config.fields)
    notes = _same_run(config, out)
    results = Results(out)
    todo = await _todo(asked, results)
    summary = _read_summary(out)
    if todo is None and summary is not None and summary["problems"] == len(results) and not (notes or results.notes):
        return summary
    _check_writable(out)
    own = models is None
    models = models or Models()
    store = None
    try:
        if (out / "run.db").exists():  # in use, foreign, damaged: said before a model is loaded
            store = _store(config, out)
        if drive is None:
            engine(config, models, task)  # what cannot be built is said before a folder is made
            await models.forget()
        store = store or _store(config, out)
        for note in (*notes, *results.notes, *store.notes):
            progress.note(note)
        store.notes.clear()
        driver = drive(config, task, store) if drive else _Local(config, models, task, store)
        return await _Run(config, out, progress, asked, results, store).go(driver, todo)
    finally:
        if store is not None:
            store.close()
        if todo is not None:
            todo.close()
        if own:
            await models.close()


def _store(config: Config, out: Path) -> Store:
    out.mkdir(mode=0o700, parents=True, exist_ok=True)  # what people ask models is theirs; one that is there stays
    return Store.open(out / "run.db", digest(config), _weights(config))


def _weights(config: Config) -> dict[str, str]:
    """Fingerprints of the models that lie in folders here, by what the config calls them."""
    found: dict[str, str] = {}
    for name in _models(config.resolved()):
        folders = [(name, Path(name).expanduser())]
        if name == "bundled":
            folders = [(f"{name} {part}", Path(bundled.__file__).parent / part) for part in ("proposer", "prm")]
        found |= {told: fingerprint(folder) for told, folder in folders if folder.is_dir()}
    return found


def _models(data: Any) -> Iterator[str]:
    """What stands under `model`, or is of type bundled, in a config, however deep."""
    for value in data if isinstance(data, list) else data.values() if isinstance(data, dict) else ():
        yield from _models(value)
    if isinstance(data, dict):
        yield from {
            str(data[key]) for key in ("model", "type") if key in data and (key == "model" or data[key] == "bundled")
        }


def _check_writable(out: Path) -> None:
    """Raise RunError if nothing can be written to the folder, or where it would be made: full, read-only, not ours."""
    place = next(path for path in (out, *out.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(ROOM))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunError(
            f"cannot write to {place}: {error.strerror}; make room there or use another --out; nothing was begun"
        ) from error


async def _todo(asked: ProblemSet, results: Results) -> Todo | None:
    """What is left to search; None if nothing is. Raises for what is wrong with the set, as far as it is known yet."""
    if not asked.once:
        for problem in asked:
            results.has(problem)
        results.keep(asked.lines)
    left = (problem for problem in asked if not results.has(problem))
    rest: Iterator[Problem | None] = left
    if asked.once:
        bell = asyncio.Event()
        rest = Ahead(left, _from_thread(bell.set))
        while (first := next(rest, END)) is None:
            await bell.wait()
            bell.clear()
    else:
        first = next(rest, END)
    if isinstance(first, Problem):
        return Todo(first, rest, None if asked.count is None else asked.count - len(results))
    results.keep(asked.lines)
    return None


def _from_thread(callback: Callable[[], Any]) -> Callable[[], None]:
    """`callback` on this event loop, for threads to call."""
    loop = asyncio.get_running_loop()

    def call() -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(callback)

    return call


class _Run:
    """One run under way: its folder and the lines it has."""

    def __init__(
        self, config: Config, out: Path, progress: Progress, asked: ProblemSet, results: Results, store: Store
    ) -> None:
        self.config, self.out, self.progress, self.store = config, out, progress, store
        self.asked, self.results = asked, results
        self.before = float((_read_summary(out) or {}).get("seconds", 0.0))
        self.started = time.monotonic()

    async def go(self, driver: Driver, todo: Todo | None) -> Summary:
        """The whole run; the summary is written however it ends."""
        try:
            for half in self.out.glob("*.part"):  # of a file that a killed run was writing
                half.unlink()
            replace_file(self.out / "config.yaml", written(self.config.resolved()))
            self.results.open()
            tally = self.results.tally
            self.progress.start(self.asked.count, len(self.results), tally.correct, self.config.labels())
            ticking = asyncio.create_task(self._tick(driver))
            try:
                if todo is not None:
                    await self._search(driver, todo)
            except BaseException:
                with suppress(OSError):  # views, which the next run makes anew; what went wrong first is told
                    self._sum_up(driver)
                raise
            finally:
                ticking.cancel()
                self.progress.close()
            return self._sum_up(driver)
        except OSError as error:
            raise RunError(
                f"cannot write {error.filename or self.results.path}: {error.strerror or error}; {len(self.results)} problems "
                f"and all replies in {self.store.path} are safe: make room and run again to go on"
            ) from error
        finally:
            for note in self.store.notes:
                self.progress.note(note)

    def _sum_up(self, driver: Driver) -> Summary:
        """Bring the lines in order, write the summary."""
        if self.asked.count is not None:  # all have gone by
            self.results.keep(self.asked.lines)
        self.results.close(dict(self.asked.lines))
        seconds = self.before + time.monotonic() - self.started
        summary = self.results.tally.summary(seconds, self.config.labels(), driver.prefix_hit_rate())
        replace_file(self.out / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
        return summary

    async def _search(self, driver: Driver, todo: Todo) -> None:
        try:
            async with aclosing(driver.rows(todo)) as rows:
                async for row in rows:
                    self.results.append(row)
                    self.progress.answered(row)
        except ProblemError as error:  # only of a set that could not be checked before
            raise RunError(f"{error}; what is done is kept: mend it and run again with the same --out") from error

    async def _tick(self, driver: Driver) -> None:
        while True:
            self.progress.tick(driver.stats)
            await asyncio.sleep(TICK)


async def result(answer: Answer, config: Config, task: Task, checker: Checker) -> Row:
    """A line of results.jsonl. Equal canonical answers are checked once; what cannot be checked is wrong, and an error."""
    problem = answer.problem
    verdicts: dict[str, bool | None] = {}
    errors = [answer.error] if answer.error else []

    async def verdict(text: str) -> bool | None:
        try:
            return await checker.check(task, problem, text)
        except ConfigError as error:  # a question or a reference that is none of this task
            errors.append(told(error))
            return False

    async def check(text: str | None, canonical: str | None) -> bool | None:
        if text is None:  # wrong if there is anything to be compared with: so says the empty answer
            empty = await verdict("")
            return None if empty is None else False
        key = text if canonical is None else canonical
        if key not in verdicts:
            verdicts[key] = await verdict(text)
        return verdicts[key]

    winner = next((c.canonical for c in answer.candidates if c.answer == answer.answer), None)
    return {
        "id": problem.id,
        "question": problem.question,
        "reference": problem.reference,
        "answer": answer.answer,
        "correct": await check(answer.answer, winner),
        "score": _number(answer.score),
        "text": answer.text,
        "candidates": [
            {
                "answer": c.answer,
                "text": c.text,
                "score": _number(_score(c, config)),
                "outcome": _number(c.outcome),
                "correct": await check(c.answer, c.canonical),
                "tokens": c.tokens,
            }
            for c in answer.candidates
        ],
        "tokens": {
            "generated": answer.tokens_generated,
            "scored": answer.tokens_scored,
            "wasted": answer.tokens_wasted,
        },
        "expansions": answer.expansions,
        "seconds": round(answer.seconds, 6),
        "stopped": answer.stopped,
        "error": errors[0] if errors else None,
        "seed": config.engine.seed,
    }


def usage_of(backend: Any) -> Mapping[str, int]:
    """What a backend counted: `prompt_tokens`, and of these `cached_tokens`; empty if it keeps no cache of prefixes."""
    found: Mapping[str, int] = getattr(backend, "usage", {})
    return found


def hit_rate(usages: Iterable[Mapping[str, int]]) -> float | None:
    """Share of prompt tokens that were cached."""
    counted = [usage for usage in usages if usage.get("prompt_tokens")]
    asked = sum(usage["prompt_tokens"] for usage in counted)
    return round(sum(usage.get("cached_tokens", 0) for usage in counted) / asked, 6) if asked else None


def _read_summary(out: Path) -> Summary | None:
    """None if there is none, or it is not what a run wrote: it is a view, and is made anew."""
    try:
        summary: Summary = json.loads((out / "summary.json").read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return summary if is_summary(summary) else None


def _same_run(config: Config, out: Path) -> list[str]:
    """Refuse a folder that holds another run, by the keys that differ. Returns what the user should know of the folder."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; a run needs a folder")
    if links := [path for name in FILES if (path := out / name).is_symlink()]:
        raise ConfigError(f"{links[0]} is a symbolic link, and a run writes into its own folder only; remove it")
    notes = []
    if (out / "summary.json").exists() and _read_summary(out) is None:
        notes.append(f"{out / 'summary.json'} is damaged: it is made anew, without the seconds of earlier runs")
    if not (out / "config.yaml").exists():
        return notes
    try:
        theirs = matters(read_config(out / "config.yaml"))
    except ConfigError as error:  # run.db knows whether it is the same run
        if not (out / "run.db").exists():
            raise
        return [*notes, f"{error}: it is written anew"]
    mine = matters(config.resolved())
    differ = [key for key in {**theirs, **mine} if theirs.get(key) != mine.get(key)]
    if differ:
        told = "; ".join(f"{key}: {_told(theirs, key)} there, {_told(mine, key)} here" for key in differ)
        raise ConfigError(
            f"{out} holds a run with another config ({told}); use another --out, or {out / 'config.yaml'} itself"
        )
    return notes


def _told(keys: Mapping[str, Any], key: str) -> str:
    return repr(keys[key]) if key in keys else "not set"


def _score(candidate: Candidate, config: Config) -> float | None:
    return aggregate(candidate, config.answer.aggregate)


def _number(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if value is not None and math.isfinite(value) else None
