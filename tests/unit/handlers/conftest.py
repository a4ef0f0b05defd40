from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ollad.backends.pool import Pool
from ollad.config.schema import Config, Routing
from ollad.dispatch import Dispatcher
from ollad.errors import GatewayError
from ollad.gateway import GATEWAY, Gateway, Runtime
from ollad.handlers.models import CATALOGUE, ModelCatalogue
from ollad.metrics import Telemetry
from ollad.placement import Placement
from ollad.record import RECORD
from ollad.responses import json_response
from tests.unit.builders import make_record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ollad.backends.backend import Backend

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Client = TestClient[web.Request, web.Application]
    Serve = Callable[..., Awaitable[Client]]


@web.middleware
async def envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    request[RECORD] = make_record()
    try:
        return await handler(request)
    except GatewayError as error:
        document = {"message": error.message, "param": error.param, "code": error.code}
        return json_response({"error": document}, error.status)


def _clock() -> float:
    return 1000.0


def make_gateway(*backends: Backend, aliases: dict[str, str] | None = None) -> Gateway:
    nothing: Any = None
    telemetry, routing = Telemetry(), Routing(model_aliases=aliases or {})
    placement = Placement(routing, telemetry, _clock, lambda: 0.0, wall=lambda: 0.0)
    gateway = Gateway(
        runtime=Runtime(
            config=Config(
                endpoints=tuple(backend.endpoint for backend in backends), routing=routing
            ),
            pool=Pool(backends),
            trusted_proxies=nothing,
        ),
        dispatcher=Dispatcher(nothing, placement, telemetry, _clock),
        telemetry=telemetry,
        conversations=nothing,
        clock=_clock,
        wall=lambda: 1795348800.0,
        refresh_models=nothing,
    )
    gateway.telemetry.bind_pool(lambda: gateway.runtime.pool, gateway.clock)
    return gateway


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves one handler at ``/`` (or ``path``) and gives a client for it."""
    clients: list[Client] = []

    async def start(
        handler: Handler,
        *backends: Backend,
        path: str = "/",
        gateway: Gateway | None = None,
        aliases: dict[str, str] | None = None,
    ) -> Client:
        app = web.Application(middlewares=[envelope])
        app[GATEWAY] = gateway or make_gateway(*backends, aliases=aliases)
        app[CATALOGUE] = ModelCatalogue()
        app.router.add_get(path, handler)
        client = TestClient(TestServer(app))
        clients.append(client)
        await client.start_server()
        return client

    yield start
    for client in clients:
        await client.close()
