"""Replies as uvicorn frames them: its headers, one chunk an event; and the ones that break off."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import hdrs, web

from ollad.simulator.engine import QueueFullError
from ollad.simulator.options import FailMode

if TYPE_CHECKING:
    from ollad.simulator.faults import Fault

__all__ = ["PROMETHEUS", "UNTYPED", "Responder", "dress", "empty", "json_reply"]

_DONE: Final = b"data: [DONE]\n\n"
_EVENT_STREAM: Final = "text/event-stream; charset=utf-8"
_ORDER: Final = {"date": 0, "server": 1, "allow": 2, "content-length": 3, "content-type": 4}
_PREFLIGHT_ORDER: Final = {"date": 0, "server": 1, "content-length": 6, "content-type": 7}
_MIDDLE: Final = 5
_KEEP_CASE: Final = {"transfer-encoding": "Transfer-Encoding", "connection": "Connection"}
_NO_HTTP: Final = b"\x15\x03\x01 this is no HTTP \x00\xff\r\n\r\n"
_NO_CHUNK: Final = b"this is no chunk\r\n"
_UNASKED: Final = b'{"object":"error","message":"Nobody asked for this reply."}'
_WITHOUT_CORS: Final = frozenset({401, 500})
"""Replies made outside of the CORS middleware."""


UNTYPED: Final = web.ResponseKey("untyped", bool)
"""Marks a reply without a content type."""
PROMETHEUS: Final = web.ResponseKey("prometheus", bool)
"""Marks a reply of the metrics exporter."""


def json_reply(document: Any, status: int = 200) -> web.Response:
    """A whole JSON reply."""
    return web.Response(status=status, body=orjson.dumps(document), content_type="application/json")


def empty(status: int = 200) -> web.Response:
    """A reply without a body, and without a content type."""
    return web.Response(status=status)


async def dress(request: web.Request, response: web.StreamResponse) -> None:
    """Give a reply uvicorn's headers: names, order and case (a signal of the application)."""
    headers = response.headers
    origin = request.headers.get(hdrs.ORIGIN)
    if response.status not in _WITHOUT_CORS and hdrs.VARY not in headers:
        if origin is not None:
            headers["access-control-allow-origin"] = origin
            headers["access-control-allow-credentials"] = "true"
        headers["vary"] = "Origin"
    headers["server"] = "uvicorn"
    if request.version < (1, 1):
        response.force_close()
        headers[hdrs.CONNECTION] = "close"
    if UNTYPED in response:
        headers.popall(hdrs.CONTENT_TYPE, None)
    last = [item for item in headers.items() if item[0].lower() in _KEEP_CASE]
    rest = [item for item in headers.items() if item[0].lower() not in _KEEP_CASE]
    order = _PREFLIGHT_ORDER if hdrs.ACCESS_CONTROL_MAX_AGE in headers else _ORDER
    rest.sort(key=lambda item: order.get(item[0].lower(), _MIDDLE))
    headers.clear()
    for name, value in rest:
        # What the metrics exporter sets keeps its case there.
        kept = PROMETHEUS in response and name.startswith("Content-")
        headers.add(name if kept else name.lower(), value)
    for name, value in last:
        headers.add(_KEEP_CASE[name.lower()], value)


class Responder:
    """Answers one generation request, or breaks off where a fault says so."""

    def __init__(self, request: web.Request, fault: Fault | None) -> None:
        self._request = request
        self._fault = fault
        self._busy = fault is not None and fault.mode is FailMode.BUSY
        self._left = -1 if fault is None or self._busy else fault.after
        self._stream: web.StreamResponse | None = None

    def check_queue(self) -> None:
        """Let the queue seem full to a request that is to fail so.

        Raises:
            QueueFullError: it is.
        """
        if self._busy:
            raise QueueFullError("it seems full")

    async def document(self, value: Any, status: int = 200) -> web.Response:
        """A whole reply."""
        response = json_reply(value, status)
        if self._fault is not None and self._fault.mode is not FailMode.STALL:
            await self._break_off(response)
        return response

    async def open(self) -> web.StreamResponse:
        """Send the head of a stream, once."""
        if self._stream is None:
            self._stream = web.StreamResponse(headers={"content-type": _EVENT_STREAM})
            await self._stream.prepare(self._request)
        return self._stream

    async def event(self, document: Any) -> None:
        """Send an event."""
        await self.raw(b"data: " + orjson.dumps(document) + b"\n\n")

    async def raw(self, event: bytes) -> None:
        """Send an event that is framed already."""
        if self._left == 0:
            await self._break_off(None)
        stream = await self.open()
        self._left -= 1
        await stream.write(event)

    async def done(self) -> web.StreamResponse:
        """Send the last event and the end of the body."""
        if self._fault is not None and not self._busy:
            self._left = 0
        await self.raw(_DONE)
        stream = await self.open()
        await stream.write_eof()
        return stream

    async def _break_off(self, whole: web.Response | None) -> None:
        """Fail, and wait to be cancelled with the connection."""
        transport = self._request.transport
        mode = None if self._fault is None else self._fault.mode
        if transport is not None and mode is FailMode.RESET:
            connection = transport.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        elif transport is not None and mode is FailMode.TRUNCATE:
            if whole is not None and isinstance(whole.body, bytes):
                stream = web.StreamResponse(headers=whole.headers)
                stream.content_length = len(whole.body)
                await stream.prepare(self._request)
                await stream.write(whole.body[: len(whole.body) // 2])
            transport.close()
        elif transport is not None and mode is FailMode.GARBAGE:
            transport.write(self._garbage(whole))
        await asyncio.get_running_loop().create_future()

    def _garbage(self, whole: web.Response | None) -> bytes:
        """What is sent where a reply should stand, or should go on, or was over."""
        if self._stream is not None:
            return _NO_CHUNK
        after = 0 if self._fault is None else self._fault.after
        if whole is None or not isinstance(whole.body, bytes) or after % 2:
            return _NO_HTTP
        # In one piece: what came a moment later could rightly be taken for the next reply.
        return _framed(whole.body) + _framed(_UNASKED)


def _framed(body: bytes) -> bytes:
    """A JSON reply that did not pass through the server."""
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return (head % len(body)).encode() + body
