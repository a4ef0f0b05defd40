"""``/v1/models``, ``/model_info`` on the wire: what the last discovery found."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ollad.config.schema import Routing
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, serving
from tests.wire.raw import exchange, request, until

if TYPE_CHECKING:
    from tests.wire.conftest import Running

LIST = PREFIX + "/v1/models"
LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct"


async def listed(ollad: Running) -> dict[str, dict[str, Any]]:
    """The cards by id."""
    response, body = await ollad.get(LIST)
    assert response.status == 200
    document = json.loads(body)
    assert set(document) == {"object", "data"}
    assert document["object"] == "list"
    return {card["id"]: card for card in document["data"]}


async def test_a_card_has_the_pages_fields_and_all_that_the_backend_said() -> None:
    fake = FakeSGLang((LLAMA,))
    fake.cards[0]["something_new"] = {"a": [1]}
    fake.load["memory"]["kv_cache_gb"] = 16.0
    fake.server_info["speculative_algorithm"] = "EAGLE"
    async with serving(fake), running(endpoint(fake)) as ollad:
        cards = await listed(ollad)
    assert list(cards) == [LLAMA]
    assert cards[LLAMA] == {
        **fake.cards[0],
        "permission": [],
        "radix_cache_size": 17179869184,
        "speculative_decoding": True,
    }


async def test_a_card_that_speaks_the_page_is_believed() -> None:
    fake = FakeSGLang((LLAMA,))
    own = {"permission": [{"id": "p"}], "radix_cache_size": 5, "speculative_decoding": True}
    fake.cards[0].update(own)
    async with serving(fake), running(endpoint(fake)) as ollad:
        assert (await listed(ollad))[LLAMA] == fake.cards[0]


async def test_models_of_all_backends_are_one_sorted_list() -> None:
    one, two = FakeSGLang(("b/x", "a/x")), FakeSGLang(("a/x", "A/x"))
    two.server_info["speculative_algorithm"] = "EAGLE3"
    async with serving(one, two), running(endpoint(one), endpoint(two, "two")) as ollad:
        cards = await listed(ollad)
    assert list(cards) == ["A/x", "a/x", "b/x"]
    assert cards["a/x"]["speculative_decoding"] is True
    assert cards["a/x"]["radix_cache_size"] == 2 * 1024**3
    assert cards["b/x"]["speculative_decoding"] is False


async def test_created_stays_though_sglang_says_now_at_every_call(
    fake: FakeSGLang, ollad: Running
) -> None:
    first = (await listed(ollad))["tiny"]["created"]
    seen = fake.probes["/v1/models"]
    fake.cards[0] = {**fake.cards[0], "created": first + 1000, "max_model_len": 5}
    await until(lambda: fake.probes["/v1/models"] > seen + 2)
    card = (await listed(ollad))["tiny"]
    assert card["created"] == first
    assert card["max_model_len"] == 5


async def test_a_model_that_is_served_no_more_is_gone_at_the_next_discovery(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.cards.append({**fake.cards[0], "id": "other"})
    await until(lambda: ollad.gateway.runtime.pool.models() == ("other", "tiny"))
    assert list(await listed(ollad)) == ["other", "tiny"]
    del fake.cards[0]
    await until(lambda: ollad.gateway.runtime.pool.models() == ("other",))
    assert list(await listed(ollad)) == ["other"]
    response, _ = await ollad.get(LIST + "/tiny")
    assert response.status == 404
    response, _ = await ollad.post("/v1/completions", {"model": "tiny"})
    assert response.status == 404


async def test_models_of_a_backend_that_is_down_are_not_listed() -> None:
    one, two = FakeSGLang(("a",)), FakeSGLang(("b",))
    async with serving(one, two), running(endpoint(one), endpoint(two, "two")) as ollad:
        assert list(await listed(ollad)) == ["a", "b"]
        await one.stop()
        await until(lambda: ollad.gateway.runtime.pool.models() == ("b",))
        assert list(await listed(ollad)) == ["b"]
        await two.stop()
        await until(lambda: not ollad.gateway.runtime.pool.models())
        assert await listed(ollad) == {}


@pytest.mark.parametrize("spelling", [LLAMA, LLAMA.replace("/", "%2F"), LLAMA.replace("-", "%2d")])
async def test_one_model_can_be_asked_for_in_every_spelling(spelling: str) -> None:
    fake = FakeSGLang((LLAMA,))
    async with serving(fake), running(endpoint(fake)) as ollad:
        answer = await exchange(ollad.port, request(f"GET {LIST}/{spelling}"))
        cards = await listed(ollad)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body) == cards[LLAMA]


async def test_an_unknown_model_is_404_as_openai_says_it(ollad: Running) -> None:
    for name in ("no/such", "Tiny", "tiny/", "tiny%20", "%ff", "..", "tiny%00"):
        answer = await exchange(ollad.port, request(f"GET {LIST}/{name}"))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 "), name
        error = json.loads(body)["error"]
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert "tiny" in error["message"]


async def test_an_alias_is_a_model_of_its_own() -> None:
    fake = FakeSGLang((LLAMA,))
    routing = Routing(model_aliases={"small": LLAMA, "lost": "gone"})
    async with serving(fake), running(endpoint(fake), routing=routing) as ollad:
        cards = await listed(ollad)
        _, body = await ollad.get(LIST + "/small")
    assert list(cards) == [LLAMA, "small"]
    assert cards["small"] == {**cards[LLAMA], "id": "small", "root": LLAMA}
    assert json.loads(body) == cards["small"]


async def test_no_request_waits_for_a_backend(fake: FakeSGLang, ollad: Running) -> None:
    before = dict(fake.probes)
    for _ in range(5):
        await listed(ollad)
        await ollad.get(PREFIX + "/model_info")
    assert fake.requests == []
    assert fake.probes["/model_info"] == before["/model_info"]


async def test_model_info_is_what_the_backend_says(fake: FakeSGLang, ollad: Running) -> None:
    for path in ("/model_info", "/get_model_info"):
        response, body = await ollad.get(PREFIX + path)
        assert response.status == 200
        assert json.loads(body) == fake.model_info


async def test_model_info_shows_no_key_of_the_server(fake: FakeSGLang, ollad: Running) -> None:
    for path in (PREFIX + "/model_info", LIST, PREFIX + "/health", "/internal/status"):
        _, body = await ollad.get(path)
        assert fake.server_info["api_key"].encode() not in body
