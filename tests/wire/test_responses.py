"""``/v1/responses`` on the wire: kept on the backend that has the id."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import (
    STREAM_HEAD,
    FakeSGLang,
    chunked,
    event_bytes,
    reply,
    serving,
)
from tests.wire.raw import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import (
        Exchange,
        Script,
    )

ROUTE = "/v1/responses"


def response_document(identifier: str, **more: Any) -> dict[str, Any]:
    return {
        "id": identifier,
        "object": "response",
        "status": "completed",
        "output": [],
        "usage": {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 2,
        },
        **more,
    }


class Fleet:
    """Three servers, each of which stores the responses it made."""

    def __init__(self) -> None:
        self.fakes = {name: FakeSGLang() for name in ("a", "b", "c")}
        for name, fake in self.fakes.items():
            fake.scripts[ROUTE] = self._create(name)

    def _create(self, name: str) -> Script:
        made = 0

        async def script(exchange: Exchange) -> None:
            nonlocal made
            made += 1
            identifier = f"resp_{name}{made}"
            for suffix in ("", "/cancel"):
                stored = reply(response_document(identifier, holder=name))
                self.fakes[name].scripts[f"{ROUTE}/{identifier}{suffix}"] = stored
            await reply(response_document(identifier))(exchange)

        return script

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Running]:
        async with serving(*self.fakes.values()):
            endpoints = [endpoint(fake, name) for name, fake in self.fakes.items()]
            async with running(*endpoints) as ollad:
                yield ollad


async def create(ollad: Running, **more: Any) -> tuple[str, str]:
    """Make a response; its id and who has it."""
    response, data = await ollad.post(ROUTE, {"model": "tiny", "input": "hi", **more})
    assert response.status == 200, data
    return json.loads(data)["id"], response.headers["X-Olla-Endpoint"]


async def test_a_stored_response_is_asked_for_where_it_is() -> None:
    fleet = Fleet()
    async with fleet.served() as ollad:
        made = [await create(ollad) for _ in range(12)]
        assert len({holder for _, holder in made}) > 1
        for identifier, holder in made:
            response, data = await ollad.get(f"{PREFIX}{ROUTE}/{identifier}?include[]=x")
            assert (response.status, json.loads(data)["holder"]) == (200, holder)
            assert fleet.fakes[holder].requests[-1].target.partition("?")[2]
            response, data = await ollad.post(f"{ROUTE}/{identifier}/cancel", {})
            assert (response.status, json.loads(data)["holder"]) == (200, holder)
            assert fleet.fakes[holder].requests[-1].method == "POST"


async def test_a_continuation_goes_where_its_beginning_is() -> None:
    fleet = Fleet()
    async with fleet.served() as ollad:
        first, holder = await create(ollad)
        for _ in range(5):
            first, again = await create(ollad, previous_response_id=first)
            assert again == holder


async def test_a_whole_response_is_not_added_to_and_its_figures_are_read(
    fake: FakeSGLang, ollad: Running
) -> None:
    sent = json.dumps(response_document("resp_1"), indent=1).encode()
    fake.scripts[ROUTE] = reply(sent)
    response, data = await ollad.post(ROUTE, {"model": "tiny", "input": "hi"})
    assert data == sent
    assert response.headers["X-SGLang-Cache-Hit"] == "true"


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("POST", "/cancel")])
async def test_an_id_nobody_knows_is_not_found(method: str, suffix: str) -> None:
    fleet = Fleet()
    async with (
        fleet.served() as ollad,
        ollad.session.request(method, f"{PREFIX}{ROUTE}/resp_unknown{suffix}") as response,
    ):
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (404, "response_not_found")
    assert not any(fake.requests for fake in fleet.fakes.values())


async def test_the_only_backend_is_asked_for_ids_from_before(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[f"{ROUTE}/resp_old"] = reply(response_document("resp_old"))
    response, _ = await ollad.get(f"{PREFIX}{ROUTE}/resp_old")
    assert response.status == 200
    response, data = await ollad.get(f"{PREFIX}{ROUTE}/resp_none")
    assert (response.status, data) == (404, b'{"detail": "Not Found"}')


async def test_head_of_a_stored_response_has_no_body(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[f"{ROUTE}/resp_1"] = reply(response_document("resp_1"))
    async with ollad.session.head(f"{PREFIX}{ROUTE}/resp_1") as response:
        assert (response.status, await response.read()) == (200, b"")
    response, _ = await ollad.get(f"{PREFIX}{ROUTE}/resp_1")
    assert response.status == 200


EVENTS = [
    b"event: response.created\n"
    + event_bytes({"type": "response.created", "response": {"id": "resp_s"}}),
    b"event: response.output_text.delta\n" + event_bytes({"type": "response.output_text.delta"}),
    b"event: response.completed\n"
    + event_bytes({"type": "response.completed", "response": response_document("resp_s")}),
]


async def test_a_stream_can_be_cancelled_before_its_end() -> None:
    fleet = Fleet()
    cancelled = asyncio.Event()

    async def stream(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunked(EVENTS[0]))
        await cancelled.wait()
        for event in EVENTS[1:]:
            await exchange.send(chunked(event))
        await exchange.send(b"0\r\n\r\n")

    async def cancel(exchange: Exchange) -> None:
        cancelled.set()
        await reply(response_document("resp_s", status="cancelled"))(exchange)

    for fake in fleet.fakes.values():
        fake.scripts[ROUTE] = stream
        fake.scripts[f"{ROUTE}/resp_s/cancel"] = cancel
        fake.scripts[f"{ROUTE}/resp_s"] = reply(response_document("resp_s"))
    async with fleet.served() as ollad:
        body = {"model": "tiny", "input": "hi", "stream": True}
        async with ollad.session.post(PREFIX + ROUTE, json=body) as streamed:
            await streamed.content.readuntil(b"\n\n")
            response, _ = await ollad.post(f"{ROUTE}/resp_s/cancel", {})
            holder = streamed.headers["X-Olla-Endpoint"]
            assert (response.status, response.headers["X-Olla-Endpoint"]) == (200, holder)
            rest = await streamed.content.read()
            assert rest == EVENTS[1] + EVENTS[2]
        for _ in range(5):
            response, _ = await ollad.get(f"{PREFIX}{ROUTE}/resp_s")
            assert response.headers["X-Olla-Endpoint"] == holder


async def test_while_the_holder_is_out_its_responses_are_unavailable() -> None:
    fleet = Fleet()
    async with fleet.served() as ollad:
        identifier, holder = await create(ollad)
        await fleet.fakes[holder].stop()
        backend = ollad.gateway.runtime.pool.get(holder)
        assert backend is not None
        await until(lambda: not backend.routable)
        asked = [
            await ollad.get(f"{PREFIX}{ROUTE}/{identifier}"),
            await ollad.post(f"{ROUTE}/{identifier}/cancel", {}),
            await ollad.post(
                ROUTE, {"model": "tiny", "input": "hi", "previous_response_id": identifier}
            ),
        ]
        for response, data in asked:
            assert (response.status, json.loads(data)["error"]["code"]) == (503, "no_backend")
            assert "Retry-After" in response.headers
        assert (await create(ollad))[1] != holder


async def test_an_unknown_beginning_is_for_a_backend_to_judge() -> None:
    fleet = Fleet()
    said = reply({"error": {"message": "no such response"}}, "404 Not Found")
    for fake in fleet.fakes.values():
        fake.scripts[ROUTE] = said
    async with fleet.served() as ollad:
        body = {"model": "tiny", "input": "hi", "previous_response_id": "resp_x"}
        response, data = await ollad.post(ROUTE, body)
    assert (response.status, data) == (404, b'{"error": {"message": "no such response"}}')
