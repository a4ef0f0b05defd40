from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.cli import make_parser
from ollad.cli.client import AnswerError
from ollad.cli.probe import Answer

USAGE = {
    "prompt_tokens": 24,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 16},
}
HEADERS = {"X-Olla-Endpoint": "gpu-0", "X-Olla-Request-ID": "id-1", "X-SGLang-Cache-Hit": "unknown"}


def chunk(content: str | None = None, **fields: Any) -> str:
    delta = {"reasoning_content": None, **({} if content is None else {"content": content})}
    return json.dumps({"choices": [{"index": 0, "delta": delta}], **fields})


def finished(usage: dict[str, Any] | None, headers: dict[str, str] | None = None) -> Answer:
    """Five words, the first 40 ms after the request, then one every 10 ms."""
    answer = Answer(100.0, headers=HEADERS if headers is None else headers)
    answer.take(chunk(""), 100.01)
    for number, word in enumerate("abcde"):
        assert answer.take(chunk(word), 100.04 + number * 0.01) == word
    answer.take(json.dumps({"choices": [], "usage": usage}), 100.09)
    answer.take("[DONE]", 100.1)
    return answer


def figures(answer: Answer) -> dict[str, str]:
    return {line[:12].strip(): line[12:] for line in answer.report("tiny")}


def test_the_figures_are_those_of_the_stream() -> None:
    answer = finished(USAGE)
    assert answer.done
    assert figures(answer) == {
        "model": "tiny",
        "endpoint": "gpu-0",
        "first token": "after 40 ms",
        "tokens/s": "100.0",
        "tokens": "5, after 24 of the prompt",
        "cache hit": "yes, 16 of 24 tokens of the prompt",
        "request id": "id-1",
    }


@pytest.mark.parametrize(
    ("cached", "header", "said"),
    [
        (0, "true", "no"),
        (None, "true", "yes"),
        (None, "false", "no"),
        (None, "unknown", "unknown (SGLang tells with --enable-cache-report)"),
    ],
)
def test_the_usage_knows_better_than_the_header_whether_the_cache_was_hit(
    cached: int | None, header: str, said: str
) -> None:
    details = None if cached is None else {"cached_tokens": cached}
    answer = finished({**USAGE, "prompt_tokens_details": details}, {"X-SGLang-Cache-Hit": header})
    assert figures(answer)["cache hit"] == said


def test_without_usage_the_rate_counts_events() -> None:
    answer = finished(None, {})
    assert figures(answer)["tokens/s"] == "100.0"
    assert figures(answer)["tokens"] == "unknown"


def test_a_single_token_has_no_rate() -> None:
    answer = Answer(0.0)
    answer.take(chunk("x"), 1.0)
    assert figures(answer)["tokens/s"] == "unknown"
    assert figures(answer)["first token"] == "after 1000 ms"


def test_an_answer_without_text_has_no_first_token() -> None:
    answer = Answer(0.0)
    answer.take(chunk(""), 1.0)
    assert figures(answer)["first token"] == "none came"


def test_reasoning_is_text_too() -> None:
    delta = {"reasoning_content": "hm, ", "content": "yes"}
    assert Answer(0.0).take(json.dumps({"choices": [{"delta": delta}]}), 1.0) == "hm, yes"


@pytest.mark.parametrize(
    "event",
    [{"error": {"message": "queue is full"}}, {"object": "error", "message": "queue is full"}],
)
def test_an_error_in_the_stream_is_raised_with_its_message(event: dict[str, Any]) -> None:
    with pytest.raises(AnswerError, match="queue is full"):
        Answer(0.0).take(json.dumps(event), 1.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
DETAILS = st.fixed_dictionaries({}, optional={"cached_tokens": JSON}) | JSON
USAGES = st.fixed_dictionaries(
    {},
    optional={"completion_tokens": JSON, "prompt_tokens": JSON, "prompt_tokens_details": DETAILS},
)
DELTAS = st.fixed_dictionaries({}, optional={"content": JSON, "reasoning_content": JSON}) | JSON
CHOICES = st.lists(st.fixed_dictionaries({"delta": DELTAS}) | JSON, max_size=2) | JSON


@given(st.lists(st.tuples(CHOICES, USAGES | JSON), max_size=4))
def test_odd_chunks_are_no_mistake_of_the_probe(chunks: list[tuple[Any, Any]]) -> None:
    answer = Answer(0.0)
    for number, (choices, usage) in enumerate(chunks):
        answer.take(json.dumps({"choices": choices, "usage": usage}), float(number))
    assert len(answer.report("tiny")) == 7


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_length_that_is_no_positive_number_is_a_mistake_of_usage(value: str) -> None:
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(["probe", "--max-tokens", value])
    assert caught.value.code == 2
