"""A whole ollad in the test's own event loop, in front of scripted servers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import structlog
from blockbuster import blockbuster_ctx

from ollad.config.schema import Config, Endpoint, Server
from ollad.daemon import Daemon
from tests.wire.fake_sglang import FakeSGLang
from tests.wire.loglines import logging_to_memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from ollad.gateway import Gateway
    from tests.wire.loglines import LogLines

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
    defaults: dict[str, Any] = {"check_interval": 0.1, "check_timeout": 5.0}
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


@pytest.fixture(autouse=True)
def _blocking_the_loop_is_an_error() -> Iterator[None]:
    """Whatever ollad does on the event loop must not block it."""
    with blockbuster_ctx("ollad") as blockbuster:
        for function in blockbuster.functions.values():
            # the process metrics come from /proc, which is no disk
            function.can_block_in("prometheus_client/process_collector.py", "collect")
        yield


@pytest.fixture(autouse=True)
async def _no_task_is_left_behind() -> AsyncIterator[None]:
    """Every task has an owner that ends it."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left


@pytest.fixture
def log() -> Iterator[LogLines]:
    """What ollad logs; to be asked for before ``ollad``."""
    with logging_to_memory() as lines:
        yield lines


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
