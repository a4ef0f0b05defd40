"""The radix cache against the plainest model of one: a dictionary of pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from ollad.simulator.radix import RadixCache

if TYPE_CHECKING:
    from ollad.simulator.radix import Lease

Page = tuple[int, ...]


class Reference:
    """Every cached page by its whole prefix: when it was last used, and how often it is held."""

    def __init__(self, capacity: int, page_size: int) -> None:
        self.page_size = page_size
        self.capacity = capacity - capacity % page_size
        self.pages: dict[Page, int] = {}
        self.held: dict[Page, int] = {}
        self.reserved = 0
        self.moment = 0

    def prefixes(self, tokens: Page) -> list[Page]:
        whole = len(tokens) // self.page_size
        return [tokens[: (number + 1) * self.page_size] for number in range(whole)]

    def match(self, tokens: Page) -> int:
        self.moment += 1
        length = 0
        for prefix in self.prefixes(tokens):
            if prefix not in self.pages:
                break
            self.pages[prefix] = self.moment
            length = len(prefix)
        return length

    def hold(self, tokens: Page, change: int) -> None:
        for prefix in self.prefixes(tokens):
            self.held[prefix] = self.held.get(prefix, 0) + change

    @property
    def size(self) -> int:
        return len(self.pages) * self.page_size

    @property
    def pinned(self) -> int:
        return sum(self.page_size for prefix in self.pages if self.held.get(prefix))

    @property
    def free(self) -> int:
        return self.capacity - self.size - self.reserved

    def evict(self, tokens: int) -> None:
        while tokens > 0:
            inner = {prefix[: -self.page_size] for prefix in self.pages}
            leaves = [p for p in self.pages if p not in inner and not self.held.get(p)]
            del self.pages[min(leaves, key=self.pages.__getitem__)]
            tokens -= self.page_size

    def insert(self, tokens: Page) -> int:
        length = self.match(tokens)
        self.hold(tokens[:length], 1)
        wanted = len(tokens) // self.page_size * self.page_size
        room = min(wanted - length, self.free + self.size - self.pinned)
        room -= room % self.page_size
        self.evict(room - self.free)
        for prefix in self.prefixes(tokens[: length + room]):
            self.pages.setdefault(prefix, self.moment)
        self.hold(tokens[:length], -1)
        return length + room

    def reserve(self, tokens: int) -> bool:
        if tokens > self.free + self.size - self.pinned:
            return False
        self.evict(tokens - self.free)
        self.reserved += tokens
        return True


TOKENS = st.lists(st.integers(0, 2), max_size=14).map(tuple)


class RadixCacheMachine(RuleBasedStateMachine):
    """Whatever is done to both, they hold the same."""

    leases = Bundle("leases")

    @initialize(capacity=st.integers(4, 40), page_size=st.sampled_from([1, 1, 2, 3, 4]))
    def start(self, capacity: int, page_size: int) -> None:
        self.cache = RadixCache(capacity, page_size)
        self.reference = Reference(capacity, page_size)

    @rule(tokens=TOKENS)
    def match(self, tokens: Page) -> None:
        assert self.cache.peek(tokens) == self.cache.match(tokens) == self.reference.match(tokens)

    @rule(tokens=TOKENS)
    def insert(self, tokens: Page) -> None:
        assert self.cache.insert(tokens) == self.reference.insert(tokens)

    @rule(target=leases, tokens=TOKENS)
    def acquire(self, tokens: Page) -> tuple[Lease, Page]:
        lease = self.cache.acquire(tokens)
        length = self.reference.match(tokens)
        assert lease.length == length
        self.reference.hold(tokens[:length], 1)
        return lease, tokens[:length]

    @rule(target=leases, held=consumes(leases), more=TOKENS)
    def extend(self, held: tuple[Lease, Page], more: Page) -> tuple[Lease, Page]:
        lease, before = held
        length = self.cache.insert(before + more, lease)
        assert length == self.reference.insert(before + more) == lease.length
        self.reference.hold(before, -1)
        after = (before + more)[:length]
        self.reference.hold(after, 1)
        return lease, after

    @rule(held=consumes(leases))
    def release(self, held: tuple[Lease, Page]) -> None:
        self.cache.release(held[0])
        self.reference.hold(held[1], -1)

    @rule(pages=st.integers(0, 8))
    def reserve(self, pages: int) -> None:
        tokens = pages * self.reference.page_size
        assert self.cache.reserve(tokens) == self.reference.reserve(tokens)

    @rule()
    def unreserve(self) -> None:
        self.cache.unreserve(self.cache.reserved)
        self.reference.reserved = 0

    @rule()
    def flush(self) -> None:
        self.cache.flush()
        self.reference.evict(self.reference.size - self.reference.pinned)

    @invariant()
    def they_hold_the_same(self) -> None:
        if not hasattr(self, "cache"):
            return
        held = {
            prefix[: (number + 1) * self.cache.page_size]
            for prefix in self.cache.prefixes()
            for number in range(len(prefix) // self.cache.page_size)
        }
        assert held == set(self.reference.pages)
        assert self.cache.size == self.reference.size
        assert self.cache.pinned == self.reference.pinned
        assert self.cache.free == self.reference.free >= 0


RadixCacheMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
TestRadixCache = RadixCacheMachine.TestCase


def test_a_cache_without_room_for_a_page_is_refused() -> None:
    with pytest.raises(ValueError, match="no page of 4"):
        RadixCache(3, 4)


def test_notes_about_leaves_do_not_pile_up() -> None:
    cache = RadixCache(100)
    for _ in range(10_000):
        cache.release(cache.acquire([1, 2, 3]))
        cache.insert([1, 2, 3])
    assert len(cache._leaves) < 200


def test_it_shows_its_state() -> None:
    cache = RadixCache(100)
    cache.insert([1, 2, 3])
    lease = cache.acquire([1, 2])
    assert repr(cache) == "<RadixCache 3/100 pinned=2 reserved=0>"
    assert repr(lease) == "<Lease 2>"
