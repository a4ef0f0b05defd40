from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import ollad
from ollad.backends.snapshot import Engine, Load, State
from ollad.handlers.internal import (
    alive,
    ready,
    status,
    status_endpoints,
    status_models,
    version,
)
from tests.unit.builders import make_backend
from tests.unit.handlers.conftest import make_gateway

if TYPE_CHECKING:
    from tests.unit.handlers.conftest import Serve


async def test_ollad_is_alive_whatever_its_backends_are(serve: Serve) -> None:
    gateway = make_gateway(make_backend(state=State.DOWN))
    gateway.draining = True
    response = await (await serve(alive, gateway=gateway)).get("/")
    assert (response.status, await response.json()) == (200, {"status": "alive"})


async def test_ollad_is_ready_while_a_backend_takes_requests(serve: Serve) -> None:
    client = await serve(ready, make_backend("sgl-a", state=State.DOWN), make_backend("sgl-b"))
    response = await client.get("/")
    assert (response.status, await response.json()) == (200, {"status": "ready"})


async def test_ollad_is_not_ready_with_no_backend_and_says_so(serve: Serve) -> None:
    client = await serve(
        ready,
        make_backend("sgl-a", state=State.DOWN),
        make_backend("sgl-b", state=State.STARTING),
    )
    response = await client.get("/")
    reason = "no backend takes requests: sgl-a is down, sgl-b is starting"
    assert response.status == 503
    assert await response.json() == {"status": "not ready", "reason": reason}


async def test_ollad_is_not_ready_while_it_drains(serve: Serve) -> None:
    gateway = make_gateway(make_backend())
    gateway.draining = True
    response = await (await serve(ready, gateway=gateway)).get("/")
    assert response.status == 503
    assert (await response.json())["reason"] == "ollad is shutting down"


async def test_the_status_shows_what_an_operator_needs(serve: Serve) -> None:
    backend = make_backend(
        "sgl-a",
        endpoint={"priority": 90, "max_concurrent": 8},
        weight=0.75,
        since=1795348800.0,
        checked=1795348805.25,
        failures=1,
        engine=Engine(version="0.5.23", radix_cache=True),
        load=Load(running=3, waiting=2, radix_usage=0.35),
    )
    backend.in_flight = 4
    gateway = make_gateway(backend, aliases={"gpt-4o": "tiny-llama"})
    gateway.started = 900.5
    document = await (await (await serve(status, gateway=gateway)).get("/")).json()
    [endpoint] = document.pop("endpoints")
    assert document == {
        "version": ollad.__version__,
        "uptime_seconds": 99.5,
        "ready": True,
        "reason": None,
        "draining": False,
        "models": [{"id": "tiny-llama", "endpoints": ["sgl-a"], "aliases": ["gpt-4o"]}],
        "routing": {"policy": "prefix-cache"},
        "queue": {"waiting": 0, "by_model": {}, "size": 512, "timeout": "30s"},
    }
    load = endpoint.pop("load")
    assert (load["running"], load["waiting"], load["radix_cache_usage"]) == (3, 2, 0.35)
    assert endpoint == {
        "name": "sgl-a",
        "url": "http://sgl-a.example:30000",
        "type": "sglang",
        "state": "healthy",
        "reason": "ready",
        "since": "2026-11-22T12:00:00.000Z",
        "returns": None,
        "ejected": None,
        "last_check": "2026-11-22T12:00:05.250Z",
        "failures": 1,
        "priority": 90,
        "weight": 0.75,
        "overloaded": False,
        "overloaded_until": None,
        "in_flight": 4,
        "max_concurrent": 8,
        "routing": None,
        "engine_version": "0.5.23",
        "models": ["tiny-llama"],
        "radix_cache": True,
        "speculative_decoding": None,
        "cache_report": None,
        "image_understanding": None,
        "generation": None,
    }


async def test_the_status_holds_no_secret(serve: Serve) -> None:
    backend = make_backend(
        endpoint={
            "url": "https://user:hunter2@sgl.example:30000/base?key=hunter2#hunter2",
            "headers": {"X-API-Key": "hunter2"},
        },
        engine=Engine(model_info={"api_key": "hunter2"}),
    )
    text = await (await (await serve(status, backend)).get("/")).text()
    assert "hunter2" not in text
    assert '"https://sgl.example:30000/base"' in text


async def test_a_drained_backend_is_shown_as_draining(serve: Serve) -> None:
    backend = make_backend("sgl-a", since=1795348800.0)
    backend.drained_at = 1795348805.25
    client = await serve(status, backend)
    document = await (await client.get("/")).json()
    [endpoint] = document["endpoints"]
    assert (endpoint["state"], endpoint["weight"]) == ("draining", 0)
    assert endpoint["since"] == "2026-11-22T12:00:05.250Z"
    assert document["reason"] == "no backend takes requests: sgl-a is draining"
    assert document["models"] == []


async def test_an_overloaded_backend_says_so(serve: Serve) -> None:
    backend = make_backend()
    backend.overloaded_until = 1002.5
    [endpoint] = (await (await (await serve(status_endpoints, backend)).get("/")).json())[
        "endpoints"
    ]
    assert (endpoint["overloaded"], endpoint["weight"]) == (True, 0.1)
    assert endpoint["overloaded_until"] == "2026-11-22T12:00:02.500Z"


async def test_an_ejected_backend_says_why_since_when_and_until_when(serve: Serve) -> None:
    backend = make_backend()
    for now in (990.0, 991.0, 992.0, 993.0, 998.5):
        backend.breaker.failed(now, now, "reset")
    client = await serve(status_endpoints, backend)
    [endpoint] = (await (await client.get("/")).json())["endpoints"]
    assert endpoint["state"] == "healthy"
    assert endpoint["ejected"] == {
        "reason": "5 failures in a row (the last: reset)",
        "since": "2026-11-22T11:59:58.500Z",
        "until": "2026-11-22T12:00:03.500Z",
        "times": 1,
        "on_trial": False,
    }


async def test_a_backend_whose_ejection_is_over_is_on_trial(serve: Serve) -> None:
    backend = make_backend()
    for _ in range(5):
        backend.breaker.failed(995.0, 995.0, "reset")
    client = await serve(status_endpoints, backend)
    [endpoint] = (await (await client.get("/")).json())["endpoints"]
    assert endpoint["ejected"]["on_trial"] is True


@pytest.mark.parametrize(
    ("state", "returns"),
    [
        (State.UNKNOWN, "after the first good round of probes"),
        (State.STARTING, "after 2 good rounds of probes in a row, one every 5s"),
        (State.DOWN, "after 2 good rounds of probes in a row, one every 5s"),
        (State.RECOVERING, "its share grows until 2026-11-22T12:00:20.000Z"),
        (State.HEALTHY, None),
    ],
)
async def test_a_backend_that_is_out_says_when_it_returns(
    state: State, returns: str | None, serve: Serve
) -> None:
    client = await serve(status_endpoints, make_backend(state=state, since=1795348800.0))
    [endpoint] = (await (await client.get("/")).json())["endpoints"]
    assert endpoint["returns"] == returns


async def test_a_drained_backend_waits_for_the_operator(serve: Serve) -> None:
    backend = make_backend(state=State.DOWN)
    backend.drained_at = 1795348800.0
    client = await serve(status_endpoints, backend)
    [endpoint] = (await (await client.get("/")).json())["endpoints"]
    assert endpoint["returns"] == "when an operator enables it"


async def test_a_backend_not_probed_yet_has_no_times(serve: Serve) -> None:
    backend = make_backend(state=State.UNKNOWN)
    document = await (await (await serve(status_endpoints, backend)).get("/")).json()
    assert (document["endpoints"][0]["since"], document["endpoints"][0]["last_check"]) == (
        None,
        None,
    )


async def test_models_are_listed_with_the_backends_that_take_requests_for_them(
    serve: Serve,
) -> None:
    client = await serve(
        status_models,
        make_backend("sgl-a", models=("b", "a")),
        make_backend("sgl-b", models=("a",)),
        make_backend("sgl-c", models=("a",), state=State.DOWN),
    )
    assert (await (await client.get("/")).json())["models"] == [
        {"id": "a", "endpoints": ["sgl-a", "sgl-b"], "aliases": []},
        {"id": "b", "endpoints": ["sgl-a"], "aliases": []},
    ]


async def test_the_version_is_ollads(serve: Serve) -> None:
    document = await (await (await serve(version)).get("/")).json()
    assert document == {"name": "ollad", "version": ollad.__version__}
