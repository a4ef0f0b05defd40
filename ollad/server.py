"""The aiohttp application: routes, middleware, and nothing that is not in ``ROUTES``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from ollad.affinity import AFFINITY, Affinity
from ollad.errors import MethodNotAllowedError, NotFoundError
from ollad.gateway import GATEWAY
from ollad.handlers import ROUTES
from ollad.handlers.models import CATALOGUE, ModelCatalogue
from ollad.middleware import announce, frame_requests

if TYPE_CHECKING:
    from collections.abc import Iterable

    from structlog.typing import FilteringBoundLogger

    from ollad.gateway import Gateway
    from ollad.handlers import Handler, Route

__all__ = ["make_application"]


def make_application(
    gateway: Gateway, logger: FilteringBoundLogger, *, access: bool = True
) -> web.Application:
    """Build the application that serves ``gateway``.

    Args:
        gateway: what the handlers work with.
        logger: where access lines and unexpected errors go.
        access: whether there are access lines.
    """
    families: dict[str, str] = {}
    app = web.Application(middlewares=[frame_requests(families, logger, access=access)])
    app[GATEWAY] = gateway
    app[CATALOGUE] = ModelCatalogue()
    app[AFFINITY] = Affinity()
    app.on_response_prepare.append(announce)
    _add_routes(app, ROUTES, families)
    return app


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
