"""The obvious reverse proxy on aiohttp's server and client, on uvloop: what ollad must beat.

``naive.py PORT BACKEND_URL...``
"""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

import aiohttp
import uvloop
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
SESSION = web.AppKey("session", aiohttp.ClientSession)
PREFIX = "/olla/sglang"


def kept(headers: Mapping[str, str], *dropped: str) -> list[tuple[str, str]]:
    """The headers to pass on."""
    drop = HOP_BY_HOP | set(dropped)
    return [(name, value) for name, value in headers.items() if name.lower() not in drop]


def main() -> None:
    """Serve until SIGTERM."""
    port, backends = int(sys.argv[1]), itertools.cycle(sys.argv[2:])

    async def relay(request: web.Request) -> web.StreamResponse:
        async with request.app[SESSION].request(
            request.method,
            next(backends) + request.path_qs.removeprefix(PREFIX),
            data=await request.read(),
            headers=kept(request.headers, "host", "content-length"),
        ) as reply:
            response = web.StreamResponse(status=reply.status, headers=kept(reply.headers))
            await response.prepare(request)
            async for part in reply.content.iter_any():
                await response.write(part)
            await response.write_eof()
            return response

    async def session(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        ) as app[SESSION]:
            yield

    app = web.Application(client_max_size=100 << 20)
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{tail:.*}", relay)
    web.run_app(
        app,
        host="127.0.0.1",
        port=port,
        access_log=None,
        print=None,
        loop=uvloop.new_event_loop(),
        backlog=4096,
    )


if __name__ == "__main__":
    main()
