from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.sglang import values

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        (3.0, 3),
        (0, 0),
        (-1, None),
        (2.5, None),
        (True, None),
        ("3", None),
        (10**400, None),
        (1e300, None),
    ],
)
def test_a_count_is_a_whole_number_from_0(value: object, expected: int | None) -> None:
    assert values.count(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, 0.5), (1.0000001, 1.0), (-0.001, 0.0), (35, None), (-1, None), (math.nan, None)],
)
def test_a_fraction_is_a_share_and_never_a_percentage(
    value: object, expected: float | None
) -> None:
    assert values.fraction(value) == expected


@given(ANYTHING)
def test_nothing_breaks_the_readers(value: object) -> None:
    share, whole, real = values.fraction(value), values.count(value), values.number(value)
    assert share is None or 0 <= share <= 1
    assert whole is None or whole >= 0
    assert real is None or math.isfinite(real)
    assert values.text(value) != ""
    assert values.boolean(value) in (None, True, False)
    assert all(isinstance(item, dict) for item in values.items(value))
    assert values.mapping(value) is not None
