"""Native first: the page's routes on backends that have them themselves."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import FakeSGLang, event_bytes, reply, serving, sse
from tests.wire.generations import echo, generation
from tests.wire.raw import until
from tests.wire.test_vision import CHAT, VISION, question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Script

BATCH = {"requests": [{"text": "a"}, {"text": "b"}]}
OWN = b'{ "responses": [ {"text": "a!"} ],  "odd": 1.50 }\n'
NOT_FOUND = reply({"detail": "Not Found"}, "404 Not Found")
NOT_ALLOWED = reply({"detail": "Method Not Allowed"}, "405 Method Not Allowed")


class Fake(FakeSGLang):
    """A scripted server whose route list can be missing."""

    lists_routes = True

    def probe_reply(self, path: str) -> Script | None:
        if path == "/openapi.json" and not self.lists_routes:
            return NOT_FOUND
        return super().probe_reply(path)


def native(*routes: str, listed: bool = True) -> Fake:
    """A server that has ``routes`` itself, and says so or not."""
    fake = Fake()
    fake.lists_routes = listed
    fake.paths += routes
    fake.scripts["/generate"] = echo
    for route in routes:
        fake.scripts[route] = reply(OWN)
    return fake


@asynccontextmanager
async def in_front_of(*fakes: FakeSGLang) -> AsyncIterator[Running]:
    async with serving(*fakes):
        endpoints = [endpoint(fake, f"s{at}") for at, fake in enumerate(fakes)]
        async with running(*endpoints) as ollad:
            yield ollad


def paths(fake: FakeSGLang) -> list[str]:
    return [exchange.path for exchange in fake.requests]


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/batch", BATCH),
        ("/batch", {"whatever": "the backend takes"}),
        ("/extend", {"rid": "r", "text": "x"}),
        (VISION, question()),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
async def test_a_backend_that_has_the_route_answers_itself(
    route: str, body: Any, listed: bool
) -> None:
    fake = native(route, listed=listed)
    async with in_front_of(fake) as ollad:
        response, data = await ollad.post(route + "?q=1", body)
        assert (response.status, data) == (200, OWN)
        assert response.headers["X-Olla-Endpoint"] == "s0"
        assert fake.requests[0].target == route + "?q=1"
        fake.scripts[route] = reply({"error": "odd"}, "418 Teapot")
        response, data = await ollad.post(route, body)
        assert (response.status, data) == (418, b'{"error": "odd"}')
    assert paths(fake) == [route, route]


async def test_the_body_reaches_a_native_route_as_it_was(fake: FakeSGLang) -> None:
    fake.paths.append("/batch")
    fake.scripts["/batch"] = reply(OWN)
    async with running(endpoint(fake)) as ollad:
        sent = b'{ "requests" : [ {"text":"\\u00e9"} ] , "x": 1.50}'
        headers = {"Content-Type": "application/json"}
        async with ollad.session.post("/olla/sglang/batch", data=sent, headers=headers):
            pass
    assert fake.requests[0].body == sent


async def test_a_native_stream_passes_byte_for_byte() -> None:
    fake = native("/extend")
    events = [event_bytes(generation("a", reason=None)), event_bytes(generation("a b"))]
    fake.scripts["/extend"] = sse(*events)
    async with in_front_of(fake) as ollad:
        _, data = await ollad.post("/extend", {"rid": "r", "text": "x", "stream": True})
    assert data == b"".join(events) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("missing", [NOT_FOUND, NOT_ALLOWED])
async def test_a_lack_found_by_trying_is_remembered_until_a_restart(missing: Script) -> None:
    fake = native(listed=False)
    fake.scripts["/batch"] = missing
    async with in_front_of(fake) as ollad:
        for _ in range(2):
            response, data = await ollad.post("/batch", BATCH)
            assert response.status == 200
            assert json.loads(data)["batch_meta"]["successful"] == 2
        assert paths(fake) == ["/batch", *["/generate"] * 4]
        (backend,) = ollad.gateway.runtime.pool
        before = backend.snapshot.engine.incarnation
        await fake.stop()
        await until(lambda: not backend.routable)
        fake.server_info["startup_time"] = 2.0
        fake.scripts["/batch"] = reply(OWN)
        await fake.start(fake.port)
        await until(lambda: backend.routable and backend.snapshot.engine.incarnation != before)
        _, data = await ollad.post("/batch", BATCH)
        assert data == OWN


async def test_a_listed_lack_is_never_tried() -> None:
    fake = native()
    async with in_front_of(fake) as ollad:
        await ollad.post("/batch", BATCH)
    assert paths(fake) == ["/generate", "/generate"]


@pytest.mark.parametrize("listed", [True, False])
async def test_of_two_backends_the_native_one_answers(listed: bool) -> None:
    plain, able = native(listed=listed), native("/batch", listed=listed)
    async with in_front_of(plain, able) as ollad:
        for _ in range(6):
            response, data = await ollad.post("/batch", BATCH)
            assert (response.status, data) == (200, OWN)
            assert response.headers["X-Olla-Endpoint"] == "s1"
    assert paths(plain).count("/batch") <= 1
    assert "/generate" not in paths(plain) + paths(able)


async def test_when_the_native_one_is_out_ollad_serves_the_route() -> None:
    plain, able = native(), native("/batch")
    async with in_front_of(plain, able) as ollad:
        await able.stop()
        backend = ollad.gateway.runtime.pool.get("s1")
        assert backend is not None
        await until(lambda: not backend.routable)
        response, data = await ollad.post("/batch", BATCH)
        assert response.status == 200
        assert json.loads(data)["batch_meta"]["successful"] == 2


async def test_a_native_route_counts_only_for_its_model() -> None:
    able, plain = native("/batch"), native()
    able.cards = [{**able.cards[0], "id": "other"}]
    async with in_front_of(able, plain) as ollad:
        _, data = await ollad.post("/batch", {**BATCH, "model": "tiny"})
        assert json.loads(data)["batch_meta"]["successful"] == 2
        _, data = await ollad.post("/batch", {**BATCH, "model": "other"})
        assert data == OWN


async def test_a_native_conversation_is_extended_where_it_began_and_by_its_name_there() -> None:
    fakes = native("/extend"), native("/extend")
    for fake in fakes:
        fake.scripts["/generate"] = reply(generation(" b", id="its-own-name"))
    async with in_front_of(*fakes) as ollad:
        response, _ = await ollad.post("/generate", {"text": "a", "rid": "talk"})
        holder = response.headers["X-Olla-Endpoint"]
        for _ in range(4):
            response, data = await ollad.post("/extend", {"text": "c", "rid": "talk"})
            assert data == OWN
            assert response.headers["X-Olla-Endpoint"] == holder
    asked = [exchange for fake in fakes for exchange in fake.requests if exchange.path == "/extend"]
    assert [exchange.json["rid"] for exchange in asked] == ["its-own-name"] * 4


async def test_a_conversation_that_began_elsewhere_is_extended_by_ollad() -> None:
    plain, able = native(), native("/extend")
    async with in_front_of(plain, able) as ollad:
        backend = ollad.gateway.runtime.pool.get("s0")
        assert backend is not None
        holder = ""
        for at in range(20):
            response, _ = await ollad.post("/generate", {"text": "a", "rid": f"talk-{at}"})
            holder = response.headers["X-Olla-Endpoint"]
            if holder == "s0":
                response, data = await ollad.post("/extend", {"text": " b", "rid": f"talk-{at}"})
                assert json.loads(data)["text"] == " b [b]"
                break
        assert holder == "s0"
    assert "/extend" not in paths(able)


async def test_a_native_conversation_never_goes_on_from_an_old_state() -> None:
    fake = native("/extend")
    async with in_front_of(fake) as ollad:
        await ollad.post("/generate", {"text": "a", "rid": "talk"})
        await ollad.post("/extend", {"text": " b", "rid": "talk"})
        assert not ollad.gateway.conversations.has("", "talk")


async def test_vision_is_native_on_a_backend_that_does_not_say_it_sees() -> None:
    fake = native(VISION)
    fake.scripts[CHAT] = reply({})
    async with in_front_of(fake) as ollad:
        assert (await ollad.post(VISION, question()))[1] == OWN
    assert paths(fake) == [VISION]


async def test_media_are_guarded_before_a_native_route_too() -> None:
    fake = native(VISION)
    async with in_front_of(fake) as ollad:
        response, _ = await ollad.post(VISION, question("file:///etc/passwd"))
    assert response.status == 400
    assert not fake.requests
