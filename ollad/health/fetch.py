"""One bounded GET of a probe: the reply, or in words why there is none.

Never raises but on cancellation. Redirects are not followed, a body over the limit counts as a
broken exchange, and no text made here names an address or a header's value.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson
from multidict import CIMultiDict

from ollad import __version__

if TYPE_CHECKING:
    from ollad.config.schema import Endpoint

__all__ = ["MAX_BODY", "Reply", "fetch", "open_session"]

MAX_BODY: Final = 16 * 1024 * 1024
"""Longest body read, bytes, after decompression."""

_KEEPALIVE: Final = 3.0
"""Seconds; SGLang closes idle connections after 5."""


def open_session() -> aiohttp.ClientSession:
    """The control plane's client session, to be closed by the caller.

    It has no limit on connections, so that backends that hang cannot use up those of others, and
    keeps no cookies.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


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
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    path: str,
    *,
    seconds: float,
    accept: str = "application/json",
) -> Reply:
    """GET ``path`` of a backend, with the endpoint's headers.

    Args:
        session: the control plane's client session.
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
        async with session.get(
            endpoint.url.rstrip("/") + path,
            headers=headers,
            allow_redirects=False,
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
