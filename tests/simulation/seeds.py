"""Seeds that once failed, and what they showed. They are run always; a change of `Plan.of` makes other worlds of them."""

from __future__ import annotations

KEPT: dict[int, str] = {
    3: "tokens of replies that the scorer spoiled were in no count",
    13: "two prompts killed replicas at once, and a third was called poison",
    36: "after a commit that failed, later replies were committed: a hole in the journal",
    89: "the same, four replies in",
    99: "a request was called poison that its replica had not begun with",
    341: "the same, within one and a half seconds",
    1519: "a manager's machine ran out of memory, and the run ended",
    40060: "three replicas died at random under one prompt, and the journal that said so was damaged after the end",
    9659: "the checker held a frozen life against the one that read its answer",
    20085: "a reply to a suspect was lost, and it was blamed for the death that the next suspect on its replica caused",
    28030: "the same, with two managers",
    89544: "a replica was said to have died of poison twice, for what else had run there said so late: its manager died of it",
}
