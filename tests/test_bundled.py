"""The bundled models: what they were trained on, what they are, and that they do the main job."""

from __future__ import annotations

import ast
import asyncio
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from treesearch import config as configs
from treesearch import sweep
from treesearch.backends.base import Limits
from treesearch.backends.bundled import BundledPRM
from treesearch.models import folder
from treesearch.models import train as recipe
from treesearch.progress import Progress
from treesearch.run import run
from treesearch.tasks.arithmetic import moves, reachable, solvable
from treesearch.tasks.puzzles import PUZZLES, TEST_PUZZLES

ROOT = Path(__file__).resolve().parents[1]
TEST = {tuple(sorted(p)) for p in TEST_PUZZLES}


def asked(text: str) -> tuple[int, ...]:
    return tuple(sorted(map(int, text.split("\n")[0].split())))


def test_the_puzzles_are_the_published_ones(data: Path) -> None:
    rows = [json.loads(line) for line in (data / "game24.jsonl").read_text().splitlines()]
    assert [tuple(row["numbers"]) for row in rows] == PUZZLES
    assert [tuple(row["numbers"]) for row in rows if 900 <= row["index"] < 1000] == TEST_PUZZLES


def test_no_test_puzzle_is_in_any_training_data() -> None:
    """As a multiset: not among the puzzles drawn from, and not in what either model's data generators write."""
    assert not TEST & set(recipe.training_puzzles())
    assert len(recipe.training_puzzles()) == 1820 - 100
    texts = recipe.proposer_texts(5000, 0.4, random.Random(1))
    assert not TEST & {asked(text) for text in texts}

    def no_model(*args: object) -> list[list[str]]:
        return [["1 + 1 = 2 (left: 2 3 4)"] for _ in args[2]]  # type: ignore[attr-defined]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "sample", no_model)
        rows = recipe.prm_rows(None, None, 3000, 1000, random.Random(2), None)  # type: ignore[arg-type]
    assert len(rows) >= 3000 and not TEST & {asked(question) for question, _, _ in rows}


def test_labels_say_what_a_search_through_all_moves_says() -> None:
    """1 while all arithmetic is right and 24 stays in reach; 0 from the first wrong or hopeless step on."""
    rng = random.Random(0)
    for _ in range(300):
        numbers = rng.choice(recipe.training_puzzles())
        chain = recipe.random_chain(numbers, 0.5, rng)
        given = recipe.labels(numbers, [recipe.render(m) for m in chain])
        assert given == [int(reachable(move.left, 24)) for move in chain]
        assert given == sorted(given, reverse=True)
        steps = recipe.corrupted(chain, rng)
        if steps[-1] not in map(recipe.render, moves(([numbers] + [m.left for m in chain])[len(steps) - 1])):
            assert recipe.labels(numbers, steps)[-1] == 0
    assert recipe.labels((4, 5, 6, 10), ["10 + 15 = 24 (left: 4 6 24)"]) == [0]


def test_whole_number_moves_agree_with_the_exact_truth() -> None:
    """No test puzzle needs a fraction or a number above 99; what moves reach, exact arithmetic reaches."""
    assert all(reachable(tuple(sorted(p)), 24) for p in TEST_PUZZLES)
    rng = random.Random(3)
    for numbers in rng.sample(recipe.training_puzzles(), 60):
        if reachable(numbers, 24):
            assert solvable(numbers, 24)
    assert not reachable((3, 3, 8, 8), 24) and solvable((3, 3, 8, 8), 24)  # 8 / (3 - 8 / 3)
    assert len({m.left for m in moves((1, 2, 3, 4))}) > 10


def test_the_bundled_models_are_small_bf16_safetensors_with_a_card() -> None:
    from safetensors import safe_open

    for name in ("proposer", "prm"):
        with safe_open(folder(name) / "model.safetensors", "pt") as file:
            tensors = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        assert {t.get_dtype() for t in tensors.values()} == {"BF16"}
        card = json.loads((folder(name) / "card.json").read_text())
        assert 1_000_000 <= card["parameters"] <= 5_000_000
        assert card["seconds"] < 2 * 3600 and (folder(name) / "README.md").exists()
    assert 0.05 <= json.loads((folder("proposer") / "card.json").read_text())["greedy_accuracy"] <= 0.5
    assert json.loads((folder("proposer") / "card.json").read_text())["illegal_steps"] < 0.05


def test_the_models_load_through_the_auto_classes_with_whole_numbers_as_tokens() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(folder("proposer"))
    assert AutoConfig.from_pretrained(folder("prm")).architectures == ["Qwen2ForProcessRewardModel"]
    for name in ("proposer", "prm"):
        tokenizer = AutoTokenizer.from_pretrained(folder(name))
        text = "4 5 6 10\n10 - 4 = 6 (left: 5 6 6)\n"
        assert tokenizer.tokenize("10 - 4 = 6 (left: 5 6 6)") == [
            "10", " -", " 4", " =", " 6", " (left:", " 5", " 6", " 6", ")"]  # fmt: skip
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_bundled_proposer_knows_no_rules() -> None:
    """Plain sampling: none of the modules it runs through imports a solver or a task of numbers."""
    for name in ("bundled", "transformers", "batcher", "steps", "reward", "formats"):
        tree = ast.parse((ROOT / "treesearch" / "backends" / f"{name}.py").read_text())
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {m for m in imported if m and ("arithmetic" in m or "countdown" in m or "game24" in m)}, name


def accuracy(out: Path, *overrides: str) -> float:
    summary = asyncio.run(run(configs.load(None, overrides), out))
    assert summary["labels"] == []
    return float(summary["accuracy"])


def test_the_main_job_solves_most_of_ten_puzzles(tmp_path: Path) -> None:
    assert accuracy(tmp_path / "mcts", "limit=10") >= 0.8
    rows = [json.loads(line) for line in (tmp_path / "mcts" / "results.jsonl").read_text().splitlines()]
    assert all(row["tokens"]["generated"] > 0 and row["tokens"]["scored"] > 0 for row in rows)


def test_a_step_scorer_serves_as_outcome_model(tmp_path: Path) -> None:
    """The PRM's last step score is the outcome of a chain; given as a spec from Python or by its name in a config."""
    asyncio.run(
        run(
            configs.load(
                None, ["limit=2", "search.type=sample", "search.n=4", "outcome.type=oracle", "answer.aggregate=outcome"]
            ),
            tmp_path / "named",
        )
    )
    given = replace(configs.load(None, ["limit=2", "search.type=sample", "search.n=4"]), outcome=BundledPRM())
    asyncio.run(run(given, tmp_path / "given"))
    for name in ("named", "given"):
        rows = [json.loads(line) for line in (tmp_path / name / "results.jsonl").read_text().splitlines()]
        assert all(c["outcome"] is not None for row in rows for c in row["candidates"]) and rows[0]["candidates"]


@pytest.mark.slow
def test_beam_solves_95_of_the_100_test_puzzles_and_greedy_does_not(tmp_path: Path) -> None:
    """That the default, mcts, does is checked where `make demo` is run: `.ci/run`."""
    assert accuracy(tmp_path / "beam", "search.type=beam", "search.beams=8", "search.branch=8") >= 0.95
    greedy = accuracy(tmp_path / "greedy", "search.type=sample", "search.n=1", "sampling.temperature=0")
    assert 0.05 <= greedy <= 0.5


def test_limits_are_the_config_defaults() -> None:
    assert configs.load(None).limits == Limits()


def test_runs_that_share_models_count_all_of_their_own_work(tmp_path: Path) -> None:
    """The PRM keeps the values it gave: within a run, not from one run of a sweep to the next."""
    path = tmp_path / "sweep.yaml"
    searches = "[{name: a, type: sample, n: 4}, {name: b, type: sample, n: 4}]"
    path.write_text(f"base: {{limit: 3}}\nsearches: {searches}\n")
    rows = asyncio.run(sweep.sweep(sweep.load(path), tmp_path / "out", lambda entry: Progress()))
    assert rows[0]["tokens_scored"] == rows[1]["tokens_scored"] > 0
