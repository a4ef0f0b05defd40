"""Reading replies off the wire exactly as they are framed, and sending them in pieces."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.wire.fake_sglang import Exchange, Script

__all__ = ["LONE", "OPAQUE", "Reply", "ask", "fields", "in_pieces", "post", "read_reply"]

OPAQUE = "/tokenize"
"""A route whose replies ollad does not read."""

LONE = "/v1/responses/resp_1"
"""A route that takes GET and HEAD."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply.

    Attributes:
        line: the status line.
        headers: as they came.
        body: without its framing.
        chunks: the chunks it came in; empty for other framings.
        trailers: what followed the last chunk.
        whole: whether its framing came to its end.
    """

    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    chunks: tuple[bytes, ...] = ()
    trailers: tuple[tuple[str, str], ...] = ()
    whole: bool = True

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])

    def header(self, name: str) -> str | None:
        """The only value of a header, or None."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1
        return values[0] if values else None


def post(
    path: str = OPAQUE, *, version: str = "1.1", headers: str = "", body: bytes = b'{"prompt":"x"}'
) -> bytes:
    """A POST of JSON below the prefix; ``headers`` are whole lines."""
    head = (
        f"POST /olla/sglang{path} HTTP/{version}\r\nHost: x\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> Reply:
    """Send a request and read its reply."""
    writer.write(request)
    return await read_reply(reader, head_only=request.startswith(b"HEAD "))


async def read_reply(reader: asyncio.StreamReader, *, head_only: bool = False) -> Reply:
    """Read one reply, to the end of the connection if nothing else ends it."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *lines = head.split("\r\n")[:-2]
    headers = fields(lines)
    known = {name.lower(): value for name, value in headers}
    length, coding = known.get("content-length"), known.get("transfer-encoding")
    assert length is None or coding is None
    status = int(line.split(" ")[1])
    if head_only or status in (204, 304):
        return Reply(line, headers, b"")
    if coding is not None:
        return await _chunked(reader, line, headers)
    if length is None:
        try:
            return Reply(line, headers, await reader.read())
        except ConnectionError:
            return Reply(line, headers, b"", whole=False)
    try:
        return Reply(line, headers, await reader.readexactly(int(length)))
    except asyncio.IncompleteReadError as error:
        return Reply(line, headers, error.partial, whole=False)


async def _chunked(
    reader: asyncio.StreamReader, line: str, headers: tuple[tuple[str, str], ...]
) -> Reply:
    chunks: list[bytes] = []
    try:
        while size := int((await reader.readuntil(b"\r\n"))[:-2].partition(b";")[0], 16):
            chunk = await reader.readexactly(size + 2)
            assert chunk.endswith(b"\r\n")
            chunks.append(chunk[:-2])
        lines: list[str] = []
        while field := (await reader.readuntil(b"\r\n"))[:-2]:
            lines.append(field.decode("latin-1"))
    except (asyncio.IncompleteReadError, ConnectionError):
        return Reply(line, headers, b"".join(chunks), tuple(chunks), whole=False)
    return Reply(line, headers, b"".join(chunks), tuple(chunks), fields(lines))


def fields(lines: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The header fields that stand in ``lines``, which are without their ends."""
    return tuple(
        (name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)
    )


def in_pieces(*pieces: bytes, close: bool = False, reset: bool = False) -> Script:
    """Sends these bytes, each in a segment of its own, as far as it is taken."""

    async def script(exchange: Exchange) -> None:
        for piece in pieces:
            await exchange.send(piece)
            await asyncio.sleep(0.001 if len(pieces) > 1 else 0)
        if reset:
            exchange.reset()
        elif close:
            exchange.writer.close()

    return script
