"""The radix cache of a modelled server, block by block, least recently used first out."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["BlockCache"]


class BlockCache:
    """KV memory: cached blocks, held by running requests or idle, and room reserved for more.

    A block is named by a number that stands for all blocks before it, too. Blocks are released
    from the end of a chain, so that of idle blocks the last one of a chain is always evicted
    before the one it builds on, as in a radix tree.

    Args:
        capacity: tokens.

    Attributes:
        cached: tokens in blocks, held or idle.
        idle: those of them that nobody holds, and that may be evicted.
        reserved: tokens of room that running requests keep beside the blocks.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.cached = 0
        self.idle = 0
        self.reserved = 0
        self._idle: OrderedDict[int, int] = OrderedDict()
        self._held: dict[int, tuple[int, int]] = {}

    def __contains__(self, block: int) -> bool:
        return block in self._held or block in self._idle

    def match(self, chain: Sequence[int]) -> int:
        """How many leading blocks are cached."""
        held, idle = self._held, self._idle
        for count, block in enumerate(chain):
            if block not in held and block not in idle:
                return count
        return len(chain)

    def hold(self, block: int, tokens: int) -> None:
        """Hold a block of that many tokens, which is cached from now on; there must be room."""
        count, size = self._held.get(block, (0, 0))
        if count == 0:
            found = self._idle.pop(block, None)
            if found is None:
                self.cached += tokens
            else:
                self.idle -= found
            size = tokens if found is None else found
        self._held[block] = (count + 1, size)

    def release(self, chain: Iterable[int]) -> None:
        """Hold these blocks no longer; to be given last block first."""
        for block in chain:
            count, size = self._held[block]
            if count > 1:
                self._held[block] = (count - 1, size)
                continue
            del self._held[block]
            self._idle[block] = size
            self.idle += size

    def reserve(self, tokens: int) -> bool:
        """Keep room, evicting what was used longest ago; False, and no change, if there is none."""
        short = self.cached + self.reserved + tokens - self.capacity
        if short > self.idle:
            return False
        while short > 0:
            size = self._idle.popitem(last=False)[1]
            self.cached -= size
            self.idle -= size
            short -= size
        self.reserved += tokens
        return True

    def unreserve(self, tokens: int) -> None:
        """Give back reserved room."""
        self.reserved -= tokens
