"""The discrete-event model: a policy, servers, and requests that come and go.

The policy sees what it sees in the daemon: its own counters at once, and of each server a snapshot
that was true one to five seconds ago.
"""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ollad.backends.snapshot import Engine, Load, Snapshot, State
from ollad.routing.demand import Demand
from ollad.routing.weights import weight
from tests.bench.routing.server import Job, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from ollad.routing.policy import Policy, Ticket
    from tests.bench.routing.load import Load as Workload
    from tests.bench.routing.load import Request
    from tests.bench.routing.server import ServerConfig

__all__ = ["Backend", "Outcome", "simulate"]

_POLL_SECONDS = 4.0
_POLL_DELAY = 1.0
"""How long it takes until what a poll found is known; so a snapshot is 1 to 5 s old."""


class Backend:
    """A server as a policy sees it."""

    __slots__ = ("in_flight", "name", "server", "snapshot")

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.server = server
        self.in_flight = 0
        self.snapshot = Snapshot()

    def weight(self, now: float) -> float:  # noqa: ARG002 - part of the interface
        """What the health task made of it."""
        return self.snapshot.weight

    def look(self, highest_priority: int) -> Snapshot:
        """What a poll would say of it now."""
        server, config = self.server, self.server.config
        cache = server.cache
        usage = (cache.cached - cache.idle + cache.reserved) / cache.capacity
        return Snapshot(
            state=State.HEALTHY,
            weight=weight(
                config.priority,
                highest_priority,
                usage,
                State.HEALTHY,
                seconds_recovering=0.0,
                ramp=20.0,
            ),
            engine=Engine(incarnation="1", radix_cache=True, cache_report=True),
            load=Load(
                running=server.running,
                waiting=len(server.waiting),
                waiting_uncached_tokens=server.waiting_uncached,
                token_usage=usage,
                radix_usage=(cache.cached + cache.reserved) / cache.capacity,
                kv_tokens=cache.capacity,
            ),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a workload.

    Attributes:
        ttft: seconds to the first token, of every request.
        prompt_tokens: of all requests.
        cached_tokens: those that were found in the cache of the server.
        requests: how many each server got.
        busy: seconds that each server computed prompts.
        choice: seconds of real time that one choice and its bookkeeping took on average.
    """

    ttft: Sequence[float]
    prompt_tokens: int
    cached_tokens: int
    requests: Sequence[int]
    busy: Sequence[float]
    choice: float


class _Flight:
    """A request under way."""

    __slots__ = ("backend", "began", "job", "silent", "ticket")

    def __init__(
        self, backend: Backend, job: Job, ticket: Ticket, began: float, *, silent: bool
    ) -> None:
        self.backend = backend
        self.job = job
        self.ticket = ticket
        self.began = began
        self.silent = silent


class _Simulation:
    def __init__(
        self,
        policy: Policy,
        servers: Sequence[ServerConfig],
        block_tokens: int,
        random: Random,
    ) -> None:
        self._policy = policy
        self._block_tokens = block_tokens
        self._random = random
        self._unary = 0.0
        self._highest = max(config.priority for config in servers)
        self.backends = [
            Backend(f"server-{number:02}", Server(config, block_tokens))
            for number, config in enumerate(servers)
        ]
        self._by_name = {backend.name: backend for backend in self.backends}
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._flights: dict[Job, _Flight] = {}
        self._left = 0
        self.ttft: list[float] = []
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.requests = dict.fromkeys((backend.name for backend in self.backends), 0)
        self.choosing = 0.0

    def run(self, load: Workload) -> None:
        self._left = load.requests
        self._unary = load.unary
        for backend in self.backends:
            backend.snapshot = backend.look(self._highest)
            self._poll_at(self._random.uniform(0, _POLL_SECONDS), backend)
        for at, request in load.arrivals:
            self._at(at, partial(self._arrive, request))
        events = self._events
        while self._left:
            now, _, happen = heapq.heappop(events)
            happen(now)

    def _at(self, when: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), happen))

    def _poll_at(self, when: float, backend: Backend) -> None:
        def poll(now: float) -> None:
            seen = backend.look(self._highest)
            self._at(now + _POLL_DELAY, lambda _: setattr(backend, "snapshot", seen))
            self._poll_at(now + _POLL_SECONDS, backend)

        self._at(when, poll)

    def _arrive(self, request: Request, now: float) -> None:
        silent = self._unary > 0 and self._random.random() < self._unary
        demand = Demand(request.chain, request.tokens, self._block_tokens, silent=silent)
        begun = time.perf_counter()
        chosen = self._policy.pick(self.backends, demand, now)
        ticket = self._policy.begin(chosen, demand, now)
        self.choosing += time.perf_counter() - begun
        backend = self._by_name[chosen.name]
        backend.in_flight += 1
        self.requests[backend.name] += 1
        job = Job(request)
        self._flights[job] = _Flight(backend, job, ticket, now, silent=silent)
        self._step(backend, backend.server.submit(job), now)

    def _step(self, backend: Backend, seconds: float | None, now: float) -> None:
        if seconds is not None:
            self._at(now + seconds, partial(self._step_ended, backend))

    def _step_ended(self, backend: Backend, now: float) -> None:
        begun, seconds = backend.server.step_ended()
        for job in begun:
            flight = self._flights[job]
            self.ttft.append(now - flight.began)
            if not flight.silent:
                flight.ticket.first_byte(now)
            self._at(now + backend.server.decode_seconds(job), partial(self._ended, flight))
        self._step(backend, seconds, now)

    def _ended(self, flight: _Flight, now: float) -> None:
        backend, job = flight.backend, flight.job
        request = job.request
        seconds = backend.server.finished(job)
        backend.in_flight -= 1
        self._left -= 1
        cached = job.cached or 0
        self.prompt_tokens += request.tokens
        self.cached_tokens += cached
        del self._flights[job]
        flight.ticket.end(
            now, prompt_tokens=request.tokens, cached_tokens=cached, answer=request.answer
        )
        self._step(backend, seconds, now)
        if request.followup is not None:
            following = request.followup
            self._at(now + following.pause, partial(self._arrive, following.request))


def simulate(
    policy: Policy,
    servers: Sequence[ServerConfig],
    load: Workload,
    random: Random,
) -> Outcome:
    """Let a workload pass through a policy.

    Args:
        policy: fresh.
        servers: what there is.
        load: what comes.
        random: decides when servers are polled, and which requests are not streamed.

    Raises:
        ValueError: if a request is too large for a server.
    """
    simulation = _Simulation(policy, servers, load.block_tokens, random)
    simulation.run(load)
    return Outcome(
        ttft=simulation.ttft,
        prompt_tokens=simulation.prompt_tokens,
        cached_tokens=simulation.cached_tokens,
        requests=list(simulation.requests.values()),
        busy=[backend.server.busy_seconds for backend in simulation.backends],
        choice=simulation.choosing / max(1, len(simulation.ttft)),
    )
