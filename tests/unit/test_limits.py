from __future__ import annotations

import asyncio
import json
import resource

import pytest

from ollad.errors import UnavailableError
from ollad.limits import BodyBudget, Refusal, crowded, raise_descriptor_limit


def test_bodies_are_held_up_to_the_bound_and_given_back() -> None:
    budget = BodyBudget(10)
    budget.take(6)
    budget.take(4)
    with pytest.raises(UnavailableError) as caught:
        budget.take(1)
    assert "max_buffered_bytes" in caught.value.message
    assert caught.value.headers["Retry-After"] == "1"
    assert budget.held == 10

    budget.give_back(6)

    budget.take(6)
    with pytest.raises(UnavailableError):
        budget.take(1)


def test_a_smaller_bound_holds_for_what_comes() -> None:
    budget = BodyBudget(10)
    budget.take(10)
    budget.resize(5)
    budget.give_back(5)
    with pytest.raises(UnavailableError):
        budget.take(1)
    budget.give_back(1)
    budget.take(1)


async def test_a_connection_too_many_is_told_why_even_if_it_has_sent_something() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Refusal(crowded(7)), "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    finally:
        server.close()
        await server.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"Retry-After: 1\r\n" in head
    assert f"Content-Length: {len(body)}\r\n".encode() in head
    assert json.loads(body)["error"]["code"] == "too_many_connections"


async def test_a_client_that_does_not_leave_is_made_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollad.limits._LINGER_SECONDS", 0.01)
    lost = asyncio.Event()

    class Watched(Refusal):
        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            lost.set()

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Watched(crowded(7)), "127.0.0.1", 0)
    try:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await lost.wait()
        writer.close()
    finally:
        server.close()


def test_the_descriptor_limit_is_raised_as_far_as_it_goes() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
        assert raise_descriptor_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
