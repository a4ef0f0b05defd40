"""The radix cache: which prefixes KV memory holds, page by page, least recently used first out.

Theory. The cache is a tree of pages; a page is ``page_size`` tokens, and its place in the tree
says which tokens come before it. Every page knows when it was last used (each operation is a
moment of its own) and how many requests hold it. Only a page without successors that nobody holds
can go, and of those the one goes that was used longest ago.

Practice. Runs of pages with the same history are one ``_Node``. Nodes are split where histories
part and never joined again; of a split node the object that was there keeps the *tail*, so that a
lease on it stays good.

What may live here: token counts and the tree. No clock, no requests, no I/O.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Lease", "RadixCache"]

_Tokens = tuple[int, ...]


class _Node:
    """A run of pages."""

    __slots__ = ("children", "key", "parent", "pins", "used")

    def __init__(self, key: _Tokens, parent: _Node | None, used: int, pins: int = 0) -> None:
        self.key = key
        self.parent = parent
        self.children: dict[_Tokens, _Node] = {}
        self.used = used
        self.pins = pins


class Lease:
    """A prefix held for a request: it is not evicted until released.

    Attributes:
        length: how long the prefix is, tokens.
    """

    __slots__ = ("_node", "length")

    def __init__(self, node: _Node, length: int) -> None:
        self._node = node
        self.length = length

    def __repr__(self) -> str:
        return f"<Lease {self.length}>"


class RadixCache:
    """Prefixes in KV memory, and the room that running requests keep for themselves beside them.

    Args:
        capacity: KV memory, tokens.
        page_size: tokens a page; only whole pages are cached.

    Attributes:
        capacity: a multiple of ``page_size``.
        size: tokens in the tree.
        pinned: those of them that leases hold.
        reserved: tokens of room outside of the tree.
    """

    def __init__(self, capacity: int, page_size: int = 1) -> None:
        if capacity < page_size or page_size < 1:
            raise ValueError(f"a cache of {capacity} tokens has no page of {page_size}")
        self.page_size = page_size
        self.capacity = capacity - capacity % page_size
        self.size = 0
        self.pinned = 0
        self.reserved = 0
        self._moment = 0
        self._root = _Node((), None, 0)
        self._leaves: list[tuple[int, int, _Node]] = []
        self._pushes = 0
        self._nodes = 0

    def __repr__(self) -> str:
        return (
            f"<RadixCache {self.size}/{self.capacity} pinned={self.pinned} "
            f"reserved={self.reserved}>"
        )

    @property
    def evictable(self) -> int:
        """Tokens that are cached and that nobody holds."""
        return self.size - self.pinned

    @property
    def free(self) -> int:
        """Tokens of memory that hold nothing."""
        return self.capacity - self.size - self.reserved

    def whole_pages(self, tokens: int) -> int:
        """So many tokens, without the page that is not full."""
        return tokens - tokens % self.page_size

    def match(self, tokens: Sequence[int]) -> int:
        """How many leading tokens are cached; they count as used now."""
        return self._walk(tuple(tokens))[1]

    def peek(self, tokens: Sequence[int]) -> int:
        """How many leading tokens are cached; nothing is marked as used."""
        key, position, node, page = tuple(tokens), 0, self._root, self.page_size
        while child := node.children.get(key[position : position + page]):
            same = self._same_pages(child.key, key, position)
            position += same
            if same < len(child.key):
                break
            node = child
        return position

    def acquire(self, tokens: Sequence[int]) -> Lease:
        """Hold the longest cached prefix; it counts as used now."""
        node, length = self._walk(tuple(tokens))
        lease = Lease(node, length)
        self._pin(node, 1)
        return lease

    def release(self, lease: Lease) -> None:
        """Hold the prefix no longer. The lease must not be used again."""
        self._pin(lease._node, -1)  # noqa: SLF001 - a lease is the cache's own handle

    def insert(self, tokens: Sequence[int], lease: Lease | None = None) -> int:
        """Cache a prefix, evicting what was used longest ago where there is no room.

        Whole pages only, and only as many leading ones as room can be made for. It counts as used
        now. A lease is moved to the end of what is cached.

        Returns:
            The length of the prefix that is cached now, tokens.
        """
        key = tuple(tokens[: self.whole_pages(len(tokens))])
        node, length = self._walk(key)
        self._pin(node, 1)  # what is being extended must not be evicted for its own extension
        fits = self.whole_pages(min(len(key) - length, self.free + self.evictable))
        if fits:
            self._evict(fits - self.free)
            rest = key[length : length + fits]
            child = _Node(rest, node, self._moment)
            node.children[rest[: self.page_size]] = child
            self._nodes += 1
            self.size += fits
            self._pin(child, 1)
            self._pin(node, -1)
            node = child
        if lease is not None:
            self._pin(lease._node, -1)  # noqa: SLF001 - a lease is the cache's own handle
            lease._node, lease.length = node, length + fits  # noqa: SLF001
        else:
            self._pin(node, -1)
        return length + fits

    def reserve(self, tokens: int) -> bool:
        """Keep room for so many tokens, evicting as needed; False, and no change, if none is."""
        if tokens > self.free + self.evictable:
            return False
        self._evict(tokens - self.free)
        self.reserved += tokens
        return True

    def unreserve(self, tokens: int) -> None:
        """Give back reserved room."""
        self.reserved -= tokens

    def flush(self) -> int:
        """Evict all that nobody holds; returns how many tokens."""
        count = self.evictable
        self._evict(count)
        return count

    def prefixes(self) -> Iterator[_Tokens]:
        """Every cached prefix that has no longer one, in no order."""
        stack: list[tuple[_Tokens, _Node]] = [((), self._root)]
        while stack:
            before, node = stack.pop()
            if node.children:
                stack += [(before + child.key, child) for child in node.children.values()]
            elif before:
                yield before

    def _walk(self, tokens: _Tokens) -> tuple[_Node, int]:
        """Go down as far as the tokens lead, splitting where they leave a node midway."""
        self._moment += 1
        page, position, node = self.page_size, 0, self._root
        while child := node.children.get(tokens[position : position + page]):
            same = self._same_pages(child.key, tokens, position)
            position += same
            whole = same == len(child.key)
            node = child if whole else self._split(child, same)
            node.used = self._moment
            if not whole:
                break
        self._remember(node)
        return node, position

    def _same_pages(self, key: _Tokens, tokens: _Tokens, position: int) -> int:
        """How much of ``key`` stands in ``tokens`` at ``position``, in whole pages."""
        theirs = tokens[position : position + len(key)]
        if theirs == key:
            return len(key)
        low, high = 0, min(len(key), len(theirs))
        while low < high:
            middle = (low + high + 1) // 2
            if key[low:middle] == theirs[low:middle]:
                low = middle
            else:
                high = middle - 1
        return self.whole_pages(low)

    def _split(self, node: _Node, length: int) -> _Node:
        """Part a node after ``length`` tokens; returns the new node, which is the head."""
        parent, page = node.parent, self.page_size
        assert parent is not None  # noqa: S101 - the root has no key and is never split
        head = _Node(node.key[:length], parent, node.used, node.pins)
        parent.children[head.key[:page]] = head
        node.key, node.parent = node.key[length:], head
        head.children[node.key[:page]] = node
        self._nodes += 1
        return head

    def _pin(self, node: _Node, change: int) -> None:
        deepest = node
        above: _Node | None = node
        while above is not None and above.parent is not None:
            if above.pins == 0:
                self.pinned += len(above.key)
            above.pins += change
            if above.pins == 0:
                self.pinned -= len(above.key)
            above = above.parent
        self._remember(deepest)

    def _remember(self, node: _Node) -> None:
        """Note a node that may be evicted; notes that have gone stale are skipped later."""
        if node.children or node.pins or node.parent is None:
            return
        self._pushes += 1
        heapq.heappush(self._leaves, (node.used, self._pushes, node))
        if len(self._leaves) > 4 * self._nodes + 64:
            fresh = {id(entry[2]): entry for entry in self._leaves if self._stands(entry)}
            self._leaves = list(fresh.values())
            heapq.heapify(self._leaves)

    def _stands(self, entry: tuple[int, int, _Node]) -> bool:
        used, _, node = entry
        return bool(
            node.used == used and node.key and not node.children and not node.pins and node.parent
        )

    def _evict(self, tokens: int) -> None:
        """Free so many tokens, page by page."""
        while tokens > 0:
            entry = heapq.heappop(self._leaves)
            if not self._stands(entry):
                continue
            node = entry[2]
            count = min(len(node.key), tokens + -tokens % self.page_size)
            self.size -= count
            tokens -= count
            if count < len(node.key):
                node.key = node.key[:-count]
                heapq.heappush(self._leaves, entry)
                continue
            parent = node.parent
            assert parent is not None  # noqa: S101 - entries that stand have one
            del parent.children[node.key[: self.page_size]]
            node.key, node.parent = (), None
            self._nodes -= 1
            self._remember(parent)
