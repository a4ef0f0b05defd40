"""The relay's seam: ``forward(request, backend, sink, proxy, …) -> Outcome``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ollad.config.schema import Proxy
from ollad.errors import BackendError
from ollad.relay.exchange import Fault, UpstreamRequest
from ollad.replies import HoldSink
from tests.wire.byte_client import until
from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import STREAM_HEAD, chunked, reply

if TYPE_CHECKING:
    from ollad.backends.backend import Backend
    from ollad.relay.forward import Relay
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, FakeSGLang

PATH = "/generate"
HEADERS = [("X-One", "1"), ("X-Two", "2"), ("X-One", "3")]
REQUEST = UpstreamRequest("POST", PATH, b"X-One: 1\r\nX-Two: 2\r\nX-One: 3\r\n", b"{}")


@pytest.fixture
def relay(ollad: Running) -> Relay:
    return ollad.gateway.dispatcher.relay


@pytest.fixture
def backend(ollad: Running) -> Backend:
    return ollad.gateway.runtime.pool.named("one")


async def silent(exchange: Exchange) -> None:
    await exchange.client_gone.wait()


async def test_an_outcome_tells_the_whole_exchange(
    relay: Relay, backend: Backend, fake: FakeSGLang
) -> None:
    fake.scripts[PATH] = reply(b"[1]", "201 Made", {"X-Reply": "a b"})
    outcome = await relay.forward(REQUEST, backend, HoldSink(), Proxy())
    assert outcome.backend == "one"
    assert outcome.body == b"[1]"
    assert outcome.fault is None
    assert not outcome.committed
    assert outcome.head is not None
    assert (outcome.head.status, outcome.head.reason) == (201, b"Made")
    assert (b"X-Reply", b"a b") in outcome.head.headers
    assert outcome.head.content_type == "application/json"
    assert outcome.head.content_length == 3
    assert outcome.first_byte is not None
    assert 0 < outcome.first_byte <= outcome.seconds


async def test_the_backend_gets_the_request_and_nothing_else(
    relay: Relay, backend: Backend, fake: FakeSGLang
) -> None:
    fake.scripts[PATH] = reply(b"")
    await relay.forward(REQUEST, backend, HoldSink(), Proxy())
    (received,) = fake.requests
    assert (received.method, received.target, received.body) == ("POST", PATH, b"{}")
    assert received.headers.pop(0) == ("Host", f"127.0.0.1:{fake.port}")
    assert received.header("Content-Length") == "2"
    received.headers.remove(("Content-Length", "2"))
    assert received.headers == HEADERS


async def test_a_request_without_a_body_has_none(
    relay: Relay, backend: Backend, fake: FakeSGLang
) -> None:
    fake.scripts[PATH] = reply(b"")
    await relay.forward(UpstreamRequest("GET", PATH, b"", b""), backend, HoldSink(), Proxy())
    await relay.forward(UpstreamRequest("POST", PATH, b"", b""), backend, HoldSink(), Proxy())
    got, posted = fake.requests
    assert got.header("Content-Length") is None
    assert posted.header("Content-Length") == "0"
    assert got.header("Transfer-Encoding") is posted.header("Transfer-Encoding") is None


async def test_a_target_goes_out_as_it_is(fake: FakeSGLang) -> None:
    """Below the endpoint's base path, its percent-encoding neither undone nor repeated."""
    fake.scripts["/v1/models"] = fake.probe_reply("/v1/models") or reply(b"")
    async with running(endpoint(fake)) as ollad:
        backend = ollad.gateway.runtime.pool.named("one")
        relay = ollad.gateway.dispatcher.relay
        for target in ("/a%2Fb%20c?x=%C3%A9&y=a+b", "/a//b?", "/a;b=c?q=1=2"):
            request = UpstreamRequest("GET", target, b"", b"")
            outcome = await relay.forward(request, backend, HoldSink(), Proxy())
            assert outcome.head is not None
            assert fake.requests[-1].target in (target, target.removesuffix("?"))


async def test_connections_are_used_again(relay: Relay, backend: Backend, fake: FakeSGLang) -> None:
    fake.scripts[PATH] = reply(b"{}")
    await relay.forward(REQUEST, backend, HoldSink(), Proxy())
    for _ in range(5):
        await relay.forward(REQUEST, backend, HoldSink(), Proxy())
    assert len({id(request.writer) for request in fake.requests}) == 1


async def test_a_held_reply_longer_than_the_sink_takes_is_refused(
    relay: Relay, backend: Backend, fake: FakeSGLang
) -> None:
    fake.scripts[PATH] = reply(b"x" * (HoldSink().limit + 1))
    with pytest.raises(BackendError):
        await relay.forward(REQUEST, backend, HoldSink(), Proxy())
    fake.scripts[PATH] = reply(b"x" * HoldSink().limit)
    outcome = await relay.forward(REQUEST, backend, HoldSink(), Proxy())
    assert outcome.body is not None
    assert len(outcome.body) == HoldSink().limit


@pytest.mark.parametrize("status", ["429 Slow", "502 Bad", "503 Busy", "504 Late"])
@pytest.mark.parametrize("last", [True, False])
async def test_a_refusal_is_held_for_whoever_decides(
    status: str, last: bool, relay: Relay, backend: Backend, fake: FakeSGLang
) -> None:
    fake.scripts[PATH] = reply(b"full", status)
    outcome = await relay.forward(REQUEST, backend, HoldSink(), Proxy(), last=last)
    assert outcome.fault is None
    assert outcome.body == b"full"


async def test_a_deadline_that_has_passed_is_a_total_timeout(
    relay: Relay, backend: Backend, fake: FakeSGLang
) -> None:
    fake.scripts[PATH] = silent
    deadline = asyncio.get_running_loop().time() - 1
    outcome = await relay.forward(REQUEST, backend, HoldSink(), Proxy(), deadline=deadline)
    assert outcome.fault is Fault.TOTAL_TIMEOUT


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 60.0, None])
async def test_a_cancelled_exchange_is_cancelled_and_no_timeout(
    seconds: float | None, relay: Relay, backend: Backend, fake: FakeSGLang
) -> None:
    """Even when the client leaves in the same turn of the loop in which time is up."""
    fake.scripts[PATH] = silent
    now = asyncio.get_running_loop().time()
    task = asyncio.create_task(
        relay.forward(
            REQUEST,
            backend,
            HoldSink(),
            Proxy(),
            deadline=None if seconds is None else now + seconds,
        )
    )
    if seconds is None or seconds > 0:
        await until(lambda: len(fake.requests) == 1)
    else:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for request in fake.requests:
        await request.client_gone.wait()


async def test_a_cancelled_exchange_stays_cancelled_inside_a_timeout_of_the_caller(
    relay: Relay, backend: Backend, fake: FakeSGLang
) -> None:
    fake.scripts[PATH] = silent
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await relay.forward(
                REQUEST, backend, HoldSink(), Proxy(first_byte_timeout=60, idle_timeout=60)
            )
    await until(lambda: len(fake.requests) == 1)
    await fake.requests[0].client_gone.wait()


async def test_the_first_byte_is_that_of_the_body_not_of_the_head(
    relay: Relay, backend: Backend, fake: FakeSGLang
) -> None:
    async def late_body(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD)
        await asyncio.sleep(0.2)
        await exchange.send(chunked(b"data: {}\n\n") + b"0\r\n\r\n")

    fake.scripts[PATH] = late_body
    outcome = await relay.forward(REQUEST, backend, HoldSink(), Proxy())
    assert outcome.first_byte is not None
    assert outcome.first_byte > 0.15


async def test_a_fault_is_part_of_the_outcome(
    relay: Relay, backend: Backend, fake: FakeSGLang
) -> None:
    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    fake.scripts[PATH] = reset
    outcome = await relay.forward(REQUEST, backend, HoldSink(), Proxy())
    assert outcome.fault is Fault.RESET
    assert outcome.head is None
    assert outcome.first_byte is None
    await fake.stop()
    outcome = await relay.forward(REQUEST, backend, HoldSink(), Proxy())
    assert outcome.fault is Fault.CONNECT
