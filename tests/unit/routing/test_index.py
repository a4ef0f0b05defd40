from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from ollad.routing.demand import Demand
from ollad.routing.index import PrefixIndex, matching
from tests.unit.routing.builders import BLOCK, chain_of, demand_of

UNBOUNDED = 1 << 30
TEXTS = st.text("ab", max_size=9)


def add(index: PrefixIndex, text: str) -> None:
    index.add(chain_of(text), demand_of(text))


def match(index: PrefixIndex, text: str) -> int:
    return index.match(chain_of(text))


def common(one: str, other: str) -> int:
    """Length of the longest common beginning."""
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length


@given(texts=st.lists(TEXTS, max_size=20), asked=TEXTS)
def test_the_longest_prefix_of_anything_added_is_found(texts: list[str], asked: str) -> None:
    index = PrefixIndex(1e9, UNBOUNDED)
    for text in texts:
        add(index, text)
    assert match(index, asked) == max((common(text, asked) for text in texts), default=0)


@given(held=st.sets(TEXTS), asked=st.text("ab", max_size=40))
def test_bisection_finds_what_a_walk_would(held: set[str], asked: str) -> None:
    blocks = {block for text in held for block in chain_of(text)}
    walked = 0
    for block in chain_of(asked):
        if block not in blocks:
            break
        walked += 1
    assert matching(chain_of(asked), blocks) == walked


@given(held=st.sets(TEXTS), asked=TEXTS, guess=st.integers(0, 9))
def test_a_guess_changes_nothing(held: set[str], asked: str, guess: int) -> None:
    blocks = {block for text in held for block in chain_of(text)}
    chain = chain_of(asked)
    assert matching(chain, blocks, min(guess, len(chain))) == matching(chain, blocks)


@given(
    texts=st.lists(st.text("ab", min_size=1, max_size=6), max_size=30),
    asked=TEXTS,
    guess=st.integers(0, 9),
)
def test_a_guess_changes_nothing_where_there_are_two_generations(
    texts: list[str], asked: str, guess: int
) -> None:
    index = PrefixIndex(4 * BLOCK, UNBOUNDED)
    for text in texts:
        add(index, text)
    chain = chain_of(asked)
    found = index.match(chain)
    assert index.match(chain, min(guess, len(chain))) == found
    assert found == max(matching(chain, held) for held in (index._young, index._old))


@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), max_size=30))
def test_an_answer_is_added_as_if_it_had_been_asked(pairs: list[tuple[str, str]]) -> None:
    apart, whole = PrefixIndex(9 * BLOCK, UNBOUNDED), PrefixIndex(9 * BLOCK, UNBOUNDED)
    for prompt, answer in pairs:
        chain, demand = chain_of(prompt + answer), demand_of(prompt)
        apart.add(chain[: len(prompt)], demand, chain[len(prompt) :])
        whole.add(chain, demand)
        assert (len(apart), apart.fill) == (len(whole), whole.fill)
        assert match(apart, prompt + answer) == len(chain)


@given(texts=st.lists(st.text("abcd", min_size=1, max_size=6), min_size=1, max_size=60))
def test_the_last_filling_of_the_cache_is_remembered_and_not_much_more(texts: list[str]) -> None:
    """Against a naive reading: what came within the last capacity of new tokens is known."""
    capacity = 10
    index = PrefixIndex(capacity * BLOCK, UNBOUNDED)
    longest = 0
    for text in texts:
        add(index, text)
        longest = max(longest, len(text))
    recent: set[int] = set()
    for text in reversed(texts):
        recent |= set(chain_of(text))
        if len(recent) > capacity:
            break
        assert match(index, text) == len(text)
    # each generation is dropped by the first addition that finds it full
    assert len(index) <= 2 * (capacity + longest)


def test_what_was_not_used_for_long_is_forgotten() -> None:
    index = PrefixIndex(8 * BLOCK, UNBOUNDED)
    add(index, "old")
    for number in range(20):
        add(index, f"{number:04}")
    assert match(index, "old") == 0


def test_what_is_used_again_is_kept() -> None:
    index = PrefixIndex(8 * BLOCK, UNBOUNDED)
    for number in range(20):
        add(index, "used")
        add(index, f"{number:04}")
    assert match(index, "used") == 4


def test_only_new_blocks_fill_the_cache() -> None:
    index = PrefixIndex(8 * BLOCK, UNBOUNDED)
    for _ in range(100):
        add(index, "same")
    add(index, "save")
    assert index.fill == (4 + 2) / 8


def test_long_blocks_fill_the_cache_by_their_length() -> None:
    index = PrefixIndex(100.0, UNBOUNDED)
    index.add((1, 2, 3), Demand((1, 2, 3), 40.0, 10.0, doubling=1))
    assert index.fill == 0.4


def test_a_cache_is_never_more_than_full() -> None:
    index = PrefixIndex(4 * BLOCK, UNBOUNDED)
    for number in range(9):
        add(index, f"{number:04}")
    assert index.fill == 1.0


def test_blocks_are_bounded_whatever_the_capacity() -> None:
    index = PrefixIndex(1e12, 100)
    for number in range(10_000):
        add(index, f"{number:05}")
    assert len(index) <= 100 + 2 * 5


def test_a_cleared_index_knows_nothing() -> None:
    index = PrefixIndex(8 * BLOCK, UNBOUNDED)
    for text in ("first", "second", "third"):
        add(index, text)
    index.clear()
    assert (match(index, "first"), len(index), index.fill) == (0, 0, 0.0)
    add(index, "first")
    assert index.fill == 5 / 8


def test_memory_is_what_the_tables_and_the_hashes_take() -> None:
    index = PrefixIndex(1e9, UNBOUNDED)
    empty = index.memory
    chain = tuple(range(1 << 60, (1 << 60) + 1000))
    index.add(chain, Demand(chain, 1.0, 1.0))
    grown = sys.getsizeof(set(chain)) + sum(map(sys.getsizeof, chain))
    assert 0.8 * grown < index.memory - empty < 1.5 * grown
