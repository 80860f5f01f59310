"""Which prompts kill replicas: found by elimination, so that no neighbour is blamed. Pure: knows no clock and no loop.

A death can be the fault of all that ran on the replica and has not been answered since. They are suspects, each to be
tried while no other suspect runs beside it. One that dies in its trial is held: it is not asked, the others are presumed
innocent and asked as before, and their replies clear them. It is poison once two deaths can be nobody else's.

Most replicas that go without a word were killed from outside, and to try all that ran there takes long. Of such deaths,
therefore, only those are suspects who may be to blame for another one too.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator

Kin = Hashable  # of items that hold the same prompt
KILLS = 2  # deaths that can be nobody else's, and one is poison
STRANGERS = object()  # what ran on a replica and nobody here knows of; it is never answered


class Blame:
    """Deaths that are not explained yet, and who may be to blame. Replicas are known by numbers that are never reused."""

    def __init__(self) -> None:
        self.poison: set[Kin] = set()
        self.held: set[Kin] = set()  # died in their trials; what becomes of them depends on others
        self.doubted: set[Kin] = set()  # died in their trials, with strangers there: to be tried quite alone
        self.explained: list[int] = []  # replicas that poison has killed, for whoever keeps count of deaths
        self._explained: set[int] = set()  # all of them ever: what else ran there may say it late
        self._deaths: dict[int, set[Kin]] = {}  # replica -> those who may have killed it
        self._silent: set[int] = set()  # those of them that went without a word
        self._hung: dict[int, set[Kin]] = {}  # replica -> those who may still run there, unheard

    def __contains__(self, kin: Kin) -> bool:
        """Whether a reply to it, or that there will be none, tells something."""
        if not self._deaths and not self._hung:  # asked of every reply, and so it is nearly always
            return False
        return any(kin in kins for kins in (*self._deaths.values(), *self._hung.values()))

    def died(self, replica: int, kin: Kin, tried: bool = False, alone: bool = True, silent: bool = False) -> None:
        """A replica died with this on it, perhaps in its trial; `alone`: no stranger ran there; `silent`: nobody said
        that it was of what ran there."""
        if replica in self._explained:
            return
        if silent:
            self._silent.add(replica)
        if tried and not alone:
            self.doubted.add(kin)
            self._deaths.pop(replica, None)
            self._hung.setdefault(replica, set()).add(STRANGERS)
        elif not self._hung.get(replica):
            self._deaths.setdefault(replica, set()).add(kin)
            if tried:
                self.held.add(kin)

    def hung(self, replica: int, kin: Kin) -> None:
        """Nobody waits any longer for a request to this replica, which may still run there."""
        self._hung.setdefault(replica, set()).add(kin)

    def answered(self, kin: Kin) -> None:
        """A replica has lived through it: it kills none."""
        for kins in (*self._deaths.values(), *self._hung.values()):
            kins.discard(kin)
        self.held.discard(kin)
        self.doubted.discard(kin)

    def gone(self, kin: Kin) -> None:
        """Nobody asks for it any more, so nothing will be known of it: deaths that may be its fault count no more."""
        self._forget({kin})
        self.held.discard(kin)
        self.doubted.discard(kin)

    def settle(self, dying: Collection[int] = ()) -> None:
        """Draw the conclusions. Replicas that are `dying` have not yet said all that ran on them."""
        changed = True
        while changed:
            deaths = {replica: kins for replica, kins in self._deaths.items() if replica not in dying}
            for replica, kins in deaths.items():
                if not kins or (len(kins) > 1 and kins <= self.held):  # nobody's fault, or never to be told whose
                    del self._deaths[replica]
            guilty = {kin for kin in self.held if sum(kins == {kin} for kins in deaths.values()) >= KILLS}
            self.poison |= guilty
            explained = [replica for replica, kins in self._deaths.items() if kins & guilty]
            self.explained += explained
            self._explained.update(explained)
            self._forget(guilty)
            free = {kin for kin in self.held - guilty if sum(kin in kins for kins in self._deaths.values()) < KILLS}
            self.held -= guilty | free
            self.doubted -= guilty
            changed = bool(guilty or free)
        self._silent &= self._deaths.keys()

    def suspects(self) -> Iterator[Kin]:
        """Those to be tried now: of each death nobody is held for all, or those alone who were tried already."""
        for replica, kins in self._deaths.items():
            if not kins & self.held:
                yield from kins & self.doubted or (self._seen_again(kins) if replica in self._silent else kins)

    def _seen_again(self, kins: set[Kin]) -> set[Kin]:
        return {kin for kin in kins if sum(kin in others for others in self._deaths.values()) > 1}

    def _forget(self, explained: set[Kin]) -> None:
        self._deaths = {replica: kins for replica, kins in self._deaths.items() if not kins & explained}
