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
        block_tokens: of every block but the last of a chain, which may have fewer.

    Attributes:
        cached: tokens in blocks, held or idle.
        idle: those of them that nobody holds, and that may be evicted.
        reserved: tokens of room that running requests keep beside the blocks.
    """

    def __init__(self, capacity: int, block_tokens: int) -> None:
        self.capacity = capacity
        self.block_tokens = block_tokens
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

    def hold(self, blocks: Sequence[int], tokens: int) -> None:
        """Hold blocks of a chain, which are cached from now on; there must be room.

        Args:
            blocks: consecutive ones.
            tokens: of all of them together.
        """
        held, idle, usual = self._held, self._idle, self.block_tokens
        last = tokens - usual * (len(blocks) - 1)
        for index, block in enumerate(blocks, 1):
            counted = held.get(block)
            if counted is not None:
                held[block] = (counted[0] + 1, counted[1])
                continue
            size = idle.pop(block, 0)
            if size:
                self.idle -= size
            else:
                size = usual if index < len(blocks) else last
                self.cached += size
            held[block] = (1, size)

    def release(self, blocks: Iterable[int]) -> None:
        """Hold blocks no longer; to be given last block first."""
        held, idle = self._held, self._idle
        for block in blocks:
            count, size = held[block]
            if count > 1:
                held[block] = (count - 1, size)
                continue
            del held[block]
            idle[block] = size
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
