from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from ollad.errors import OUR_MISTAKE, GatewayError, HeadersTooLargeError
from ollad.gateway import GATEWAY
from ollad.headers import TrustedProxies
from ollad.middleware import Frame, announce, refuse_malformed
from ollad.record import RECORD
from tests.unit.handlers.conftest import make_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from ollad.gateway import Gateway

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Client = TestClient[web.Request, web.Application]

PATH = "/olla/test"


@dataclass(frozen=True)
class Answer:
    """A response as its client has it."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Clock:
    """Time that stands still unless it is moved."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Stage:
    """One handler behind the middleware."""

    client: Client
    gateway: Gateway
    clock: Clock

    async def get(self, path: str = PATH) -> tuple[Answer, list[Any]]:
        """The response and what was logged."""
        with capture_logs() as entries:
            async with self.client.get(path) as response:
                answer = Answer(response.status, response.headers, await response.read())
        return answer, entries


@pytest.fixture
async def stage() -> AsyncIterator[Callable[[Handler], Awaitable[Stage]]]:
    clients: list[Client] = []

    async def start(handler: Handler) -> Stage:
        clock = Clock()
        gateway = make_gateway()
        gateway.clock = clock
        gateway.runtime = replace(gateway.runtime, trusted_proxies=TrustedProxies(()))
        logger = structlog.get_logger()
        frame = Frame(gateway, {PATH: "test"}, logger, access=True)
        app = web.Application(middlewares=[frame.middleware])
        app[GATEWAY] = gateway
        app.on_response_prepare.append(announce)
        app.router.add_get(PATH, handler)
        client = TestClient(TestServer(app))
        clients.append(client)
        await client.start_server()
        return Stage(client, gateway, clock)

    yield start
    for client in clients:
        await client.close()


async def test_the_response_time_is_that_from_arrival_to_head(stage: Any) -> None:
    async def handler(_: web.Request) -> web.Response:
        on.clock.now += 0.8512
        return web.Response(text="x")

    on = await stage(handler)
    response, entries = await on.get()
    assert response.headers["X-Olla-Response-Time"] == "851ms"
    (line,) = entries
    assert (line["first_byte_ms"], line["total_ms"], line["family"]) == (851.2, 851.2, "test")


async def test_the_reply_has_been_sent_when_its_line_is_written(stage: Any) -> None:
    async def handler(request: web.Request) -> web.Response:
        body = web.Response(body=b"x" * 100_000)
        write_eof = body.write_eof

        async def slow(data: bytes = b"") -> None:
            on.clock.now += 2
            assert len(on.gateway.traffic) == 1
            await write_eof(data)

        body.write_eof = slow  # type: ignore[method-assign]
        request[RECORD].model = "m"
        return body

    on = await stage(handler)
    response, (line,) = await on.get()
    assert response.headers["X-Olla-Response-Time"] == "0ms"
    assert (line["total_ms"], line["response_bytes"], line["status"]) == (2000.0, 100_000, 200)
    assert len(on.gateway.traffic) == 0


async def test_an_error_of_aiohttps_own_gets_the_envelope(stage: Any) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise web.HTTPNotAcceptable(text="<h1>html</h1>")

    response, _ = await (await stage(handler)).get()
    assert response.status == 406
    assert response.headers["Content-Type"] == "application/json"
    assert b"invalid_request_error" in response.body


async def test_a_mistake_is_told_in_no_detail(stage: Any) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise KeyError("detail")

    response, (mistake, line) = await (await stage(handler)).get()
    assert response.status == 500
    body = response.body
    assert OUR_MISTAKE.encode() in body
    assert b"detail" not in body.replace(b"has the details", b"")
    assert isinstance(mistake["exc_info"], KeyError)
    assert mistake["request_id"] == line["request_id"]


async def test_what_is_cut_before_its_reply_is_told_to_come_back(stage: Any) -> None:
    begun = asyncio.Event()

    async def handler(_: web.Request) -> web.Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    on = await stage(handler)
    getting = asyncio.create_task(on.get())
    await begun.wait()
    on.gateway.draining = True
    on.gateway.traffic.cut()
    response, (line,) = await getting
    assert response.status == 503
    assert response.headers["Connection"] == "close"
    assert response.headers["Retry-After"] == "1"
    assert (line["status"], line["error"]) == (503, "draining")


async def test_while_draining_only_the_api_is_closed(stage: Any) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise AssertionError

    on = await stage(handler)
    on.gateway.draining = True
    refused, _ = await on.get()
    missing, _ = await on.get("/internal/none")
    assert (refused.status, missing.status) == (503, 404)
    assert missing.headers["Connection"] == "close"


@pytest.mark.parametrize(
    ("model", "value"),
    [
        ("org/model-7B", "org/model-7B"),
        ("ü\n", "%C3%BC%0A"),
        ("x" * 300, "x" * 256),
        ("", ""),
    ],
)
async def test_a_model_is_a_header_value_whatever_it_is(stage: Any, model: str, value: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        request[RECORD].model = model
        return web.Response()

    response, _ = await (await stage(handler)).get()
    assert response.headers["X-Olla-Model"] == value


async def test_what_is_no_request_is_counted_and_logged_like_one() -> None:
    gateway = make_gateway()
    with capture_logs() as entries:
        response = refuse_malformed(
            HeadersTooLargeError("x"), "192.0.2.1", gateway, structlog.get_logger(), access=True
        )
    assert response.status == 431
    assert response.keep_alive is False
    (line,) = entries
    assert (line["status"], line["client"], line["path"]) == (431, "192.0.2.1", "-")
    assert line["request_id"] == response.headers["X-Olla-Request-ID"]
    labels = {"family": "other", "model": "other", "code": "431"}
    assert gateway.telemetry.registry.get_sample_value("ollad_requests_total", labels) == 1


def test_mistakes_have_one_message() -> None:
    assert GatewayError(OUR_MISTAKE).envelope()["error"]["code"] == "internal_error"
