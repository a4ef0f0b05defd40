from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.config.problems import InvalidValueError
from ollad.config.substitute import substitute

ENVIRON = {"A": "one", "EMPTY": "", "NESTED": "${A}"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("${A}", "one"),
        ("x${A}y${A}z", "xoneyonez"),
        ("${A:-two}", "one"),
        ("${B:-two}", "two"),
        ("${B:-}", ""),
        ("${EMPTY}", ""),
        ("${EMPTY:-two}", "two"),
        ("$${A}", "${A}"),
        ("$A costs $5 $$", "$A costs $5 $$"),
        ("${NESTED}", "${A}"),
        ("${B:-a:-b}", "a:-b"),
    ],
)
def test_references_are_replaced_once(text: str, result: str) -> None:
    assert substitute(text, ENVIRON) == result


@pytest.mark.parametrize("text", ["${", "${A", "${}", "${1A}", "${A-x}", "${A B}", "${B:-${A}}"])
def test_a_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="written"):
        substitute(text, ENVIRON)


def test_every_unset_variable_is_named() -> None:
    with pytest.raises(InvalidValueError) as caught:
        substitute("${B} ${C} ${A}", ENVIRON)

    assert "B is not set" in caught.value.reason
    assert "C is not set" in caught.value.reason
    assert "one" not in caught.value.reason


@given(st.text())
def test_text_without_references_stays_as_it_is(text: str) -> None:
    assert substitute(text.replace("{", ""), {}) == text.replace("{", "")


@given(st.text())
def test_a_variable_is_put_in_as_it_is(value: str) -> None:
    assert substitute("<${X}>", {"X": value}) == f"<{value}>"
