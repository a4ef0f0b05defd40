"""Carries out a plan."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.chaos.records import Trouble

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.backends import Backend
    from tests.chaos.daemon import Daemon
    from tests.chaos.plan import Act, Plan, Reload

__all__ = ["inject"]


async def inject(plan: Plan, backends: Sequence[Backend], daemon: Daemon) -> None:
    """Do everything at its time, and return when all is over.

    Raises:
        ExceptionGroup: something could not be done, so that the run shows nothing.
    """
    start = time.monotonic()

    async def wait(at: float) -> None:
        await asyncio.sleep(max(0.0, start + at - time.monotonic()))

    async def act(one: Act) -> None:
        await wait(one.at)
        backend = backends[one.backend]
        if one.trouble is Trouble.REMOVE:
            await daemon.without(backend.name, one.seconds)
        else:
            await backend.suffer(one.trouble, one.seconds, one.rate)

    async def reload(one: Reload) -> None:
        await wait(one.at)
        await daemon.reload(one.variant, good=one.good)

    async def outage(begin: float, end: float, backend: Backend) -> None:
        await wait(begin)
        await backend.suffer(Trouble.KILL, end - begin, 1.0)

    async with asyncio.TaskGroup() as group:
        for one in plan.acts:
            group.create_task(act(one))
        for hangup in plan.reloads:
            group.create_task(reload(hangup))
        if plan.outage is not None:
            for backend in backends:
                group.create_task(outage(*plan.outage, backend))
