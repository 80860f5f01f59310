"""A model's chat template: how messages become text, and the tokens that end the assistant's turn. Knows no task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from treesearch.errors import ConfigError
from treesearch.tasks.prompts import Chat, Message

SAID = "Yes"  # an answer that no template changes


def chat_of(tokenizer: Any, **given: Any) -> Chat | None:
    """The model's chat template, ending where the assistant begins; None if it has none.

    A system prompt that the template refuses (Mistral 7B Instruct v0.1, Gemma) or leaves out stands before the user's
    message instead. Raises ConfigError for what the template refuses all the same.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        return None

    def render(messages: list[Message]) -> str:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **given)
        return text

    def chat(messages: list[Message]) -> str:
        if messages[0]["role"] == "system" and not _takes(render, messages):
            system, user, *rest = messages
            messages = [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]
        try:
            return render(messages)
        except Exception as error:  # templates are programs: they raise what they like
            raise ConfigError(f"the chat template cannot be used: {error}; set chat_template to another") from error

    return chat


def _takes(render: Chat, messages: list[Message]) -> bool:
    """Whether the template says the system prompt in its own way."""
    try:
        return messages[0]["content"].strip() in render(messages)
    except Exception:
        return False


def use_template(tokenizer: Any, path: str | None) -> None:
    """Replace the tokenizer's chat template by a file's, if one is given. Raises ConfigError if it cannot be read."""
    if path is None:
        return
    try:
        tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"chat_template {path!r} cannot be read: {error}; give the path of a Jinja file") from error


def turn_ends(tokenizer: Any) -> list[int]:
    """The token that ends the assistant's turn by the chat template: the first added one that follows the answer.

    Some models end a turn with a token that neither their tokenizer nor their generation config names as an end.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        return []
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": SAID}]
    try:
        after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(SAID)[2]
    except Exception:  # such a template shows no end; a prompt will show what is wrong with it
        return []
    for token in tokenizer(after, add_special_tokens=False)["input_ids"]:
        if token in tokenizer.added_tokens_decoder:
            return [token]
        if tokenizer.decode([token]).strip():
            return []
    return []
