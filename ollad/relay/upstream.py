"""Connections to backends: one reply at a time, reused while certainly clean.

A connection knows HTTP and nothing of what becomes of a reply; ``ollad.relay.reading`` reads it.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final, cast

import httptools

from ollad.relay.delivery import acknowledged
from ollad.relay.reading import ReplyReader

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from ollad.framing import FamiliarHeads
    from ollad.relay.exchange import ReplyHead
    from ollad.relay.outbox import Outbox
    from ollad.relay.reading import Receiver

__all__ = ["Connection"]

_COPIED: Final = 64 * 1024
"""Longer bodies are written beside the head of their request instead of being copied behind it."""


class Connection(ReplyReader):
    """One connection to a backend.

    Args:
        heads: what is known of the heads of the backend's replies.
        outbox: what short requests are sent by.
        on_idle: called when a reply has ended and another request may be sent.
        on_lost: called once the connection is gone.

    Attributes:
        reused: whether the request under way is not its first.
        unsent: whether a part of the request under way has not left this process.
        undelivered: whether, when it ended, nothing of the request had arrived for certain.
        idle_since: monotonic time since when it has been idle, seconds.
    """

    __slots__ = (
        "_before",
        "_on_idle",
        "_on_lost",
        "_paused",
        "_poll",
        "_transport",
        "_written",
        "idle_since",
        "reused",
        "undelivered",
        "unsent",
    )

    def __init__(
        self,
        heads: FamiliarHeads[ReplyHead],
        outbox: Outbox,
        on_idle: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        super().__init__(heads, outbox)
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._paused = False
        self.reused = False
        self.unsent = False
        self.undelivered = False
        self._written = 0
        self._before = 0
        self.idle_since = 0.0

    # --- what an exchange does -----------------------------------------------------------------

    def send(
        self, receiver: Receiver, head: bytes, body: bytes, *, head_only: bool = False
    ) -> None:
        """Send a request; ``receiver`` is told of its reply.

        Args:
            receiver: of the reply.
            head: request line and headers, to the empty line.
            body: of the request.
            head_only: the reply ends with its head, as that to HEAD does (RFC 9112 §6.3).
        """
        transport = self._transport
        self._receiver = receiver
        self._head_only = head_only
        self._before = self._written
        self._written += len(head) + len(body)
        if transport is None or transport.is_closing():
            receiver.connection_broken(None)
        elif len(body) < _COPIED:
            self._outbox.write(transport, head + body)
        else:
            transport.writelines((head, body))

    def pause_reading(self) -> None:
        """Read no more for now, so that the backend comes to wait."""
        if self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """End the connection at once, whatever is under way; nobody is told."""
        self.tell_events()
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()

    @property
    def open(self) -> bool:
        """Whether it has not been lost yet."""
        return self._transport is not None

    def clean(self) -> bool:
        """Whether it is open and holds nothing that was not asked for, neither bytes nor an end.

        Asks the kernel, since the event loop may not have read it yet.
        """
        transport = self._transport
        return transport is not None and not transport.is_closing() and not self._poll.poll(0)

    # --- asyncio.Protocol ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports do what asyncio's do but are not derived from them
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)
        # so that ``pause_writing`` tells of every byte that the kernel has not taken
        self._transport.set_write_buffer_limits(high=0)
        connection = transport.get_extra_info("socket")
        self._poll.register(connection.fileno(), select.POLLIN | select.POLLRDHUP)

    def pause_writing(self) -> None:
        """A part of the request waits for the backend to take it."""
        self.unsent = True

    def resume_writing(self) -> None:
        """The whole request has been sent."""
        self.unsent = False

    # --- ReplyReader ---------------------------------------------------------------------------

    def _release(self) -> bool:
        transport = self._transport
        if transport is None:
            return False
        self._receiver = None
        # a reply that overtook its request leaves a rest of that
        if self._paused or transport.is_closing() or transport.get_write_buffer_size():
            transport.abort()
        else:
            self.reused = True
            self._on_idle(self)
        return True

    def _end(self, receiver: Receiver) -> None:
        self._receiver = None
        transport = self._transport
        if transport is None:
            pass
        elif (
            self._keep_alive
            and not transport.is_closing()
            # a reply that overtook its request leaves a rest of that
            and not transport.get_write_buffer_size()
        ):
            if self._paused:
                self._paused = False
                transport.resume_reading()
            self._forget()
            self.reused = True
            self._on_idle(self)
        else:
            transport.abort()
        receiver.reply_ended()

    def _break(self, error: BaseException | None) -> None:
        receiver, self._receiver = self._receiver, None
        if self._transport is not None:
            self._transport.abort()
        if receiver is not None:
            receiver.connection_broken(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the reply, whole if it was to last until now, else broken."""
        if self._transport is not None and exc is None and self._before:
            # a reset says nothing: it can overtake the acknowledgement of what was read
            self.undelivered = acknowledged(self._transport) <= self._before
        self._transport = self._onward = None
        del self._parser  # which knows the connection, so that neither would go by itself
        self.tell_events()
        receiver, self._receiver = self._receiver, None
        self._on_lost(self)
        if receiver is None:
            return
        if exc is None and self._told and self._until_close:
            receiver.reply_ended()
        else:
            receiver.connection_broken(exc)
