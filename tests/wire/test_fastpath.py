"""Usual requests are served without a task; whatever is unusual goes the ordinary way unnoticed."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ollad.config.schema import ApiKey, Auth, Proxy, Routing, Server
from ollad.fastpath import FastPath, FastRequest
from ollad.gateway import make_runtime
from ollad.middleware import Frame
from ollad.relay.underway import Exchange
from tests.wire.byte_client import ByteClient, connect, post_bytes, until
from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import chunked, reply, serving, sse

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollad.connection import Connection
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange as Asked
    from tests.wire.fake_sglang import FakeSGLang

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hello"}]
GOOD = {
    "object": "chat.completion",
    "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
}


def chat(content: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], **more}


class Ways:
    """How many requests went which way; those handed over went both."""

    def __init__(self) -> None:
        self.fast = 0
        self.ordinary = 0

    @property
    def both(self) -> tuple[int, int]:
        return self.fast, self.ordinary


@pytest.fixture(autouse=True)
def ways(monkeypatch: pytest.MonkeyPatch) -> Ways:
    counted = Ways()
    serve = Frame.serve

    class CountingFastPath:
        def __init__(self, *args: Any, **options: Any) -> None:
            path = FastPath(*args, **options)
            self._serve = path.serve
            self.learn = path.learn
            self.close = path.close

        def serve(self, connection: Connection, data: bytes) -> bool:
            taken = self._serve(connection, data)
            counted.fast += taken and not connection._lacking
            return taken

    async def counting_serve(self: Frame, *args: Any) -> Any:
        counted.ordinary += 1
        return await serve(self, *args)

    monkeypatch.setattr("ollad.server.FastPath", CountingFastPath)
    monkeypatch.setattr(Frame, "serve", counting_serve)
    return counted


async def answer(client: ByteClient) -> tuple[int, dict[str, str], bytes]:
    """The next reply, which has a length: status, headers in lower case, body."""
    line, *lines = (await client.head()).decode().split("\r\n")[:-2]
    headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
    body = await client.reader.readexactly(int(headers["content-length"]))
    return int(line.split()[1]), headers, body


async def ask(client: ByteClient, body: Any = None, headers: str = "") -> int:
    await client.send(post_bytes(CHAT, chat() if body is None else body, headers=headers))
    return (await answer(client))[0]


async def test_a_head_that_was_served_before_needs_no_task(
    fake: FakeSGLang, ollad: Running, ways: Ways
) -> None:
    fake.scripts[CHAT] = reply(GOOD)
    async with connect(ollad.port) as client:
        for content in ("a", "b" * 500, "c" * 5000):
            await client.send(post_bytes(CHAT, chat(content)))
            status, headers, body = await answer(client)
            assert status == 200
            assert headers["x-olla-endpoint"] == "one"
            assert "metrics" in json.loads(body)
    assert ways.both == (2, 1)
    assert [exchange.json["messages"][0]["content"][0] for exchange in fake.requests] == [*"abc"]
    ids = {exchange.header("X-Olla-Request-ID") for exchange in fake.requests}
    assert len(ids) == 3


async def test_both_ways_send_the_same_to_the_backend(
    fake: FakeSGLang, ollad: Running, ways: Ways
) -> None:
    fake.scripts[CHAT] = reply(GOOD)
    headers = "X-Custom: 1\r\nAuthorization: Bearer x\r\nCookie: a=b\r\nUser-Agent: me\r\n"
    async with connect(ollad.port) as client:
        for _ in range(2):
            assert await ask(client, headers=headers) == 200
    assert ways.both == (1, 1)
    first, second = (
        [pair for pair in exchange.headers if pair[0] != "X-Olla-Request-ID"]
        for exchange in fake.requests
    )
    assert first == second
    assert fake.requests[0].body == fake.requests[1].body


@pytest.mark.parametrize(
    "headers",
    ["X-Olla-Request-ID: mine\r\n", "Expect: 100-continue\r\n", "Connection: close\r\n"],
)
async def test_a_head_that_asks_for_something_is_parsed_each_time(
    headers: str, fake: FakeSGLang, ollad: Running, ways: Ways
) -> None:
    fake.scripts[CHAT] = reply(GOOD)
    for _ in range(2):
        async with connect(ollad.port) as client:
            await client.send(post_bytes(CHAT, chat(), headers=headers))
            head = await client.head()
            if b"100 Continue" in head:
                head = await client.head()
            assert head.startswith(b"HTTP/1.1 200")
    assert ways.both == (0, 2)


async def test_a_body_may_come_after_its_head_and_in_pieces(
    fake: FakeSGLang, ollad: Running, ways: Ways
) -> None:
    fake.scripts[CHAT] = reply(GOOD)
    async with connect(ollad.port) as client:
        assert await ask(client) == 200
        data = post_bytes(CHAT, chat("x" * 100))
        start = data.index(b"\r\n\r\n") + 4
        for piece in (data[:start], data[start : start + 10], data[start + 10 :]):
            await client.send(piece)
            await asyncio.sleep(0.01)
        assert (await answer(client))[0] == 200
    assert ways.both == (1, 1)
    assert fake.requests[-1].json == chat("x" * 100)


async def test_a_body_that_takes_its_time_is_waited_for_by_aiohttp(
    fake: FakeSGLang, ollad: Running, ways: Ways
) -> None:
    fake.scripts[CHAT] = reply(GOOD)
    async with connect(ollad.port) as client:
        assert await ask(client) == 200
        data = post_bytes(CHAT, chat("slow"))
        await client.send(data[:-5])
        await until(lambda: ways.both == (0, 2))
        await client.send(data[-5:])
        assert (await answer(client))[0] == 200
        assert ways.both == (0, 2)
        assert await ask(client) == 200  # and the place of the next one is known again
    assert ways.both == (1, 2)
    assert fake.requests[1].json == chat("slow")


async def test_what_is_sent_behind_a_request_is_served_in_its_turn(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[CHAT] = reply(GOOD)
    async with connect(ollad.port) as client:
        assert await ask(client) == 200
        await client.send(b"".join(post_bytes(CHAT, chat(str(number))) for number in range(5)))
        assert [(await answer(client))[0] for _ in range(5)] == [200] * 5
    sent = [exchange.json["messages"][0]["content"] for exchange in fake.requests[1:]]
    assert sent == [*"01234"]


async def test_a_request_that_comes_while_another_is_served_waits(
    fake: FakeSGLang, ollad: Running, ways: Ways
) -> None:
    go = asyncio.Event()

    async def later(exchange: Asked) -> None:
        if exchange.json["messages"][0]["content"] == "first":
            await go.wait()
        await reply({**GOOD, "id": exchange.json["messages"][0]["content"]})(exchange)

    fake.scripts[CHAT] = later
    async with connect(ollad.port) as client:
        assert await ask(client) == 200
        await client.send(post_bytes(CHAT, chat("first")))
        await until(lambda: len(fake.requests) == 2)
        await client.send(post_bytes(CHAT, chat("second")))
        await asyncio.sleep(0.02)
        assert len(fake.requests) == 2
        go.set()
        answers = [json.loads((await answer(client))[2])["id"] for _ in range(2)]
    assert answers == ["first", "second"]
    assert ways.fast == 1


async def test_what_a_long_body_looks_like_is_never_taken_for_a_request(
    fake: FakeSGLang, ollad: Running, ways: Ways
) -> None:
    fake.scripts[CHAT] = reply(GOOD)
    trap = post_bytes(CHAT, chat("trap"))
    async with connect(ollad.port) as client:
        assert await ask(client) == 200
        for size in (100_000, 700_000):
            document = chat("x" * size + trap.decode() * 50)
            data = post_bytes(CHAT, document)
            for start in range(0, len(data), 50_000):
                await client.send(data[start : start + 50_000])
                await asyncio.sleep(0)
            assert (await answer(client))[0] == 200
            assert fake.requests[-1].json == document
            assert await ask(client) == 200
    assert len(fake.requests) == 5
    assert ways.fast >= 2


async def test_a_backend_that_refuses_is_not_the_last_word(
    fake: FakeSGLang, other_fakes: Callable[[int], list[FakeSGLang]], ways: Ways
) -> None:
    (other,) = other_fakes(1)
    in_turn = Routing(policy="round-robin")
    async with (
        serving(other),
        running(endpoint(fake), endpoint(other, "two"), routing=in_turn) as ollad,
    ):
        fake.scripts[CHAT] = other.scripts[CHAT] = reply(GOOD)
        async with connect(ollad.port) as client:
            assert await ask(client) == 200
            busy = reply({"error": "busy"}, "503 Busy")
            fake.scripts[CHAT] = [busy] * 3
            other.scripts[CHAT] = reply(GOOD)
            for _ in range(6):
                assert await ask(client) == 200
        assert all(backend.in_flight == 0 for backend in ollad.gateway.runtime.pool)
        assert len(ollad.gateway.traffic) == 0
    assert ways.fast == 6
    assert len(fake.requests) + len(other.requests) > 7


async def test_a_connection_that_was_closed_while_idle_is_no_failure(
    fake: FakeSGLang, ollad: Running, ways: Ways
) -> None:
    async def close(exchange: Asked) -> None:
        exchange.reset()

    fake.scripts[CHAT] = [reply(GOOD), close, reply(GOOD)]
    async with connect(ollad.port) as client:
        assert await ask(client) == 200
        assert await ask(client) == 200
    assert ways.both == (1, 2)
    assert len(fake.requests) == 3


async def test_what_the_client_may_not_do_is_refused_as_ever(fake: FakeSGLang, ways: Ways) -> None:
    fake.scripts[CHAT] = reply(GOOD)
    secret = "sk-alice-0123456789"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    keys = (ApiKey(name="alice", sha256=digest, requests_per_minute=2),)
    bearer = f"Authorization: Bearer {secret}\r\n"
    async with (
        running(endpoint(fake), auth=Auth(keys=keys)) as ollad,
        connect(ollad.port) as client,
    ):
        found = [await ask(client, headers=bearer) for _ in range(3)]
        assert found == [200, 200, 429]
        assert await ask(client, {"messages": MESSAGES, "bootstrap_host": "x"}) == 401
        meter = ollad.gateway.runtime.gate.meters["alice"]
        assert (meter.admitted, meter.refused, meter.active) == (2, 1, 0)
    assert ways.both == (2, 3)


async def test_a_request_that_asks_for_what_is_refused_gets_the_same_answer_both_ways(
    fake: FakeSGLang, ollad: Running, ways: Ways
) -> None:
    fake.scripts[CHAT] = reply(GOOD)
    async with connect(ollad.port) as client:
        assert await ask(client) == 200
        for body, status in (
            (chat(bootstrap_host="x"), 400),
            (chat(model=5), 400),
            ({"model": "unknown", "messages": MESSAGES}, 404),
            ([], 400),
            (chat(), 200),
        ):
            assert await ask(client, body) == status
    assert ways.fast == 5


async def test_a_new_configuration_holds_for_heads_that_were_seen_before(
    fake: FakeSGLang, ollad: Running, ways: Ways
) -> None:
    fake.scripts[CHAT] = reply(GOOD)
    gateway = ollad.gateway
    headers = "X-Forwarded-For: 192.0.2.7\r\n"
    async with connect(ollad.port) as client:
        for _ in range(2):
            assert await ask(client, headers=headers) == 200
        assert fake.requests[-1].header("X-Forwarded-For") == "127.0.0.1"
        before = gateway.runtime
        config = replace(
            before.config,
            routing=Routing(model_aliases={"small": "tiny"}),
            server=Server(trusted_proxies=("127.0.0.1",)),
        )
        gateway.runtime = make_runtime(config, before.pool, gateway.clock(), before)
        assert await ask(client, {"model": "small", "messages": MESSAGES}, headers) == 200
    assert fake.requests[-1].json["model"] == "tiny"
    assert fake.requests[-1].header("X-Forwarded-For") == "192.0.2.7, 127.0.0.1"
    assert ways.both == (2, 1)


async def test_a_client_that_goes_away_leaves_nothing_behind(
    fake: FakeSGLang, ollad: Running
) -> None:
    gone = asyncio.Event()

    async def never(exchange: Asked) -> None:
        await exchange.client_gone.wait()
        gone.set()

    fake.scripts[CHAT] = [reply(GOOD), never]
    async with connect(ollad.port) as client:
        assert await ask(client) == 200
        await client.send(post_bytes(CHAT, chat()))
        await until(lambda: len(fake.requests) == 2)
    await gone.wait()
    backend = ollad.gateway.runtime.pool.named("one")
    await until(lambda: backend.in_flight == 0 and len(ollad.gateway.traffic) == 0)


async def test_what_is_under_way_at_the_end_is_told_so(fake: FakeSGLang) -> None:
    async def never(exchange: Asked) -> None:
        await exchange.client_gone.wait()

    async def endless(exchange: Asked) -> None:
        await sse({"choices": []}, done=False)(exchange)

    fake.scripts[CHAT] = [reply(GOOD), never]
    server = Server(shutdown_timeout=0.05)
    async with running(endpoint(fake), server=server) as ollad, connect(ollad.port) as client:
        assert await ask(client) == 200
        await client.send(post_bytes(CHAT, chat()))
        await until(lambda: len(fake.requests) == 2)
        await ollad.daemon.drain(asyncio.Event())
        status, headers, body = await answer(client)
        assert (status, headers["connection"]) == (503, "close")
        assert json.loads(body)["error"]["code"] == "draining"
        assert await client.reader.read() == b""


async def test_a_stream_under_way_at_the_end_is_cut(fake: FakeSGLang) -> None:
    async def open_end(exchange: Asked) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        await exchange.send(b"transfer-encoding: chunked\r\n\r\n" + chunked(b"data: 1\n\n"))
        await exchange.client_gone.wait()

    fake.scripts[CHAT] = [reply(GOOD), open_end]
    server = Server(shutdown_timeout=0.05)
    async with running(endpoint(fake), server=server) as ollad, connect(ollad.port) as client:
        assert await ask(client) == 200
        await client.send(post_bytes(CHAT, chat(stream=True)))
        await client.head()
        await ollad.daemon.drain(asyncio.Event())
        assert await client.reader.read() == chunked(b"data: 1\n\n")  # without the last chunk


async def test_no_connection_is_closed_for_being_idle_while_it_is_served(
    fake: FakeSGLang, ways: Ways
) -> None:
    go = asyncio.Event()

    async def later(exchange: Asked) -> None:
        await go.wait()
        await reply(GOOD)(exchange)

    fake.scripts[CHAT] = [reply(GOOD), later]
    server = Server(keepalive_timeout=0.05, header_timeout=0.05)
    async with running(endpoint(fake), server=server) as ollad, connect(ollad.port) as client:
        assert await ask(client) == 200
        await client.send(post_bytes(CHAT, chat()))
        await asyncio.sleep(0.3)
        go.set()
        assert (await answer(client))[0] == 200
        assert ways.both == (1, 1)
        assert await client.reader.read() == b""  # after which it is


async def test_an_idle_connection_is_closed_on_which_nothing_went_another_way(
    fake: FakeSGLang, ways: Ways
) -> None:
    fake.scripts[CHAT] = reply(GOOD)
    server = Server(keepalive_timeout=0.05)
    async with running(endpoint(fake), server=server) as ollad:
        async with connect(ollad.port) as client:
            assert await ask(client) == 200
        async with connect(ollad.port) as client:
            assert await ask(client) == 200
            assert ways.both == (1, 1)
            assert await client.reader.read() == b""


async def test_timeouts_hold(fake: FakeSGLang, ways: Ways) -> None:
    async def never(exchange: Asked) -> None:
        await exchange.client_gone.wait()

    fake.scripts[CHAT] = [reply(GOOD), never]
    proxy = Proxy(first_byte_timeout=0.1)
    async with running(endpoint(fake), proxy=proxy) as ollad, connect(ollad.port) as client:
        assert await ask(client) == 200
        assert await ask(client) == 504
        assert ollad.gateway.runtime.pool.named("one").in_flight == 0
    assert ways.both == (1, 2)


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_leave_no_circles_of_objects(
    stream: bool, fake: FakeSGLang, ollad: Running
) -> None:
    """They would stay, prompts and all, until somebody looks for them."""
    fake.scripts[CHAT] = sse({"choices": []}, {"choices": []}) if stream else reply(GOOD)
    async with connect(ollad.port) as client:
        await serve(client, stream)
        gc.collect()
        gc.disable()
        try:
            await serve(client, stream)
            kept = [each for each in gc.get_objects() if isinstance(each, FastRequest | Exchange)]
        finally:
            gc.enable()
    assert kept == []


async def serve(client: ByteClient, stream: bool) -> None:
    await client.send(post_bytes(CHAT, chat(stream=stream)))
    if stream:
        await client.reader.readuntil(b"\r\n0\r\n\r\n")
    else:
        await answer(client)


async def test_what_follows_from_a_head_depends_on_who_sent_it(
    fake: FakeSGLang, ways: Ways
) -> None:
    fake.scripts[CHAT] = reply(GOOD)
    server = Server(host="127.0.0.1", trusted_proxies=("127.0.0.2",))
    headers = "X-Forwarded-For: 192.0.2.7\r\n"
    async with running(endpoint(fake), server=server) as ollad:
        for _ in range(3):
            for address in ("127.0.0.1", "127.0.0.2"):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", ollad.port, local_addr=(address, 0)
                )
                assert await ask(ByteClient(reader, writer), headers=headers) == 200
                writer.close()
    seen = [exchange.header("X-Forwarded-For") for exchange in fake.requests]
    assert seen == ["127.0.0.1", "192.0.2.7, 127.0.0.2"] * 3
    assert ways.both == (5, 1)
