"""How a question is put to a model: the text before the first step, by style. Knows no model."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from treesearch.errors import ConfigError
from treesearch.tasks.base import Prompt, Task

Chat = Callable[[list[dict[str, str]]], str]  # messages -> text that ends where the model begins to answer

STYLES = ("direct", "step_by_step", "few_shot", "think", "chat")
STEP_BY_STEP = "Let's think step by step.\n"  # Kojima et al. 2022, arXiv:2205.11916
THINK = (
    "Reason first, between <think> and </think>. Then give only the answer, between <answer> and </answer>, as in "
    "<think> reasoning </think><answer> answer </answer>.\n\n"
)


def build(task: Task, prompt: Prompt, question: str, chat: Chat | None = None) -> str:
    """The text before the first step. `chat` is the model's chat template, called with the messages (style chat).

    `prompt.template` replaces the style's own text (in style chat, the user's message). Raises ConfigError for an
    unknown style, a template without "{question}", missing examples, and style chat without a chat template.
    """
    if prompt.style not in STYLES:
        near = get_close_matches(prompt.style, STYLES, n=1, cutoff=0.0)[0]
        raise ConfigError(f"prompt.style {prompt.style!r} is unknown; did you mean {near!r}? ({', '.join(STYLES)})")
    if prompt.style == "chat":
        return _chat(task, prompt, question, chat)
    text = _templated(prompt.template, question) if prompt.template is not None else _styled(task, prompt, question)
    return f"{prompt.system}\n\n{text}" if prompt.system else text


def _chat(task: Task, prompt: Prompt, question: str, chat: Chat | None) -> str:
    if chat is None:
        raise ConfigError("prompt.style 'chat' needs a model with a chat template, this one has none; use style direct")
    system = getattr(task, "system", None) if prompt.system is None else prompt.system
    user = question if prompt.template is None else _templated(prompt.template, question)
    messages = [{"role": "system", "content": system}] if system else []
    return chat([*messages, {"role": "user", "content": user}])


def _styled(task: Task, prompt: Prompt, question: str) -> str:
    direct = task.prompt(question)
    match prompt.style:
        case "step_by_step":
            return direct + STEP_BY_STEP
        case "few_shot":
            if prompt.examples is None:
                raise ConfigError("prompt.style 'few_shot' has no examples; set prompt.examples to the path of a file")
            return f"{_examples(prompt.examples)}\n\n{direct}"
        case "think":
            return f"{THINK}{direct}<think>\n"
        case _:
            return direct


def _templated(template: str, question: str) -> str:
    if "{question}" not in template:
        raise ConfigError(f"prompt.template {template!r} never asks the question; put {{question}} where it belongs")
    return template.replace("{question}", question)


@cache
def _examples(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompt.examples {path!r} cannot be read: {error}; give the path of a text file") from error
