"""Where a request is sent now, and the counting that goes with it.

Taking a place counts the request at its backend, giving it back counts it off again; between the
two nothing can be lost, since both happen in one step of the event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.backends.backend import OVERLOAD_WEIGHT
from ollad.backends.breaker import eligible
from ollad.conduct import Conduct
from ollad.errors import UnavailableError
from ollad.routing.demand import UNKNOWN
from ollad.routing.priority import Tier
from ollad.routing.prompt import Prompt, PromptReader
from ollad.routing.selection import make_policy
from ollad.waiting import WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ollad.backends.backend import Backend
    from ollad.backends.pool import Pool
    from ollad.call import Call
    from ollad.config.schema import Proxy, Routing
    from ollad.metrics import Telemetry
    from ollad.routing.demand import Demand
    from ollad.routing.policy import Policy, Standing, Ticket

__all__ = ["NO_PROMPT", "Place", "Placement"]

NO_PROMPT: Final = Prompt(UNKNOWN, 0, b"", 0)
"""Of a request whose prompt nobody reads."""

_GONE: Final = Tier(priority=0)
_NOBODY: Final = "no_backend"

_INDIFFERENT: Final = frozenset({"least-connections", "round-robin"})
"""Policies to which the prompt is nothing."""


class Place:
    """A request's place at a backend.

    Attributes:
        backend: where it is.
        ticket: what the policy keeps of it.
        began: when it was taken, monotonic seconds.
        alone: whether no other backend could have taken the request.
    """

    __slots__ = ("alone", "backend", "began", "ticket")

    def __init__(self, backend: Backend, ticket: Ticket, began: float, alone: bool) -> None:
        self.backend = backend
        self.ticket = ticket
        self.began = began
        self.alone = alone


class Placement:
    """Chooses backends; the only writer of their ``in_flight``.

    Args:
        routing: which policy to choose by.
        telemetry: counts who waits.
        clock: monotonic seconds.
        random: uniform in 0..1.
        wall: Unix time, seconds.
        policy: to choose by instead.

    Attributes:
        conduct: what backends did.
        room: those who wait for a backend.
    """

    def __init__(
        self,
        routing: Routing,
        telemetry: Telemetry,
        clock: Callable[[], float],
        random: Callable[[], float],
        *,
        wall: Callable[[], float],
        policy: Policy | None = None,
    ) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._random = random
        self._tiers: Mapping[str, Tier] = {}
        self._routing = routing
        self._policy = policy or self._make_policy(routing)
        self._reader = _reader(routing)
        self.conduct = Conduct(telemetry, wall)
        self.room: WaitingRoom[Place] = WaitingRoom(self.give_back)

    def adopt(self, routing: Routing, pool: Pool) -> None:
        """Choose by ``routing`` from now on, among the backends of ``pool``.

        What is known of their caches is kept, unless it is kept in another way from now on.
        """
        if (routing.policy, routing.prefix) != (self._routing.policy, self._routing.prefix):
            self._policy, self._reader = self._make_policy(routing), _reader(routing)
        for name in set(self._tiers) - {backend.name for backend in pool}:
            self._policy.forget(name)
        self._routing = routing
        self._tiers = {
            backend.name: Tier(backend.endpoint.priority, backend.endpoint.max_concurrent)
            for backend in pool
        }

    def standings(self) -> Mapping[str, Standing]:
        """What the policy keeps of each backend, by name."""
        return self._policy.standings()

    def read(self, call: Call) -> Prompt:
        """The prompt of ``call``, as far as the policy cares."""
        reader, document = self._reader, call.document
        if reader is None or document is None:
            return NO_PROMPT
        target = call.target
        if "?" in target:
            target = target.partition("?")[0]
        return reader.read(target, document, call.model, len(call.body), call.omitted)

    def take_now(self, pool: Pool, call: Call, demand: Demand) -> Place | None:
        """A place at a backend that has one for sure; None where that takes time to find out.

        Raises:
            UnavailableError: no backend can take the request.
        """
        return None if pool.limited else self._place(pool, call, demand, ())

    async def take(
        self,
        pool: Pool,
        call: Call,
        demand: Demand,
        tried: Sequence[Backend],
        proxy: Proxy,
        patience: float | None,
    ) -> Place:
        """A place at a backend that is not among ``tried``.

        Args:
            pool: the backends.
            call: what is to be sent.
            demand: from its prompt.
            tried: backends that will not do again.
            proxy: how many may wait, and for how long.
            patience: seconds after which the request itself is out of time; None: never.

        Raises:
            UnavailableError: there is none, or none became free in time.
        """
        place = None if pool.limited else self._place(pool, call, demand, tried)
        if place is not None:
            return place
        queue, came = proxy.queue, self._clock()
        limits = [limit for limit in (queue.timeout, patience) if limit]
        try:
            place = await self.room.enter(
                call.model,
                call.tenant,
                lambda: self._place(pool, call, demand, tried),
                size=queue.size,
                patience=min(limits, default=None),
            )
        except UnavailableError as error:
            if error.code != _NOBODY:
                self._telemetry.queue_refusal(call.family, error.code)
            raise
        self._telemetry.queue_left(call.family, self._clock() - came)
        return place

    def leave(self, place: Place) -> None:
        """The exchange is over; the next who waits may have the place."""
        place.backend.in_flight -= 1
        if self.room.count:
            self.room.call()

    def give_back(self, place: Place) -> None:
        """The place was not used."""
        place.ticket.end(self._clock())
        self.leave(place)

    def _place(
        self, pool: Pool, call: Call, demand: Demand, tried: Sequence[Backend]
    ) -> Place | None:
        """A place, unless every backend that might give one has no room now.

        Raises:
            UnavailableError: there is no such backend.
        """
        clock = self._clock
        now = clock()
        candidates = _candidates(pool, call)
        if tried:
            candidates = [backend for backend in candidates if backend not in tried]
        if not candidates:
            raise UnavailableError(
                "No backend can take this request now. Try again shortly; "
                "/internal/status says why each backend is out.",
                code=_NOBODY,
            )
        alone = len(candidates) == 1
        conduct = self.conduct
        if now < conduct.wary_until:
            candidates = eligible(candidates, now)
        if pool.limited:
            candidates = [backend for backend in candidates if backend.in_flight < backend.limit]
            if not candidates:
                return None
        if now < conduct.overloaded_until:
            candidates = self._sparing(candidates, now)
        policy = self._policy
        # the protocol of policies knows of a backend what they read of it
        backend: Backend = policy.pick(candidates, demand, now)  # type: ignore[assignment]
        backend.in_flight += 1
        breaker = backend.breaker
        if breaker.until:  # it is not closed
            breaker.tried(now)
        return Place(backend, policy.begin(backend, demand, now), now, alone)

    def _sparing(self, candidates: Sequence[Backend], now: float) -> Sequence[Backend]:
        """Leave overloaded backends out, most of the time and as long as there are others.

        One that refuses is done with each request at once, and so would seem the idlest of all.
        """
        calm = [backend for backend in candidates if now >= backend.overloaded_until]
        return calm if calm and self._random() >= OVERLOAD_WEIGHT else candidates

    def _tier(self, name: str) -> Tier:
        # requests that began before a reload may still look for a backend that is gone
        return self._tiers.get(name, _GONE)

    def _make_policy(self, routing: Routing) -> Policy:
        return make_policy(routing.policy, routing.prefix, self._tier, self._random)


def _reader(routing: Routing) -> PromptReader | None:
    return None if routing.policy in _INDIFFERENT else PromptReader(routing.prefix.block_bytes)


def _candidates(pool: Pool, call: Call) -> Sequence[Backend]:
    """The backends in service that can answer ``call``."""
    model = call.model
    candidates: Sequence[Backend] = pool.routable() if model is None else pool.serving(model)
    pinned, suits = call.pinned, call.suits
    if pinned is not None:
        candidates = [backend for backend in candidates if backend.name == pinned]
    if suits is not None:
        candidates = [backend for backend in candidates if suits(backend)]
    return candidates
