"""Ending a client's connection so that a truncated reply cannot pass for a whole one."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ollad.relay.downstream import Downstream

__all__ = ["cut", "reset"]

_FLUSH_SECONDS: Final = 5.0
"""How long a client may take to fetch what was written before its connection is reset."""

_POLL_SECONDS: Final = 0.01


async def cut(response: Downstream) -> None:
    """End the connection of a response that has begun, after what was written to it.

    A chunked reply then lacks its last chunk, a sized one its last bytes. A reply that ends with
    its connection has no end of its own to lack, so the connection is reset (RFC 9112 §8).
    """
    transport = response.transport
    if not response.until_close:
        transport.close()
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(_FLUSH_SECONDS):
            await _sent(transport)
    reset(transport)


async def _sent(transport: asyncio.Transport) -> None:
    """Wait until the peer has acknowledged what was written; a reset would discard it."""
    connection = transport.get_extra_info("socket")
    while not transport.is_closing():
        if not transport.get_write_buffer_size():
            queued = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
            if struct.unpack("i", queued) == (0,):
                return
        await asyncio.sleep(_POLL_SECONDS)


def reset(transport: asyncio.Transport) -> None:
    """End a connection at once, in a way that its peer cannot take for a good end."""
    connection = transport.get_extra_info("socket")
    if not transport.is_closing():
        # Without this, closing an idle socket ends the connection in good order.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
