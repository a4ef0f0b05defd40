"""OpenAI's Python client, unmodified, through ollad."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openai.types.chat import ChatCompletionMessageParam

    from tests.system.daemon import Ollad

MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "Where is the light house?"}
]


@pytest.fixture
def client(ollad: Ollad) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{ollad.api}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_chat_has_an_answer_and_its_usage(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=12)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


def test_a_stream_ends_with_its_usage(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.create(
        model=model,
        messages=MESSAGES,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason in {"stop", "length"}
    assert not last.choices
    assert last.usage is not None
    assert 1 <= last.usage.completion_tokens <= 12


def test_a_stream_has_no_usage_that_was_not_asked_for(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=4, stream=True
    ) as stream:
        assert all(chunk.choices and chunk.usage is None for chunk in stream)


def test_a_completion_has_text(client: openai.OpenAI, model: str) -> None:
    answer = client.completions.create(model=model, prompt="The river", max_tokens=8)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    with client.completions.create(
        model=model, prompt="The river", max_tokens=8, stream=True
    ) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream)


def test_models_are_listed_and_found_by_name(client: openai.OpenAI, model: str) -> None:
    assert [card.id for card in client.models.list()] == [model]
    assert client.models.retrieve(model).id == model


def test_a_model_that_nobody_serves_is_the_clients_mistake(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model="no-such-model", messages=MESSAGES)
    assert 400 <= raised.value.status_code < 500
    assert "no-such-model" in raised.value.message
    assert raised.value.param == "model"
    assert raised.value.request_id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_a_prompt_that_is_too_long_is_the_clients_mistake(
    client: openai.OpenAI, model: str
) -> None:
    long: list[ChatCompletionMessageParam] = [{"role": "user", "content": "river " * 12_000}]
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=model, messages=long, max_tokens=4)
    assert "context length" in str(raised.value)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model, messages=long, max_tokens=4, stream=True)


def test_a_cancelled_stream_leaves_the_client_usable(client: openai.OpenAI, model: str) -> None:
    stream = client.chat.completions.create(
        model=model,
        messages=MESSAGES,
        max_tokens=4000,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    stream.close()
    assert client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=2).choices
