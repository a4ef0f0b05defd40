"""Embeddings, from a third server: one started with ``--is-embedding``.

The generative model makes none, and an embedding server generates nothing, so that ollad in front
of both kinds also shows that a request goes to a backend that serves its model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.system import page
from tests.system.curl import curl, post
from tests.system.daemon import endpoint, running_ollad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.daemon import Ollad
    from tests.system.rig import Server


@pytest.fixture(scope="module")
def mixed(
    generative: tuple[Server, ...],
    embedding: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ollad]:
    servers = [endpoint(generative[0]), endpoint(embedding)]
    with running_ollad(servers, tmp_path_factory.mktemp("mixed")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def embedding_model(embedding: Server) -> str:
    return str(curl(f"{embedding.url}/v1/models").json()["data"][0]["id"])


def test_embeddings_are_made_by_the_server_of_their_model(
    mixed: Ollad, embedding: Server, embedding_model: str
) -> None:
    reply = page.request("embeddings", mixed.url, embedding_model)
    assert reply.status == 200, reply.body
    page.assert_shape(page.EMBEDDINGS, reply.json())
    page.assert_headers(reply, embedding_model)
    assert reply.headers["x-olla-endpoint"] == embedding.name


def test_both_models_are_listed(mixed: Ollad, model: str, embedding_model: str) -> None:
    listed = [card["id"] for card in page.request("models", mixed.url).json()["data"]]
    assert listed == sorted([model, embedding_model])


def test_a_chat_goes_to_the_server_that_generates(
    mixed: Ollad, generative: tuple[Server, ...], model: str
) -> None:
    reply = page.request("chat", mixed.url, model)
    assert reply.status == 200, reply.body
    assert reply.headers["x-olla-endpoint"] == generative[0].name


def test_a_prompt_that_names_no_model_is_refused_with_the_list(
    mixed: Ollad, model: str, embedding_model: str
) -> None:
    reply = page.request("generate", mixed.url)
    assert reply.status == 400
    message = reply.json()["error"]["message"]
    assert model in message
    assert embedding_model in message


def test_a_header_names_the_model_of_a_prompt(
    mixed: Ollad, generative: tuple[Server, ...], model: str
) -> None:
    body = {"text": "Hello", "sampling_params": {"max_new_tokens": 4}}
    reply = post(f"{mixed.api}/generate", body, "-H", f"X-Olla-Model: {model}")
    assert reply.status == 200, reply.body
    assert reply.headers["x-olla-endpoint"] == generative[0].name
