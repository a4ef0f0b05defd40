from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.simulator.engine import Engine, EngineConfig, Phase, QueueFullError

if TYPE_CHECKING:
    from ollad.simulator.engine import Task

# A prompt token takes 10 ms, a generated one 100 ms.
CONFIG = EngineConfig(
    cache_tokens=1000, prefill_rate=100.0, tokens_per_second=10.0, max_running=4, max_queued=None
)


def engine_with(**changes: object) -> Engine:
    values = {name: getattr(CONFIG, name) for name in CONFIG.__slots__}
    return Engine(EngineConfig(**{**values, **changes}))


def prompt(start: int, length: int = 100) -> list[int]:
    return list(range(start * 10_000, start * 10_000 + length))


def output(length: int) -> list[int]:
    return list(range(900_000, 900_000 + length))


def finish(engine: Engine) -> float:
    """Let it run until it is idle; returns when that was."""
    at = 0.0
    while (moment := engine.next_event()) is not None:
        engine.advance(moment)
        at = moment
    return at


def test_the_first_token_comes_after_the_prefill_and_the_others_step_by_step() -> None:
    engine = engine_with()
    task = engine.submit(prompt(1), output(5), 0.0)
    assert engine.advance(0.99) == []
    assert engine.generated(task, 0.99) == 0
    assert engine.advance(1.0) == [task]
    assert engine.generated(task, 1.0) == 1
    assert engine.generated(task, 1.25) == 3
    assert engine.next_step(1.25) == pytest.approx(1.3)
    assert finish(engine) == pytest.approx(1.4)
    assert task.phase is Phase.FINISHED
    assert task.generated == 5


def test_requests_are_prefilled_one_by_one_in_the_order_they_came() -> None:
    engine = engine_with()
    tasks = [engine.submit(prompt(number), output(1), 0.0) for number in range(3)]
    finish(engine)
    assert [task.first_token for task in tasks] == pytest.approx([1.0, 2.0, 3.0])


def test_no_more_run_than_may_and_nobody_overtakes() -> None:
    engine = engine_with(max_running=2)
    tasks = [engine.submit(prompt(number, 10), output(50), 0.0) for number in range(3)]
    engine.advance(1.0)
    assert [task.phase for task in tasks] == [Phase.DECODE, Phase.DECODE, Phase.WAITING]
    finish(engine)
    assert tasks[2].started == pytest.approx(tasks[0].ended)


def test_a_cached_prefix_is_not_computed_again() -> None:
    engine = engine_with()
    first = engine.submit(prompt(1), output(3), 0.0)
    finish(engine)
    again = engine.submit(prompt(1), output(3), 10.0)
    finish(engine)
    assert first.cached == 0
    assert again.cached == 99  # the last token is always computed
    assert again.first_token == pytest.approx(10.01)


def test_the_answer_is_cached_for_the_next_turn_but_for_its_last_token() -> None:
    engine = engine_with()
    engine.submit(prompt(1), output(20), 0.0)
    finish(engine)
    turn = engine.submit([*prompt(1), *output(20), 1, 2, 3], output(1), 10.0)
    finish(engine)
    assert turn.cached == 119


def test_a_request_that_waited_profits_from_the_one_before_it() -> None:
    engine = engine_with()
    engine.submit(prompt(1), output(100), 0.0)
    second = engine.submit(prompt(1), output(1), 0.0)
    finish(engine)
    assert second.cached == 99


def test_only_whole_pages_are_cached() -> None:
    engine = engine_with(page_size=16)
    engine.submit(prompt(1), output(1), 0.0)
    finish(engine)
    again = engine.submit(prompt(1), output(1), 10.0)
    finish(engine)
    assert again.cached == 96


def test_without_caching_nothing_is_found() -> None:
    engine = engine_with(caching=False)
    for _ in range(2):
        task = engine.submit(prompt(1), output(1), 10.0)
        finish(engine)
    assert task.cached == 0
    assert engine.cache.size == 0


def test_what_running_requests_hold_is_not_evicted() -> None:
    engine = engine_with(cache_tokens=400)
    running = engine.submit(prompt(1), output(100), 0.0)
    engine.advance(1.0)
    for number in (2, 3):
        engine.submit(prompt(number, 140), output(1), 1.0)
        engine.advance(1.0 + 2 * number)
    assert running.phase is Phase.DECODE
    assert engine.cache.peek(prompt(1)) == 100
    assert engine.cache.peek(prompt(2, 140)) < 140  # made room for the third


def test_a_request_waits_until_memory_holds_its_prompt_and_answer() -> None:
    engine = engine_with(cache_tokens=300)
    holder = engine.submit(prompt(1), output(100), 0.0)
    big = engine.submit(prompt(2, 150), output(1), 0.0)
    small = engine.submit(prompt(3, 10), output(1), 0.0)
    engine.advance(5.0)
    assert big.phase is small.phase is Phase.WAITING
    finish(engine)
    assert big.started == pytest.approx(holder.ended)
    assert small.started is not None
    assert big.started is not None
    assert small.started >= big.started


def test_a_request_that_could_never_run_is_refused() -> None:
    with pytest.raises(ValueError, match="1001 tokens in memory of 1000"):
        engine_with().submit(prompt(1, 1000), output(1), 0.0)


def test_the_queue_takes_no_more_than_it_may() -> None:
    engine = engine_with(max_running=1, max_queued=2)
    for number in range(3):
        engine.submit(prompt(number), output(1), 0.0)
    with pytest.raises(QueueFullError):
        engine.submit(prompt(9), output(1), 0.0)
    engine.advance(1.0)
    engine.submit(prompt(9), output(1), 1.0)


@pytest.mark.parametrize("moment", [0.5, 1.0, 1.55])
def test_an_aborted_request_leaves_its_place_and_its_memory(moment: float) -> None:
    engine = engine_with(max_running=1)
    first = engine.submit(prompt(1), output(50), 0.0)
    second = engine.submit(prompt(2), output(1), 0.0)
    engine.advance(moment)
    engine.abort(first, moment)
    assert first.phase is Phase.ABORTED
    assert second.started == moment
    engine.abort(first, moment)  # once more does nothing
    finish(engine)
    assert engine.idle
    assert engine.cache.reserved == engine.cache.pinned == 0
    assert engine.usage(9.0).used == 0


def test_an_aborted_request_keeps_the_tokens_it_has() -> None:
    engine = engine_with()
    task = engine.submit(prompt(1), output(50), 0.0)
    engine.advance(1.55)
    engine.abort(task, 1.55)
    assert task.generated == engine.generated(task, 9.0) == 6


def test_waiting_requests_can_be_aborted() -> None:
    engine = engine_with(max_running=1)
    engine.submit(prompt(1), output(1), 0.0)
    waiting = engine.submit(prompt(2), output(1), 0.0)
    engine.abort(waiting, 0.5)
    assert not engine.waiting


def test_the_cache_is_flushed_only_while_idle() -> None:
    engine = engine_with()
    engine.submit(prompt(1), output(1), 0.0)
    assert not engine.flush()
    finish(engine)
    assert engine.flush()
    assert engine.cache.size == 0


def test_usage_tells_what_is_held_what_is_cached_and_what_waits() -> None:
    engine = engine_with(max_running=1)
    engine.submit(prompt(1), output(11), 0.0)
    engine.submit([*prompt(1), 5], output(1), 0.0)
    engine.advance(1.5)
    usage = engine.usage(1.5)
    assert (usage.running, usage.waiting, usage.waiting_uncached) == (1, 1, 1)
    assert (usage.used, usage.evictable, usage.available) == (106, 0, 894)
    assert usage.throughput == 10.0
    finish(engine)
    usage = engine.usage(9.0)
    assert (usage.used, usage.evictable, usage.available) == (0, 111, 889)
    assert usage.prefilled == 101
    assert usage.hit_rate == pytest.approx(100 / 101)


def test_a_health_probe_forgets_the_last_hit_rate_of_an_idle_engine() -> None:
    engine = engine_with()
    for moment in (0.0, 5.0):
        engine.submit(prompt(1), output(1), moment)
        finish(engine)
    assert engine.usage(9.0).hit_rate > 0
    engine.probe()
    assert engine.usage(9.0).hit_rate == 0


ARRIVALS = st.lists(
    st.tuples(
        st.floats(0, 3),  # after the one before
        st.integers(0, 3),  # which prompt
        st.integers(1, 60),  # how much of it
        st.integers(0, 40),  # length of the answer
        st.none() | st.floats(0, 5),  # when it is aborted
    ),
    max_size=20,
)


@given(ARRIVALS, st.sampled_from([1, 4]), st.integers(1, 3))
def test_whatever_arrives_ends_and_gives_back_what_it_took(
    arrivals: list[tuple[float, int, int, int, float | None]], page_size: int, max_running: int
) -> None:
    engine = engine_with(cache_tokens=120, page_size=page_size, max_running=max_running)
    now = 0.0
    tasks: list[Task] = []
    for gap, which, length, answer, abort in arrivals:
        now += gap
        engine.advance(now)
        task = engine.submit(prompt(which, length), output(answer), now)
        tasks.append(task)
        assert engine.running <= max_running
        usage = engine.usage(now)
        assert usage.used + usage.evictable + usage.available == engine.cache.capacity
        assert min(usage.used, usage.evictable, usage.available) >= 0
        if abort is not None:
            now += abort
            engine.advance(now)
            engine.abort(task, now)
    finish(engine)
    assert engine.idle
    assert all(task.over for task in tasks)
    assert engine.cache.reserved == engine.cache.pinned == 0
    started = [task.started for task in tasks if task.started is not None]
    assert started == sorted(started)
