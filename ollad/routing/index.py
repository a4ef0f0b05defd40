"""What one backend's radix cache is believed to hold.

Blocks live in generations, sets of hashes. A chain is always added whole to the youngest, so each
generation holds, with a block, every block before it: the longest match is found by bisection, and
adding a chain is one operation in C. When the youngest is full the oldest is dropped, which keeps
what was used last like an LRU does, without the cost of keeping an order.

A collision of hashes, which only one who knows the key of this process could bring about, makes a
prefix look cached that is not: it costs time, never an answer.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from ollad.routing.demand import span

if TYPE_CHECKING:
    from collections.abc import Container

    from ollad.routing.demand import Demand

__all__ = ["PrefixIndex", "matching"]

_HASH_BYTES: Final = 48
"""Memory of a hash as an int: three digits of 30 bits, rounded up by the allocator."""


def matching(chain: tuple[int, ...], held: Container[int], guess: int = 0) -> int:
    """How many first blocks of a chain are in ``held``, which has no block without its prefix.

    Args:
        chain: the blocks of a prompt.
        held: blocks.
        guess: what it may be, which is tried first; at most the length of the chain.
    """
    blocks = len(chain)
    if (guess == blocks or chain[guess] not in held) and (guess == 0 or chain[guess - 1] in held):
        return guess
    if chain[0] not in held:
        return 0
    # last block first, what is held is at the end, where bisection in C finds it
    return blocks - bisect_left(chain[::-1], True, key=held.__contains__)


class PrefixIndex:
    """Hashes of the prompt blocks that a backend was sent last.

    Args:
        capacity: tokens of its KV cache. The index holds at least the last so many tokens, at
            most twice as many, since to believe too much does less harm than to forget.
        max_blocks: bound on the blocks held, whatever the capacity.
    """

    __slots__ = ("_old", "_old_tokens", "_young", "_young_tokens", "capacity", "max_blocks")

    def __init__(self, capacity: float, max_blocks: int) -> None:
        self.capacity = capacity
        self.max_blocks = max_blocks
        self._young: set[int] = set()
        self._old: set[int] = set()
        self._young_tokens = 0.0
        self._old_tokens = 0.0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    @property
    def memory(self) -> int:
        """Bytes that it occupies in this process, about."""
        tables = sys.getsizeof(self._young) + sys.getsizeof(self._old)
        return tables + _HASH_BYTES * len(self)

    @property
    def fill(self) -> float:
        """Tokens held as a share of the capacity, at most 1."""
        tokens = self._young_tokens + self._old_tokens
        return tokens / self.capacity if tokens < self.capacity else 1.0

    def match(self, chain: tuple[int, ...], guess: int = 0) -> int:
        """How many first blocks of a chain are believed to be cached.

        Args:
            chain: the blocks of a prompt.
            guess: what it may be, such as what another index has; at most the chain's length.
        """
        young, old = self._young, self._old
        if not chain or chain[-1] in young:
            return len(chain)
        matched = matching(chain, young, guess)
        # the other generation holds more of it only if it holds the next block
        return matching(chain, old, guess) if chain[matched] in old else matched

    def add(self, chain: tuple[int, ...], demand: Demand, answer: tuple[int, ...] = ()) -> None:
        """Take note that the backend computes ``chain`` and then ``answer``.

        Args:
            chain: the first blocks.
            demand: how the blocks are cut.
            answer: the blocks after them.
        """
        young = self._young
        before = len(young)
        if self._young_tokens >= self.capacity or 2 * before >= self.max_blocks:
            self._old, self._old_tokens = young, self._young_tokens
            self._young, self._young_tokens = set(), 0.0
            young, before = self._young, 0
        # what holds the last block of a chain holds all of it
        new = chain
        if not chain or chain[-1] in young:
            if not answer or answer[-1] in young:
                return
            new = answer
        elif answer:
            new = chain + answer
        young.update(new)
        blocks = len(chain) + len(answer)
        known = blocks - (len(young) - before)
        added = span(blocks, demand.doubling) - span(known, demand.doubling)
        self._young_tokens += added * demand.block_tokens

    def clear(self) -> None:
        """The backend has lost its cache."""
        self._young, self._young_tokens = set(), 0.0
        self._old, self._old_tokens = set(), 0.0
