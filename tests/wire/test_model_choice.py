"""Which model a request is for, and so which backends may get it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ollad.config.schema import ModelFilter, Routing
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, reply, serving
from tests.wire.raw import until

if TYPE_CHECKING:
    from tests.wire.conftest import Running

CHAT = "/v1/chat/completions"
SPELLED = b'{ "messages" : [], "model" :"tiny", "temperature":1.50 }'


def answering(*models: str, says: str = "") -> FakeSGLang:
    """A server of ``models`` that answers every generation with its own model's name."""
    fake = FakeSGLang(models)
    answer = reply({"model": says or models[0], "choices": []})
    for path in (CHAT, "/v1/completions", "/v1/embeddings", "/generate", "/tokenize"):
        fake.scripts[path] = answer
    return fake


def adapter(name: str, base: str) -> dict[str, Any]:
    """The card of a LoRA adapter as SGLang 0.5.23 writes it."""
    return {"id": name, "object": "model", "owned_by": "sglang", "root": "/lora", "parent": base}


async def send(ollad: Running, body: bytes, path: str = CHAT, **headers: str) -> Any:
    """The response and the parsed reply to a request with ``body``."""
    sent = {"Content-Type": "application/json", **headers}
    async with ollad.session.post(PREFIX + path, data=body, headers=sent) as response:
        return response, json.loads(await response.read())


async def test_a_request_goes_to_a_backend_that_serves_its_model() -> None:
    one, two = answering("a/one"), answering("b/two")
    async with serving(one, two), running(endpoint(one), endpoint(two, "two")) as ollad:
        for model, name in (("a/one", "one"), ("b/two", "two"), ("a/one", "one")):
            response, document = await send(ollad, json.dumps({"model": model}).encode())
            assert response.headers["X-Olla-Endpoint"] == name
            assert response.headers["X-Olla-Model"] == model
            assert document["model"] == model
    assert [len(one.requests), len(two.requests)] == [2, 1]


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/generate", "/tokenize"])
async def test_an_unknown_model_is_404_and_the_known_ones_are_listed(path: str) -> None:
    one, two = answering("a/one"), answering("b/two")
    routing = Routing(model_aliases={"small": "a/one"})
    async with (
        serving(one, two),
        running(endpoint(one), endpoint(two, "two"), routing=routing) as ollad,
    ):
        response, document = await send(ollad, b'{"model": "A/ONE"}', path)
        assert response.status == 404
        assert response.headers["X-Olla-Model"] == "A/ONE"
        assert document["error"]["code"] == "model_not_found"
        assert document["error"]["param"] == "model"
        assert "'A/ONE'" in document["error"]["message"]
        assert "a/one, b/two, small" in document["error"]["message"]
    assert one.requests == two.requests == []


async def test_a_very_long_name_is_not_repeated(fake: FakeSGLang, ollad: Running) -> None:
    response, document = await send(ollad, json.dumps({"model": "x" * 10_000}).encode())
    assert response.status == 404
    assert len(document["error"]["message"]) < 500
    assert fake.requests == []


@pytest.mark.parametrize("body", [b"{}", b'{"model": "default"}', b'{"model": ""}'])
async def test_the_only_model_is_meant_when_none_is_named(body: bytes) -> None:
    fake = answering("tiny")
    fake.scripts["/generate"] = reply({"text": "", "meta_info": {}})
    async with serving(fake), running(endpoint(fake)) as ollad:
        for path in (CHAT, "/generate", "/tokenize"):
            response, _ = await send(ollad, body, path)
            assert response.status == 200
            assert response.headers["X-Olla-Model"] in ("tiny", "default")
    assert [one.body for one in fake.requests] == [body] * 3


@pytest.mark.parametrize("body", [b"{}", b'{"model": null}', b'{"model": "default"}'])
async def test_without_a_name_several_models_are_400_and_listed(body: bytes) -> None:
    one, two = answering("a/one"), answering("b/two")
    async with serving(one, two), running(endpoint(one), endpoint(two, "two")) as ollad:
        for path in (CHAT, "/generate", "/tokenize"):
            response, document = await send(ollad, body, path)
            assert response.status == 400
            assert document["error"]["param"] == "model"
            assert document["error"]["code"] == "model_required"
            assert "a/one, b/two" in document["error"]["message"]
            assert "X-Olla-Model" in document["error"]["message"]
    assert one.requests == two.requests == []


@pytest.mark.parametrize("body", [b'{"text": "x"}', b'{"text": "x", "model": ""}'])
@pytest.mark.parametrize("path", ["/generate", "/tokenize"])
async def test_a_header_may_name_the_model(path: str, body: bytes) -> None:
    one, two = answering("a/one"), answering("b/two")
    routing = Routing(model_aliases={"small": "b/two"})
    async with (
        serving(one, two),
        running(endpoint(one), endpoint(two, "two"), routing=routing) as ollad,
    ):
        for name in ("b/two", "small"):
            response, _ = await send(ollad, body, path, **{"X-Olla-Model": name})
            assert response.status == 200
            assert response.headers["X-Olla-Endpoint"] == "two"
            assert response.headers["X-Olla-Model"] == name
        response, document = await send(ollad, body, path, **{"X-Olla-Model": "none"})
        assert response.status == 404
        assert document["error"]["code"] == "model_not_found"
    assert one.requests == []
    assert all(request.header("X-Olla-Model") is None for request in two.requests)


async def test_the_bodys_model_counts_more_than_the_header() -> None:
    one, two = answering("a/one"), answering("b/two")
    async with serving(one, two), running(endpoint(one), endpoint(two, "two")) as ollad:
        response, _ = await send(ollad, b'{"model": "a/one"}', **{"X-Olla-Model": "b/two"})
        assert response.headers["X-Olla-Endpoint"] == "one"
        response, _ = await send(ollad, b'{"model": "default"}', **{"X-Olla-Model": "b/two"})
        assert response.headers["X-Olla-Endpoint"] == "two"
    assert two.requests[0].json == {"model": "b/two"}


async def test_an_alias_is_replaced_in_the_body_and_nothing_else_is() -> None:
    fake = answering("org/real-model")
    routing = Routing(model_aliases={"tiny": "org/real-model"})
    async with serving(fake), running(endpoint(fake), routing=routing) as ollad:
        response, document = await send(ollad, SPELLED)
    assert response.headers["X-Olla-Model"] == "tiny"
    assert document["model"] == "org/real-model"
    assert fake.requests[0].body == SPELLED.replace(b'"tiny"', b'"org/real-model"')
    assert fake.requests[0].header("Content-Length") == str(len(fake.requests[0].body))


async def test_every_spelling_of_an_alias_in_the_body_is_replaced() -> None:
    fake = answering("real")
    routing = Routing(model_aliases={"tiny": "real"})
    async with serving(fake), running(endpoint(fake), routing=routing) as ollad:
        await send(ollad, b'{"model":"x","m":{"model":"tiny"},"mod\\u0065l":"ti\\u006ey"}')
    assert fake.requests[0].body == b'{"model":"real","m":{"model":"tiny"},"mod\\u0065l":"real"}'


async def test_a_model_of_that_name_may_be_an_alias_called_default() -> None:
    one, two = answering("a/one"), answering("b/two")
    routing = Routing(model_aliases={"default": "b/two"})
    async with (
        serving(one, two),
        running(endpoint(one), endpoint(two, "two"), routing=routing) as ollad,
    ):
        response, _ = await send(ollad, b'{"model": "default"}')
    assert response.headers["X-Olla-Endpoint"] == "two"
    assert two.requests[0].json == {"model": "b/two"}


async def test_a_model_that_is_called_default_is_meant_by_default() -> None:
    one, two = answering("default"), answering("other")
    async with serving(one, two), running(endpoint(one), endpoint(two, "two")) as ollad:
        response, _ = await send(ollad, b'{"model": "default"}')
    assert response.headers["X-Olla-Endpoint"] == "one"


async def test_an_alias_of_a_model_that_nobody_serves_is_404() -> None:
    fake = answering("tiny")
    routing = Routing(model_aliases={"small": "gone"})
    async with serving(fake), running(endpoint(fake), routing=routing) as ollad:
        response, document = await send(ollad, b'{"model": "small"}')
    assert response.status == 404
    assert document["error"]["code"] == "model_not_found"


async def test_what_a_backend_may_offer_can_be_configured() -> None:
    one, two = answering("a/one", "a/two", "b/one"), answering("b/one")
    async with (
        serving(one, two),
        running(
            endpoint(one, models=ModelFilter(include=("a/*",), exclude=("a/two",))),
            endpoint(two, "two"),
        ) as ollad,
    ):
        response, _ = await send(ollad, b'{"model": "b/one"}')
        assert response.headers["X-Olla-Endpoint"] == "two"
        response, _ = await send(ollad, b'{"model": "a/two"}')
        assert response.status == 404
        _, body = await ollad.get(PREFIX + "/v1/models")
        assert [model["id"] for model in json.loads(body)["data"]] == ["a/one", "b/one"]


async def test_a_model_only_served_by_a_backend_that_is_down_is_503() -> None:
    one, two = answering("a/one"), answering("b/two")
    async with serving(one, two), running(endpoint(one), endpoint(two, "two")) as ollad:
        await two.stop()
        await until(lambda: len(ollad.gateway.runtime.pool.routable()) == 1)
        response, document = await send(ollad, b'{"model": "b/two"}')
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
        assert document["error"]["code"] == "no_backend"
        response, _ = await send(ollad, b'{"model": "a/one"}')
        assert response.status == 200
        await one.stop()
        await until(lambda: not ollad.gateway.runtime.pool.routable())
        for body in (b"{}", b'{"model": "a/one"}', b'{"model": "never heard of"}'):
            response, document = await send(ollad, body)
            assert response.status == 503
            assert document["error"]["code"] == "no_backend"


async def test_adapters_are_no_reason_to_ask_which_model() -> None:
    fake = answering("tiny")
    fake.cards.append(adapter("poet", "tiny"))
    async with serving(fake), running(endpoint(fake)) as ollad:
        response, _ = await send(ollad, b"{}")
    assert response.status == 200
    assert response.headers["X-Olla-Model"] == "tiny"


async def test_an_adapter_goes_to_a_backend_that_has_it() -> None:
    one, two = answering("tiny"), answering("tiny")
    two.cards.append(adapter("poet", "tiny"))
    async with serving(one, two), running(endpoint(one), endpoint(two, "two")) as ollad:
        for model in ("tiny:poet", "poet"):
            body = json.dumps({"model": model}).encode()
            for _ in range(3):
                response, _ = await send(ollad, body)
                assert response.status == 200
                assert response.headers["X-Olla-Endpoint"] == "two"
                assert response.headers["X-Olla-Model"] == model
            assert two.requests[-1].body == body
        response, _ = await send(ollad, b'{"model": "tiny:painter"}')
        assert response.status == 404
    assert one.requests == []


async def test_an_alias_may_stand_for_an_adapter() -> None:
    fake = answering("tiny")
    fake.cards.append(adapter("poet", "tiny"))
    routing = Routing(model_aliases={"verse": "tiny:poet"})
    async with serving(fake), running(endpoint(fake), routing=routing) as ollad:
        response, _ = await send(ollad, b'{"model": "verse"}')
    assert response.headers["X-Olla-Model"] == "verse"
    assert fake.requests[0].json == {"model": "tiny:poet"}


async def test_a_name_that_no_header_can_carry_is_percent_encoded(ollad: Running) -> None:
    response, _ = await send(ollad, '{"model": "mod\u00e8le\\r\\nX-Evil: 1"}'.encode())
    assert response.status == 404
    assert response.headers["X-Olla-Model"] == "mod%C3%A8le%0D%0AX-Evil: 1"
    assert "X-Evil" not in response.headers
