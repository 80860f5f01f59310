"""Config: layers, the nearest name of what does not exist, ranges, identity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from treesearch import config as configs
from treesearch.algorithms.base import at_least
from treesearch.algorithms.sample import Sample
from treesearch.config import build, digest, load, parse_overrides
from treesearch.errors import ConfigError


@dataclass(frozen=True)
class Mix:
    steps: float = 1.0


@dataclass(frozen=True)
class Tall:
    branch: int = 4
    c: float = 1.4
    value: Mix = Mix()

    def __post_init__(self) -> None:
        at_least(1, branch=self.branch)


@dataclass(frozen=True)
class Wide:
    branch: int | None = 4
    beams: int = 4


@dataclass(frozen=True)
class Fake:
    model: str = "bundled"
    label: ClassVar[str | None] = "SIMULATED"


@dataclass(frozen=True)
class Nothing:
    label: ClassVar[str | None] = None


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: dict[str, type] = {"mcts": Tall, "beam": Wide, "sample": Sample}
    models: dict[str, type] = {"bundled": Nothing, "simulated": Fake, "none": Nothing}
    monkeypatch.setattr(configs, "_registry", lambda section: searches if section == "search" else models)


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(None, overrides)
    return str(caught.value)


def test_without_file_and_overrides_everything_has_a_default():
    config = load(None)
    assert config.search == Tall() and config.problems == "game24" and config.limit is None
    assert config.resolved()["search"] == {"type": "mcts", "branch": 4, "c": 1.4, "value": {"steps": 1.0}}


def test_overrides_reach_into_sections_and_lists_become_tuples():
    config = load(
        None, ["search.value.steps=0.5", "sampling.temperature=[0.5, 1]", "limit=7", "problems=-", "search.c=1e-3"]
    )
    assert config.search.value == Mix(0.5) and config.sampling.temperature == (0.5, 1.0)
    assert config.limit == 7 and config.problems == "-" and config.search.c == 0.001


def test_a_value_with_a_colon_is_text_and_a_flow_mapping_is_a_mapping():
    assert parse_overrides(["prompt.template=Q: {question}"]) == {"prompt": {"template": "Q: {question}"}}
    assert load(None, ["search={type: beam, beams: 2}"]).search == Wide(beams=2)
    assert load(None, ["search=beam", "search.beams=3"]).search == Wide(beams=3)


@pytest.mark.parametrize(
    "override, parts",
    [
        ("serach.c=1", ("serach", "did you mean search?")),
        ("search.brunch=1", ("search.brunch", "of type mcts", "did you mean search.branch?")),
        ("search.value.step=1", ("search.value.step", "search.value.steps?")),
        ("search.type=beem", ("search.type = 'beem'", "did you mean beam?", "mcts")),
        ("sampling.temprature=1", ("sampling.temprature", "sampling.temperature?")),
        ("engine.threes=4", ("engine.threes", "engine.trees?")),
    ],
)
def test_an_unknown_key_or_type_names_the_nearest_known_one(override: str, parts: tuple[str, ...]):
    message = refused(override)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "override, part",
    [
        ("search.branch=many", "search.branch = 'many'"),
        ("search.branch=0", "search.branch = 0: must be at least 1"),
        ("search.c=.nan", "search.c = nan: must be a finite number"),
        ("sampling.temperature=-1", "sampling.temperature = -1"),
        ("sampling.top_p=0", "sampling.top_p = 0"),
        ("limits.depth=0", "limits.depth = 0"),
        ("limits.think_most=0", "limits.think_most = 0"),
        ("limits.think_most=9", "limits.think_most = 9: must be null where no model thinks; set prompt.thinking"),
        ("limits={think_least: 9, think_most: 8}", "limits.think_least = 9: must be at most think_most = 8"),
        ("prompt.style=chatty", "did you mean 'chat'"),
        ("limit=0", "limit = 0"),
        ("budget.tokens=0", "budget.tokens = 0"),
        ("engine.delivery=late", "engine.delivery = 'late'"),
        ("answer.rule=first", "answer.rule = 'first'"),
        ("scorer=null", "use {type: none}"),
        ("scorer=[{type: bundled}]", "scorer is a list"),
        ("search", "not of the form key=value"),
        ("limit.x=1", "limit = {'x': 1}"),
        ("prompt={a", "not YAML"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_full_key(override: str, part: str):
    assert part in refused(override)


def test_changing_a_type_drops_the_keys_inherited_for_the_old_type(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("search: {type: mcts, c: 2.0, branch: 9}\n")
    assert load(path, ["search.type=beam"]).search == Wide()
    assert load(path, ["search.type=mcts"]).search == Tall(branch=9, c=2.0)


def test_keys_the_user_set_himself_stay_and_are_checked(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("proposer: {model: mine}\nsearch: {c: 2.0}\n")
    assert load(path, ["proposer.type=simulated", "search.type=mcts"]).proposer == Fake("mine")
    with pytest.raises(ConfigError, match=r"search\.c: unknown key of type beam"):
        load(path, ["search.type=beam", "proposer.type=simulated"])
    assert "search.c" in refused("search.type=beam", "search.c=1")


def test_resolved_keys_build_an_equal_config():
    config = load(None, ["search.type=beam", "search.branch=null", "sampling.temperature=[0, 1]", "engine.trees=3"])
    assert build([config.resolved()]) == config


ODD = "\x85\u2028\u2029\ufeff\r\n\t \0\x1b\x7f\x80\x9f\xa0\u202e\ud7ff\ue000\ufffe\U0010ffff'\"\\#:-|>%&*?{[,~<=!@`0é"


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_a_config_that_was_written_is_the_same_whatever_characters_are_in_it(odd: str, tmp_path: Path):
    """PyYAML writes U+0085 between single quotes, and reads it back as the end of a line."""
    file = tmp_path / "config.yaml"
    for text in (
        odd,
        f"a{odd}",
        f"{odd}a",
        f"a{odd} b",
        f"10,{odd}",
        f" {odd}\n\n",
        odd * 2,
        odd * 120,
        f"{odd} " * 90,
    ):
        config = configs.Config(problems=text, cluster=configs.Cluster(proposer_resources={text: 1.0}))
        file.write_text(configs.written(config.resolved()), "utf-8")
        assert load(file) == config


def test_the_identity_of_a_run_leaves_out_what_changes_no_result():
    same = [load(None, [o]) for o in ("limit=3", "engine.trees=2", "cluster.managers=2", "search.c=1.4")]
    assert {digest(c) for c in same} == {digest(load(None))}
    other = ("search.c=1.5", "engine.seed=1", "sampling.top_p=0.9", "budget.tokens=10")
    assert digest(load(None)) not in {digest(load(None, [o])) for o in other}


def test_an_early_stop_counts_votes_by_the_rule_that_chooses():
    assert load(None, ["search.type=sample", "answer.rule=best"]).search.rule == "best"
    assert load(None, ["search.type=sample", "search.rule=majority", "answer.rule=best"]).search.rule == "majority"


def test_simulated_models_label_the_run():
    assert load(None, ["proposer.type=simulated"]).labels() == ["SIMULATED"]
    assert load(None).labels() == []


@pytest.mark.parametrize(
    "text, part", [("a: [", "c.yaml:"), ("- 1\n", "holds a list"), ("!!python/object:os.system {}", "not YAML")]
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, part: str):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=part):
        load(path)


def test_a_missing_file_is_named_with_the_path_looked_for(tmp_path: Path):
    with pytest.raises(ConfigError, match=str(tmp_path)):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize(("given", "part"), [
    ("search=null", "search is empty: use {type: none} to go without"),
    ("scorer=[bundled, simulated]", "scorer is a list: a run has one scorer"),
    ("proposer=[3]", r"proposer\[0\] = 3: must be a mapping such as {type: vllm"),
    ("limits=[3]", r"limits = \[3\]: must be a mapping of keys and values"),
    ("limit=many", "limit = 'many': Input should be a valid integer"),
])  # fmt: skip
def test_a_section_of_another_shape_is_refused_with_the_right_one(given: str, part: str):
    with pytest.raises(ConfigError, match=part):
        load(None, [given])


@pytest.mark.parametrize(("given", "part"), [
    ("scorer={type: judge, model: 3}", "scorer.model = 3: must be a mapping with a type, such as {type: vllm"),
    ("proposer={type: mixture, members: bundled}", "proposer.members = 'bundled': must be a list of mappings"),
    ("proposer={type: mixture}", "proposer.members: must be set"),
    ("scorer={type: verifier}", "scorer.function: must be set"),
    ("search={type: 'json:dumps'}", "search.type = 'json:dumps': is no dataclass"),
    ("search={type: 'nowhere:Search'}", "search.type = 'nowhere:Search': cannot be imported: No module named 'nowhere'"),
])  # fmt: skip
def test_a_spec_inside_a_spec_is_refused_with_its_full_key(monkeypatch: pytest.MonkeyPatch, given: str, part: str):
    monkeypatch.undo()  # the real ones
    with pytest.raises(ConfigError, match=part):
        load(None, [given])


def test_a_config_that_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "latin.yaml").write_bytes(b"task: caf\xe9")
    for path in (tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(ConfigError, match=f"config {path}: cannot be read: "):
            load(path)


def test_an_empty_file_is_the_defaults(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text("# nothing\nprompt:\n")
    config: Any = load(path)
    assert config == load(None)


@pytest.mark.parametrize(
    "setting",
    ["cluster.gpus_per_proposer='inf'", "budget.seconds='Infinity'", "search.c='nan'", "sampling.temperature=['inf']"],
)
def test_an_infinite_number_in_quotes_is_none(setting: str):
    with pytest.raises(ConfigError, match="must be a finite number"):
        load(None, [setting])


@pytest.mark.parametrize("name", ["..a:b", "a..b:c", ":b", "a:", "os:PathLike.x", "", "os:system"])
def test_a_name_that_is_none_is_refused(name: str):
    from treesearch.tasks import load_task

    with pytest.raises(ConfigError):
        load(None, [f"search.type='{name}'"])
    with pytest.raises(ConfigError):
        load_task(name)


def test_a_value_of_a_hundred_thousand_braces_is_refused_as_soon_as_it_is_too_deep() -> None:
    """PyYAML's own scanner takes a time that grows with the square of their number."""
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(None, ["prompt.examples=" + "{" * 100_000])


def test_an_override_that_no_command_line_would_take_is_refused_with_its_length() -> None:
    with pytest.raises(
        ConfigError, match=r"^--set 'prompt.template=xxx.*131,088 characters, at most 131,072; use a config file$"
    ):
        load(None, ["prompt.template=" + "x" * 131_072])
    template = load(None, ["prompt.template=Q: {question}" + "x" * 100_000]).prompt.template
    assert template is not None and len(template) == 100_013
