"""The connections of clients, below HTTP.

A connection gives what arrives to the fast path, and to aiohttp whatever that does not take. Most
connections never bring anything else, so what aiohttp needs for one (a parser, a task) is made when
it is first needed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, cast

from ollad.limits import Refusal, crowded

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.http import RawRequestMessage

    from ollad.config.schema import Server
    from ollad.dispatch import Attempt
    from ollad.errors import GatewayError
    from ollad.gateway import Gateway
    from ollad.record import RequestRecord

__all__ = ["Begun", "Connection", "Connections", "FastPath", "Ordinary"]

_COLLECT_SECONDS: Final = 1.0
"""How long the rest of a small body is waited for before aiohttp is left to wait for it."""

_NEVER: Final = float("inf")


class Begun(Protocol):
    """A request that is being served without aiohttp, or was until it could not be."""

    record: RequestRecord
    body: bytes
    refusal: GatewayError | None
    """Why the client may not make it, as far as that depends on keys and limits."""

    attempt: Attempt | None
    """One that was made for it, with its outcome; None if there was none."""

    @property
    def message(self) -> RawRequestMessage:
        """Its head, but for the value of ``Content-Length``."""

    def client_gone(self) -> None:
        """The connection is lost; whatever is kept for the request has to go."""

    def cancel(self) -> None:
        """End it, as the daemon will not wait any longer."""


class FastPath(Protocol):
    """What serves requests with heads that were seen before."""

    def serve(self, connection: Connection, data: bytes) -> bool:
        """Serve the request that ``data`` begins with; False: it is none of those, yet."""


class Ordinary(Protocol):
    """What serves everything else; told of all that happens on the connection while it exists."""

    @property
    def closing(self) -> bool:
        """Whether no further request will be served."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""

    def pause_writing(self) -> None:
        """The client does not take what was written."""

    def resume_writing(self) -> None:
        """The client has taken what was written."""

    def head_late(self) -> None:
        """A head that has begun to arrive takes too long."""

    def occupant_gone(self) -> None:
        """The request that was served without it has been answered."""

    def take_over(self, begun: Begun) -> None:
        """Serve a request, whatever was done for it before."""

    def force_close(self) -> None:
        """End everything at once."""


class Connection(asyncio.Protocol):
    """One client's connection.

    A clock runs whenever the client is waited for: from the connection's beginning to the end of
    its first head, from a reply to the first byte of the next head, and from that to the head's
    end.

    Args:
        fast: serves what is served without aiohttp.
        ordinary: makes what serves the rest.
        limits: how long the connection may be idle, and the head of a request may take.
        opened: the open connections, among which it counts itself.

    Attributes:
        limits: as given.
        transport: None once the client has gone.
        occupant: what serves a request without aiohttp; ``vacate`` or ``hand_over`` ends that.
        on_pressure: called whenever what was written begins to wait for the client.
        on_relief: called once, when it waits no longer.
        peer: address of its other end; empty for a unix socket.
        scheme: ``http`` or ``https``, as the peer speaks.
    """

    __slots__ = (
        "_closing",
        "_deadline",
        "_due",
        "_engaged",
        "_fast",
        "_handler",
        "_head_begun",
        "_head_clock",
        "_lacking",
        "_loop",
        "_opened",
        "_ordinary",
        "_paused",
        "_pieces",
        "_timer",
        "limits",
        "occupant",
        "on_pressure",
        "on_relief",
        "peer",
        "scheme",
        "transport",
    )

    def __init__(
        self,
        fast: FastPath,
        ordinary: Callable[[Connection], Ordinary],
        limits: Server,
        opened: set[Connection],
    ) -> None:
        self._fast = fast
        self._ordinary = ordinary
        self.limits = limits
        self._opened = opened
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.occupant: Begun | None = None
        self._handler: Ordinary | None = None
        self._engaged = False  # the handler serves something, or has a part of a request
        self._closing = False
        self._paused = False
        self._pieces: list[bytes] = []
        self._lacking = 0
        self._head_clock = False
        self._head_begun = False
        self._deadline = _NEVER
        self._due = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self.on_pressure: Callable[[], None] | None = None
        self.on_relief: Callable[[], None] | None = None
        self.peer = ""
        self.scheme = "http"

    # --- asyncio.Protocol ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what every request of the connection would ask its transport for."""
        # uvloop's transports do what asyncio's do but are not derived from them
        self.transport = cast("asyncio.Transport", transport)
        self._opened.add(self)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else str(peer or "")
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = "https"
        self._head_clock = True
        self._expect(self.limits.header_timeout)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of what is under way."""
        self.transport = None
        self._opened.discard(self)
        self._forget_pieces()
        self.stop_clock()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        occupant, self.occupant = self.occupant, None
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.connection_lost(exc)
        if occupant is not None:
            occupant.client_gone()

    def eof_received(self) -> None:
        """The client sends no more, which ends the connection."""

    def pause_writing(self) -> None:
        """The client does not take what was written."""
        self._paused = True
        if self._handler is not None:
            self._handler.pause_writing()
        if self.on_pressure is not None:
            self.on_pressure()

    def resume_writing(self) -> None:
        """The client has taken what was written."""
        self._paused = False
        if self._handler is not None:
            self._handler.resume_writing()
        relief, self.on_relief = self.on_relief, None
        if relief is not None:
            relief()

    def data_received(self, data: bytes) -> None:
        """Take requests, those with heads that were seen before without aiohttp."""
        if self._lacking:
            self._collect(data)
        elif (
            self._engaged
            or self.occupant is not None
            or self._paused
            or not self._fast.serve(self, data)
        ):
            # something is being served, or it is no request that can be served without aiohttp
            self._receive(data)

    # --- what arrives --------------------------------------------------------------------------

    def collect(self, data: bytes, lacking: int) -> None:
        """Keep the beginning of a request of which ``lacking`` bytes are still to come."""
        self.stop_clock()
        self._pieces.append(data)
        self._lacking = lacking
        self._expect(_COLLECT_SECONDS)

    def _collect(self, data: bytes) -> None:
        self._pieces.append(data)
        self._lacking -= len(data)
        if self._lacking > 0:
            return
        whole = b"".join(self._pieces)
        self._forget_pieces()
        self.data_received(whole)

    def _forget_pieces(self) -> None:
        self._pieces.clear()
        self._lacking = 0

    def _receive(self, data: bytes) -> None:
        if self._closing:
            return  # no further request will be served
        handler = self._handler
        if handler is None:
            handler = self._make_handler()
        self._engaged = True
        handler.data_received(data)

    def _make_handler(self) -> Ordinary:
        transport = self.transport
        if transport is None:
            raise ConnectionResetError("The client has gone.")
        handler = self._handler = self._ordinary(self)
        handler.connection_made(transport)
        if self._paused:
            handler.pause_writing()
        return handler

    # --- what is served without aiohttp --------------------------------------------------------

    @property
    def closing(self) -> bool:
        """Whether no further request will be served."""
        return self._closing or (self._handler is not None and self._handler.closing)

    def vacate(self, *, keep_alive: bool) -> None:
        """The occupant has answered; the connection may be used again if ``keep_alive``."""
        self.occupant = None
        if not keep_alive or self.closing:
            self.force_close()
            return
        if self._engaged and self._handler is not None:
            self._handler.occupant_gone()  # which has at least a part of the next request
        else:
            self._expect(self.limits.keepalive_timeout)

    def hand_over(self, begun: Begun) -> None:
        """Have aiohttp serve a request, whatever was done for it before."""
        self.occupant = None
        transport = self.transport
        if transport is None or transport.is_closing():
            begun.client_gone()
            return
        handler = self._handler
        if handler is None:
            handler = self._make_handler()
        self._engaged = True
        handler.take_over(begun)

    # --- what is served with aiohttp -----------------------------------------------------------

    def expect_another(self, *, clean: bool) -> None:
        """Let the time run within which another request has to come.

        Args:
            clean: whether the handler has nothing of that yet.
        """
        self._expect(self.limits.keepalive_timeout)
        if clean:
            self._engaged = False

    def expect_rest_of_head(self) -> None:
        """Let the time run, if it does not yet, within which the rest of a head has to come."""
        self._head_begun = True
        if not self._head_clock:
            self._head_clock = True
            self._expect(self.limits.header_timeout)

    # --- how long ------------------------------------------------------------------------------

    def stop_clock(self) -> None:
        """The client is not waited for."""
        self._deadline = _NEVER
        self._head_clock = self._head_begun = False

    def _expect(self, seconds: float) -> None:
        # A deadline that moves on leaves the timer where it is: most are put off again and again.
        self._deadline = self._loop.time() + seconds
        if self._timer is None:
            self._set_timer(seconds)
        elif self._deadline < self._due:
            self._timer.cancel()
            self._set_timer(seconds)

    def _set_timer(self, seconds: float) -> None:
        self._due = self._deadline
        self._timer = self._loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._deadline == _NEVER:
            return
        left = self._deadline - self._loop.time()
        if left > 0:
            self._set_timer(left)
        elif self._lacking:
            data = b"".join(self._pieces)
            self._forget_pieces()
            self.stop_clock()
            self._receive(data)
        elif self._head_begun and self._handler is not None:
            self.stop_clock()
            self._handler.head_late()
        else:
            self.force_close()

    # --- the end -------------------------------------------------------------------------------

    def close(self) -> None:
        """Serve no further request; end at once if no handler has to end, and no occupant."""
        self._closing = True
        if self.occupant is None and self._handler is None:
            self.force_close()

    def force_close(self) -> None:
        """End at once, once what was written has been taken."""
        if self._handler is not None:
            self._handler.force_close()
        elif self.transport is not None:
            self.transport.close()


class Connections:
    """Accepts connections; those that are open.

    Args:
        gateway: the running daemon, whose configuration tells how many there may be.
        fast: serves what is served without aiohttp.
        ordinary: makes what serves the rest of a connection's requests.
        bounded: whether ``server.max_connections`` holds here.
    """

    def __init__(
        self,
        gateway: Gateway,
        fast: FastPath,
        ordinary: Callable[[Connection], Ordinary],
        *,
        bounded: bool,
    ) -> None:
        self._gateway = gateway
        self._fast = fast
        self._ordinary = ordinary
        self._bounded = bounded
        self._opened: set[Connection] = set()

    def accept(self) -> asyncio.Protocol:
        """What a connection that has just been made talks to."""
        limits = self._gateway.runtime.config.server
        if self._bounded and 0 < limits.max_connections <= len(self._opened):
            return Refusal(crowded(limits.max_connections))
        return Connection(self._fast, self._ordinary, limits, self._opened)

    def close(self) -> None:
        """Have no further requests served."""
        for connection in tuple(self._opened):
            connection.close()

    def force_close(self) -> None:
        """End them all."""
        for connection in tuple(self._opened):
            connection.force_close()
