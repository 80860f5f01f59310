"""How a question is put, by style."""

from __future__ import annotations

from pathlib import Path

import pytest

from treesearch.errors import ConfigError
from treesearch.tasks import TASKS, Prompt
from treesearch.tasks.prompts import THINK, build, messages, separator, thinks

GAME = TASKS["game24"]


def spoken(messages: list[dict[str, str]]) -> str:
    return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"


def test_direct_is_the_task_s_own_prompt() -> None:
    assert build(GAME, Prompt(), "4 4 9 13") == "4 4 9 13\n"


def test_step_by_step_ends_with_the_published_sentence() -> None:
    assert build(GAME, Prompt("step_by_step"), "4 4 9 13") == "4 4 9 13\nLet's think step by step.\n"


def test_few_shot_puts_the_examples_before_the_question(tmp_path: Path) -> None:
    (tmp_path / "shots.txt").write_text("1 1 4 6\n...\n", encoding="utf-8")
    prompt = Prompt("few_shot", examples=str(tmp_path / "shots.txt"))
    assert build(GAME, prompt, "4 4 9 13") == "1 1 4 6\n...\n\n4 4 9 13\n"


def test_think_opens_the_tag_that_the_readers_strip() -> None:
    text = build(TASKS["plain"], Prompt("think"), "2 + 2?")
    assert "<answer>" in text and text.endswith("2 + 2?\n<think>\n")
    assert TASKS["plain"].read("", ["hm\n", "</think>\n", "<answer> 4 </answer>"]) == "4"


def test_chat_gives_the_messages_to_the_model_s_template() -> None:
    assert build(GAME, Prompt("chat", system="Be brief."), "q", spoken) == "<system>Be brief.<user>q<assistant>"
    assert build(GAME, Prompt("chat", system=""), "q", spoken) == "<user>q<assistant>"
    assert r"\boxed{}" in build(TASKS["math"], Prompt("chat"), "q", spoken)


def test_a_chat_model_is_told_to_reason_or_shown_examples_in_the_user_s_message(tmp_path: Path) -> None:
    (tmp_path / "shots.txt").write_text("Q: 1 + 1? A: 2\n", encoding="utf-8")
    shown = Prompt("chat", system="", examples=str(tmp_path / "shots.txt"))
    assert build(GAME, shown, "q", spoken) == "<user>Q: 1 + 1? A: 2\n\nq<assistant>"
    assert build(GAME, Prompt("chat_step_by_step", system=""), "q", spoken) == (
        "<user>q\n\nLet's think step by step.<assistant>"
    )
    thought = build(GAME, Prompt("chat_think", system=""), "q", spoken)
    assert thought == f"<user>{THINK}q<assistant><think>\n"
    assert messages(GAME, Prompt("chat", system="S"), "q") == [
        {"role": "system", "content": "S"}, {"role": "user", "content": "q"},
    ]  # fmt: skip


def test_examples_stand_before_a_template_s_text(tmp_path: Path) -> None:
    (tmp_path / "shots.txt").write_text("E", encoding="utf-8")
    assert build(GAME, Prompt("few_shot", None, str(tmp_path / "shots.txt"), "Q: {question}"), "1") == "E\n\nQ: 1"


def test_thoughts_and_their_steps_are_known_by_the_prompt() -> None:
    asked = [Prompt(), Prompt("think"), Prompt("chat_think"), Prompt("chat", thinking=True)]
    assert [thinks(p) for p in asked] == [False, True, True, True]
    assert [separator(GAME, p) for p in asked] == ["\n", "\n\n", "\n\n", "\n\n"]
    assert separator(GAME, Prompt("think", separator="\n")) == "\n" and separator(TASKS["math"], Prompt()) == "\n\n"


def test_a_template_overrides_the_style_s_text() -> None:
    assert build(GAME, Prompt(template="Q: {question} {x}\nA:"), "4 {y}") == "Q: 4 {y} {x}\nA:"
    assert build(GAME, Prompt("chat", system="", template="Q: {question}"), "1", spoken) == "<user>Q: 1<assistant>"
    assert build(GAME, Prompt(system="S"), "1 2 3 4") == "S\n\n1 2 3 4\n"


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (Prompt("chatty"), "did you mean 'chat'"),
        (Prompt("chat"), "chat template"),
        (Prompt("few_shot"), "prompt.examples"),
        (Prompt("few_shot", examples="/no/such/file"), "/no/such/file"),
        (Prompt(template="solve it"), "never asks the question"),
        (Prompt("step_by_step", template="{question}"), "style direct"),
        (Prompt("think", examples="x"), "style 'think' shows none; use style few_shot or chat"),
        (Prompt("direct", thinking=True), "nothing makes a model think in style 'direct'"),
    ],
)
def test_a_prompt_that_cannot_be_is_refused(prompt: Prompt, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build(GAME, prompt, "1 2 3 4")
