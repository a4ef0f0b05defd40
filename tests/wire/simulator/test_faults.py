"""Faults that are ordered while the simulator runs."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.simulator.exchange import address, ask, exchange, request, until

if TYPE_CHECKING:
    from pathlib import Path

    from ollad.simulator.server import SimulatedServer
    from tests.wire.simulator.conftest import Start

CHAT = "/v1/chat/completions"
GENERATE = "/generate"
ROUTES = (CHAT, GENERATE)


def body(path: str, *, stream: bool) -> dict[str, Any]:
    if path == GENERATE:
        return {"text": "Hello", "stream": stream, "sampling_params": {"max_new_tokens": 5}}
    messages = [{"role": "user", "content": "Hello"}]
    return {"messages": messages, "max_tokens": 5, "stream": stream, "ignore_eos": True}


def asked(path: str, *, stream: bool) -> bytes:
    return request("POST", path, body(path, stream=stream))


async def order(server: SimulatedServer, mode: str, rate: float = 1.0) -> None:
    reply = await ask(server, request("PUT", "/simulator/faults", {"mode": mode, "rate": rate}))
    assert " 200 " in reply.status


async def everything(server: SimulatedServer, raw: bytes) -> bytes:
    """What comes within a moment after a request, however the connection ends."""
    reader, writer = await asyncio.open_connection(*address(server).split(":"))
    writer.write(raw)
    received = b""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(0.15):
            while data := await reader.read(65_536):
                received += data
    writer.close()
    return received


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_unavailable_server_answers_503_until_it_is_told_otherwise(
    start: Start, path: str, *, stream: bool
) -> None:
    server = await start()
    await order(server, "unavailable")
    assert " 503 " in (await ask(server, asked(path, stream=stream))).status
    await order(server, "unavailable", 0)
    assert " 200 " in (await ask(server, asked(path, stream=stream))).status


@pytest.mark.parametrize("path", ROUTES)
async def test_a_busy_server_says_what_one_with_a_full_queue_says(start: Start, path: str) -> None:
    busy, full = await start(), await start(engine={"max_queued": 0})
    await order(busy, "busy")
    for stream in (True, False):
        seeming = await ask(busy, asked(path, stream=stream))
        true = await ask(full, asked(path, stream=stream))
        assert seeming.status == true.status
        assert len(seeming.body) == pytest.approx(len(true.body), abs=8)  # of times in it
        assert b"queue is full" in seeming.body


@pytest.mark.parametrize("path", ROUTES)
async def test_a_server_that_stalls_begins_streams_and_answers_the_rest(
    start: Start, path: str
) -> None:
    server = await start()
    await order(server, "stall")
    assert " 200 " in (await ask(server, asked(path, stream=False))).status
    for _ in range(3):
        received = await everything(server, asked(path, stream=True))
        assert b"data: " in received
        assert b"[DONE]" not in received


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("stream", [True, False])
async def test_garbage_is_no_http_or_comes_after_a_whole_reply(
    start: Start, path: str, *, stream: bool
) -> None:
    server = await start(seed=5)
    await order(server, "garbage")
    seen = set()
    for _ in range(8):
        received = await everything(server, asked(path, stream=stream))
        assert not received.endswith(b"0\r\n\r\n")
        if received.count(b"HTTP/1.1") == 2:
            seen.add("unasked")
        elif b"this is no HTTP" in received:
            seen.add("no head")
        else:
            assert received.endswith(b"this is no chunk\r\n")
            seen.add("no chunk")
    if stream:
        assert "no chunk" in seen
    else:
        assert seen == {"unasked", "no head"}


async def test_the_log_names_the_fault(start: Start, tmp_path: Path) -> None:
    server = await start(log_requests=tmp_path / "log")
    await ask(server, asked(CHAT, stream=False))
    await order(server, "stall")
    await everything(server, asked(CHAT, stream=True))
    assert server.service is not None
    service = server.service
    await until(lambda: not service.handling)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["event"], line["fault"]) for line in lines] == [
        ("started", None),
        ("finished", None),
        ("started", "stall"),
        ("dropped", "stall"),
    ]


@pytest.mark.parametrize("wrong", [{}, {"rate": 2}, {"rate": 1, "mode": "fire"}, {"rate": "1"}])
async def test_a_fault_that_cannot_be_is_refused(start: Start, wrong: dict[str, Any]) -> None:
    server = await start()
    raw = await exchange(address(server), request("PUT", "/simulator/faults", wrong))
    assert b" 400 " in raw
    assert b"garbage" in raw
