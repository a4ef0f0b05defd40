from __future__ import annotations

import asyncio

import pytest

from ollad.gateway import Traffic


def sleeper() -> asyncio.Task[None]:
    return asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]


async def test_there_is_traffic_until_the_last_request_has_left() -> None:
    traffic = Traffic()
    one, two = sleeper(), sleeper()
    assert traffic.idle.is_set()
    traffic.enter(one)
    traffic.enter(two)
    traffic.leave(one)
    assert (len(traffic), traffic.idle.is_set()) == (1, False)
    traffic.leave(two)
    assert (len(traffic), traffic.idle.is_set()) == (0, True)
    one.cancel()
    two.cancel()


async def test_what_is_cut_is_cancelled_and_still_has_to_leave() -> None:
    traffic = Traffic()
    task = sleeper()
    traffic.enter(task)
    traffic.cut()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert traffic.cut_off
    assert not traffic.idle.is_set()
    traffic.leave(task)
    assert traffic.idle.is_set()
