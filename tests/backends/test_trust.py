"""What of a model's folder is trusted: tensors and templates, never pickles and never code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.backends.models import job, save
from treesearch.backends.base import Limits
from treesearch.backends.chat import chat_of
from treesearch.backends.openai import load_tokenizer
from treesearch.backends.reward import TransformersORM, TransformersPRM
from treesearch.backends.transformers import Transformers
from treesearch.backends.weights import check
from treesearch.errors import ConfigError
from treesearch.models.convert import convert
from treesearch.tasks import load_task
from treesearch.tasks.base import Prompt

GAME, LIMITS = load_task("game24"), Limits()
BUILD: dict[str, Any] = {
    "causal": lambda folder: Transformers(folder).build(GAME, Prompt(), LIMITS),
    "prm": lambda folder: TransformersPRM(folder).build(GAME, Prompt()),
    "token": lambda folder: TransformersPRM(folder).build(GAME, Prompt()),
    "sequence": lambda folder: TransformersORM(folder).build(GAME, Prompt()),
}


class Touch:
    """Pickled, it makes a file when it is read: what a hostile checkpoint does."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def pickled(folder: Path, weights: Any = None) -> Path:
    """The folder with its weights as a .bin, or with something else in it."""
    file = folder / "model.safetensors"
    torch.save(load_file(file) if weights is None else weights, folder / "pytorch_model.bin")
    file.unlink()
    return folder


@pytest.mark.parametrize("kind", BUILD)
def test_a_pickle_is_not_loaded_and_the_way_out_is_named(tmp_path: Path, kind: str) -> None:
    canary = tmp_path / "canary"
    folder = pickled(save(tmp_path / "m", kind), {"model.norm.weight": Touch(str(canary))})
    with pytest.raises(ConfigError, match=r"pytorch_model.bin and no \*.safetensors: .*treesearch.models.convert"):
        BUILD[kind](str(folder))
    assert not canary.exists()


def test_transformers_itself_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub name has no folder to look into: there `use_safetensors` refuses."""
    import treesearch.backends.transformers as module

    folder = pickled(save(tmp_path / "m", "causal"))
    monkeypatch.setattr(module, "check", lambda name: None)
    with pytest.raises(ConfigError, match=r"safetensors.*treesearch.models.convert"):
        BUILD["causal"](str(folder))


def test_converted_weights_are_the_same_and_run(tmp_path: Path) -> None:
    save(tmp_path / "m", "causal")
    before = load_file(tmp_path / "m" / "model.safetensors")
    folder = pickled(tmp_path / "m")
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(before, "pytorch_model.bin")})
    )
    done = subprocess.run(
        [sys.executable, "-m", "treesearch.models.convert", str(folder)], capture_output=True, text=True
    )
    assert done.stdout.strip() == str(folder / "model.safetensors"), done.stderr
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index.values()) == {"model.safetensors"}
    after = load_file(folder / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True) is not None
    check(str(folder))


def test_converting_runs_nothing_of_a_hostile_file(tmp_path: Path) -> None:
    folder, canary = save(tmp_path / "m", "causal"), tmp_path / "canary"
    with pytest.raises(ConfigError, match="no pytorch_model"):
        convert(folder)
    pickled(folder, {"a": Touch(str(canary))})
    with pytest.raises(ConfigError, match="holds more than tensors"):
        convert(folder)
    torch.save([1, 2], folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="no named tensors"):
        convert(folder)
    assert not canary.exists() and not list(folder.glob("*.safetensors"))


@pytest.mark.parametrize("kind", BUILD)
def test_code_in_a_models_folder_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Config and tokenizer both name classes in files beside them. Nobody is asked at the terminal."""
    folder, canary = save(tmp_path / "m", kind), tmp_path / "canary"
    (folder / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Evil: pass\n")
    for name in ("config.json", "tokenizer_config.json"):
        data = json.loads((folder / name).read_text())
        auto = {key: "modeling_evil.Evil" for key in ("AutoConfig", "AutoModel", "AutoModelForCausalLM",
                "AutoModelForTokenClassification", "AutoModelForSequenceClassification")}  # fmt: skip
        data["auto_map"] = auto | {"AutoTokenizer": ["modeling_evil.Evil", "modeling_evil.Evil"]}
        (folder / name).write_text(json.dumps(data))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    BUILD[kind](str(folder))
    load_tokenizer(str(folder))
    assert not canary.exists()


def test_code_without_a_class_of_ours_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "m", "causal")
    (folder / "modeling_evil.py").write_text("raise SystemExit\n")
    data = json.loads((folder / "config.json").read_text()) | {
        "model_type": "evil",
        "architectures": ["EvilForCausalLM"],
    }
    data["auto_map"] = {"AutoConfig": "modeling_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}
    (folder / "config.json").write_text(json.dumps(data))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        BUILD["causal"](str(folder))


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
    ],
)
def test_a_template_is_a_program_in_a_sandbox(tmp_path: Path, template: str) -> None:
    tokenizer: Any = load_tokenizer(str(save(tmp_path / "m", "causal")))
    tokenizer.chat_template = template.replace("CANARY", str(tmp_path / "canary"))
    chat = chat_of(tokenizer)
    assert chat is not None
    with pytest.raises(ConfigError, match="the chat template cannot be used"):
        chat([{"role": "user", "content": "?"}])
    assert not (tmp_path / "canary").exists()


def test_a_question_is_no_template(tmp_path: Path) -> None:
    chat = chat_of(load_tokenizer(str(save(tmp_path / "m", "causal", chat=True))))
    assert chat is not None and "{{ 7 * 7 }}" in chat([{"role": "user", "content": "{{ 7 * 7 }}"}])
    assert job("{{ 7 * 7 }}").problem.question == "{{ 7 * 7 }}"
