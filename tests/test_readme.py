"""The README says what is so: its code runs, and its file tree is the tree of files."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from treesearch.backends.base import Limits
from treesearch.backends.formats import FORMATS
from treesearch.config import build, load
from treesearch.errors import TreesearchError
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt
from treesearch.tree import Tree
from treesearch.types import Expansion, Job, Sampling

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
CONFIGS = re.findall(r"^```yaml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def helper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_tree", ROOT / "tests" / "readme_tree.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the code blocks define, run one after the other; our own page, so running it is safe."""
    namespace: dict[str, Any] = {"__name__": "readme"}
    for number, block in enumerate(BLOCKS, start=1):
        exec(compile(block, f"README.md, code block {number}", "exec", dont_inherit=True), namespace)
    return namespace


def test_the_file_tree_lists_every_file_and_every_listed_file_exists():
    tree = helper()
    listed, found = set(tree.listed(README)), set(tree.files())
    assert listed == found, f"missing {sorted(found - listed)}, gone {sorted(listed - found)}: run `make tree`"


def test_every_file_of_the_tree_says_what_it_is():
    assert all(len(text) > 3 for text in helper().listed(README).values())


def test_there_are_short_examples_of_a_search_a_task_a_proposer_a_scorer_and_their_specs():
    assert len(BLOCKS) == 5
    assert all(sum(1 for line in block.splitlines() if line.strip()) <= 20 for block in BLOCKS)


def test_the_examples_solve_a_problem_together(names: dict[str, Any]):
    """The README's search, over the README's proposer and scorer, on the README's task, one reply at a time."""
    task = names["backwards"]
    proposer = names["Guessing"]().build(task, Prompt(), Limits())
    scorer = names["Starting"]().build(task, Prompt())
    problem = task.problems("backwards")[0]
    tree = Tree()
    wishes = names["UntilGood"](tries=50, enough=0.5).search(tree)
    asked = 0
    (wish,) = next(wishes)
    while True:
        job = Job(f"1/{asked}", problem, (), asked, wish.n, wish.until, Sampling(), seed=0)
        (chains,) = asyncio.run(proposer.propose([job]))
        (scored,) = asyncio.run(scorer.score([(job, chains)]))
        assert [len(row) for row in scored.scores] == [len(chain) for chain in chains]
        (((step,),), ((score,),)) = chains, scored.scores
        step = type(step)(step.text, tokens=step.tokens, score=score, finish=step.finish, answer=step.text)
        asked += 1
        try:
            (wish,) = wishes.send(Expansion(wish.leaf, ((step,),)))
        except StopIteration:
            break
    candidates = tree.candidates()
    assert len(candidates) == asked < 50
    assert candidates[-1].text.startswith("d") and sorted(candidates[-1].text) == sorted(problem.question)
    assert task.check(problem, "Desserts") is True
    assert task.check(problem, candidates[0].text) is False


def test_the_example_task_can_be_named_in_a_config(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("readme_example")
    module.__dict__.update(names)
    monkeypatch.setitem(sys.modules, "readme_example", module)
    assert load_task("readme_example:backwards") is names["backwards"]


def test_the_example_proposer_draws_the_same_chains_in_whatever_portions(names: dict[str, Any]):
    proposer, problem = names["Guess"](), names["backwards"].problems("")[0]

    def draw(first: int, n: int) -> tuple:
        (chains,) = asyncio.run(proposer.propose([Job("1/0", problem, (), first, n, "answer", Sampling(), seed=7)]))
        return chains

    assert draw(0, 4) == draw(0, 1) + draw(1, 2) + draw(3, 1)


def test_every_search_task_and_backend_of_the_registries_is_named_in_the_readme():
    from treesearch.algorithms import SEARCHES
    from treesearch.backends import OUTCOMES, PROPOSERS, SCORERS
    from treesearch.tasks import TASKS

    table = README[README.index("## Config") : README.index("## Files")]
    words = set(re.findall(r"[a-z0-9_]+", table))
    missing = {*SEARCHES, *TASKS, *PROPOSERS, *SCORERS, *OUTCOMES} - words
    assert not missing, f"README, Config: name {sorted(missing)}"


def test_the_examples_named_on_the_command_line_are_valid_settings():
    """`--set search.type=beam --set search.beams=8` must not be a relic."""
    from treesearch.algorithms import SEARCHES

    for kind, key, value in re.findall(r"--set search\.type=(\w+) --set search\.(\w+)=(\d+)", README):
        try:
            SEARCHES[kind](**{key: int(value)})
        except (TypeError, TreesearchError) as error:
            pytest.fail(f"README: search.{key} of {kind}: {error}")


@pytest.mark.parametrize("text", CONFIGS, ids=lambda text: text.split("\n", 1)[0])
def test_the_configs_to_copy_are_configs(text: str, tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    config = load(path)
    assert build([config.resolved()]) == config


def test_there_is_a_config_for_eight_gpus_for_one_and_for_a_laptop():
    assert len(CONFIGS) == 4


def test_every_family_of_prms_is_named():
    table = README[README.index("**Scorers.**") : README.index("**Problem sets.**")]
    assert not {*FORMATS} - {"bundled"} - set(re.findall(r"`([a-z0-9.-]+)`", table))


def test_every_test_that_the_table_of_faults_names_is_there():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "tests" / "FAULTS.md").read_text())
    assert len(named) > 80
    for path, name in named:
        tree = ast.parse((ROOT / "tests" / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{path}::{name}"


def test_every_fault_of_the_table_has_a_test_or_says_that_nothing_is_built():
    rows = [
        line.split(" | ") for line in (ROOT / "tests" / "FAULTS.md").read_text().splitlines() if line.startswith("| ")
    ]
    for row in rows:
        assert (
            "::" in row[-1] or row[-1].startswith("shown by") or re.search(r"not built|there is no server yet", row[1])
        ), row
