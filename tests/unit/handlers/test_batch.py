from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ollad.handlers.batch import groups

LONG = "a" * 256


def grouped(*texts: Any) -> list[list[int]]:
    return [list(group) for group in groups([{"text": text} for text in texts])]


def test_items_that_begin_alike_are_one_group() -> None:
    assert grouped(LONG + "1", "short", LONG + "2", "b" + LONG, LONG) == [[0, 2, 4], [1], [3]]


def test_short_prompts_and_prompts_of_token_ids_stand_alone() -> None:
    assert grouped("same", "same", LONG[1:], LONG[1:]) == [[0], [1], [2], [3]]
    assert [*groups([{"input_ids": [1]}, {"input_ids": [1]}])] == [(0,), (1,)]


@given(st.lists(st.sampled_from(["x", LONG, LONG + "x", "b" * 300, None]), min_size=1))
def test_every_item_is_in_one_group_and_first_come_first_served(texts: list[str | None]) -> None:
    found = grouped(*texts)
    assert sorted(index for group in found for index in group) == list(range(len(texts)))
    assert all(group == sorted(group) for group in found)
    assert [group[0] for group in found] == sorted(group[0] for group in found)
