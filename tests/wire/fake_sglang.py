"""A scripted SGLang server: answers probes itself, and data-plane requests as it is told.

It speaks raw sockets, so that a test decides about every byte and every fault, and remembers every
byte it was sent.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Exchange", "FakeSGLang", "chunked", "reply", "serving", "sse"]


@dataclass(slots=True)
class Exchange:
    """One request that was received, and the means to answer it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    client_gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The last value of a header, or None."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return values[-1] if values else None

    async def send(self, data: bytes) -> None:
        """Write and flush.

        Raises:
            ConnectionError: nobody takes it.
        """
        if self.writer.transport.is_closing():
            raise ConnectionResetError("The client has gone.")
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """End the connection at once."""
        self.writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


def reply(
    body: bytes | dict[str, Any] | list[Any],
    status: str = "200 OK",
    headers: dict[str, str] | None = None,
    content_type: str = "application/json",
) -> Script:
    """A whole reply with a length."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(data)}", "server: uvicorn"]
    if content_type:
        lines.append(f"content-type: {content_type}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    text = "\r\n".join(lines).encode() + b"\r\n\r\n" + data

    async def script(exchange: Exchange) -> None:
        await exchange.send(text)

    return script


def chunked(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


def sse(*events: bytes | str | dict[str, Any], pause: float = 0.0, done: bool = True) -> Script:
    """A stream of events, a chunk each, ended by ``[DONE]`` unless told otherwise."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD)
        for event in events:
            await exchange.send(chunked(event_bytes(event)))
            await asyncio.sleep(pause)
        if done:
            await exchange.send(chunked(b"data: [DONE]\n\n"))
        await exchange.send(b"0\r\n\r\n")

    return script


def event_bytes(event: bytes | str | dict[str, Any]) -> bytes:
    """An event as SGLang frames it."""
    if isinstance(event, bytes):
        return event
    return b"data: " + (event if isinstance(event, str) else json.dumps(event)).encode() + b"\n\n"


class FakeSGLang:
    """The server; ``scripts`` maps a path to what is done about it.

    Attributes:
        requests: every data-plane request, in order of arrival.
        probes: how often each probe route was asked.
        scripts: by path; a list is used up one by one, its last element stays.
        deaf: paths whose requests are answered by nothing, their bodies never read.
        hasty: what is answered by path before the body is read, which it never is.
        connections: connections open now.
    """

    def __init__(self, models: tuple[str, ...] = ("tiny",), version: str = "0.5.23") -> None:
        self.requests: list[Exchange] = []
        self.probes: dict[str, int] = defaultdict(int)
        self.scripts: dict[str, Script | list[Script]] = {}
        self.deaf: set[str] = set()
        self.hasty: dict[str, bytes] = {}
        self.connections = 0
        self.opened = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.server_info: dict[str, Any] = {
            "version": version,
            "startup_time": 1.0,
            "disable_radix_cache": False,
            "speculative_algorithm": None,
            "enable_cache_report": True,
            "tp_size": 1,
            "api_key": "backend-secret-key",
        }
        self.model_info: dict[str, Any] = {
            "model_path": "/models/tiny",
            "is_generation": True,
            "has_image_understanding": False,
            "has_audio_understanding": False,
        }
        self.cards: list[dict[str, Any]] = [
            {
                "id": model,
                "object": "model",
                "created": 1795351293,
                "owned_by": "sglang",
                "root": model,
                "parent": None,
                "max_model_len": 8192,
            }
            for model in models
        ]
        self.load: dict[str, Any] = {
            "dp_rank": 0,
            "num_running_reqs": 2,
            "num_waiting_reqs": 1,
            "num_waiting_uncached_tokens": 0,
            "max_total_num_tokens": 20000,
            "token_usage": 0.1,
            "memory": {"kv_cache_gb": 1.0},
        }
        self.metrics = (
            'sglang:kv_available_tokens{model_name="tiny"} 13000.0\n'
            'sglang:kv_evictable_tokens{model_name="tiny"} 5000.0\n'
            'sglang:kv_used_tokens{model_name="tiny"} 2000.0\n'
            'sglang:max_total_num_tokens{model_name="tiny"} 20000.0\n'
            'sglang:token_usage{model_name="tiny"} 0.1\n'
        )
        self.paths: list[str] = ["/v1/chat/completions", "/generate"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def probe_reply(self, path: str) -> Script | None:
        """What a probe of ``path`` gets, or None if it is no probe."""
        match path:
            case "/ready" | "/health":
                return reply(b"", content_type="")
            case "/v1/models":
                return reply({"object": "list", "data": self.cards})
            case "/server_info":
                return reply(self.server_info)
            case "/model_info":
                return reply(self.model_info)
            case "/v1/loads":
                return reply({"version": self.server_info["version"], "loads": [self.load]})
            case "/metrics":
                return reply(self.metrics.encode(), content_type="text/plain; version=0.0.4")
            case "/openapi.json":
                return reply({"paths": {name: {"post": {}} for name in self.paths}})
            case _:
                return None

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse_connections(self) -> None:
        """Stop listening; open connections stay."""
        assert self._server is not None
        self._server.close()

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.opened += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        request_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = request_line.split(" ")
        headers = [(name, value.strip()) for name, _, value in (h.partition(":") for h in lines)]
        length = next((int(v) for k, v in headers if k.lower() == "content-length"), 0)
        exchange = Exchange(method, target, headers, b"", reader, writer)
        if exchange.path in self.deaf or exchange.path in self.hasty:
            self.requests.append(exchange)
            writer.write(self.hasty.get(exchange.path, b""))
            await asyncio.Event().wait()
        exchange.body = await reader.readexactly(length)
        script = self._script(exchange)
        watcher = asyncio.create_task(_watch(exchange))
        try:
            await script(exchange)
        except ConnectionError:
            exchange.client_gone.set()  # the watcher may not have come to see it
            raise
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        return not writer.transport.is_closing()

    def _script(self, exchange: Exchange) -> Script:
        path = exchange.path
        scripted = self.scripts.get(path)
        if scripted is not None:
            self.requests.append(exchange)
            if isinstance(scripted, list):
                return scripted.pop(0) if len(scripted) > 1 else scripted[0]
            return scripted
        probe = self.probe_reply(path)
        if probe is not None:
            self.probes[path] += 1
            return probe
        self.requests.append(exchange)
        return reply({"detail": "Not Found"}, "404 Not Found")


async def _watch(exchange: Exchange) -> None:
    """Notice that the client closed its end."""
    while not exchange.reader.at_eof():  # noqa: ASYNC110 - a reader tells nobody
        await asyncio.sleep(0.005)
    exchange.client_gone.set()


@asynccontextmanager
async def serving(*fakes: FakeSGLang) -> AsyncIterator[None]:
    """Run the servers for the length of the block."""
    for fake in fakes:
        await fake.start()
    try:
        yield
    finally:
        for fake in fakes:
            await fake.stop()
