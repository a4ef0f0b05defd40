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
from ollad.responses import json_response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ollad.backends.backend import Backend

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    Client = TestClient[web.Request, web.Application]
    Serve = Callable[..., Awaitable[Client]]


@web.middleware
async def envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except GatewayError as error:
        document = {"message": error.message, "param": error.param, "code": error.code}
        return json_response({"error": document}, error.status)


def make_gateway(*backends: Backend, aliases: dict[str, str] | None = None) -> Gateway:
    nothing: Any = None
    routing, pool, telemetry = Routing(model_aliases=aliases or {}), Pool(backends), Telemetry()
    placement = Placement(routing, lambda: 1000.0, lambda: 0.5)
    placement.adopt(routing, pool)
    gateway = Gateway(
        runtime=Runtime(
            config=Config(
                endpoints=tuple(backend.endpoint for backend in backends), routing=routing
            ),
            pool=pool,
            trusted_proxies=nothing,
        ),
        dispatcher=Dispatcher(nothing, placement, telemetry, lambda: 1000.0),
        telemetry=telemetry,
        conversations=nothing,
        clock=lambda: 1000.0,
        wall=lambda: 1795348800.0,
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
