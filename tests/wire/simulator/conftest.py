"""Simulated servers in the test's own event loop, as fast as they go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ollad.simulator.engine import EngineConfig
from ollad.simulator.options import Options
from ollad.simulator.server import SimulatedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ENGINE = EngineConfig(
    cache_tokens=20_000, max_running=16, prefill_rate=50_000.0, tokens_per_second=250.0
)
RECORDED = Options(model="tiny-llama", engine=ENGINE, context_length=8192, health_seconds=0.0)
"""The server of the recordings, but for its health check, which takes a second there."""

Start = Callable[..., Awaitable[SimulatedServer]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a server with options that differ from the recorded one's; ``engine`` likewise."""
    async with AsyncExitStack() as stack:

        async def start(
            engine: dict[str, Any] | None = None, keep_alive: float | None = None, **changes: Any
        ) -> SimulatedServer:
            options = replace(RECORDED, engine=replace(ENGINE, **(engine or {})), **changes)
            server = (
                SimulatedServer(options)
                if keep_alive is None
                else SimulatedServer(options, keep_alive=keep_alive)
            )
            await server.start()
            stack.push_async_callback(server.close)
            return server

        yield start
