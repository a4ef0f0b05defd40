"""One bounded GET of a probe: the reply, or in words why there is none.

Never raises but on cancellation. Redirects are not followed, a body over the limit counts as a
broken exchange, and no text made here names an address or a header's value.
"""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson
from multidict import CIMultiDict

from ollad import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ollad.config.schema import Endpoint
    from ollad.tls import BackendTls

__all__ = ["MAX_BODY", "ProbeClient", "Reply", "fetch", "open_client"]

MAX_BODY: Final = 16 * 1024 * 1024
"""Longest body read, bytes, after decompression."""

_KEEPALIVE: Final = 3.0
"""Seconds; SGLang closes idle connections after 5."""


@dataclass(frozen=True, slots=True)
class ProbeClient:
    """What probes are sent with.

    Attributes:
        session: aiohttp's.
        tls: the contexts for backends.
    """

    session: aiohttp.ClientSession
    tls: BackendTls


@asynccontextmanager
async def open_client(tls: BackendTls) -> AsyncIterator[ProbeClient]:
    """The control plane's client.

    It has no limit on connections, so that backends that hang cannot use up those of others, and
    keeps no cookies.

    Args:
        tls: the contexts for backends.
    """
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield ProbeClient(session, tls)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one GET.

    Attributes:
        path: what was asked for, query included.
        status: HTTP status; 0 if there was no complete reply.
        body: the body, decompressed.
        failure: why there was no reply; empty if there was one.
        refused: whether nothing listens there.
    """

    path: str
    status: int = 0
    body: bytes = b""
    failure: str = ""
    refused: bool = False

    @property
    def ok(self) -> bool:
        """Whether it answered 200."""
        return self.status == 200

    @property
    def missing(self) -> bool:
        """Whether the server said that it has no such route."""
        return self.status in (404, 405)

    @property
    def denied(self) -> bool:
        """Whether the server did not accept ollad's credentials."""
        return self.status in (401, 403)

    @property
    def problem(self) -> str:
        """What is wrong with it, for operators; meant for replies that are not ``ok``."""
        where = self.path.partition("?")[0]
        if self.failure:
            return f"{self.failure} on {where}"
        if self.denied:
            return (
                f"{self.status} on {where}: the key in this endpoint's headers is missing or wrong "
                "(SGLang reads 'Authorization: Bearer KEY')"
            )
        return f"{self.status} on {where}"

    def json(self) -> Any:
        """The body as JSON; None if it is none or the status is not 200."""
        if not self.ok:
            return None
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


async def fetch(
    client: ProbeClient,
    endpoint: Endpoint,
    path: str,
    *,
    seconds: float,
    accept: str = "application/json",
) -> Reply:
    """GET ``path`` of a backend, with the endpoint's headers.

    Args:
        client: the control plane's.
        endpoint: the backend.
        path: path and query below the endpoint's base URL.
        seconds: bound on the whole exchange, name resolution to last byte, seconds.
        accept: the ``Accept`` header.
    """
    headers = CIMultiDict(endpoint.headers)
    headers.setdefault("User-Agent", f"ollad/{__version__}")
    headers["Accept"] = accept
    # Compression costs the server more than it saves on its own network.
    headers["Accept-Encoding"] = "identity"
    try:
        async with client.session.get(
            endpoint.url.rstrip("/") + path,
            headers=headers,
            allow_redirects=False,
            ssl=client.tls.context(endpoint.tls) if endpoint.url.startswith("https:") else True,
            timeout=aiohttp.ClientTimeout(total=seconds),
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY:
                    return Reply(path, failure=f"a body over {MAX_BODY} bytes")
            return Reply(path, response.status, bytes(body))
    except TimeoutError:
        return Reply(path, failure=f"no answer within {seconds:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        failure, refused = _describe(error)
        return Reply(path, failure=failure, refused=refused)


def _describe(error: Exception) -> tuple[str, bool]:
    """Say what happened, and whether nothing listens there."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "the host name does not resolve", False
        case aiohttp.ClientSSLError():
            return "TLS failed", False
        case aiohttp.ClientConnectorError(os_error=OSError(errno=errno.ECONNREFUSED)):
            return "connection refused", True
        case aiohttp.ClientConnectorError():
            return "no connection", False
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            return "connection closed", False
        case _:
            return f"a broken exchange ({type(error).__name__})", False
