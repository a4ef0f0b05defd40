"""Rounds of several backends shall not stay in step."""

from __future__ import annotations

import asyncio

import pytest

from ollad.backends.backend import Backend
from ollad.backends.pool import Pool
from ollad.config.schema import Endpoint, Health
from ollad.health.fetch import open_client
from ollad.health.schedule import HealthMonitor
from ollad.tls import BackendTls


@pytest.mark.parametrize(("drawn", "pause"), [(0.0, 9.0), (0.5, 10.0), (1.0, 11.0)])
async def test_the_time_between_two_rounds_varies_by_a_tenth_either_way(
    drawn: float, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    paused = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        paused.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("ollad.health.schedule.asyncio.sleep", sleep)
    endpoint = Endpoint(url="http://127.0.0.1:1", name="a", check_interval=10.0)
    async with open_client(BackendTls({})) as client:
        monitor = HealthMonitor(
            Pool([Backend(endpoint)]),
            Health(),
            client,
            clock=lambda: 0.0,
            random=lambda: drawn,
        )
        monitor.start()
        try:
            await paused.wait()
        finally:
            await monitor.stop()
    assert pauses == [pytest.approx(pause)]
