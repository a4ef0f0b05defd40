from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.simulator.tokens import END, START, decode, encode, image_tokens

# Lone surrogates cannot stand in UTF-8, and no JSON reader of the server lets them through.
TEXTS = st.text(st.characters(codec="utf-8"))


@given(TEXTS)
def test_tokens_can_be_turned_back_into_their_text(text: str) -> None:
    assert decode(encode(text)) == text


@given(TEXTS, TEXTS)
def test_texts_that_begin_alike_have_tokens_that_begin_alike(text: str, more: str) -> None:
    short, long = encode(text + "\n"), encode(text + "\n" + more)
    # What follows can only change the last token: it may grow.
    assert short[:-1] == long[: len(short) - 1]


@given(TEXTS)
def test_every_id_is_a_number_that_json_readers_can_hold(text: str) -> None:
    assert all(END < token < 2**53 for token in encode(text))


def test_a_token_has_about_four_characters() -> None:
    text = "The scheduler picks the request whose prefix is cached, unless the queue is long. " * 9
    assert 3 < len(text) / len(encode(text)) < 5


@pytest.mark.parametrize("token", [0, START, END, *image_tokens("x", 1), 1 << 60])
def test_ids_without_text_are_passed_over(token: int) -> None:
    assert decode([*encode("a"), token, *encode("b")]) == "ab"


def test_equal_images_have_equal_tokens_and_others_do_not() -> None:
    assert image_tokens("a", 9) == image_tokens("a", 9)
    assert len(image_tokens("a", 9)) == 9
    assert image_tokens("a", 9) != image_tokens("b", 9)
