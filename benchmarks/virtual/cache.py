"""The KV memory of an engine: blocks that are reused by content, forgotten least recently used first. Knows no clock.

As in vLLM V1: only whole blocks are reused, a sequence's last blocks are forgotten before its first ones, and two equal
blocks that were computed side by side are not merged. Unlike there, a block without content is always taken before a
cached one is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache

BLOCK = 16  # tokens; vLLM's smallest on GPUs
Part = tuple[object, int]  # (name, tokens): equal parts after equal parts are equal tokens


def keys(parts: tuple[Part, ...], block: int = BLOCK) -> list[int]:
    """A key for each whole block of these parts, of all content up to the block's end."""
    return _keys(parts, block)[0]


@lru_cache(maxsize=1 << 14)
def _keys(parts: tuple[Part, ...], block: int) -> tuple[list[int], int, int]:
    """(keys, hash of the content, tokens); what parts begin with is kept, since siblings and children share it."""
    if not parts:
        return [], 0, 0
    known, content, end = _keys(parts[:-1], block)
    content, first, end = hash((content, parts[-1])), end // block, end + parts[-1][1]
    return known + [hash((content, k)) for k in range(first, end // block)], content, end


def blocks_of(tokens: int, block: int = BLOCK) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // block)


class Block:
    """`key` None: its content is not whole, or another block has it too."""

    __slots__ = ("key", "users")

    def __init__(self) -> None:
        self.key: int | None = None
        self.users = 1


class Cache:
    """All blocks of one engine: used ones, idle ones with content, unused ones."""

    def __init__(self, capacity: int) -> None:
        self.capacity = self.unused = capacity
        self._known: dict[int, Block] = {}
        self._idle: OrderedDict[Block, None] = OrderedDict()  # least recently used first

    @property
    def free(self) -> int:
        return self.unused + len(self._idle)

    def find(self, keys: Sequence[int]) -> list[Block]:
        """The longest run of blocks that are there."""
        found = []
        for key in keys:
            block = self._known.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def hold(self, blocks: Sequence[Block]) -> None:
        """Use blocks that were found."""
        for block in blocks:
            if not block.users:
                del self._idle[block]
            block.users += 1

    def take(self, count: int) -> list[Block] | None:
        """So many blocks to write to; None if there are not as many free."""
        if count > self.free:
            return None
        for _ in range(count - self.unused):
            self._forget(next(iter(self._idle)))
        self.unused -= count
        return [Block() for _ in range(count)]

    def name(self, block: Block, key: int) -> None:
        """The block is whole: whoever asks for its content finds it from now on."""
        if key not in self._known:
            self._known[key] = block
            block.key = key

    def release(self, blocks: Sequence[Block]) -> None:
        """A sequence's blocks, which it needs no more."""
        for block in reversed(blocks):
            block.users -= 1
            if block.users:
                continue
            if block.key is None:
                self.unused += 1
            else:
                self._idle[block] = None

    def clear(self) -> None:
        """Forget all idle content."""
        for block in list(self._idle):
            self._forget(block)

    def _forget(self, block: Block) -> None:
        assert block.key is not None
        del self._idle[block], self._known[block.key]
        self.unused += 1
