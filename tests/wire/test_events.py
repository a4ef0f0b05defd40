"""``/internal/events`` on the wire, read by hand and by the event source people would use."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp_sse_client.client import EventSource  # type: ignore[import-untyped]

from tests.wire.raw import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang

PATH = "/internal/events"

feed = import_module("ollad.handlers.events")
"""The module; the package has the handler under its name."""


@asynccontextmanager
async def following(
    ollad: Running, last_id: str | None = None
) -> AsyncIterator[AsyncIterator[tuple[int, dict[str, Any]]]]:
    """The ids and documents of the feed, read without any library."""
    headers = {} if last_id is None else {"Last-Event-ID": last_id}

    async def parsed(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        fields: dict[str, str] = {}
        async for line in response.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                assert fields.pop("event") == "status"
                yield int(fields.pop("id")), json.loads(fields.pop("data"))

    async with ollad.session.get(PATH, headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield parsed(response)


def in_flight(ollad: Running) -> float | None:
    registry = ollad.gateway.telemetry.registry
    return registry.get_sample_value("ollad_requests_in_flight", {"family": "internal"})


async def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while data := await asyncio.get_running_loop().sock_recv(connection, 1 << 20):
        received = (received + data)[-64:]
    return received


async def test_an_event_holds_what_the_status_page_says(ollad: Running) -> None:
    async with following(ollad) as events:
        _, document = await anext(events)
    _, body = await ollad.get("/internal/status/endpoints")
    [endpoint], [expected] = document.pop("endpoints"), json.loads(body)["endpoints"]
    assert endpoint.keys() == expected.keys()
    assert (endpoint["name"], endpoint["state"], endpoint["weight"]) == ("one", "healthy", 1.0)
    assert endpoint["load"]["running"] == 2
    assert document.keys() == {
        "time",
        "version",
        "uptime_seconds",
        "draining",
        "requests_under_way",
    }
    assert (document["draining"], document["requests_under_way"]) == (False, 0)


async def test_events_go_on_while_nothing_changes(ollad: Running) -> None:
    async with following(ollad) as events:
        seen = [await anext(events) for _ in range(3)]
    ids = [number for number, _ in seen]
    assert ids == sorted(set(ids))
    uptimes = [document["uptime_seconds"] for _, document in seen]
    assert min(b - a for a, b in itertools.pairwise(uptimes)) >= 0.9


async def test_a_change_of_state_is_told_before_the_next_event_is_due(
    fake: FakeSGLang, ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_PERIOD", 3600.0)
    async with following(ollad) as events:
        _, before = await anext(events)
        await fake.stop()
        _, after = await anext(events)
    assert [before["endpoints"][0]["state"], after["endpoints"][0]["state"]] == ["healthy", "down"]


async def test_a_request_under_way_is_counted_a_follower_is_not(ollad: Running) -> None:
    task = asyncio.current_task()
    assert task is not None
    async with following(ollad):
        ollad.gateway.traffic.enter(task)
        async with following(ollad) as events:
            _, document = await anext(events)
        ollad.gateway.traffic.leave(task)
    assert document["requests_under_way"] == 1


async def test_ids_go_on_after_the_last_one_a_follower_saw(ollad: Running) -> None:
    async with following(ollad, "9000000000000") as events:
        number, _ = await anext(events)
    assert number == 9000000000001
    async with following(ollad, "no number") as events:
        number, _ = await anext(events)
    assert number < 9000000000000


async def test_an_event_source_resumes_when_the_feed_has_ended(ollad: Running) -> None:
    async with aiohttp.ClientSession() as session:
        headers: dict[str, str] = {}
        url = f"http://127.0.0.1:{ollad.port}{PATH}"
        async with EventSource(url, session=session, headers=headers) as source:
            first = await anext(source)
            ollad.gateway.draining = True
            last = await anext(source)
            assert json.loads(last.data)["draining"]
            resumed = asyncio.create_task(anext(source))
            await until(lambda: not in_flight(ollad))
            ollad.gateway.draining = False
            event = await resumed
    assert headers["Last-Event-Id"] == last.last_event_id
    ids = [int(one.last_event_id) for one in (first, last, event)]
    assert ids == sorted(set(ids))


async def test_followers_do_not_keep_a_draining_daemon_alive(
    ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_PERIOD", 3600.0)
    async with following(ollad) as events:
        await anext(events)
        await ollad.daemon.drain(asyncio.Event())
        rest = [document async for _, document in events]
    assert [document["draining"] for document in rest] == [True]


async def test_a_follower_that_does_not_read_is_disconnected(
    ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = {"filler": "x" * 1_000_000}
    monkeypatch.setattr(feed, "_document", lambda _gateway: big)
    for name, seconds in {"_PERIOD": 0.01, "_LOOK": 0.01, "_PATIENCE": 0.3}.items():
        monkeypatch.setattr(feed, name, seconds)
    loop = asyncio.get_running_loop()
    with socket.socket() as lazy:
        lazy.setblocking(False)
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(lazy, ("127.0.0.1", ollad.port))
        await loop.sock_sendall(lazy, f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert await loop.sock_recv(lazy, 12) == b"HTTP/1.1 200"
        await until(lambda: not in_flight(ollad))
        assert not (await read_to_end(lazy)).endswith(b"0\r\n\r\n")


async def test_a_follower_that_leaves_is_forgotten(ollad: Running) -> None:
    async with following(ollad) as events:
        await anext(events)
        assert in_flight(ollad) == 1
    await until(lambda: not in_flight(ollad))


async def test_head_tells_the_type_and_ends(ollad: Running) -> None:
    async with ollad.session.head(PATH) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert await response.read() == b""
