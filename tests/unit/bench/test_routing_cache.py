"""The radix cache of a modelled server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.bench.routing.cache import BlockCache

if TYPE_CHECKING:
    from collections.abc import Sequence


def kept(cache: BlockCache, chain: Sequence[int]) -> None:
    """Let a request with that chain, of blocks of ten tokens, come and go."""
    cache.hold(chain, 10 * len(chain))
    cache.release(reversed(chain))


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = BlockCache(40, 10)
    kept(cache, [1, 2])
    kept(cache, [3, 4])
    kept(cache, [1, 2])
    assert cache.reserve(20)
    assert cache.match([1, 2]) == 2
    assert cache.match([3, 4]) == 0


def test_the_end_of_a_chain_goes_before_what_it_builds_on() -> None:
    cache = BlockCache(30, 10)
    kept(cache, [1, 2, 3])
    assert cache.reserve(10)
    assert cache.match([1, 2, 3]) == 2
    assert cache.reserve(10)
    assert cache.match([1, 2, 3]) == 1


def test_what_a_running_request_holds_is_not_evicted() -> None:
    cache = BlockCache(20, 10)
    cache.hold([1], 10)
    kept(cache, [2])
    assert not cache.reserve(11)
    assert cache.match([2]) == 1, "nothing goes where it would not be enough"
    assert cache.reserve(10)
    assert cache.match([1]) == 1
    cache.release([1])
    cache.unreserve(10)
    assert cache.reserve(20)
    assert cache.match([1]) == 0


def test_a_block_that_two_hold_is_idle_when_both_have_let_go() -> None:
    cache = BlockCache(10, 10)
    cache.hold([1], 10)
    cache.hold([1], 10)
    assert cache.cached == 10
    cache.release([1])
    assert cache.idle == 0
    cache.release([1])
    assert cache.idle == 10


class Requests(RuleBasedStateMachine):
    """Requests come and go at random, with prompts that begin alike."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = BlockCache(200, 10)
        self.running: list[list[int]] = []

    @rule(path=st.lists(st.integers(0, 1), min_size=1, max_size=6))
    def come(self, path: list[int]) -> None:
        chain = [int("1" + "".join(map(str, path[:end])), 2) for end in range(1, len(path) + 1)]
        known = self.cache.match(chain)
        self.cache.hold(chain[:known], 10 * known)
        if not self.cache.reserve(10 * (len(chain) - known)):
            self.cache.release(reversed(chain[:known]))
            return
        self.cache.unreserve(10 * (len(chain) - known))
        self.cache.hold(chain[known:], 10 * (len(chain) - known))
        self.running.append(chain)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.running) - 1))
        self.cache.release(reversed(self.running.pop(index)))

    @invariant()
    def no_token_is_lost_and_none_too_many(self) -> None:
        assert 0 <= self.cache.idle <= self.cache.cached <= self.cache.capacity
        held = {block for chain in self.running for block in chain}
        assert self.cache.cached - self.cache.idle == 10 * len(held)

    @invariant()
    def what_runs_is_cached(self) -> None:
        for chain in self.running:
            assert self.cache.match(chain) == len(chain)

    @invariant()
    def no_block_is_cached_without_the_one_before(self) -> None:
        for block in range(4, 1 << 7):
            if block in self.cache:
                assert block >> 1 in self.cache


TestRequests = Requests.TestCase
