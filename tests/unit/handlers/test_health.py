from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ollad.backends.snapshot import Engine, Load, State
from ollad.handlers.health import health
from tests.unit.builders import make_backend

if TYPE_CHECKING:
    from ollad.backends.backend import Backend
    from tests.unit.handlers.conftest import Serve

PAGE_FIELDS = {
    "status": "healthy",
    "model_loaded": True,
    "radix_cache_ready": True,
    "radix_cache_usage_perc": 0.35,
    "num_requests_running": 3,
    "num_requests_waiting": 0,
    "speculative_decoding_enabled": True,
}
"""The document of the API page."""


def page_backend(name: str = "sgl-a", **snapshot: Any) -> Backend:
    return make_backend(
        name,
        **{
            "engine": Engine(radix_cache=True, speculative=True),
            "load": Load(running=3, waiting=0, radix_usage=0.35, kv_tokens=1000),
            **snapshot,
        },
    )


async def test_one_backend_gives_the_pages_document(serve: Serve) -> None:
    client = await serve(health, page_backend(weight=0.5))
    response = await client.get("/")
    document = await response.json()
    endpoints = document.pop("endpoints")
    assert (response.status, document) == (200, PAGE_FIELDS)
    assert endpoints == [{"name": "sgl-a", **PAGE_FIELDS, "weight": 0.5}]


async def test_a_draining_backend_says_so_and_keeps_its_model_loaded(serve: Serve) -> None:
    drained, other = page_backend("sgl-a"), page_backend("sgl-b")
    drained.drained_at = 5.0
    client = await serve(health, drained, other)
    document = await (await client.get("/")).json()
    entries = document.pop("endpoints")
    assert entries[0] == {"name": "sgl-a", **PAGE_FIELDS, "status": "draining", "weight": 0}
    assert document == PAGE_FIELDS
    assert (await client.get("/?endpoint=sgl-a")).status == 503


async def test_counts_are_summed_and_usage_is_weighted_by_kv_size(serve: Serve) -> None:
    client = await serve(
        health,
        page_backend("sgl-a"),
        page_backend(
            "sgl-b",
            engine=Engine(radix_cache=False, speculative=False),
            load=Load(running=2, waiting=5, radix_usage=0.75, kv_tokens=3000),
        ),
    )
    document = await (await client.get("/")).json()
    del document["endpoints"]
    assert document == {
        **PAGE_FIELDS,
        "radix_cache_usage_perc": 0.65,
        "num_requests_running": 5,
        "num_requests_waiting": 5,
    }


async def test_usage_is_a_plain_mean_where_a_kv_size_is_not_known(serve: Serve) -> None:
    client = await serve(
        health,
        page_backend("sgl-a", load=Load(radix_usage=0.2, kv_tokens=1000)),
        page_backend("sgl-b", load=Load(radix_usage=0.4)),
        page_backend("sgl-c", load=Load()),
    )
    document = await (await client.get("/")).json()
    assert document["radix_cache_usage_perc"] == 0.3


async def test_what_nobody_knows_is_null(serve: Serve) -> None:
    client = await serve(health, make_backend(), make_backend("sgl-b"))
    response = await client.get("/")
    document = await response.json()
    unknown = dict.fromkeys(PAGE_FIELDS) | {"status": "healthy", "model_loaded": True}
    assert response.status == 200
    assert {name: document[name] for name in PAGE_FIELDS} == unknown
    assert {name: document["endpoints"][1][name] for name in PAGE_FIELDS} == unknown


async def test_what_one_backend_knows_is_not_lost_for_another_that_does_not(
    serve: Serve,
) -> None:
    client = await serve(health, page_backend("sgl-a"), make_backend("sgl-b"))
    document = await (await client.get("/")).json()
    assert {name: document[name] for name in PAGE_FIELDS} == PAGE_FIELDS


@pytest.mark.parametrize("state", [State.UNKNOWN, State.DOWN])
async def test_a_backend_that_does_not_answer_is_not_spoken_for(serve: Serve, state: State) -> None:
    client = await serve(health, page_backend("sgl-a"), page_backend("sgl-b", state=state))
    response = await client.get("/")
    document = await response.json()
    assert response.status == 200
    assert {name: document[name] for name in PAGE_FIELDS} == PAGE_FIELDS
    entry = document["endpoints"][1]
    assert entry == {
        **dict.fromkeys(PAGE_FIELDS),
        "name": "sgl-b",
        "status": state.value,
        "weight": 1.0,
    }


async def test_with_no_backend_up_the_same_body_comes_with_503(serve: Serve) -> None:
    client = await serve(health, page_backend(state=State.STARTING))
    response = await client.get("/")
    document = await response.json()
    endpoint = document.pop("endpoints")[0]
    nothing = dict.fromkeys(PAGE_FIELDS)
    assert response.status == 503
    assert document == {**nothing, "status": "unhealthy", "model_loaded": False}
    assert endpoint["status"] == "starting"
    assert (endpoint["model_loaded"], endpoint["radix_cache_ready"]) == (False, False)


async def test_a_recovering_backend_counts(serve: Serve) -> None:
    client = await serve(health, page_backend(state=State.RECOVERING))
    response = await client.get("/")
    document = await response.json()
    assert (response.status, document["status"]) == (200, "healthy")
    assert document["endpoints"][0]["status"] == "recovering"


async def test_one_endpoint_can_be_asked_for(serve: Serve) -> None:
    client = await serve(health, page_backend("sgl-a"), page_backend("sgl-b", state=State.DOWN))
    up = await client.get("/", params={"endpoint": "sgl-a"})
    down = await client.get("/", params={"endpoint": "sgl-b"})
    assert (up.status, down.status) == (200, 503)
    assert await up.json() == {"name": "sgl-a", **PAGE_FIELDS, "weight": 1.0}
    assert (await down.json())["status"] == "down"


async def test_an_unknown_endpoint_is_404_and_names_the_known_ones(serve: Serve) -> None:
    client = await serve(health, page_backend("sgl-a"), page_backend("sgl-b"))
    response = await client.get("/", params={"endpoint": "sgl-z"})
    error = (await response.json())["error"]
    assert (response.status, error["param"]) == (404, "endpoint")
    assert "sgl-a, sgl-b" in error["message"]


async def test_a_backends_own_document_is_believed_first(serve: Serve) -> None:
    own = {
        "status": "healthy",
        "model_loaded": True,
        "radix_cache_ready": False,
        "radix_cache_usage_perc": 1,
        "num_requests_running": 9,
        "speculative_decoding_enabled": False,
    }
    client = await serve(health, page_backend(native_health=own))
    document = await (await client.get("/")).json()
    del document["endpoints"]
    assert document == {**PAGE_FIELDS, **own}


@pytest.mark.parametrize("nonsense", ["3", True, [3], float("nan"), None, {}])
async def test_nonsense_in_a_backends_own_document_is_passed_over(
    serve: Serve, nonsense: object
) -> None:
    own = dict.fromkeys(("radix_cache_usage_perc", "num_requests_running"), nonsense)
    own["radix_cache_ready"] = 1
    client = await serve(health, page_backend(native_health=own))
    document = await (await client.get("/")).json()
    assert {name: document[name] for name in PAGE_FIELDS} == PAGE_FIELDS


async def test_overload_shows_in_the_weight(serve: Serve) -> None:
    backend = page_backend()
    backend.overloaded_until = 1001.0
    client = await serve(health, backend)
    document = await (await client.get("/")).json()
    assert document["endpoints"][0]["weight"] == 0.1
