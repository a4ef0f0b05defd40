"""The aiohttp application and its listener: routes, middleware, nothing not in ``ROUTES``."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from ollad.affinity import AFFINITY, Affinity
from ollad.connection import Connections
from ollad.errors import ListenError, MethodNotAllowedError, NotFoundError
from ollad.fastpath import FastPath
from ollad.gateway import GATEWAY
from ollad.handlers import ROUTES
from ollad.handlers.models import CATALOGUE, ModelCatalogue
from ollad.middleware import Frame, announce, refuse_malformed
from ollad.ordinary import OrdinaryHandler

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence

    from structlog.typing import FilteringBoundLogger

    from ollad.connection import Connection
    from ollad.errors import GatewayError
    from ollad.gateway import Gateway
    from ollad.handlers import Handler, Route
    from ollad.ordinary import Serve

__all__ = ["Listener", "listening", "make_application"]

_BACKLOG: Final = 4096
"""Connections that may wait to be accepted; the default of net.core.somaxconn, which bounds it."""

FRAME: Final = web.AppKey("frame", Frame)
"""Where the application carries what its requests go through."""

_CLEANUP_SECONDS: Final = 0.5
"""How long connections may take to end once nothing is served on them."""


def make_application(
    gateway: Gateway,
    logger: FilteringBoundLogger,
    *,
    access: bool = True,
    routes: Iterable[Route] = ROUTES,
) -> web.Application:
    """Build the application that serves ``gateway``.

    Args:
        gateway: what the handlers work with.
        logger: where access lines and unexpected errors go.
        access: whether there are access lines.
        routes: what is served.
    """
    families: dict[str, str] = {}
    frame = Frame(gateway, families, logger, access=access)
    app = web.Application(middlewares=[frame.middleware])
    app[FRAME] = frame
    app[GATEWAY] = gateway
    app[CATALOGUE] = ModelCatalogue()
    app[AFFINITY] = Affinity()
    app.on_response_prepare.append(announce)
    _add_routes(app, routes, families)
    return app


class Listener:
    """The sockets that are listened on.

    Args:
        servers: of the event loop, at least one.
    """

    def __init__(self, servers: Sequence[asyncio.AbstractServer]) -> None:
        self._servers = servers
        sockets = [one for server in servers for one in server.sockets]  # type: ignore[attr-defined]  # asyncio.Server has it
        for one in sockets:
            # connections take it from what they are accepted by (tcp(7)), at no cost for each
            one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        addresses = [one.getsockname() for one in sockets]
        # a Unix socket's address is its path
        self.host: str = addresses[0] if isinstance(addresses[0], str) else addresses[0][0]
        self.port: int = 0 if isinstance(addresses[0], str) else addresses[0][1]

    def close(self) -> None:
        """Accept no more connections; those that are open stay.

        A socket that the service manager opened stays as well, and connections made to it wait for
        the next process.
        """
        for server in self._servers:
            server.close()


@asynccontextmanager
async def listening(
    app: web.Application,
    logger: FilteringBoundLogger,
    *,
    host: str,
    port: int,
    access: bool = True,
    sockets: Sequence[socket.socket] = (),
    tls: ssl.SSLContext | None = None,
    bounded: bool = True,
) -> AsyncIterator[Listener]:
    """Serve ``app`` for the length of the block; at its end, connections are closed.

    Args:
        app: from ``make_application``.
        logger: where access lines and unexpected errors go.
        host: address to listen on.
        port: TCP port to listen on; 0 takes a free one.
        access: whether there are access lines.
        sockets: to be listened on in the place of ``host`` and ``port``.
        tls: what connections are secured with; None: they are not.
        bounded: whether ``server.max_connections`` holds here.

    Yields:
        What is listened on.

    Raises:
        ListenError: the address, or a socket, cannot be listened on.
    """
    gateway = app[GATEWAY]

    def refuse(request: web.BaseRequest, error: GatewayError) -> web.Response:
        return refuse_malformed(error, request.remote or "", gateway, logger, access=access)

    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_CLEANUP_SECONDS)
    await runner.setup()
    loop = asyncio.get_running_loop()
    known = _known(app)
    fast = FastPath(app, _served(app), logger, access=access)

    def ordinary(connection: Connection) -> OrdinaryHandler:
        if runner.server is None:
            raise RuntimeError("the runner has been set up")
        return OrdinaryHandler(
            runner.server,
            connection,
            logger=logger,
            refuse=refuse,
            known=known,
            learner=fast,
        )

    connections = Connections(gateway, fast, ordinary, bounded=bounded)

    options: dict[str, Any] = {"backlog": _BACKLOG}
    if tls is not None:
        options["ssl"] = tls
        options["ssl_handshake_timeout"] = gateway.runtime.config.server.header_timeout

    try:
        try:
            servers = [
                await loop.create_server(connections.accept, sock=one, **options) for one in sockets
            ] or [await loop.create_server(connections.accept, host, port, **options)]
        except (OSError, UnicodeError) as error:  # UnicodeError: no host name
            raise ListenError(_reason(error)) from error
        listener = Listener(servers)
        try:
            yield listener
        finally:
            listener.close()
    finally:
        connections.close()
        try:
            await runner.cleanup()
        finally:
            connections.force_close()
            await fast.close()


def _served(app: web.Application) -> tuple[Route, ...]:
    """Those of ``ROUTES`` that ``app`` serves."""
    paths = {resource.canonical for resource in app.router.resources()}
    return tuple(route for route in ROUTES if route.path in paths)


def _known(app: web.Application) -> dict[tuple[str, str], Serve]:
    """What serves requests by method and path, for paths without variable parts.

    Most requests are for a few of them; what aiohttp's resolver finds out about those anew each
    time is found out here once.
    """
    frame = app[FRAME]
    families = {route.path: route.family for route in ROUTES}
    known: dict[tuple[str, str], Serve] = {}
    for resource in app.router.resources():
        if isinstance(resource, web.PlainResource):
            for route in resource:
                match = web.UrlMappingMatchInfo({}, route)
                match.add_app(app)
                match.freeze()
                family = families.get(resource.canonical, "other")
                known[route.method, resource.canonical] = _server(frame, match, family)
    return known


def _server(frame: Frame, match: web.UrlMappingMatchInfo, family: str) -> Serve:
    def serve(request: web.Request) -> Awaitable[web.StreamResponse]:
        request._match_info = match  # noqa: SLF001 - as the resolver does
        return frame.serve(request, match.handler, family)

    return serve


def _reason(error: Exception) -> str:
    """Why in few words; asyncio wraps the system's own in a sentence with the address."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error)


def _add_routes(app: web.Application, routes: Iterable[Route], families: dict[str, str]) -> None:
    for route in routes:
        resource = app.router.add_resource(route.path)
        families[resource.canonical] = route.family
        methods = route.methods.split()
        if "GET" in methods:
            methods.append("HEAD")
        for method in methods:
            resource.add_route(method, route.handler, expect_handler=_defer_continue)
        refuse = _method_refusal(tuple(methods))
        resource.add_route("*", refuse, expect_handler=_defer_continue)
    app.router.add_route("*", "/{anything:.*}", _unknown_route, expect_handler=_defer_continue)


async def _defer_continue(_request: web.Request) -> None:
    """Leave ``100 Continue`` to whoever reads the body, once the request has been accepted."""


def _method_refusal(allowed: tuple[str, ...]) -> Handler:
    async def refuse(request: web.Request) -> web.StreamResponse:
        names = ", ".join(allowed)
        raise MethodNotAllowedError(
            f"This route does not take {request.method}; it takes {names}.",
            headers={"Allow": names},
        )

    return refuse


async def _unknown_route(_request: web.Request) -> web.StreamResponse:
    raise NotFoundError(
        "There is no such route here. The API lives under /olla/sglang/, ollad's own state under "
        "/internal/status.",
        code="route_not_found",
    )
