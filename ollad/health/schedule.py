"""The periodic health task, one per backend, and looks between its rounds: who writes snapshots."""

from __future__ import annotations

import asyncio
import dataclasses
import random as random_module
import time
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from ollad.backends.snapshot import Load
from ollad.health.prober import Prober, Round
from ollad.health.verdict import Outcome, Result, Standing, judge, next_round
from ollad.routing.weights import weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ollad.backends.backend import Backend
    from ollad.backends.pool import Pool
    from ollad.backends.snapshot import State
    from ollad.config.schema import Health
    from ollad.health.fetch import ProbeClient

__all__ = ["HealthMonitor", "HealthObserver"]

_JITTER: Final = 0.1
_LEAST_PAUSE: Final = 0.1
"""Share of ``check_interval`` that is slept even after a round that took longer than it."""


class HealthObserver(Protocol):
    """Who wants to know of rounds and transitions, for metrics and logs; must not block."""

    def on_probe(self, backend: Backend, result: str, seconds: float) -> None:
        """A round ended with ``result`` (a value of ``Result``) after ``seconds``."""

    def on_transition(self, backend: Backend, old: State, new: State, reason: str) -> None:
        """A backend changed its state; its new snapshot is in place."""


class HealthMonitor:
    """Keeps the snapshots of a pool's backends up to date.

    Args:
        pool: the backends.
        health: thresholds and intervals.
        client: for probes, see ``fetch.open_client``; stays open when the
            monitor stops.
        observer: told of every round and transition.
        clock: monotonic time, seconds.
        wall: Unix time, seconds.
        random: a number from 0 to 1.
    """

    def __init__(
        self,
        pool: Pool,
        health: Health,
        client: ProbeClient,
        *,
        observer: HealthObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._observer = observer
        self._client = client
        self._clock = clock
        self._wall = wall
        self._random = random
        self._watches: dict[Backend, _Watch] = {}
        self._tasks: dict[Backend, asyncio.Task[None]] = {}
        self.adopt(pool, health)

    def adopt(self, pool: Pool, health: Health) -> None:
        """Watch the backends of ``pool`` as well, by the settings ``health`` from now on.

        Backends that are watched already keep their standing. New ones are probed at once if
        ``start`` has been called.
        """
        highest = max((backend.endpoint.priority for backend in pool), default=1)
        running = bool(self._tasks)
        for backend in pool:
            watch = self._watches.get(backend)
            if watch is None:
                watch = self._watches[backend] = self._watch(backend, health)
                if running:
                    self._begin(watch)
            watch.health = health
            watch.prober.schedule_deep(health.deep_interval)
            watch.highest_priority = highest

    async def retire(self, pool: Pool) -> None:
        """Stop watching the backends that are not in ``pool``."""
        gone = [backend for backend in self._watches if backend not in set(pool)]
        for backend in gone:
            del self._watches[backend]
        await _end([self._tasks.pop(backend) for backend in gone if backend in self._tasks])

    def start(self) -> None:
        """Begin probing, every backend at once."""
        for watch in self._watches.values():
            self._begin(watch)

    async def stop(self) -> None:
        """End all probes and wait until they are gone; snapshots stay as they are."""
        tasks, self._tasks = self._tasks, {}
        await _end(tasks.values())

    async def wait_first_round(self) -> None:
        """Wait until the first round of every backend ended; each is bounded by its timeouts."""
        await asyncio.gather(*(watch.probed.wait() for watch in self._watches.values()))

    async def refresh_models(self) -> None:
        """Ask every backend that takes requests which models it serves, bounded like a probe.

        What that says of its health is left to the rounds.
        """
        watches = [watch for watch in self._watches.values() if watch.backend.routable]
        await asyncio.gather(*(watch.refresh_models() for watch in watches))

    def _watch(self, backend: Backend, health: Health) -> _Watch:
        prober = Prober(
            backend.endpoint,
            self._client,
            deep_interval=health.deep_interval,
            clock=self._clock,
            wall=self._wall,
            random=self._random,
        )
        return _Watch(backend, health, prober, wall=self._wall)

    def _begin(self, watch: _Watch) -> None:
        self._tasks[watch.backend] = asyncio.create_task(
            self._run(watch), name=f"health of {watch.backend.name}"
        )

    async def _run(self, watch: _Watch) -> None:
        try:
            while True:
                began = self._clock()
                await self._round(watch, began)
                interval = next_round(
                    watch.backend.snapshot.state,
                    interval=watch.backend.endpoint.check_interval,
                    ramp=watch.health.ramp,
                )
                pause = interval * (1 - _JITTER + 2 * _JITTER * self._random())
                spent = self._clock() - began
                await asyncio.sleep(max(pause - spent, _LEAST_PAUSE * interval))
        finally:
            await watch.prober.close()

    async def _round(self, watch: _Watch, began: float) -> None:
        backend, old = watch.backend, watch.backend.snapshot.state
        try:
            found = await watch.prober.round(old)
        except Exception as error:  # noqa: BLE001  # the task must outlive any fault of a round
            structlog.get_logger().exception("health check crashed", endpoint=backend.name)
            found = Round(Outcome(Result.FAILED, f"internal error ({type(error).__name__})"))
            found = watch.carried(found)
        now = self._clock()
        watch.publish(found, now)
        watch.probed.set()
        if self._observer is None:
            return
        self._observer.on_probe(backend, found.outcome.result.value, now - began)
        new = backend.snapshot
        if new.state is not old:
            self._observer.on_transition(backend, old, new.state, new.reason)


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel the tasks and wait until they are gone."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Watch:
    """One backend under observation; ``publish`` is where its snapshot is written."""

    def __init__(
        self,
        backend: Backend,
        health: Health,
        prober: Prober,
        *,
        wall: Callable[[], float],
    ) -> None:
        self.backend = backend
        self.prober = prober
        self.probed = asyncio.Event()
        self.health = health
        self.highest_priority = backend.endpoint.priority
        self._wall = wall
        self._standing = Standing()

    def carried(self, found: Round) -> Round:
        """``found`` with what the last snapshot knows in place of nothing."""
        last = self.backend.snapshot
        return dataclasses.replace(
            found,
            engine=last.engine,
            models=last.models,
            native_health=last.native_health,
            native_metrics=last.native_metrics,
        )

    async def refresh_models(self) -> None:
        """Ask for the models alone and replace the snapshot if there are others."""
        models = await self.prober.models()
        if models and models != self.backend.snapshot.models:
            self.backend.snapshot = dataclasses.replace(self.backend.snapshot, models=models)
            structlog.get_logger().info(
                "backend serves other models", endpoint=self.backend.name, models=len(models)
            )

    def publish(self, found: Round, now: float) -> None:
        """Judge a round and replace the snapshot, at monotonic time ``now``."""
        health, last, before = self.health, self.backend.snapshot, self._standing
        standing = judge(
            before, found.outcome, fall=health.fall, rise=health.rise, now=now, ramp=health.ramp
        )
        load = found.load
        if load is None:
            load = last.load if standing.state.routable else Load()
        checked = self._wall()
        self._standing = standing
        self.backend.snapshot = dataclasses.replace(
            last,
            state=standing.state,
            reason=standing.reason,
            since=last.since if standing.state is before.state else checked,
            weight=weight(
                self.backend.endpoint.priority,
                self.highest_priority,
                load.token_usage,
                standing.state,
                seconds_recovering=now - standing.since,
                ramp=health.ramp,
            ),
            checked=checked,
            failures=standing.failures,
            engine=found.engine,
            load=load,
            models=found.models,
            native_health=found.native_health,
            native_metrics=found.native_metrics,
        )
        self._log(before, standing)

    def _log(self, before: Standing, after: Standing) -> None:
        """Say once that something went wrong, once that it is over."""
        log = structlog.get_logger().bind(endpoint=self.backend.name, reason=after.reason)
        if after.state is not before.state:
            say = log.info if after.state.routable else log.warning
            say("backend changed state", old=before.state.value, new=after.state.value)
        elif after.state.routable and after.failures == 1 and before.failures == 0:
            log.warning("health check failed")
        elif after.state.routable and before.failures and not after.failures:
            log.info("health check passes again", failed=before.failures)
