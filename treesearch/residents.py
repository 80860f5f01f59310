"""Which trees go on: those whose working sets a scorer's cache holds together. Knows no tree, no clock and no model.

A cache that forgets what was used least recently, asked in turn by more trees than it can hold, has forgotten whatever is
asked for again. The cure is that of thrashing programs (Denning 1968, "The working set model for program behavior"): fewer
run. The oldest trees go on, as many as fit; jobs of the others wait until there is room. Only when something is sent
depends on this, never what comes of it.
"""

from __future__ import annotations

from treesearch.turns import Turns

FILLED = 0.7  # of a cache: working sets are estimates, and other blocks are used between two looks at one


class Residents:
    """Working sets of trees by their scorer, and jobs that wait for room. Trees are known by age, 0 the oldest."""

    def __init__(self) -> None:
        self._scorer: dict[int, int] = {}  # of each tree
        self._sizes: dict[int, dict[int, int]] = {}  # scorer -> tree -> tokens
        self._first: dict[int, int] = {}  # scorer -> the oldest tree that waits, where one does
        self._keeps: dict[int, int] = {}  # tokens
        self._turns = Turns()

    def note(self, tree: int, tokens: int, scorer: int, keeps: int) -> None:
        """The tree asks this scorer, whose cache keeps so many tokens, and needs so many of them there from now on."""
        before = self._scorer.get(tree)
        if before == scorer and self._sizes[scorer][tree] == tokens and self._keeps[scorer] == keeps:
            return  # most replies change nothing, and to sift takes longer the more trees there are
        if before is not None and before != scorer:
            self.end(tree)
        self._scorer[tree], self._keeps[scorer] = scorer, keeps
        self._sizes.setdefault(scorer, {})[tree] = tokens
        self._sift(scorer)

    async def turn(self, tree: int, job_id: str) -> None:
        """Returns when the tree is one of those that go on (at once, if nothing is known of it)."""
        scorer = self._scorer.get(tree)
        if scorer is not None and tree >= self._first.get(scorer, tree + 1):
            await self._turns.wait(scorer, tree, job_id)

    def end(self, tree: int) -> None:
        """The tree needs nothing any more."""
        scorer = self._scorer.pop(tree, None)
        if scorer is not None:
            del self._sizes[scorer][tree]
            self._sift(scorer)

    def leave(self, scorer: int) -> None:
        """The scorer is gone: nobody waits for room there."""
        for tree in self._sizes.pop(scorer, {}):
            del self._scorer[tree]
        self._sift(scorer)

    def waits(self, job_id: str) -> bool:
        """Whether the job waits here."""
        return self._turns.waits(job_id)

    def _sift(self, scorer: int) -> None:
        """Find the oldest tree that does not fit beside all older ones (the oldest of all does), and let the older ones go."""
        sizes = self._sizes.get(scorer, {})
        room = FILLED * self._keeps.get(scorer, 0)
        self._first.pop(scorer, None)
        if sum(sizes.values()) > room:
            for place, tree in enumerate(sorted(sizes)):
                room -= sizes[tree]
                if room < 0 and place:
                    self._first[scorer] = tree
                    break
        self._turns.call(scorer, lambda tree: tree not in sizes or tree < self._first.get(scorer, tree + 1))
