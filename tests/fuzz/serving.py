"""A running ollad and a scripted backend, to be used from code that has no event loop."""

from __future__ import annotations

import asyncio
import io
import logging
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from ollad.config.schema import Logging
from ollad.logs import configure
from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import FakeSGLang, serving

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from tests.wire.conftest import Running

__all__ = ["Rig", "open_rig"]

_QUIET_TURNS = 25
"""Turns of the loop without a byte after which nothing more is coming: all is in one process."""


@dataclass(frozen=True, slots=True)
class Rig:
    """What a target works with.

    Attributes:
        loop: where everything runs.
        ollad: the daemon.
        fake: its only backend.
        log: what was logged so far, emptied by ``clear``.
    """

    loop: asyncio.AbstractEventLoop
    ollad: Running
    fake: FakeSGLang
    log: io.BytesIO

    def run(self, coroutine: Coroutine[None, None, None]) -> None:
        """Do ``coroutine`` within ten seconds."""
        self.loop.run_until_complete(asyncio.wait_for(coroutine, 10))

    def clear(self) -> None:
        """Forget what was logged and sent to the backend."""
        self.log.seek(0)
        self.log.truncate()
        self.fake.requests.clear()

    async def exchange(self, *pieces: bytes) -> tuple[bytes, bool]:
        """Send ``pieces``, and read until nothing more comes.

        Returns:
            What came, and whether ollad closed the connection.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ollad.port)
        received = bytearray()
        closed = False
        try:
            for piece in pieces:
                with suppress(ConnectionError):
                    writer.write(piece)
                    await writer.drain()
                closed = await _listen(reader, received) or closed
        finally:
            writer.transport.abort()
        while len(self.ollad.gateway.traffic):  # noqa: ASYNC110 - run() is the limit
            await asyncio.sleep(0)
        return bytes(received), closed


async def _listen(reader: asyncio.StreamReader, received: bytearray) -> bool:
    """Read until nothing more comes; whether the connection was closed."""
    quiet = 0
    while quiet < _QUIET_TURNS:
        await asyncio.sleep(0)
        quiet += 1
        buffered = len(reader._buffer)  # type: ignore[attr-defined]
        try:
            if buffered:
                received += await reader.read(buffered)
                quiet = 0
            elif reader.at_eof():
                return True
        except ConnectionError:
            return True
        if isinstance(reader.exception(), ConnectionError):
            return True
    return False


@contextmanager
def open_rig() -> Iterator[Rig]:
    """Start everything, on a loop of its own, for the length of the block."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log = io.BytesIO()
    configure(Logging(format="json"), stream=log, environ={})
    loop = asyncio.new_event_loop()
    fake = FakeSGLang()
    servers, daemon = serving(fake), None
    try:
        loop.run_until_complete(servers.__aenter__())
        daemon = running(endpoint(fake, check_interval=300.0))
        ollad = loop.run_until_complete(daemon.__aenter__())
        yield Rig(loop, ollad, fake, log)
    finally:
        if daemon is not None:
            loop.run_until_complete(daemon.__aexit__(None, None, None))
        loop.run_until_complete(servers.__aexit__(None, None, None))
        loop.close()
        logging.captureWarnings(capture=False)
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
