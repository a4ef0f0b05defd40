"""What bounds the process as a whole: bytes of request bodies, and connections."""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING, Final, cast

import orjson

from ollad.errors import UnavailableError

if TYPE_CHECKING:
    from ollad.errors import GatewayError

__all__ = ["BodyBudget", "Refusal", "crowded", "raise_descriptor_limit"]

_LINGER_SECONDS: Final = 1.0
"""How long a client that was turned away may take to read why."""


class BodyBudget:
    """How many bytes of request bodies may be held at once.

    Args:
        most: the bound, bytes.

    Attributes:
        held: bytes held now.
    """

    __slots__ = ("_most", "held")

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def __repr__(self) -> str:
        return f"<BodyBudget {self.held} of {self._most}>"

    def resize(self, most: int) -> None:
        """Go on with another bound; what is held already is kept."""
        self._most = most

    def take(self, size: int) -> None:
        """Hold ``size`` more bytes, to be given back with ``give_back``.

        Raises:
            UnavailableError: they would be too many; none of them is counted.
        """
        held = self.held + size
        if held > self._most:
            raise UnavailableError(
                "ollad holds as many request bodies as it may (server.max_buffered_bytes). "
                "Try again shortly.",
                code="too_many_bodies",
            )
        self.held = held

    def give_back(self, size: int) -> None:
        """Hold ``size`` bytes less."""
        self.held -= size


class Refusal(asyncio.Protocol):
    """Answers a connection that is one too many, whatever it asks, and ends it.

    Closing at once would discard the answer if the request were still unread.

    Args:
        error: what to answer.
    """

    __slots__ = ("_answer", "_end")

    def __init__(self, error: GatewayError) -> None:
        body = orjson.dumps(error.envelope())
        lines = [
            f"HTTP/1.1 {error.status} Service Unavailable",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in error.headers.items()),
            "Connection: close",
            "Server: ollad",
        ]
        self._answer = "\r\n".join([*lines, "", ""]).encode() + body
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer."""
        stream = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance
        stream.write(self._answer)
        if stream.can_write_eof():
            stream.write_eof()
        self._end = asyncio.get_running_loop().call_later(_LINGER_SECONDS, stream.abort)

    def eof_received(self) -> None:
        """The client has read it, or does not want to; returning None closes the connection."""

    def connection_lost(self, _error: Exception | None) -> None:
        """Nothing is left to do."""
        if self._end is not None:
            self._end.cancel()


def crowded(most: int) -> UnavailableError:
    """What a connection is told that is one more than ``most``."""
    return UnavailableError(
        f"There are {most} connections already (server.max_connections). Try again shortly.",
        code="too_many_connections",
    )


def raise_descriptor_limit() -> int:
    """Let the process have as many open files and connections as it may ask for.

    The usual limit, 1024, is for programs that use ``select``.

    Returns:
        How many it can have now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
