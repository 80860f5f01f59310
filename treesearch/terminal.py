"""What models and data sets wrote, as it may be shown to people. Pure.

A text can hold sequences that rename a terminal's window, move its cursor, or turn the order of letters around, and rich
reads `[red]` as a colour. Whatever goes to a terminal or a log goes through `shown`; tables hold `rich.text.Text`.
"""

from __future__ import annotations

import re

# All control characters but tab and line feed (also the second set, of which terminals obey U+009B), line separators, what
# overrides the direction of letters, tags that nobody sees, and halves of characters, which no stream takes.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\U000e0000-\U000e007f]")


def shown(text: object) -> str:
    """The text with what a terminal would obey, or could not show, spelled as in Python: `\\x1b`, `\\u202e`."""
    return _UNSHOWN.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), str(text))


def mended(text: str) -> str:
    """The text with pairs of halves put together and each lone half of a character as U+FFFD: JSON can write both."""
    return text if encodable(text) else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def encodable(text: str) -> bool:
    """Whether it is text: without halves of characters, which no file and no tokenizer takes."""
    try:
        _ = text.isascii() or text.encode()
    except UnicodeEncodeError:
        return False
    return True
