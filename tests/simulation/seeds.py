"""Seeds that once failed, and what they showed. They are run always; a change of `Plan.of` makes other worlds of them."""

from __future__ import annotations

KEPT: dict[int, str] = {
    3: "tokens of replies that the scorer spoiled were in no count",
    36: "after a commit that failed, later replies were committed: a hole in the journal",
    89: "the same, four replies in",
    99: "a request was called poison that its replica had not begun with",
    9659: "the checker held a frozen life against the one that read its answer",
}
