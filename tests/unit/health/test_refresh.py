"""One look for everyone who asks at the same time, one a second at most."""

from __future__ import annotations

import asyncio

from ollad.health.refresh import FRESH_SECONDS, SharedRefresh


class Looks:
    """Counts looks, which end when they are allowed to."""

    def __init__(self) -> None:
        self.count = 0
        self.ended = 0
        self.now = 100.0
        self.allowed = asyncio.Event()
        self.refresh = SharedRefresh(self.look, lambda: self.now)

    async def look(self) -> None:
        self.count += 1
        await self.allowed.wait()
        self.ended += 1


async def test_whoever_asks_during_a_look_waits_for_its_end() -> None:
    looks = Looks()
    asking = [asyncio.create_task(looks.refresh()) for _ in range(5)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in asking)
    looks.allowed.set()
    await asyncio.gather(*asking)
    assert (looks.count, looks.ended) == (1, 1)


async def test_what_was_found_serves_for_a_second_from_the_end_of_the_look() -> None:
    looks = Looks()
    looks.allowed.set()
    await looks.refresh()
    looks.now += FRESH_SECONDS / 2
    await looks.refresh()
    assert looks.count == 1
    looks.now += FRESH_SECONDS / 2
    await looks.refresh()
    assert looks.count == 2


async def test_one_who_leaves_does_not_take_the_look_along() -> None:
    looks = Looks()
    leaving, staying = (asyncio.create_task(looks.refresh()) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    assert leaving.cancelled()
    looks.allowed.set()
    await staying
    assert looks.ended == 1


async def test_closing_ends_a_look_and_those_who_wait_for_it() -> None:
    looks = Looks()
    asking = asyncio.create_task(looks.refresh())
    await asyncio.sleep(0)
    await looks.refresh.close()
    await asyncio.wait_for(asking, 1)
    assert looks.ended == 0
    await looks.refresh.close()
