from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ollad.errors import NotFoundError, UnavailableError
from ollad.waiting import WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 30.0


class Places:
    """So many places, and the room of those who wait for one.

    Attributes:
        free: places that nobody has.
        served: names of those who got one, in order.
    """

    def __init__(self, free: int = 0) -> None:
        self.free = free
        self.served: list[str] = []
        self.room: WaitingRoom[str] = WaitingRoom(lambda _place: self.give_back())

    def take(self, name: str) -> Callable[[], str | None]:
        def taken() -> str | None:
            if not self.free:
                return None
            self.free -= 1
            self.served.append(name)
            return name

        return taken

    def give_back(self) -> None:
        self.free += 1
        self.room.call()

    def come(
        self,
        name: str,
        model: str | None = "tiny",
        *,
        size: int = 100,
        patience: float | None = PATIENCE,
    ) -> asyncio.Task[str]:
        """A request of the client that its first letter names."""
        entering = self.room.enter(model, name[0], self.take(name), size=size, patience=patience)
        return asyncio.create_task(entering)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_finds_a_place_does_not_wait() -> None:
    places = Places(1)
    assert await places.room.enter("m", "a", places.take("a1"), size=0, patience=0) == "a1"
    assert places.room.count == 0


async def test_clients_take_turns_as_places_become_free() -> None:
    places = Places()
    tasks = [places.come(name) for name in ("a1", "a2", "a3", "b1", "b2")]
    await settle()
    assert places.room.waiting() == {"tiny": 5}
    for left in range(4, -1, -1):
        places.give_back()
        assert places.room.count == left
    assert places.served == ["a1", "b1", "a2", "b2", "a3"]
    assert await asyncio.gather(*tasks) == ["a1", "a2", "a3", "b1", "b2"]
    assert places.room.waiting() == {}


async def test_models_take_turns_too() -> None:
    places = Places()
    tasks = [places.come(f"a{n}", "one") for n in range(3)]
    tasks += [places.come("b1", "two"), places.come("c1", None)]
    await settle()
    for _ in range(5):
        places.give_back()
    assert places.served == ["a0", "b1", "c1", "a1", "a2"]
    await asyncio.gather(*tasks)


async def test_one_place_is_given_to_one() -> None:
    places = Places()
    tasks = [places.come("a1"), places.come("b1")]
    await settle()
    places.free = 2
    places.room.call()
    assert places.served == ["a1"]
    places.room.call()
    await asyncio.gather(*tasks)


async def test_whom_the_place_does_not_suit_keeps_its_turn_and_the_next_has_it() -> None:
    places = Places()
    suited = False

    def picky() -> str | None:
        return "picky" if suited else None

    first = asyncio.create_task(
        places.room.enter("tiny", "a", picky, size=9, patience=PATIENCE),
    )
    await settle()
    second = places.come("b1")
    await settle()
    places.give_back()
    assert await second == "b1"
    suited = True
    places.room.call()
    assert await first == "picky"


async def test_a_full_line_refuses_and_says_when_to_come_again() -> None:
    places = Places()
    waiting = places.come("a1", size=1)
    await settle()
    with pytest.raises(UnavailableError) as refused:
        await places.come("a2", size=1)
    assert refused.value.code == "queue_full"
    assert refused.value.headers["Retry-After"]
    assert places.room.waiting() == {"tiny": 1}
    places.give_back()
    await waiting


async def test_each_model_has_a_line_of_its_own_length() -> None:
    places = Places()
    tasks = [places.come("a1", "one", size=1), places.come("a2", "two", size=1)]
    await settle()
    assert places.room.waiting() == {"one": 1, "two": 1}
    places.give_back()
    places.give_back()
    await asyncio.gather(*tasks)


async def test_the_greediest_client_makes_room_in_a_full_line() -> None:
    places = Places()
    greedy = [places.come(f"a{n}", size=3) for n in range(3)]
    await settle()
    modest = places.come("b1", size=3)
    await settle()
    with pytest.raises(UnavailableError) as refused:
        await greedy[2]
    assert refused.value.code == "queue_full"
    for _ in range(3):
        places.give_back()
    assert [await one for one in (*greedy[:2], modest)] == ["a0", "a1", "b1"]


async def test_patience_ends_with_503() -> None:
    places = Places()
    with pytest.raises(UnavailableError) as refused:
        await places.come("a1", patience=0.01)
    assert refused.value.code == "queue_timeout"
    assert refused.value.headers["Retry-After"]
    assert places.room.waiting() == {}


async def test_who_goes_away_leaves_the_line_at_once() -> None:
    places = Places()
    gone, other = places.come("a1"), places.come("b1")
    await settle()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert places.room.waiting() == {"tiny": 1}
    places.give_back()
    assert await other == "b1"
    assert places.served == ["b1"]


async def test_who_goes_away_when_its_turn_has_come_gives_its_place_back() -> None:
    places = Places()
    gone, other = places.come("a1"), places.come("b1")
    await settle()
    places.give_back()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert await other == "b1"
    assert places.free == 0


async def test_who_has_given_up_but_not_left_is_given_nothing() -> None:
    places = Places()
    gone = places.come("a1")
    await settle()
    gone.cancel()
    places.give_back()
    await asyncio.gather(gone, return_exceptions=True)
    assert places.free == 1
    assert places.served == []


async def test_what_makes_the_waiting_vain_ends_it() -> None:
    places = Places()
    vain = False

    def take() -> str | None:
        if vain:
            raise NotFoundError("gone")
        return None

    first = asyncio.create_task(places.room.enter("m", "a", take, size=9, patience=PATIENCE))
    await settle()
    vain = True
    places.room.call()
    with pytest.raises(NotFoundError):
        await first
    assert places.room.waiting() == {}


async def test_what_becomes_free_unannounced_is_noticed() -> None:
    places = Places()
    tasks = [places.come("a1"), places.come("a2")]
    await settle()
    places.free = 2
    assert await asyncio.gather(*tasks) == ["a1", "a2"]


async def test_an_empty_room_leaves_no_timer_behind() -> None:
    places = Places()
    waiting = places.come("a1")
    await settle()
    timer = places.room._timer
    assert timer is not None
    places.give_back()
    await waiting
    assert timer.cancelled()
    assert places.room._timer is None


async def test_it_shows_who_waits() -> None:
    places = Places()
    waiting = places.come("a1", size=7)
    await settle()
    assert repr(places.room) == "<WaitingRoom {'tiny': <FairLine 1/7 {'a': 1}>}>"
    places.give_back()
    await waiting
