"""When steps are drawn: not while a scorer on the same GPU has enough to read. Knows no tree, no clock and no model.

Where both share a GPU, each step of the proposer's engine reads all of its weights, however few chains it draws, and takes
the GPU from the scorer meanwhile. So while the scorer has enough to read its jobs wait, and what runs on proposers beside
it rests; then all go on together: the same chains in fewer, fuller batches. A scorer on a GPU of its own would lose by it.
Only when something is drawn depends on this, never what comes of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from treesearch.turns import Turns
from treesearch.types import Chain


class Backpressure:
    """Tokens that scorers have to read, and jobs that wait until it is less than enough. Scorers are known by number.

    `rest` is told (scorer, whether what runs beside it rests from now on).
    """

    def __init__(self, rest: Callable[[int, bool], None] = lambda scorer, rests: None) -> None:
        self._rest = rest
        self.full: set[int] = set()  # scorers beside which everything rests
        self._unread: Counter[int] = Counter()  # scorer -> tokens
        self._turns = Turns()

    async def turn(self, scorer: int, enough: int | None, job_id: str, priority: int) -> None:
        """Returns when the scorer has less than `enough` tokens to read or is gone (None: at once)."""
        if not enough or self._unread[scorer] < enough:
            return
        await self._turns.wait(scorer, priority, job_id)

    @contextmanager
    def reading(self, scorer: int, enough: int | None, tokens: int) -> Iterator[None]:
        """For this time the scorer has so many tokens more to read; what waits for the end of it goes on then."""
        self._unread[scorer] += tokens
        if enough and self._unread[scorer] >= enough and scorer not in self.full:
            self.full.add(scorer)
            self._rest(scorer, True)
        try:
            yield
        finally:
            self._unread[scorer] -= tokens
            if enough is not None and self._unread[scorer] < enough:
                self.release(scorer)

    def release(self, scorer: int) -> None:
        """What waits for this scorer goes on, jobs the oldest first: it has little to read, or is gone."""
        if scorer in self.full:
            self.full.remove(scorer)
            self._rest(scorer, False)
        self._turns.call(scorer)

    def waits(self, job_id: str) -> bool:
        """Whether the job waits here."""
        return self._turns.waits(job_id)


def tokens_in(chains: Sequence[Chain]) -> int:
    """Tokens of new steps, as far as they are known."""
    return sum([step.tokens or 0 for chain in chains for step in chain])
