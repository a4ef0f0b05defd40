from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.routing.demand import Demand, span


def lengths(blocks: int, doubling: int) -> list[int]:
    """The length of each block, written down naively."""
    found: list[int] = []
    length, left = 1, 2 * doubling
    for _ in range(blocks):
        if left == 0:
            length, left = 2 * length, doubling
        found.append(length)
        left -= 1
    return found


@given(blocks=st.integers(0, 300), doubling=st.integers(1, 40))
def test_blocks_grow_twice_as_long_again_and_again(blocks: int, doubling: int) -> None:
    assert span(blocks, doubling) == sum(lengths(blocks, doubling))


def test_blocks_of_one_length_are_counted() -> None:
    assert span(1000, 0) == 1000


@pytest.mark.parametrize(("blocks", "tokens"), [(0, 0.0), (3, 30.0), (4, 35.0), (9, 35.0)])
def test_a_prefix_has_no_more_tokens_than_the_prompt(blocks: int, tokens: float) -> None:
    assert Demand((1, 2, 3, 4), tokens=35.0, block_tokens=10.0).prefix_tokens(blocks) == tokens
