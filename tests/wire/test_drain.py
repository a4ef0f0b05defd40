"""How the daemon ends: what is under way finishes, what is new is turned away, nothing hangs."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.wire.conftest import PREFIX
from tests.wire.fake_sglang import STREAM_HEAD, chunked, event_bytes, reply
from tests.wire.process import configuration, launched, serve
from tests.wire.raw import connected, exchange, request, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.wire.fake_sglang import Exchange, FakeSGLang
    from tests.wire.process import Process
    from tests.wire.raw import Wire

CHAT_PATH = "/v1/chat/completions"
STREAM = b'{"model": "tiny", "messages": [], "stream": true}'
WHOLE = b'{"model": "tiny", "messages": []}'
EVENT = event_bytes({"choices": []})


def chat(body: bytes, version: str = "1.1") -> bytes:
    data = request(f"POST {PREFIX}{CHAT_PATH}", "Content-Type: application/json", body=body)
    return data.replace(b"HTTP/1.1", b"HTTP/" + version.encode(), 1)


class Held:
    """A backend whose answers wait to be let go.

    Attributes:
        release: lets them go.
    """

    def __init__(self, fake: FakeSGLang) -> None:
        self.release = asyncio.Event()
        fake.scripts[CHAT_PATH] = self._script

    async def _script(self, exchange: Exchange) -> None:
        if exchange.json.get("stream"):
            await exchange.send(STREAM_HEAD + chunked(EVENT))
            await self._released(exchange)
            await exchange.send(chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        else:
            await self._released(exchange)
            await reply({"choices": []})(exchange)

    async def _released(self, exchange: Exchange) -> None:
        gone = asyncio.create_task(exchange.client_gone.wait())
        released = asyncio.create_task(self.release.wait())
        await asyncio.wait((gone, released), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        released.cancel()


@asynccontextmanager
async def stream_under_way(process: Process, version: str = "1.1") -> AsyncIterator[Wire]:
    """A connection on which a stream has begun."""
    async with connected(process.port) as (reader, writer):
        writer.write(chat(STREAM, version))
        await reader.readuntil(EVENT)
        yield reader, writer


async def status_of(process: Process, path: str) -> int:
    data = await exchange(process.port, request(f"GET {path}"))
    return int(data.split()[1])


async def test_what_is_under_way_finishes_and_what_is_new_is_turned_away(
    fake: FakeSGLang, tmp_path: Path
) -> None:
    held = Held(fake)
    async with serve(configuration(tmp_path, fake.url)) as ollad:
        assert await status_of(ollad, "/internal/ready") == 200
        async with stream_under_way(ollad) as (reader, _):
            ollad.process.send_signal(signal.SIGTERM)
            await ollad.logged("draining")
            assert await status_of(ollad, "/internal/ready") == 503
            assert await status_of(ollad, "/internal/health") == 200
            refused = await exchange(
                ollad.port, chat(WHOLE).replace(b"Connection: close\r\n", b"", 1)
            )
            head, _, body = refused.partition(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            assert lines[0].startswith(b"http/1.1 503")
            assert b"connection: close" in lines
            assert any(line.startswith(b"retry-after: ") for line in lines)
            assert json.loads(body)["error"]["code"] == "draining"
            assert len(fake.requests) == 1
            held.release.set()
            assert (await reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert await ollad.process.wait() == 0
        assert ollad.entries("stopped")
        assert not ollad.entries("cutting requests off")


async def test_an_idle_daemon_ends_at_once(fake: FakeSGLang, tmp_path: Path) -> None:
    async with serve(configuration(tmp_path, fake.url)) as ollad, connected(ollad.port):
        ollad.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await ollad.process.wait() == 0


async def test_what_takes_longer_than_the_shutdown_timeout_is_cut(
    fake: FakeSGLang, tmp_path: Path
) -> None:
    Held(fake)
    config = configuration(tmp_path, fake.url, server={"port": 0, "shutdown_timeout": "100ms"})
    async with (
        serve(config) as ollad,
        stream_under_way(ollad) as (stream, _),
        connected(ollad.port) as (whole, writer),
    ):
        writer.write(chat(WHOLE))
        await until(lambda: len(fake.requests) == 2)
        ollad.process.send_signal(signal.SIGTERM)
        assert not (await stream.read()).endswith(b"0\r\n\r\n")
        head, _, body = (await whole.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert json.loads(body)["error"]["code"] == "draining"
        assert await ollad.process.wait() == 0
        assert ollad.entries("cutting requests off")[0]["under_way"] == 2
        lines = {entry["status"]: entry for entry in ollad.entries("request")}
        assert lines[200]["error"] == "shutdown"
        assert lines[503]["error"] == "draining"
        assert "Traceback" not in ollad.log.read_text()
    for held in fake.requests:
        await held.client_gone.wait()


async def test_a_second_signal_ends_the_draining(fake: FakeSGLang, tmp_path: Path) -> None:
    Held(fake)
    config = configuration(tmp_path, fake.url, server={"port": 0, "shutdown_timeout": "1h"})
    async with serve(config) as ollad, stream_under_way(ollad) as (reader, _):
        ollad.process.send_signal(signal.SIGTERM)
        await ollad.logged("draining")
        ollad.process.send_signal(signal.SIGINT)
        assert not (await reader.read()).endswith(b"0\r\n\r\n")
        assert await ollad.process.wait() == 0


async def test_a_cut_stream_that_its_connection_delimits_is_reset(
    fake: FakeSGLang, tmp_path: Path
) -> None:
    Held(fake)
    config = configuration(tmp_path, fake.url, server={"port": 0, "shutdown_timeout": "0"})
    async with serve(config) as ollad, stream_under_way(ollad, "1.0") as (reader, _):
        ollad.process.send_signal(signal.SIGTERM)
        try:
            await reader.read()
        except ConnectionResetError:
            reset = True
        else:
            reset = False
        assert reset
        assert await ollad.process.wait() == 0


async def test_a_signal_while_backends_are_first_probed_ends_the_start(
    fake: FakeSGLang, tmp_path: Path
) -> None:
    asked = asyncio.Event()

    async def silent(exchange: Exchange) -> None:
        asked.set()
        await exchange.client_gone.wait()

    fake.scripts["/v1/models"] = silent
    config = configuration(tmp_path, fake.url)
    config.write_text(config.read_text().replace("2s", "1h"))

    async with launched(config) as ollad:
        await asked.wait()
        ollad.process.send_signal(signal.SIGTERM)
        assert await ollad.process.wait() == 0
        assert not ollad.entries("listening")
        assert "Traceback" not in ollad.log.read_text()


async def test_ctrl_c_ends_it_in_order(fake: FakeSGLang, tmp_path: Path) -> None:
    async with serve(configuration(tmp_path, fake.url)) as ollad:
        ollad.process.send_signal(signal.SIGINT)
        assert await ollad.process.wait() == 0
        assert "Traceback" not in ollad.log.read_text()
        assert "KeyboardInterrupt" not in ollad.log.read_text()
