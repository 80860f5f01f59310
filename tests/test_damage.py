"""A damaged folder: what is wrong is said, what is whole is used, and no answer is another than it was."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes import World, problems
from tests.test_crash import config, lines, trees
from treesearch.algorithms import SEARCHES
from treesearch.config import Config, digest, load
from treesearch.errors import ConfigError, FrameError, JournalError, RunError, TreesearchError
from treesearch.manager import Close, Manager, Reply
from treesearch.progress import PlainProgress
from treesearch.run import run, settings
from treesearch.store import Store, pack_close, pack_reply, unpack_close, unpack_reply
from treesearch.types import Problem

SEED = 20261124
Journals = dict[str, tuple[list[Reply], Close | None]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three problems; copies of it are damaged."""
    home = tmp_path_factory.mktemp("run")
    rows = (f'{{"id": "p{k}", "question": "question {k}", "answer": "{k}"}}\n' for k in range(3))
    (home / "set.jsonl").write_text("".join(rows))
    asyncio.run(run(given(home), home / "out"))
    return home / "out"


def given(home: Path) -> Config:
    return config(home / "set.jsonl", "ab_mcts")


def resume(out: Path, folder: Path) -> list[str]:
    """Run again in `out`; what was said."""
    said: list[str] = []
    asyncio.run(run(given(folder.parent), out, PlainProgress(said.append)))
    return said


# Frames


@pytest.fixture(scope="module")
def frames() -> list[bytes]:
    world = World(Manager(SEARCHES["beam"](beams=3, branch=3), seed=1), 4, 0, failures=0.1).run(problems(6))
    packed = [pack_reply(reply) for journal in world.journal.values() for reply in journal]
    return [*packed, *(pack_close(Close("finished", 1.5, 0), k) for k in range(20))]


def refused(frame: bytes) -> bool:
    """Whether neither kind of row can be read of it."""
    found = 0
    for unpack in (unpack_reply, lambda frame: unpack_close(frame, 3)):
        try:
            unpack(frame)
        except FrameError:
            found += 1
    return found == 2


def flip(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def damaged_frames(frames: list[bytes], cuts: int, flips: int) -> None:
    rng, stream = random.Random(SEED), b"".join(frames)
    ends, at = [], 0
    for frame in frames:
        at += len(frame)
        ends.append(at)
    for _ in range(cuts):
        cut = rng.randrange(len(stream))
        k = next(k for k, end in enumerate(ends) if end > cut)
        assert refused(frames[k][: len(frames[k]) - (ends[k] - cut)]), f"seed {SEED}: cut at {cut}"
    for _ in range(flips):
        frame = rng.choice(frames)
        bit = rng.randrange(8 * len(frame))
        assert refused(flip(frame, bit)), f"seed {SEED}: bit {bit} of {frame!r}"
    print(f"seed {SEED}: {len(frames)} rows, {cuts:,} truncations and {flips:,} flipped bits, each noticed")


def test_a_truncated_or_flipped_row_is_noticed(frames: list[bytes]):
    damaged_frames(frames, cuts=2_000, flips=10_000)


@pytest.mark.slow
def test_each_of_a_hundred_thousand_flipped_bits_is_noticed(frames: list[bytes]):
    damaged_frames(frames, cuts=10_000, flips=100_000)


# Files


def journals(out: Path, identity: str) -> tuple[Journals, list[str]]:
    store = Store.open(out / "run.db", identity)
    try:
        return {f"p{k}": store.load(f"p{k}") for k in range(3)}, store.notes
    finally:
        store.close()


def damage_the_file(folder: Path, tmp_path: Path, cases: int, wal: bool) -> None:
    """Flip bits of run.db, or cut it: it is refused, or gives exactly prefixes, and says so if anything is missing."""
    identity = digest(given(folder.parent))
    whole, _ = journals(folder, identity)
    source = tmp_path / "source"
    if wal:  # as a kill leaves it: all rows in the write-ahead log
        store = Store.open(source / "run.db", identity)
        for problem, (replies, close) in whole.items():
            epoch = store.lease(problem)
            store.append([(problem, k, reply, epoch) for k, reply in enumerate(replies)])
            assert close is not None
            store.append([(problem, len(replies), close, epoch)])
        shutil.copytree(source, tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm"))
        store.close()
        source = tmp_path / "killed"
        assert (source / "run.db-wal").stat().st_size > 50_000
    else:
        source.mkdir()
        shutil.copy(folder / "run.db", source)
    rng, refusals, cut_short, unharmed, misplaced = random.Random(SEED), 0, 0, 0, 0
    for case in range(cases):
        out = tmp_path / "case"
        shutil.copytree(source, out)
        path = out / ("run.db-wal" if wal else "run.db")
        data = path.read_bytes()
        if case % 3 == 2:
            data = data[: rng.randrange(len(data))]
        else:
            for _ in range(1 + 9 * (case % 3)):
                data = flip(data, rng.randrange(8 * len(data)))
        path.write_bytes(data)
        try:
            found, notes = journals(out, identity)
        except TreesearchError as error:
            assert str(out) in str(error), error
            refusals += 1
        else:
            foreign = False
            for problem, (replies, close) in found.items():
                if replies != whole[problem][0][: len(replies)]:  # a row under another's key: no search wishes for it
                    with pytest.raises(JournalError, match=f"problem {problem}: reply"):
                        replay(folder, problem, replies, close)
                    foreign = True
                    break
                assert replies == whole[problem][0][: len(replies)], f"seed {SEED}, case {case}"
                assert close is None or (replies, close) == whole[problem], f"seed {SEED}, case {case}"
            assert found == whole or notes or wal, (
                f"seed {SEED}, case {case}: something is missing, and nothing is said"
            )
            cut_short += found != whole and not foreign
            unharmed += found == whole
            misplaced += foreign
        shutil.rmtree(out)
    kind = "its write-ahead log" if wal else "run.db"
    print(f"seed {SEED}: {cases} damages of {kind}: {unharmed} harmless, {cut_short} exact prefixes, {refusals} refused, "
          f"{misplaced} refused by their replay")  # fmt: skip
    assert misplaced <= cases / 100
    assert cut_short > cases / 10


def replay(folder: Path, problem: str, replies: list[Reply], close: Close | None) -> None:
    resolved = given(folder.parent)
    manager = Manager(resolved.search, sampling=settings(resolved).sampling, seed=resolved.engine.seed)
    manager.open(Problem(problem, f"question {problem[1:]}", problem[1:]), 0.0, replies, close)


@pytest.mark.parametrize("wal", [False, True])
def test_a_damaged_file_is_refused_or_gives_prefixes(folder: Path, tmp_path: Path, wal: bool):
    damage_the_file(folder, tmp_path, 24, wal)


@pytest.mark.slow
@pytest.mark.parametrize("wal", [False, True])
def test_each_of_many_damaged_files_is_refused_or_gives_prefixes(folder: Path, tmp_path: Path, wal: bool):
    damage_the_file(folder, tmp_path, int(os.environ.get("TREESEARCH_DAMAGES", 200)), wal)


def test_a_journal_with_a_broken_page_is_read_back_and_the_run_ends_as_it_did(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    wanted, tree = lines(out), trees(given(folder.parent), out)
    data = (out / "run.db").read_bytes()
    page = 4096 * (len(data) // 4096 // 2)
    (out / "run.db").write_bytes(data[:page] + bytes(4096) + data[page + 4096 :])
    (out / "results.jsonl").unlink()
    said = resume(out, folder)
    assert "was damaged" in said[0] and "could be read" in said[0] and "run.db.damaged-1" in said[0]
    assert all("going on from the" in text for text in said[1:])
    assert (out / "run.db.damaged-1").read_bytes()[page : page + 4096] == bytes(4096)
    assert lines(out) == wanted and trees(given(folder.parent), out) == tree


def test_an_end_without_its_replies_is_no_end(folder: Path, tmp_path: Path):
    """Rows that went without a trace must not make another answer of the rest."""
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    wanted = lines(out)
    db = sqlite3.connect(out / "run.db")
    db.execute("DELETE FROM replies WHERE problem = 'p1' AND k >= 7")
    db.commit()
    db.close()
    (out / "results.jsonl").unlink()
    (said,) = resume(out, folder)
    assert "problem p1: it ended after" in said and "of which 7 are here" in said
    assert lines(out) == wanted


def test_a_log_that_is_gone_after_a_kill_is_said(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    (out / "results.jsonl").unlink()
    (out / "run.lock").write_text("pid 1 on elsewhere\n")
    (said,) = resume(out, folder)
    assert "run.db-wal is gone, and the last run was killed" in said


def test_what_is_no_database_is_refused_and_left_as_it_is(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    (out / "results.jsonl").unlink()
    (out / "run.db").write_bytes(bytes(range(256)) * 100)
    for _ in range(2):
        with pytest.raises(JournalError, match=r"nothing can be read of it: move it away to start anew"):
            resume(out, folder)
    assert not list(out.glob("*damaged*")) and (out / "run.db").read_bytes() == bytes(range(256)) * 100


def views(out: Path) -> Iterator[tuple[str, Callable[[], object], str]]:
    """(what is damaged, by what, a part of what is said)"""
    results = out / "results.jsonl"
    text = results.read_text()
    first = text.index("\n") + 1
    yield "torn line", lambda: results.write_text(text[:-30]), "1 lines are damaged or cut short"
    yield "no line", lambda: results.write_text("\0" * 50 + "\n" + text[first:]), "1 lines are damaged"
    yield "a key", lambda: results.write_text(text.replace('"stopped"', '"stopqed"', 1)), "1 lines are damaged"
    yield "a kind", lambda: results.write_text(text.replace('"candidates": [', '"candidates": 7, "x": [', 1)), "1 lines"
    yield "summary", lambda: (out / "summary.json").write_text('{"problems": 3, '), "summary.json is damaged"
    yield "other summary", lambda: (out / "summary.json").write_text('{"problems": null}'), "summary.json is damaged"
    yield "config", lambda: (out / "config.yaml").write_text("search: {type: ["), "not YAML"


def test_damaged_views_are_made_anew_from_the_journal(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    before = {path.name: path.read_bytes() for path in (out / "config.yaml", out / "results.jsonl")}
    wanted = lines(out)
    summary = json.loads((out / "summary.json").read_text())
    for name, damage, told in list(views(out)):
        damage()
        said = resume(out, folder)
        assert any(told in text for text in said), (name, said)
        assert lines(out) == wanted and (out / "config.yaml").read_bytes() == before["config.yaml"], name
        found = json.loads((out / "summary.json").read_text())
        assert {**found, "seconds": 0, "tokens_per_second": 0} == {**summary, "seconds": 0, "tokens_per_second": 0}, (
            name
        )


def test_halves_of_files_that_were_being_written_do_no_harm(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    wanted = lines(out)
    for name in ("results.jsonl", "summary.json", "config.yaml", "run.db"):
        (out / f"{name}.part").write_bytes(b"\0half")
    (out / "summary.json").unlink()
    assert resume(out, folder) == [] and lines(out) == wanted
    assert [path.name for path in out.glob("*.part")] == []


# Folders of other runs


def test_a_journal_of_the_version_before_is_brought_to_this_one(folder: Path, tmp_path: Path):
    """Version 2: no leases, and ends that do not say how many replies came before them."""
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    wanted, tree = lines(out), trees(given(folder.parent), out)
    db = sqlite3.connect(out / "run.db")
    db.execute("DROP TABLE leases")
    db.execute("UPDATE meta SET value = '2' WHERE key = 'version'")
    for problem, body in db.execute("SELECT problem, body FROM closes").fetchall():
        db.execute("UPDATE closes SET body = ? WHERE problem = ?", (old_close(body), problem))
    db.commit()
    db.close()
    (out / "results.jsonl").unlink()
    (said,) = resume(out, folder)
    assert "was of journal version 2: it is of version 3 now" in said
    assert lines(out) == wanted and trees(given(folder.parent), out) == tree


def old_close(body: bytes) -> bytes:
    from treesearch.wire import seal, unseal

    return seal(unseal(body)[:4])


def test_a_journal_of_a_later_version_is_refused_by_name(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    db = sqlite3.connect(out / "run.db")
    db.execute("UPDATE meta SET value = '9' WHERE key = 'version'")
    db.commit()
    db.close()
    (out / "results.jsonl").unlink()
    with pytest.raises(ConfigError, match="is of journal version 9, this treesearch writes 3"):
        resume(out, folder)


def test_other_weights_in_the_folder_of_a_model_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(3_000_000))
    (tmp_path / "set.jsonl").write_text('{"id": "p", "question": "q", "answer": "1"}\n')
    resolved = load(None, [f"problems={tmp_path / 'set.jsonl'}", "task=plain", "scorer=none", "answer.rule=majority",
                           f"proposer={{type: transformers, model: {model}}}"])  # fmt: skip
    found = []
    for weights in (bytes(3_000_000), bytes(3_000_000), bytes(2_000_000) + b"\1" * 1_000_000):
        (model / "model.safetensors").write_bytes(weights)
        with pytest.raises(TreesearchError) as error:
            asyncio.run(run(resolved, tmp_path / "out", drive=refuse))
        found.append(str(error.value))
    assert found[:2] == ["driven", "driven"]
    assert f"holds a run with other weights of {model}" in found[2]


def refuse(*_: object) -> object:
    raise RunError("driven")


def test_a_bundled_model_is_known_by_its_weights(tmp_path: Path):
    from treesearch.run import _weights

    assert set(_weights(load(None, []))) == {"bundled proposer", "bundled prm"}
