"""How a question is put to a model: the text before the first step, by style. Knows no model.

A style says what stands around the question; the styles of chat models put it into the user's message, and the model's
own template does the rest. `messages` and `build` are the only way from a question to a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from treesearch.errors import ConfigError
from treesearch.tasks.base import Prompt, Task
from treesearch.tasks.readers import THOUGHT_OVER
from treesearch.types import Chain

Message = dict[str, str]  # role and content
Chat = Callable[[list[Message]], str]  # messages -> text that ends where the model begins to answer

STYLES = ("direct", "step_by_step", "few_shot", "think", "chat", "chat_step_by_step", "chat_think")
THINKING = ("think", "chat_think")  # styles that open a thought
BLANK_LINE = "\n\n"  # between the steps of a thought
STEP_BY_STEP = "Let's think step by step."  # Kojima et al. 2022, arXiv:2205.11916
THOUGHT = "<think>"
THINK = (
    "Reason first, between <think> and </think>. Then give only the answer, between <answer> and </answer>, as in "
    "<think> reasoning </think><answer> answer </answer>.\n\n"
)  # after DeepSeek-R1-Zero, arXiv:2501.12948

REVISE = "Find what is wrong or could be better in this solution{judged}, then write a new, complete one."


def is_chat(prompt: Prompt) -> bool:
    """Whether the question is put through the model's chat template."""
    return prompt.style.startswith("chat")


def thinks(prompt: Prompt) -> bool:
    """Whether a chain begins with a thought, which holds no answer."""
    return prompt.thinking or prompt.style in THINKING


def separator(task: Task, prompt: Prompt) -> str:
    """The text that ends a step: what the prompt says, else a blank line in thoughts, else the task's own."""
    if prompt.separator is not None:
        return prompt.separator
    return BLANK_LINE if thinks(prompt) else task.separator


def check(prompt: Prompt) -> None:
    """Raises ConfigError for an unknown style and for settings that do not go together."""
    style = prompt.style
    if style not in STYLES:
        near = get_close_matches(style, STYLES, n=1, cutoff=0.0)[0]
        raise ConfigError(f"prompt.style {style!r} is unknown; did you mean {near!r}? ({', '.join(STYLES)})")
    if style == "few_shot" and prompt.examples is None:
        raise ConfigError("prompt.style 'few_shot' has no examples; set prompt.examples to the path of a file")
    if prompt.examples is not None and style != "few_shot" and not is_chat(prompt):
        raise ConfigError(f"prompt.examples: style {style!r} shows none; use style few_shot or chat")
    if prompt.revise is not None and not prompt.revise.strip():
        raise ConfigError("prompt.revise is empty: say what to do with a finished solution, or leave it null")
    if prompt.template is not None and "{question}" not in prompt.template:
        raise ConfigError(
            f"prompt.template {prompt.template!r} never asks the question; put {{question}} where it belongs"
        )
    if prompt.template is not None and style == "step_by_step":
        raise ConfigError("prompt.template replaces all that style 'step_by_step' says; use it with style direct")
    if prompt.thinking and prompt.template is None and not is_chat(prompt) and style not in THINKING:
        raise ConfigError(f"prompt.thinking: nothing makes a model think in style {style!r}; use style chat or think")


def build(task: Task, prompt: Prompt, question: str, chat: Chat | None = None, attempts: Sequence[Chain] = ()) -> str:
    """The text before the first step. `chat` is the model's chat template, called with the messages (chat styles).

    `attempts` are finished solutions, each followed by the wish for a better one. `prompt.template` is the text of the
    question (in style think it replaces the style's own text too). Raises ConfigError as `check`, for examples that cannot
    be read, and for a chat style without a chat template.
    """
    check(prompt)
    if is_chat(prompt):
        return _chat(task, prompt, question, chat, attempts)
    text = _examples(prompt) + _styled(task, prompt, question)
    for attempt in attempts:
        text += f"{answer_text(attempt).rstrip()}\n\n{wish(prompt, attempt)}\n\n"
    text += f"{THOUGHT}\n" if attempts and prompt.style == "think" else ""
    return f"{prompt.system}\n\n{text}" if prompt.system else text


def answer_text(attempt: Chain) -> str:
    """A finished solution as it is shown to the model again: without its thought, which no chat template repeats."""
    return "".join(step.text for step in attempt).rpartition(THOUGHT_OVER)[2].lstrip()


def wish(prompt: Prompt, attempt: Chain) -> str:
    """The wish for a better solution than this one, with how it was judged: by its outcome, else by its last step."""
    last = attempt[-1]
    value = last.score if last.outcome is None else last.outcome
    judged = "" if value is None else f" (it was judged {value:.2f})"
    return (
        (prompt.revise or REVISE)
        .replace("{judged}", judged)
        .replace("{score}", "?" if value is None else f"{value:.2f}")
    )


def messages(task: Task, prompt: Prompt, question: str, attempts: Sequence[Chain] = ()) -> list[Message]:
    """What a chat model is told: the system prompt, if there is one, the user's message, and what came of it before."""
    system = getattr(task, "system", None) if prompt.system is None else prompt.system
    user = _examples(prompt) + (question if prompt.template is None else _templated(prompt.template, question))
    match prompt.style:
        case "chat_step_by_step":
            user = f"{user}\n\n{STEP_BY_STEP}"
        case "chat_think":
            user = THINK + user
    told = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": user}]
    for attempt in attempts:
        told.append({"role": "assistant", "content": answer_text(attempt)})
        told.append({"role": "user", "content": wish(prompt, attempt)})
    return told


def _chat(task: Task, prompt: Prompt, question: str, chat: Chat | None, attempts: Sequence[Chain]) -> str:
    if chat is None:
        raise ConfigError(
            f"prompt.style {prompt.style!r} needs a model with a chat template, this one has none; use style direct, or set "
            "chat_template to the path of one"
        )
    text = chat(messages(task, prompt, question, attempts))
    end = text.rstrip()
    if thinks(prompt) and end.endswith(THOUGHT_OVER):
        raise ConfigError(
            f"prompt.thinking: the chat template closes the thought itself ({end[-20:]!r}); set it to false, or let the "
            "template think (chat_template_kwargs)"
        )
    if end.endswith(THOUGHT) and not thinks(prompt):
        raise ConfigError(f"the chat template opens a thought ({end[-20:]!r}): set prompt.thinking to true")
    return f"{text}{THOUGHT}\n" if prompt.style == "chat_think" and not end.endswith(THOUGHT) else text


def _styled(task: Task, prompt: Prompt, question: str) -> str:
    if prompt.template is not None:
        return _templated(prompt.template, question)
    direct = task.prompt(question)
    match prompt.style:
        case "step_by_step":
            return f"{direct}{STEP_BY_STEP}\n"
        case "think":
            return f"{THINK}{direct}{THOUGHT}\n"
        case _:
            return direct


def _templated(template: str, question: str) -> str:
    return template.replace("{question}", question)


def _examples(prompt: Prompt) -> str:
    """The examples as they stand before the question; nothing if there are none."""
    return "" if prompt.examples is None else f"{_read(prompt.examples)}\n\n"


@cache
def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompt.examples {path!r} cannot be read: {error}; give the path of a text file") from error
