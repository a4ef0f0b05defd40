from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ollad.relay.watch import NEVER, Watch

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """What a loop gives for a call that is to come."""

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """A clock that is moved by hand, and the calls that its time brings."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list[Timer] = []

    def clock(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        assert delay >= 0.0
        timer = Timer(self.now + delay, call)
        self._timers.append(timer)
        return timer

    @property
    def timers(self) -> list[float]:
        """When there will be calls."""
        return [timer.due for timer in self._timers if not timer.cancelled]

    def pass_to(self, now: float) -> None:
        """Let the time come, with every call on its way there."""
        while True:
            due = [t for t in self._timers if not t.cancelled and t.due <= now]
            if not due:
                break
            timer = min(due, key=lambda timer: timer.due)
            self._timers.remove(timer)
            self.now = max(self.now, timer.due)
            timer.call()
        self.now = now


class Silence:
    """Something that is to be ended at a time, which may be put off."""

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.looks: list[float] = []
        self.ended: list[float] = []

    def look(self, now: float) -> float:
        self.looks.append(now)
        if now < self.ends:
            return self.ends
        if not self.ended:
            self.ended.append(now)
        return NEVER


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


@pytest.fixture
def watch(loop: Loop) -> Watch:
    return Watch(loop.clock)


def test_what_is_due_is_looked_at_when_it_is_and_not_before(loop: Loop, watch: Watch) -> None:
    one = Silence(110.0)
    watch.add(one, 110.0)
    loop.pass_to(109.9)
    assert one.looks == []
    loop.pass_to(110.0)
    assert one.looks == [110.0]


def test_each_of_many_ends_when_it_is_due(loop: Loop, watch: Watch) -> None:
    many = [Silence(due) for due in (130.0, 110.0, 120.0, 110.0, 140.0)]
    for one in many:
        watch.add(one, one.ends)
    assert loop.timers == [110.0]
    loop.pass_to(125.0)
    assert [one.ended for one in many] == [[], [110.0], [120.0], [110.0], []]
    loop.pass_to(200.0)
    assert [one.ended[0] for one in many] == [130.0, 110.0, 120.0, 110.0, 140.0]


def test_nothing_is_looked_at_before_the_earliest_is_due(loop: Loop, watch: Watch) -> None:
    early, late = Silence(110.0), Silence(120.0)
    watch.add(late, 120.0)
    watch.add(early, 110.0)
    loop.pass_to(109.9)
    assert (early.looks, late.looks) == ([], [])
    loop.pass_to(119.9)
    assert (early.ended, late.ended) == ([110.0], [])
    loop.pass_to(120.0)
    assert late.ended == [120.0]


def test_one_timer_does_for_all(loop: Loop, watch: Watch) -> None:
    for due in (130.0, 120.0, 125.0, 110.0, 140.0):
        watch.add(Silence(due), due)
        assert len(loop.timers) == 1
    assert loop.timers == [110.0]


def test_what_is_added_later_and_due_earlier_moves_the_timer(loop: Loop, watch: Watch) -> None:
    late, early = Silence(120.0), Silence(105.0)
    watch.add(late, 120.0)
    loop.pass_to(102.0)
    watch.add(early, 105.0)
    assert loop.timers == [105.0]
    loop.pass_to(105.0)
    assert early.ended == [105.0]
    assert loop.timers == [120.0]


def test_what_is_added_later_and_due_later_leaves_the_timer(loop: Loop, watch: Watch) -> None:
    first = Silence(110.0)
    watch.add(first, 110.0)
    watch.add(Silence(111.0), 111.0)
    assert loop.timers == [110.0]
    loop.pass_to(110.0)
    assert first.ended == [110.0]
    assert loop.timers == [111.0]


def test_what_was_due_before_it_was_added_is_looked_at_at_once(loop: Loop, watch: Watch) -> None:
    one = Silence(90.0)
    watch.add(one, 90.0)
    assert one.looks == []  # but never while it is being added
    loop.pass_to(100.0)
    assert one.ended == [100.0]


def test_what_has_not_been_silent_is_looked_at_again_when_it_says(loop: Loop, watch: Watch) -> None:
    one = Silence(110.0)
    watch.add(one, 110.0)
    one.ends = 115.0
    loop.pass_to(112.0)
    assert loop.timers == [115.0]
    one.ends = 130.0
    loop.pass_to(200.0)
    assert (one.looks, one.ended) == ([110.0, 115.0, 130.0], [130.0])


def test_what_is_discarded_is_looked_at_no_more(loop: Loop, watch: Watch) -> None:
    gone, other = Silence(110.0), Silence(120.0)
    watch.add(gone, 110.0)
    watch.add(other, 120.0)
    watch.discard(gone)
    watch.discard(gone)
    assert len(watch) == 1
    loop.pass_to(200.0)
    assert gone.looks == []
    assert other.ended == [120.0]


def test_what_was_never_added_can_be_discarded(watch: Watch) -> None:
    watch.discard(Silence(110.0))
    assert len(watch) == 0


def test_what_is_never_due_is_not_watched(loop: Loop, watch: Watch) -> None:
    watch.add(Silence(NEVER), NEVER)
    assert (len(watch), loop.timers) == (0, [])


def test_no_timer_is_left_once_nothing_will_be_due(loop: Loop, watch: Watch) -> None:
    one = Silence(110.0)
    watch.add(one, 110.0)
    loop.pass_to(110.0)
    assert one.ended == [110.0]
    assert loop.timers == []


def test_once_closed_nothing_is_looked_at(loop: Loop, watch: Watch) -> None:
    one, other = Silence(110.0), Silence(120.0)
    watch.add(one, 110.0)
    watch.add(other, 120.0)
    watch.close()
    assert (len(watch), loop.timers) == (0, [])
    loop.pass_to(200.0)
    assert (one.looks, other.looks) == ([], [])


def test_without_anything_to_watch_it_can_be_closed(loop: Loop, watch: Watch) -> None:
    watch.close()
    watch.close()
    assert loop.timers == []


class Adding(Silence):
    """One that adds another while it is looked at."""

    def __init__(self, watch: Watch, ends: float, another: Silence) -> None:
        super().__init__(ends)
        self._watch = watch
        self._another = another

    def look(self, now: float) -> float:
        if not self.looks:
            self._watch.add(self._another, self._another.ends)
        return super().look(now)


@pytest.mark.parametrize(("again", "other"), [(NEVER, 115.0), (120.0, 115.0), (113.0, 115.0)])
def test_what_is_added_while_another_is_looked_at_is_watched_too(
    loop: Loop, watch: Watch, again: float, other: float
) -> None:
    added = Silence(other)
    adding = Adding(watch, again, added)
    watch.add(adding, 110.0)
    loop.pass_to(110.0)
    assert added.looks == []
    assert loop.timers == [min(again, other)]
    loop.pass_to(other)
    assert added.ended == [other]
    loop.pass_to(200.0)
    assert adding.ended == ([] if again == NEVER else [again])
    assert loop.timers == []


class Discarding(Silence):
    """One that ends by discarding itself."""

    def __init__(self, watch: Watch, ends: float) -> None:
        super().__init__(ends)
        self._watch = watch

    def look(self, now: float) -> float:
        self._watch.discard(self)
        return super().look(now)


def test_what_is_discarded_while_it_is_looked_at_spoils_nothing(loop: Loop, watch: Watch) -> None:
    many = [Discarding(watch, 110.0) for _ in range(5)]
    stays = Silence(120.0)
    for one in [*many, stays]:
        watch.add(one, one.ends)
    loop.pass_to(110.0)
    assert len(watch) == 1
    assert all(one.ended == [110.0] for one in many)
    loop.pass_to(120.0)
    assert stays.ended == [120.0]


def test_what_asks_not_to_be_looked_at_any_more_is_not(loop: Loop, watch: Watch) -> None:
    done, other = Silence(110.0), Silence(120.0)
    watch.add(done, 110.0)
    watch.add(other, 120.0)
    loop.pass_to(120.0)
    assert (done.looks, other.ended) == ([110.0], [120.0])


class Ousting(Silence):
    """One that discards another while it is looked at."""

    def __init__(self, watch: Watch, ends: float) -> None:
        super().__init__(ends)
        self._watch = watch
        self.other: Silence | None = None

    def look(self, now: float) -> float:
        if self.other is not None:
            self._watch.discard(self.other)
        return super().look(now)


def test_what_another_discards_while_it_is_looked_at_is_looked_at_no_more(
    loop: Loop, watch: Watch
) -> None:
    one, other = Ousting(watch, 110.0), Ousting(watch, 110.0)
    one.other, other.other = other, one
    watch.add(one, 110.0)
    watch.add(other, 110.0)
    loop.pass_to(110.0)
    assert len(one.looks) + len(other.looks) == 1


async def test_it_works_on_the_running_loop() -> None:
    done = asyncio.Event()

    class Waiting:
        def look(self, now: float) -> float:
            if now < due:
                return due
            done.set()
            return NEVER

    watch = Watch()
    due = watch._clock() + 0.01
    watch.add(Waiting(), due)
    await done.wait()
    assert watch._clock() >= due
    watch.close()
