"""A whole ollad in the test's own event loop, in front of scripted servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
import structlog

from ollad.config.schema import Config, Endpoint, Server
from ollad.daemon import Daemon
from ollad.gateway import Gateway
from tests.wire.fake_sglang import FakeSGLang

PREFIX = "/olla/sglang"


@dataclass(frozen=True, slots=True)
class Running:
    """An ollad under test.

    Attributes:
        session: a client whose paths are relative to ollad's root.
        gateway: the daemon's inside.
        port: where it listens.
    """

    daemon: Daemon
    session: aiohttp.ClientSession
    port: int

    @property
    def gateway(self) -> Gateway:
        assert self.daemon._gateway is not None
        return self.daemon._gateway

    async def post(
        self, path: str, body: Any, **options: Any
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """POST JSON below the prefix; the response and its whole body."""
        async with self.session.post(PREFIX + path, json=body, **options) as response:
            return response, await response.read()

    async def get(self, path: str, **options: Any) -> tuple[aiohttp.ClientResponse, bytes]:
        """GET from the root; the response and its whole body."""
        async with self.session.get(path, **options) as response:
            return response, await response.read()


def endpoint(fake: FakeSGLang, name: str = "one", **changes: Any) -> Endpoint:
    """An endpoint for a scripted server, probed often."""
    defaults: dict[str, Any] = {"check_interval": 0.1, "check_timeout": 0.1}
    return Endpoint(url=fake.url, name=name, **{**defaults, **changes})


@asynccontextmanager
async def running(*endpoints: Endpoint, **sections: Any) -> AsyncIterator[Running]:
    """Run an ollad with these endpoints; ``sections`` are fields of ``Config``."""
    server = replace(sections.pop("server", Server()), port=0)
    config = Config(endpoints=endpoints, server=server, **sections)
    daemon = Daemon(config, structlog.get_logger())
    async with AsyncExitStack() as stack:
        await daemon.start()
        stack.push_async_callback(daemon.close)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(f"http://127.0.0.1:{daemon.port}")
        )
        yield Running(daemon, session, daemon.port)


@pytest.fixture
async def fake() -> AsyncIterator[FakeSGLang]:
    """One scripted server."""
    server = FakeSGLang()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def ollad(fake: FakeSGLang) -> AsyncIterator[Running]:
    """An ollad in front of ``fake``."""
    async with running(endpoint(fake)) as instance:
        yield instance


@pytest.fixture
def other_fakes() -> Callable[[int], list[FakeSGLang]]:
    """More scripted servers, to be started by ``serving``."""
    return lambda count: [FakeSGLang() for _ in range(count)]
