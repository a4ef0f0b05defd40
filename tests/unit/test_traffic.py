from __future__ import annotations

import asyncio

import pytest

from ollad.traffic import Traffic


def sleeper() -> asyncio.Task[None]:
    return asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]


def idle(traffic: Traffic) -> asyncio.Task[None]:
    return asyncio.create_task(traffic.idle())


async def test_there_is_traffic_until_the_last_request_has_left() -> None:
    traffic = Traffic()
    one, two = sleeper(), sleeper()
    await asyncio.wait_for(traffic.idle(), 1)
    traffic.enter(one)
    traffic.enter(two)
    waiting = idle(traffic)
    traffic.leave(one)
    await asyncio.sleep(0.01)
    assert (len(traffic), waiting.done()) == (1, False)
    traffic.leave(two)
    await asyncio.wait_for(waiting, 1)
    assert len(traffic) == 0
    one.cancel()
    two.cancel()


async def test_a_request_that_comes_as_the_last_one_leaves_is_waited_for() -> None:
    traffic = Traffic()
    one, two = sleeper(), sleeper()
    traffic.enter(one)
    waiting = idle(traffic)
    await asyncio.sleep(0.01)
    traffic.leave(one)
    traffic.enter(two)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    traffic.leave(two)
    await asyncio.wait_for(waiting, 1)
    one.cancel()
    two.cancel()


async def test_what_is_cut_is_cancelled_and_still_has_to_leave() -> None:
    traffic = Traffic()
    task = sleeper()
    traffic.enter(task)
    waiting = idle(traffic)
    traffic.cut()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert traffic.cut_off
    assert not waiting.done()
    traffic.leave(task)
    await asyncio.wait_for(waiting, 1)
