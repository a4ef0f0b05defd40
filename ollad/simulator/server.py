"""The HTTP face of the simulated server, and its life as a process."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from ollad.simulator.refusals import INTERNAL, Refusal, detail, text_error
from ollad.simulator.replies import dress
from ollad.simulator.requests import generation
from ollad.simulator.routes import (
    chat,
    completions,
    control,
    embeddings,
    generate,
    information,
    status,
)
from ollad.simulator.service import Service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Middleware

    from ollad.simulator.options import Options
    from ollad.simulator.requests import Handler

    Next = Callable[[web.Request], Awaitable[web.StreamResponse]]

__all__ = ["SimulatedServer"]

_LARGEST_BODY: Final = 1 << 30
_KEEP_ALIVE_SECONDS: Final = 5.0
"""After so long without a request uvicorn closes a connection (SGLANG_TIMEOUT_KEEP_ALIVE)."""
_HEADER_LIMIT: Final = 1 << 17
_CUT_SECONDS: Final = 0.2
_OPEN_PREFIXES: Final = ("/health", "/ready", "/metrics")
"""What needs no API key (SGLang utils/auth.py)."""
_ANY_MODEL: Final = "/v1/models/{model:.*}"

_LABELS: Final = {"/v1/models/{model}": "/v1/models/{model:path}", "/metrics{rest}": "/metrics"}
"""How the real server labels routes that match more than one path."""

_CHAT: Final = generation(chat.answer, json_only=True)
_COMPLETIONS: Final = generation(completions.answer, json_only=True)
_EMBEDDINGS: Final = generation(embeddings.answer, json_only=True)
_GENERATE: Final = generation(generate.answer, json_only=False)

ROUTES: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("GET", "/", status.root),
    ("HEAD", "/", status.root),
    ("GET", "/health", status.health),
    ("GET", "/health_generate", status.health),
    ("GET", "/ready", status.ready),
    ("GET", "/ping", status.ready),
    ("GET", "/v1/loads", status.loads),
    ("GET", "/v1/models", information.models),
    ("GET", _ANY_MODEL, information.model),
    ("GET", "/model_info", information.model_info),
    ("GET", "/get_model_info", information.model_info),
    ("GET", "/server_info", information.server_info),
    ("GET", "/get_server_info", information.server_info),
    ("GET", "/openapi.json", information.openapi),
    ("POST", "/v1/chat/completions", _CHAT),
    ("POST", "/v1/completions", _COMPLETIONS),
    ("POST", "/v1/embeddings", _EMBEDDINGS),
    ("POST", "/generate", _GENERATE),
    ("PUT", "/generate", _GENERATE),
    ("POST", "/tokenize", control.tokenize),
    ("POST", "/v1/tokenize", control.tokenize),
    ("POST", "/detokenize", control.detokenize),
    ("POST", "/v1/detokenize", control.detokenize),
    ("GET", "/flush_cache", control.flush),
    ("POST", "/flush_cache", control.flush),
    ("POST", "/abort_request", control.abort),
)


class SimulatedServer:
    """One server in the running loop.

    Args:
        options: what it is like.
        keep_alive: after how long without a request a connection is closed, seconds.

    Attributes:
        service: what is behind it, once ``start`` has returned.
    """

    def __init__(self, options: Options, keep_alive: float = _KEEP_ALIVE_SECONDS) -> None:
        self._options = options
        self._keep_alive = keep_alive
        self._runner: web.AppRunner | None = None
        self.service: Service | None = None

    async def start(self) -> str:
        """Listen.

        Returns:
            The base URL.

        Raises:
            OSError: the address cannot be listened on, or the request log not be written.
        """
        options = self._options
        service = self.service = Service(options)
        runner = self._runner = web.AppRunner(
            make_application(service),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=self._keep_alive,
            shutdown_timeout=_CUT_SECONDS,
            max_line_size=_HEADER_LIMIT,
            max_field_size=_HEADER_LIMIT,
        )
        try:
            await runner.setup()
            await web.TCPSite(runner, options.host, options.port, backlog=1024).start()
        except OSError:
            await self.close()
            raise
        host, port = runner.addresses[0][:2]
        service.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return f"http://{service.address}"

    async def close(self) -> None:
        """Cut what is under way and stop."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self.service is not None:
            self.service.close()

    async def run(self, announce: Callable[[str], None]) -> None:
        """Serve until SIGTERM or SIGINT and until then everything is done; a second one cuts it.

        Args:
            announce: is told the base URL.

        Raises:
            OSError: see ``start``.
        """
        stop, hurry = asyncio.Event(), asyncio.Event()

        def on_signal() -> None:
            (hurry if stop.is_set() else stop).set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        try:
            announce(await self.start())
            await stop.wait()
            await self._drain(hurry)
        finally:
            await self.close()

    async def _drain(self, hurry: asyncio.Event) -> None:
        assert self.service is not None  # noqa: S101 - it has been started
        self.service.drain()
        waits = [asyncio.ensure_future(hurry.wait()), asyncio.ensure_future(self.service.idle())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


def make_application(service: Service) -> web.Application:
    """The application around a service."""
    app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[_middleware(service)])
    app.on_response_prepare.append(dress)
    for method, path, handler in ROUTES:
        app.router.add_route(method, path, _bound(service, handler))
    # No real server has it, so it stands in no list of routes.
    app.router.add_put("/simulator/faults", _bound(service, control.fail))
    if service.options.metrics:
        app.router.add_route("*", "/metrics{rest:.*}", _bound(service, status.metrics))
    return app


def _bound(service: Service, handler: Handler) -> Next:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(service, request)

    return handle


def _middleware(service: Service) -> Middleware:
    """What stands around every route: counting, CORS preflight, the key, errors."""

    @web.middleware
    async def around(request: web.Request, handler: Next) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = request.path if resource is None else resource.canonical
        route = _LABELS.get(route, route)
        service.statistics.requests[route, request.method] += 1
        response = await _answer(service, request, handler)
        service.statistics.responses[route, request.method, response.status] += 1
        return response

    return around


async def _answer(service: Service, request: web.Request, handler: Next) -> web.StreamResponse:
    try:
        _check_key(service, request)
        if _is_preflight(request):
            return _preflight(request)
        return await handler(request)
    except Refusal as refusal:
        return _refused(refusal)
    except web.HTTPMethodNotAllowed as error:
        response = _refused(detail(405, "Method Not Allowed"))
        response.headers["allow"] = ", ".join(sorted(error.allowed_methods))
        return response
    except web.HTTPNotFound:
        return _redirect(request) or _refused(detail(404, "Not Found"))
    except web.HTTPException:
        return _refused(Refusal(500, INTERNAL.encode(), "text/plain; charset=utf-8"))


def _refused(refusal: Refusal) -> web.Response:
    headers = {"content-type": refusal.content_type}
    return web.Response(status=refusal.status, body=refusal.body, headers=headers)


def _check_key(service: Service, request: web.Request) -> None:
    key = service.options.api_key
    if key is None or request.method == "OPTIONS" or request.path.startswith(_OPEN_PREFIXES):
        return
    if request.headers.get(hdrs.AUTHORIZATION) != f"Bearer {key}":
        raise text_error("Unauthorized", 401)


def _is_preflight(request: web.Request) -> bool:
    headers = request.headers
    asks = hdrs.ACCESS_CONTROL_REQUEST_METHOD in headers and hdrs.ORIGIN in headers
    return request.method == "OPTIONS" and asks


def _preflight(request: web.Request) -> web.Response:
    headers = {
        "vary": (
            "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, "
            "Access-Control-Request-Private-Network"
        ),
        "access-control-allow-methods": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, QUERY",
        "access-control-max-age": "600",
        "access-control-allow-credentials": "true",
        "access-control-allow-origin": request.headers[hdrs.ORIGIN],
        "content-type": "text/plain; charset=utf-8",
    }
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS)
    if asked is not None:
        headers["access-control-allow-headers"] = asked
    return web.Response(body=b"OK", headers=headers)


def _redirect(request: web.Request) -> web.Response | None:
    """To the same path with a slash less or more at its end, if there is one (Starlette)."""
    path = request.path
    other = path.removesuffix("/") if path.endswith("/") else f"{path}/"
    if other not in {route[1] for route in ROUTES} or path == "/":
        return None
    query = f"?{request.query_string}" if request.query_string else ""
    return web.Response(status=307, headers={"location": f"http://{request.host}{other}{query}"})
