"""Requests, and what the scripted servers of these tests do about them."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tests.wire.fake_sglang import STREAM_HEAD, chunked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.wire.fake_sglang import Exchange

ROUTE: Final = "/v1/chat/completions"
CHAT: Final = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM: Final = {**CHAT, "stream": True}
EVENT: Final = b'data: {"choices": []}\n\n'
DONE: Final = b"data: [DONE]\n\n"
SELDOM: Final[dict[str, Any]] = {"check_interval": 600.0, "check_timeout": 5.0}
"""Probed at the start only, so that nothing but requests tells what a backend is like."""


async def silent(exchange: Exchange) -> None:
    """Take the request and never answer."""
    await exchange.client_gone.wait()


async def one_event(exchange: Exchange) -> None:
    """Begin a stream and hang."""
    await exchange.send(STREAM_HEAD + chunked(EVENT))
    await exchange.client_gone.wait()


async def reset_after_one_event(exchange: Exchange) -> None:
    """Begin a stream and die."""
    await exchange.send(STREAM_HEAD + chunked(EVENT))
    await asyncio.sleep(0.05)
    exchange.reset()


@contextmanager
def black_hole(port: int) -> Iterator[None]:
    """A port whose connections are never completed, as if a firewall dropped their packets."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(0)
    held = [listener]
    try:
        for _ in range(4):  # its queue of connections is full after the first
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            held.append(filler)
        yield
    finally:
        for each in held:
            each.close()
