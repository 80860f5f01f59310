"""The command line: arguments in, exit codes out. Knows nothing heavy: a command imports what it needs itself.

Exit codes: 0 done, 1 a run that could not finish (resumable), 2 bad usage or config, 130 interrupted (resumable).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from treesearch.errors import ConfigError, TreesearchError
from treesearch.terminal import encodable, shown

if TYPE_CHECKING:
    from rich.console import Console

    from treesearch.config import Config
    from treesearch.run import Drive

Result = TypeVar("Result")
app = typer.Typer(
    help="Search with language models at test time.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a config key; may be repeated.")]


@app.callback()
def _commands() -> None:
    """Search with language models at test time."""


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG.yaml]", show_default=False)] = None,
    set_: Set = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run's folder; an old one resumes.")
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Run on Ray: the cluster of the Ray job this is, else a local one.")
    ] = False,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", metavar="ADDRESS", help="Run on the Ray cluster there, or auto.")
    ] = None,
) -> None:
    """Search a problem set (default: the bundled Game of 24 puzzles)."""
    with _exit_codes() as resume:
        from treesearch import progress, report
        from treesearch.config import load
        from treesearch.run import run as search

        resolved = load(config, set_ or [])
        folder = out or _fresh(resolved)
        how = f" --ray-address {ray_address}" if ray_address else " --ray" if ray else ""
        resume.append(f"treesearch run {folder / 'config.yaml'} --out {folder}{how}")
        typer.echo(folder)
        shown = progress.for_console(_console(stderr=True))
        drive = _on_ray(ray_address, shown.note) if how else None
        summary = _run(search(resolved, folder, shown, drive=drive), resume)
        _console().print(report.summary_table(summary, folder.name))
        typer.echo(folder)


@app.command()
def solve(
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE")] = None,
    set_: Set = None,
) -> None:
    """Answer one question; the answer is the last line of standard output."""
    with _exit_codes():
        from treesearch.config import load
        from treesearch.run import answer_all
        from treesearch.types import Problem

        if not encodable(question):
            raise ConfigError(f"QUESTION {question!r}: holds bytes that are no UTF-8; set the terminal to UTF-8")
        resolved = load(config, set_ or [])
        (answer,) = _run(answer_all(resolved, [Problem("question", question)]))
        for label in resolved.labels():
            typer.echo(label)
        if answer.answer is None:
            raise TreesearchError(
                f"no answer was found ({answer.error or answer.stopped}); search longer, or see the task"
            )
        if answer.text.strip() != answer.answer:
            typer.echo(shown(answer.text.rstrip()))
        typer.echo(shown(" ".join(answer.answer.splitlines())))


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the runs, sweep.csv and the plot.")],
) -> None:
    """Compare searches x budgets x seeds: {base, searches: [...], budgets: [...], seeds: [...]}."""
    with _exit_codes() as resume:
        from treesearch import progress, report
        from treesearch import sweep as sweeps

        entries = sweeps.load(config)
        resume.append(f"treesearch sweep {config} --out {out}")
        typer.echo(out)
        console = _console(stderr=True)

        def shown(entry: sweeps.Entry) -> progress.Progress:
            console.print(entry.folder, markup=False, highlight=False)
            return progress.for_console(console)

        rows = _run(sweeps.sweep(entries, out, shown), resume)
        _console().print(report.sweep_table(rows))
        typer.echo(out / "sweep.csv")


def _on_ray(address: str | None, say: Callable[[str], None]) -> Drive:
    """A driver on the Ray cluster at this address; the cluster is joined, or started, here."""
    from actors import cluster

    cluster.connect(address)
    return lambda config, task, store: cluster.Cluster(config, task, store, say)


def _run(work: Coroutine[Any, Any, Result], resume: Sequence[str] = ()) -> Result:
    """Run to the end. Ctrl-C, SIGTERM or SIGHUP stops it between two replies; a second one ends the process at once.

    Raises KeyboardInterrupt after the first. `resume`: how to go on, for the second.
    """
    signals = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is not signal.SIG_IGN]
    stopped = False

    async def main() -> Result:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def stop(*_: Any) -> None:
            nonlocal stopped
            if stopped:  # what is committed is safe; nothing else is waited for
                os.write(2, "".join(["\x1b[?25h" if os.isatty(2) else "", "interrupted\n", _how(resume)]).encode())
                os._exit(130)
            stopped = True
            loop.call_soon_threadsafe(task.cancel)

        for number in signals:
            signal.signal(number, stop)
        return await work

    before = {number: signal.getsignal(number) for number in signals}
    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _how(resume: Sequence[str]) -> str:
    return f"go on with: {shown(resume[0])}\n" if resume else ""


@contextmanager
def _exit_codes() -> Iterator[list[str]]:
    """Errors as one message and an exit code; the command appends how to go on."""
    resume: list[str] = []
    code = 0
    try:
        yield resume
    except ConfigError as error:
        typer.echo(f"error: {shown(error)}", err=True)
        code = 2
    except (TreesearchError, OSError) as error:
        typer.echo(f"error: {shown(error)}", err=True)
        code = 1
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        code = 130
    if code in (1, 130):
        typer.echo(_how(resume), err=True, nl=False)
    if code:
        raise typer.Exit(code)


def _fresh(config: Config) -> Path:
    """runs/DATE-NAME that does not exist yet."""
    from treesearch.config import type_name

    base = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{type_name('search', config.search).rpartition(':')[2]}"
    taken = (base.with_name(f"{base.name}-{i}") for i in range(2, 1000))
    return next(path for path in (base, *taken) if not path.exists())


def _console(stderr: bool = False) -> Console:
    """A console as wide as the terminal; wide enough for a table where there is none."""
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=140)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG.yaml]", show_default=False)] = None,
    set_: Set = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder that a run would write to.")] = Path("runs"),
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", metavar="ADDRESS", help="The Ray cluster that a run would join.")
    ] = None,
) -> None:
    """Check this machine, Ray, the models and the plan of a config; each problem with the line that fixes it."""
    with _exit_codes():
        import shlex

        from treesearch import doctor as doctors
        from treesearch.config import load

        given = [part for text in set_ or [] for part in ("--set", text)]
        how = ["--ray-address", ray_address] if ray_address else []
        command = shlex.join(["treesearch", "run", *([str(config)] if config else []), *how, *given])
        checks = doctors.examine(load(config, set_ or []), out, ray_address, command)
        _console().print(doctors.table(checks))
        for check in checks:
            if check.fix:
                typer.echo(f"{check.name}: {shown(check.fix)}")
        if any(check.state == "problem" for check in checks):
            raise typer.Exit(1)
