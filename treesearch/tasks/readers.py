"""Ways to find an answer in a text: think tags, boxed LaTeX, labelled lines, numbers. Knows no task and no reference.

All functions are linear in the text and never raise on any string: what they read was written by a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

_NUMBER = re.compile(r"[-+]?\$?\s?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?")
_EXACT = re.compile(
    r"(?:\\?\$)?\s?([-+]?)(?:\\?\$)?\s?([0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:/(0*[1-9][0-9]*))?\s?(?:\\?%)?\.?"
)
_LABEL = re.compile(r"(?im)^[ \t]*answer[ \t]*:")
_LONGEST_NUMBER = 200  # characters; longer is no number anybody meant


THOUGHT_OVER = "</think>"  # DeepSeek-R1 (arXiv 2501.12948), Qwen3 (arXiv 2505.09388)


def has_answer(texts: Iterable[str], thinking: bool) -> bool:
    """Whether a chain of step texts may be read: where the model thinks, only once its thought is over."""
    return not thinking or THOUGHT_OVER in "".join(texts)


def final_text(text: str) -> str:
    """The part that answers: after the last `</think>`, inside `<answer>...</answer>` where there are tags."""
    text = text.rpartition(THOUGHT_OVER)[2]
    _, tag, inside = text.rpartition("<answer>")
    return inside.partition("</answer>")[0] if tag else text


def labelled(text: str) -> str | None:
    """What stands after the last line label `Answer:`, to the end of the text; None without a label."""
    ends = [found.end() for found in _LABEL.finditer(text)]
    return text[ends[-1] :].strip() if ends else None


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` with balanced braces (or `\fbox`, or `\boxed 5`); None without one."""
    start = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    if start < 0:
        return None
    rest = text[start:].partition("boxed" if text.startswith(r"\boxed", start) else "fbox")[2].lstrip()
    if not rest.startswith("{"):
        bare = re.match(r"[^\s$]+", rest)
        return bare.group().rstrip(".,") if bare else None
    depth = 0
    for i, char in enumerate(rest):
        if char in "{}" and (i == 0 or rest[i - 1] != "\\"):
            depth += 1 if char == "{" else -1
            if depth == 0:
                return rest[1:i].strip()
    return None


def first_number(text: str) -> str | None:
    """The first number of a text without `$`, `%` and commas (`$1,000.` gives `1000`); None if there is none."""
    found = _NUMBER.search(text)
    return None if found is None else _plain(found.group())


def last_number(text: str) -> str | None:
    """The last number of a text, as `first_number` would write it."""
    found = _NUMBER.findall(text)
    return _plain(found[-1]) if found else None


def _plain(number: str) -> str:
    return re.sub(r"[$,+\s]", "", number)


def exact(number: str) -> Fraction | None:
    """The value of a written number: `18`, `1,000`, `$5.0`, `50%` (as 50), `7/14`; None if it is not one."""
    found = _EXACT.fullmatch(number.strip()) if len(number) <= _LONGEST_NUMBER else None
    if found is None:
        return None
    sign, above, below = found.groups()
    value = Fraction(above.replace(",", "")) / int(below or 1)
    return -value if sign == "-" else value
