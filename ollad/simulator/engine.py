"""A model of the engine: who runs, who waits, what is cached, when which token comes.

Theory. Requests are served first come, first served. The head of the queue starts when one of
``max_running`` places is free, when KV memory can hold its whole prompt and answer, and when the
prefill before it is done: there is one prefill at a time, which takes the prompt's uncached tokens
divided by ``prefill_rate``. Its end yields the first token; from then on every decode step yields
one more, and the steps of all requests fall together, ``tokens_per_second`` of them a second.
What a request computed stays in the radix cache.

Rules of residence: no I/O, no clock, no chance. Time is handed in, in seconds from any origin, and
never goes back. Nothing is done for each token: how many there are at a moment is computed from
the moments that matter, so that a simulation costs by the request.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ollad.simulator.radix import RadixCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollad.simulator.radix import Lease

__all__ = ["Engine", "EngineConfig", "Phase", "QueueFullError", "Task", "Usage"]

_ROUNDING: Final = 1e-6
"""Part of a decode step by which floating point may be wrong about its moment."""


class QueueFullError(Exception):
    """``max_queued`` requests are waiting already."""


class Phase(Enum):
    """Where a request stands."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the engine can do.

    Attributes:
        cache_tokens: KV memory, tokens.
        page_size: tokens a page of it.
        prefill_rate: uncached prompt tokens a second.
        tokens_per_second: decode steps a second.
        max_running: requests in prefill and decode together.
        max_queued: requests that may wait; None for any number.
        caching: whether prefixes are cached at all.
    """

    cache_tokens: int = 400_000
    page_size: int = 1
    prefill_rate: float = 8000.0
    tokens_per_second: float = 50.0
    max_running: int = 64
    max_queued: int | None = None
    caching: bool = True


class Task:
    """One request as the engine sees it.

    Attributes:
        prompt: its tokens.
        output: the tokens that will be generated, all of them.
        phase: where it stands.
        arrived: when it was submitted, seconds; ``started``, ``first_token`` and ``ended``
            likewise, None until then.
        cached: prompt tokens that were found in the cache when it started.
    """

    __slots__ = (
        "arrived",
        "cached",
        "ended",
        "first_token",
        "generated",
        "lease",
        "output",
        "phase",
        "prompt",
        "reserved",
        "started",
    )

    def __init__(self, prompt: Sequence[int], output: Sequence[int], arrived: float) -> None:
        self.prompt = tuple(prompt)
        self.output = tuple(output)
        self.phase = Phase.WAITING
        self.arrived = arrived
        self.started: float | None = None
        self.first_token: float | None = None
        self.ended: float | None = None
        self.cached = 0
        self.generated = 0
        self.lease: Lease | None = None
        self.reserved = 0

    def __repr__(self) -> str:
        return (
            f"<Task {self.phase.value} prompt={len(self.prompt)} cached={self.cached} "
            f"output={self.generated}/{len(self.output)}>"
        )

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.phase is Phase.FINISHED or self.phase is Phase.ABORTED


@dataclass(frozen=True, slots=True)
class Usage:
    """How busy the engine is; tokens, requests, tokens a second, fractions 0..1.

    Attributes:
        running: requests in prefill and decode.
        waiting: requests in the queue.
        waiting_uncached: what the prefill of the queue would cost now.
        used: KV memory that running requests hold.
        evictable: cached, and held by nobody.
        available: the rest of it.
        throughput: tokens generated a second.
        hit_rate: of the last prefill.
        prefilled: prompt tokens computed since the start.
        prefill_seconds: time that took.
        decoded: tokens generated since the start, by requests that are over.
    """

    running: int
    waiting: int
    waiting_uncached: int
    used: int
    evictable: int
    available: int
    throughput: float
    hit_rate: float
    prefilled: int
    prefill_seconds: float
    decoded: int


class Engine:
    """The model; call ``advance`` whenever ``next_event`` has come."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.cache = RadixCache(config.cache_tokens, config.page_size)
        self.waiting: deque[Task] = deque()
        self.decoding: set[Task] = set()
        self._prefill: Task | None = None
        self._prefill_ends = 0.0
        self._ends: list[tuple[float, int, Task]] = []
        self._numbers = itertools.count()
        self._hit_rate = 0.0
        self._prefilled = 0
        self._prefill_seconds = 0.0
        self._decoded = 0

    def __repr__(self) -> str:
        return f"<Engine running={self.running} waiting={len(self.waiting)} {self.cache!r}>"

    @property
    def running(self) -> int:
        """Requests in prefill and decode."""
        return len(self.decoding) + (self._prefill is not None)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.running and not self.waiting

    @property
    def longest(self) -> int:
        """How many tokens, prompt and answer, one request can have at all."""
        return self.cache.capacity

    def submit(self, prompt: Sequence[int], output: Sequence[int], now: float) -> Task:
        """Take a request.

        Args:
            prompt: its tokens.
            output: what will be generated for it.
            now: the time; ``advance`` has been called for it.

        Raises:
            QueueFullError: too many wait.
            ValueError: it could never run, see ``longest``.
        """
        if len(prompt) + len(output) > self.longest:
            raise ValueError(f"{len(prompt) + len(output)} tokens in memory of {self.longest}")
        limit = self.config.max_queued
        if limit is not None and len(self.waiting) >= limit:
            raise QueueFullError(f"{limit} requests are waiting")
        task = Task(prompt, output, now)
        self.waiting.append(task)
        self._start(now)
        return task

    def abort(self, task: Task, now: float) -> None:
        """End a request wherever it stands; nothing happens if it is over."""
        if task.over:
            return
        if task.phase is Phase.WAITING:
            self.waiting.remove(task)
        task.generated = self.generated(task, now)
        self._end(task, Phase.ABORTED, now)
        self._start(now)

    def advance(self, now: float) -> list[Task]:
        """Let everything happen that is due by ``now``.

        Returns:
            The requests that came to decode or ended, in order, some of them twice.
        """
        changed: list[Task] = []
        while (at := self.next_event()) is not None and at <= now:
            if self._prefill is not None and self._prefill_ends <= at:
                task, self._prefill = self._prefill, None
                self._first_token(task, at)
            else:
                task = heapq.heappop(self._ends)[2]
                task.generated = len(task.output)
                self._end(task, Phase.FINISHED, at)
            changed.append(task)
            self._start(at)
        return changed

    def next_event(self) -> float | None:
        """When something changes next: a prefill ends, a request does; None while idle."""
        while self._ends and self._ends[0][2].over:
            heapq.heappop(self._ends)
        end = self._ends[0][0] if self._ends else None
        if self._prefill is None:
            return end
        return self._prefill_ends if end is None else min(end, self._prefill_ends)

    def next_step(self, now: float) -> float | None:
        """When the next tokens come; None if nobody decodes."""
        return (self._step(now) + 1) / self.config.tokens_per_second if self.decoding else None

    def generated(self, task: Task, now: float) -> int:
        """How many tokens of its output a request has by ``now``."""
        if task.phase is not Phase.DECODE or task.first_token is None:
            return task.generated
        steps = self._step(now) - self._step(task.first_token)
        return min(len(task.output), 1 + steps)

    def usage(self, now: float) -> Usage:
        """How busy it is."""
        cache = self.cache
        holders = self.decoding if self._prefill is None else {*self.decoding, self._prefill}
        private = sum(
            len(task.prompt) + self.generated(task, now) - task.lease.length
            for task in holders
            if task.lease is not None
        )
        used = min(cache.capacity - cache.evictable, cache.pinned + private)
        return Usage(
            running=self.running,
            waiting=len(self.waiting),
            waiting_uncached=sum(self._uncached(task) for task in self.waiting),
            used=used,
            evictable=cache.evictable,
            available=cache.capacity - used - cache.evictable,
            throughput=len(self.decoding) * self.config.tokens_per_second,
            hit_rate=self._hit_rate,
            prefilled=self._prefilled,
            prefill_seconds=self._prefill_seconds,
            decoded=self._decoded,
        )

    def probe(self) -> None:
        """The single token that a health check computes, while there is nothing else to do."""
        if self.idle:
            self._hit_rate = 0.0
            self._prefilled += 1

    def flush(self) -> bool:
        """Empty the cache; False, and no change, while there is anything to do."""
        if not self.idle:
            return False
        self.cache.flush()
        return True

    def _uncached(self, task: Task) -> int:
        return len(task.prompt) - self.cache.peek(self._cacheable(task))

    def _cacheable(self, task: Task) -> tuple[int, ...]:
        """The part of a prompt that may come from the cache: the last token is always computed."""
        return task.prompt[:-1] if self.config.caching else ()

    def _start(self, now: float) -> None:
        """Give the place that is free to the head of the queue, if all it needs is there."""
        if self._prefill is not None or not self.waiting or self.running >= self.config.max_running:
            return
        task = self.waiting[0]
        lease = self.cache.acquire(self._cacheable(task))
        whole = -(-(len(task.prompt) + len(task.output)) // self.cache.page_size)
        needed = whole * self.cache.page_size - lease.length
        if not self.cache.reserve(needed):
            self.cache.release(lease)
            return
        self.waiting.popleft()
        task.lease, task.reserved, task.cached = lease, needed, lease.length
        task.phase, task.started = Phase.PREFILL, now
        uncached = len(task.prompt) - task.cached
        seconds = uncached / self.config.prefill_rate
        self._prefill, self._prefill_ends = task, now + seconds
        self._prefilled += uncached
        self._prefill_seconds += seconds
        self._hit_rate = task.cached / len(task.prompt) if task.prompt else 0.0

    def _first_token(self, task: Task, now: float) -> None:
        task.first_token = now
        task.phase = Phase.DECODE
        self._keep(task, task.prompt)
        self.decoding.add(task)
        steps = max(0, len(task.output) - 1)
        end = (self._step(now) + steps) / self.config.tokens_per_second if steps else now
        heapq.heappush(self._ends, (end, next(self._numbers), task))

    def _keep(self, task: Task, tokens: tuple[int, ...]) -> None:
        """Move what a request computed from its own room into the cache."""
        if task.lease is None or not self.config.caching:
            return
        before = task.lease.length
        moved = self.cache.whole_pages(len(tokens)) - before
        if moved > 0:
            self.cache.unreserve(moved)
            task.reserved -= moved
            self.cache.insert(tokens, task.lease)

    def _end(self, task: Task, phase: Phase, now: float) -> None:
        if task.phase is Phase.DECODE:
            # The last token was never fed back into the model, so there is no KV for it.
            self._keep(task, task.prompt + task.output[: max(0, task.generated - 1)])
            self.decoding.discard(task)
            self._decoded += task.generated
        if task is self._prefill:
            self._prefill = None
        if task.lease is not None:
            self.cache.unreserve(task.reserved)
            self.cache.release(task.lease)
            task.lease, task.reserved = None, 0
        task.phase, task.ended = phase, now

    def _step(self, now: float) -> int:
        """How many decode steps there were up to ``now``."""
        return math.floor(now * self.config.tokens_per_second + _ROUNDING)
