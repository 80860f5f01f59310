"""What one prefix cache that forgets nothing would find: the optimum that hits are measured against."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence


def hits(events: Iterable[tuple[Sequence[Hashable], Sequence[Hashable]]]) -> int:
    """Blocks that could be hit, in the order of the events.

    An event is (keys that may be hit, keys that are known after it): of a request, its prompt's blocks without its last
    token, which is always computed, and all of them; of a reply, none, and all but the token sampled last, which never is.
    """
    known: set[Hashable] = set()
    total = 0
    for asked, then in events:
        total += next((k for k, key in enumerate(asked) if key not in known), len(asked))
        known.update(then)
    return total
