"""What holds for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import uvloop
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

# a busy machine is no reason to fail: how long examples take says nothing about the code
settings.register_profile("ollad", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ollad")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run asynchronous tests on the event loop that the daemon runs on."""
    return {"uvloop": uvloop.new_event_loop}
