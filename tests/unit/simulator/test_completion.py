from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from ollad.simulator.completion import Sampling, complete
from ollad.simulator.conversation import render
from ollad.simulator.tokens import END, decode, encode

PROMPT = encode("Tell me about caches.\n")
LONG = Sampling(max_tokens=200, temperature=0, ignore_end=True)


def test_a_prompt_is_answered_alike_every_time() -> None:
    assert complete(PROMPT, LONG, seed=1) == complete(PROMPT, LONG, seed=1)


def test_another_prompt_or_seed_is_answered_otherwise() -> None:
    text = complete(PROMPT, LONG, seed=1).text
    assert text != complete([*PROMPT, *encode("x")], LONG, seed=1).text
    assert text != complete(PROMPT, LONG, seed=2).text


def test_choices_differ_unless_the_temperature_is_zero() -> None:
    warm = dataclasses.replace(LONG, temperature=1.0)
    assert complete(PROMPT, LONG, seed=1, choice=1) == complete(PROMPT, LONG, seed=1)
    assert complete(PROMPT, warm, seed=1, choice=1) != complete(PROMPT, warm, seed=1)


def test_an_answer_ends_by_itself_or_at_the_limit() -> None:
    free = complete(PROMPT, Sampling(max_tokens=2000), seed=1)
    assert free.tokens[-1] == END
    assert free.matched == END
    assert len(free.tokens) < 2000
    cut = complete(PROMPT, Sampling(max_tokens=5), seed=1)
    assert (len(cut.tokens), cut.matched) == (5, None)
    assert complete(PROMPT, Sampling(max_tokens=0), seed=1).text == ""


def test_an_answer_is_no_shorter_than_asked_for() -> None:
    sampling = Sampling(max_tokens=2000, min_tokens=1500)
    assert len(complete(PROMPT, sampling, seed=1).tokens) > 1500


def test_a_stop_text_ends_the_answer_before_it() -> None:
    whole = complete(PROMPT, LONG, seed=1)
    stop = whole.text[100:107]
    ended = complete(PROMPT, dataclasses.replace(LONG, stop=("@@@", stop)), seed=1)
    assert ended.matched == stop
    assert ended.text == whole.text[: whole.text.index(stop)]
    assert ended.tokens == whole.tokens[: len(ended.tokens)]
    kept = complete(PROMPT, dataclasses.replace(LONG, stop=(stop,), keep_stop=True), seed=1)
    assert kept.text == ended.text + stop


def test_a_stop_token_ends_the_answer_with_it() -> None:
    token = complete(PROMPT, LONG, seed=1).tokens[50]
    sampling = dataclasses.replace(LONG, stop_tokens=frozenset({token}))
    ended = complete(PROMPT, sampling, seed=1)
    assert ended.matched == token
    assert ended.tokens.index(token) == len(ended.tokens) - 1
    assert ended.text == decode(ended.tokens[:-1])


@given(st.integers(0, 60), st.integers(0, 2**32))
def test_the_text_grows_token_by_token(count: int, seed: int) -> None:
    whole = complete(PROMPT, dataclasses.replace(LONG, max_tokens=50), seed=seed)
    assert whole.text_of(count) == decode(whole.tokens[:count])


@given(st.integers(0, 2**32))
def test_an_answer_that_comes_back_has_the_tokens_it_was_generated_with(seed: int) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    prompt = render({"messages": messages}, image_size=None).tokens
    answer = complete(prompt, dataclasses.replace(LONG, max_tokens=40), seed=seed)
    messages += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "Go"}]
    following = render({"messages": messages}, image_size=None).tokens
    assert following[: len(prompt) + 40] == prompt + answer.tokens
