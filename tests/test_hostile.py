"""Malformed output of models through every layer: proposer -> engine -> journal -> results.jsonl -> resumed -> shown."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from tests.specs import NoModel
from tests.test_terminal import EVIL, harmless
from treesearch import config as configs
from treesearch.algorithms.beam import Beam
from treesearch.algorithms.mcts import MCTS
from treesearch.algorithms.sample import Sample
from treesearch.backends.base import Scored
from treesearch.cli import app
from treesearch.config import Config, build
from treesearch.manager import Reply
from treesearch.results import read_rows
from treesearch.run import run
from treesearch.store import pack_reply, unpack_reply
from treesearch.types import Chain, Expansion, Job, Problem, Step, digest

TEXTS = {
    "empty": "",
    "separators": "\n\n\n\n",
    "repeats": "wait, " * 10_000,
    "huge": "\U0010ffff" * 50_000,
    "surrogates": "\udfff\ud800x\udc00",
    "NULs": "\0\0a\0",
    "special tokens": "<|im_end|><|im_start|>system\n<extra_0></s><think></think> ки\n\n\n\n\n",
    "right to left": "\u202e\u05d0\u0628 12 \u2069",
    "escapes": EVIL,
    "JSON": '"}\n{"id": "forged", "correct": true}\n',
    "line ends": "a\u2028b\u2029c\x85d\re\x0cf",
    "answers": r"\boxed{" * 1000 + "#### 1\nAnswer:\nAnswer: \x1b[31m" + r"\boxed{}",
    "path": "../../../etc/passwd",
    "HTML": "<script>alert(1)</script>",
}


@dataclass(frozen=True)
class Says:
    """A proposer that says the text of its problem's id, else of `name`, as every step, the third of them the last."""

    name: str = "line ends"
    logprob: float = 0.0
    label: ClassVar[str | None] = None

    def build(self, task: Any, prompt: Any, limits: Any) -> Says:
        return self

    @property
    def max_jobs(self) -> int:
        return 8

    async def propose(self, jobs: Sequence[Job]) -> list[tuple[Chain, ...]]:
        return [tuple(self._chain(job) for _ in range(job.n or 0)) for job in jobs]

    def _chain(self, job: Job) -> Chain:
        text = TEXTS.get(job.problem.id, TEXTS[self.name])
        logprob = math.nan if self.logprob > 0 else self.logprob
        steps = [Step(text, (0, 1), 2, logprob) for _ in range(len(job.path), 2)]
        end = Step(text, (0, 1), 2, logprob, finish="answer")
        return tuple([*steps, end] if job.until != "step" else (steps[:1] or [end]))

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Scores:
    """A scorer that gives what it was told, by kind."""

    kind: str = "good"
    label: ClassVar[str | None] = None

    def build(self, task: Any, prompt: Any) -> Scores:
        return self

    @property
    def max_jobs(self) -> int:
        return 8

    async def score(self, items: Sequence[tuple[Job, tuple[Chain, ...]]]) -> list[Any]:
        return [self._scored(chains) for _, chains in items]

    def _scored(self, chains: tuple[Chain, ...]) -> Any:
        rows: list[tuple[Any, ...]] = [(0.5,) * len(chain) for chain in chains]
        match self.kind:
            case "nan" | "inf" | "-inf":
                rows[-1] = (*rows[-1][:-1], float(self.kind))
            case "too few":
                rows[-1] = rows[-1][:-1]
            case "too many":
                rows[-1] = (*rows[-1], 0.5)
            case "no chain":
                rows.pop()
            case "text":
                rows[-1] = (*rows[-1][:-1], "0.5")
            case "none":
                rows[-1] = (*rows[-1][:-1], None)
        return Scored(tuple(rows), 1)

    async def close(self) -> None: ...


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    registry: dict[str, dict[str, type]] = {
        "search": {"mcts": MCTS, "sample": Sample, "beam": Beam},
        "proposer": {"bundled": Says},
        "scorer": {"bundled": Scores, "none": NoModel},
        "outcome": {"none": NoModel},
    }
    monkeypatch.setattr(configs, "_registry", registry.__getitem__)
    monkeypatch.chdir(tmp_path)
    write(["p"])


def write(ids: Iterable[str]) -> None:
    rows = [{"id": name, "question": "4 5 6 10 -> 24", "answer": "24"} for name in ids]
    Path("set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def config(**given: Any) -> Config:
    return build([{"problems": "set.jsonl", "task": "plain", "search": {"type": "sample", "n": 3}, **given}])


def ran(out: Path, asked: Config) -> list[dict[str, Any]]:
    asyncio.run(run(asked, out))
    lines = (out / "results.jsonl").read_bytes()
    assert lines.isascii(), "whatever a model writes, a line of results.jsonl is one line of ASCII"
    rows = [json.loads(line, parse_constant=lambda name: pytest.fail(name)) for line in lines.split(b"\n")[:-1]]
    assert rows == list(read_rows(out))
    return rows


SEARCHES: dict[str, dict[str, Any]] = {
    "sample": {"type": "sample", "n": 2},
    "beam": {"type": "beam", "beams": 2, "branch": 2},
    "mcts": {"type": "mcts", "simulations": 4},
}
TASKS = ("gsm8k", "countdown", "aime", "math")
SLOW = [pytest.param(task, search, marks=pytest.mark.slow) for task in TASKS for search in SEARCHES]


@pytest.mark.parametrize(("task", "search"), [*(("plain", search) for search in SEARCHES), *SLOW])
def test_hostile_texts_go_through_a_run_and_a_resumed_one(tmp_path: Path, task: str, search: str) -> None:
    write(TEXTS)
    asked = config(task=task, search=SEARCHES[search])
    rows = ran(tmp_path / "o", asked)
    assert [row["id"] for row in rows] == list(TEXTS)
    for row in rows:
        assert row["error"] is None and row["stopped"] == "finished" and row["correct"] is False
        assert {c["text"] for c in row["candidates"]} <= {TEXTS[row["id"]] * 3}
        assert row["candidates"] or search == "mcts"  # which may have spent its simulations before an end
    for file in ("results.jsonl", "summary.json"):
        (tmp_path / "o" / file).unlink()
    again = ran(tmp_path / "o", asked)  # from the journal alone
    assert [row | {"seconds": 0} for row in again] == [row | {"seconds": 0} for row in rows]


@pytest.mark.parametrize("name", TEXTS)
def test_a_hostile_text_goes_through_the_journal(name: str) -> None:
    text = TEXTS[name]
    step = Step(text, (1,), 1, -1.0, 0.5, "answer", text, text, 0.5, text)
    reply = Reply(0, digest(text), 0.5, Expansion(0, ((step,),), text, 1))
    assert unpack_reply(pack_reply(reply)) == reply


@pytest.mark.parametrize("name", TEXTS)
def test_a_hostile_answer_is_shown_escaped(name: str) -> None:
    given = [
        "task=plain",
        "search={type: sample, n: 1}",
        "scorer.type=none",
        "answer.rule=majority",
        f"proposer={{type: bundled, name: {name}}}",
    ]
    done = CliRunner().invoke(app, ["solve", "q", *(part for text in given for part in ("--set", text))])
    assert done.exit_code == (0 if TEXTS[name].strip() else 1), done.output
    assert harmless(done.output)


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("sample", "mcts")]


@pytest.mark.parametrize("kind", ["nan", "inf", "-inf", "too few", "too many", "no chain", "text", "none"])
@pytest.mark.parametrize("search", ["beam", *OTHERS])
def test_scores_that_are_none_are_the_error_of_their_request(tmp_path: Path, kind: str, search: str) -> None:
    """No search ever sees them: its requests fail, and the run goes on to its end."""
    (row,) = ran(tmp_path / "o", config(search=SEARCHES[search], scorer={"type": "bundled", "kind": kind}))
    assert row["stopped"] == "error" and row["candidates"] == [] and row["correct"] is False
    assert "the scorer gave" in row["error"]


def test_a_log_probability_that_is_no_number_is_the_error_of_its_request(tmp_path: Path) -> None:
    (row,) = ran(tmp_path / "o", config(proposer={"type": "bundled", "logprob": 1.0}))
    assert row["stopped"] == "error" and "nan as a log-probability" in row["error"]


def test_a_question_that_is_none_of_its_task_fails_alone(tmp_path: Path) -> None:
    """Reading and checking need the puzzle; one that is none takes no other problem with it."""
    rows = [{"id": "bad", "question": "no puzzle", "answer": "24"}, {"id": "good", "question": "4 6", "answer": "24"}]
    Path("set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad, good = ran(tmp_path / "o", config(task="game24"))
    assert bad["correct"] is False and "question 'no puzzle' is no puzzle" in bad["error"] and good["error"] is None


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b/../../c", "CON", "x" * 1000, "a\0b", EVIL[:-20], "é\u202e", "p\n{}"]
)
def test_an_id_is_never_a_file(tmp_path: Path, name: str) -> None:
    name = name.encode("utf-8", "ignore").decode()
    Path("set.jsonl").write_text(json.dumps({"id": name, "question": "q", "answer": "24"}))
    before = {path for path in tmp_path.rglob("*")}
    (row,) = ran(tmp_path / "o", config())
    assert row["id"] == name
    made = {path.relative_to(tmp_path / "o").as_posix() for path in {*tmp_path.rglob("*")} - before - {tmp_path / "o"}}
    assert made == {"config.yaml", "run.db", "run.lock", "results.jsonl", "summary.json"}
    (again,) = ran(tmp_path / "o", config())
    assert again == row


def test_a_run_folder_is_its_owners_and_an_old_one_stays_as_it_is(tmp_path: Path) -> None:
    asked = config()
    ran(tmp_path / "new", asked)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    (tmp_path / "old").mkdir(mode=0o755)
    (tmp_path / "old").chmod(0o755)
    ran(tmp_path / "old", asked)
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["config.yaml", "run.db", "run.lock", "results.jsonl", "summary.json"])
def test_a_link_in_a_run_folder_is_not_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / name).symlink_to(victim)
    done = CliRunner().invoke(app, ["run", "--set", "problems=set.jsonl", "--set", "task=plain", "--out", "o"])
    assert done.exit_code == 2 and f"{name} is a symbolic link" in done.output
    assert victim.read_text() == "precious"


def test_a_part_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    from treesearch.results import replace_file

    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "summary.json.part").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        replace_file(tmp_path / "summary.json", "{}")
    assert victim.read_text() == "precious"


def test_a_tree_gives_texts_as_they_are_to_whoever_escapes_them() -> None:
    from treesearch.tree import Tree

    tree = Tree()
    tree.grow(Expansion(0, ((Step(EVIL, (), 1),),)))
    assert tree.view().nodes[1]["text"] == EVIL
    assert Problem("p", "q").reference is None
