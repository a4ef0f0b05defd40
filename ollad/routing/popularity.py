"""Which prefixes are shared by many requests, wherever these went."""

from __future__ import annotations

from collections import Counter
from typing import Final

__all__ = ["Popularity"]

_MAX_BLOCKS: Final = 1 << 17


class Popularity:
    """Counts sightings of blocks, forgetting those of long ago.

    Two generations of counts: when the younger one is full the older one is dropped. A block is
    seen no more often than the block before it, in each of them.

    Args:
        threshold: sightings after which a block is popular.
        max_blocks: how many blocks to count at most, in both generations together.
    """

    __slots__ = ("_max_blocks", "_old", "_threshold", "_young")

    def __init__(self, threshold: int, max_blocks: int = _MAX_BLOCKS) -> None:
        self._threshold = threshold
        self._max_blocks = max_blocks
        self._young: Counter[int] = Counter()
        self._old: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def see(self, chain: tuple[int, ...]) -> None:
        """Count each block of ``chain`` once more, unless all of them are popular already."""
        young = self._young
        if 2 * len(young) >= self._max_blocks:
            self._old, young = young, Counter()
            self._young = young
        # what is popular stays so as long as it is in a generation, however often it is seen
        if chain and young.get(chain[-1], 0) < self._threshold:
            young.update(chain)

    def popular(self, chain: tuple[int, ...]) -> int:
        """How many first blocks of ``chain`` are popular, found by bisection."""
        if not chain:
            return 0
        young, old, threshold = self._young, self._old, self._threshold
        low, high = 0, len(chain)
        block = chain[-1]
        if young.get(block, 0) + old.get(block, 0) >= threshold:
            return high
        block = chain[0]
        if young.get(block, 0) + old.get(block, 0) < threshold:
            return low
        while low < high:
            middle = (low + high) >> 1
            block = chain[middle]
            if young.get(block, 0) + old.get(block, 0) >= threshold:
                low = middle + 1
            else:
                high = middle
        return low
