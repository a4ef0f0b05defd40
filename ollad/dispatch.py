"""From a call to an outcome: send, and send again where the retry rule allows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ollad.backends.budget import RetryBudget
from ollad.errors import BackendError, BackendTimeoutError, GatewayError, UnavailableError
from ollad.headers import request_lines
from ollad.relay.exchange import Fault, Outcome, UpstreamRequest
from ollad.relay.retry import FREE_FAULTS, retry_reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollad.backends.backend import Backend
    from ollad.call import Call
    from ollad.config.schema import Proxy
    from ollad.gateway import Runtime
    from ollad.metrics import Telemetry
    from ollad.placement import Place, Placement
    from ollad.record import RequestRecord
    from ollad.relay.exchange import Sink
    from ollad.relay.forward import Relay
    from ollad.routing.prompt import Prompt

__all__ = ["ATTEMPTED", "Attempt", "Dispatched", "Dispatcher", "served", "upstream_request"]

_LOOK_SECONDS: Final = 1.0
"""How long to wait for a backend to refuse a connection or not."""

_UNSERVED: Final = frozenset({Fault.CONNECT, Fault.CONNECT_TIMEOUT, Fault.REFUSED})
"""Faults that say less than the reply of a backend tried before."""


_UNDER_WAY: Final = Outcome("")


class Attempt:
    """A call on its way to a backend, or back from there.

    Attributes:
        prompt: of the call.
        place: at the backend.
        last: whether no other backend will be asked.
        outcome: of the exchange; without a backend's name while it is under way.
    """

    __slots__ = ("last", "outcome", "place", "prompt")

    def __init__(
        self, prompt: Prompt, place: Place, last: bool, outcome: Outcome = _UNDER_WAY
    ) -> None:
        self.prompt = prompt
        self.place = place
        self.last = last
        self.outcome = outcome


ATTEMPTED: Final = web.RequestKey("attempted", Attempt)
"""Where a request carries an attempt that was made for it before."""


class Dispatched:
    """How a call was carried out.

    Attributes:
        outcome: of its last exchange.
        place: where that was; its ticket is to be ended by whoever reads the reply's figures.
        prompt: of the call.
    """

    __slots__ = ("outcome", "place", "prompt")

    def __init__(self, outcome: Outcome, place: Place, prompt: Prompt) -> None:
        self.outcome = outcome
        self.place = place
        self.prompt = prompt


class _Tries:
    """What has been tried for a call.

    Attributes:
        left: attempts that may be made still.
        tried: backends that will not do again.
        done: the last attempt.
        refusal: the last one that brought a reply.
        stale: whether a connection was found closed.
    """

    __slots__ = ("done", "left", "refusal", "stale", "tried")

    def __init__(self, attempts: int) -> None:
        self.left = attempts
        self.tried: list[Backend] = []
        self.done: Dispatched | None = None
        self.refusal: Dispatched | None = None
        self.stale = False


class Dispatcher:
    """Sends calls to backends.

    Attributes:
        placement: chooses the backends.
        relay: sends to them.
    """

    def __init__(
        self,
        relay: Relay,
        placement: Placement,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self.relay = relay
        self._telemetry = telemetry
        self._clock = clock
        self._budget = RetryBudget(clock())
        self.placement = placement

    def first_attempt(self, runtime: Runtime, call: Call, record: RequestRecord) -> Attempt | None:
        """Take a place for a call that was not tried before.

        Whoever sends it hands what becomes of that to ``finished``, or else, with the outcome, to
        ``dispatch``; or gives the place back.

        Returns:
            None if there is none without waiting.

        Raises:
            UnavailableError: no backend can take it now.
        """
        placement = self.placement
        prompt = placement.read(call)
        place = placement.take_now(runtime.pool, call, prompt.demand)
        if place is None:
            return None
        self._budget.requests += 1
        record.attempts += 1
        record.endpoint = place.backend.name
        return Attempt(prompt, place, self._is_last(runtime, place, runtime.config.proxy.attempts))

    def _is_last(self, runtime: Runtime, place: Place, attempts: int) -> bool:
        """Whether the attempt at ``place`` is the last, of at most ``attempts`` from now on."""
        budget = self._budget
        return (
            attempts == 1
            or place.alone
            or (
                budget.tokens < 1.0 and budget.empty(place.began, runtime.config.proxy.retry_budget)
            )
        )

    def finished(self, call: Call, attempt: Attempt, outcome: Outcome, good: bool) -> Dispatched:
        """The only attempt has ended with a reply that is no reason to make another.

        Args:
            call: what was sent.
            attempt: how.
            outcome: what became of it.
            good: what ``served`` says of that; then it is not counted here.
        """
        place = attempt.place
        if good:
            self.placement.leave(place)
            self.placement.conduct.note_success(
                place.backend, place.began + outcome.seconds, place.began
            )
        else:
            self._note(call, place, outcome, _label(outcome))
        return Dispatched(outcome, place, attempt.prompt)

    def abandoned(self, family: str, place: Place, label: str) -> None:
        """An attempt has come to nothing.

        Args:
            family: endpoint family of the request.
            place: where it was made.
            label: why, as a metrics label.
        """
        place.ticket.end(self._clock())
        self.placement.leave(place)
        self._telemetry.attempt(family, place.backend.name, label)

    async def dispatch(
        self,
        runtime: Runtime,
        call: Call,
        sink: Sink,
        record: RequestRecord,
        before: Attempt | None = None,
    ) -> Dispatched:
        """Carry out ``call``.

        Args:
            runtime: the present configuration.
            call: what to send.
            sink: what becomes of the reply.
            record: of the request.
            before: an attempt whose outcome may be a reason to make another.

        Returns:
            An outcome with a reply: held in ``body``, or sent on in ``response``.

        Raises:
            UnavailableError: no backend can take it now.
            BackendError: the backend broke the exchange before a byte reached the client.
            BackendTimeoutError: it did not answer in time.
        """
        proxy = runtime.config.proxy
        deadline = record.started + proxy.total_timeout if proxy.total_timeout else None
        if before is None:
            prompt = self.placement.read(call)
            self._budget.requests += 1
        else:
            prompt = before.prompt
        tries = _Tries(proxy.attempts)
        while True:
            if before is None:
                try:
                    place = await self._place(runtime, call, prompt, tries.tried, deadline)
                except UnavailableError:
                    if tries.done is None:
                        raise
                    done = tries.done
                    break
                record.attempts += 1
                record.endpoint = place.backend.name
                last = self._is_last(runtime, place, tries.left)
                outcome = await self._attempt(runtime, call, place, sink, last, deadline)
            else:
                place, last = before.place, before.last
                outcome = await self._judged(call, place, last, before.outcome)
                before = None
            done = Dispatched(outcome, place, prompt)
            if not self._goes_on(call, tries, done, last, proxy):
                break
        if tries.refusal is not None and done.outcome.fault in _UNSERVED:
            record.endpoint = tries.refusal.outcome.backend
            return tries.refusal
        self.settle(call, done, record)
        return done

    def _goes_on(
        self, call: Call, tries: _Tries, done: Dispatched, last: bool, proxy: Proxy
    ) -> bool:
        """Whether ``call`` is sent again after ``done``."""
        tries.done = done
        tries.left -= 1
        outcome, place = done.outcome, done.place
        reason = retry_reason(outcome)
        if reason is None:
            return False
        place.ticket.end(self._clock())
        if outcome.body is not None:
            tries.refusal = done
        alone = place.alone
        if outcome.fault is Fault.STALE and not tries.stale:
            # not the backend's failure, so it costs no attempt; but only once
            tries.left += 1
            tries.stale, alone = True, False
        else:
            tries.tried.append(place.backend)
        free = outcome.fault in FREE_FAULTS
        if tries.left == 0 or alone or (last and not free):
            self._telemetry.retries_exhausted(call.family)
            return False
        if not free:
            self._budget.spend(self._clock(), proxy.retry_budget)
        self._telemetry.retry(call.family, reason)
        return True

    async def _place(
        self,
        runtime: Runtime,
        call: Call,
        prompt: Prompt,
        tried: list[Backend],
        deadline: float | None,
    ) -> Place:
        patience = None if deadline is None else max(0.001, deadline - self._clock())
        return await self.placement.take(
            runtime.pool, call, prompt.demand, tried, runtime.config.proxy, patience
        )

    async def _attempt(
        self,
        runtime: Runtime,
        call: Call,
        place: Place,
        sink: Sink,
        last: bool,
        deadline: float | None,
    ) -> Outcome:
        backend = place.backend
        try:
            outcome = await self.relay.forward(
                upstream_request(call, backend),
                backend,
                sink,
                runtime.config.proxy,
                last=last,
                deadline=deadline,
                first_byte=self.first_byte(place),
            )
        except BaseException as error:
            self._given_up(call, place, error)
            raise
        return await self._judged(call, place, last, outcome)

    async def _judged(self, call: Call, place: Place, last: bool, outcome: Outcome) -> Outcome:
        """The outcome of an attempt, after a look at the backend where that tells more of it."""
        if outcome.fault is Fault.RESET and not last:
            try:
                if await self._died(place.backend, outcome):
                    outcome = outcome._replace(fault=Fault.DIED)
            except BaseException as error:
                self._given_up(call, place, error)
                raise
        self._note(call, place, outcome, _label(outcome))
        return outcome

    def _given_up(self, call: Call, place: Place, error: BaseException) -> None:
        """Nobody waits for the outcome of an attempt any more."""
        label = "refused" if isinstance(error, GatewayError) else "client_gone"
        self.abandoned(call.family, place, label)

    def _note(self, call: Call, place: Place, outcome: Outcome, label: str) -> None:
        """Count an attempt that has ended, and learn what it says of the backend."""
        backend = place.backend
        self.placement.leave(place)
        self._telemetry.attempt(call.family, backend.name, label)
        if outcome.first_byte is not None:
            self._telemetry.first_byte(call.family, backend.name, outcome.first_byte)
        self.placement.conduct.note(backend, outcome, place.began)

    def first_byte(self, place: Place) -> Callable[[float], None]:
        """Who is to be told when a stream of events begins that was asked for at ``place``."""
        if place.backend.breaker.closed:
            return place.ticket.first_byte
        return partial(self._trial_begins, place)

    def _trial_begins(self, place: Place, now: float) -> None:
        """A stream has begun at a backend on trial, which need not wait for its end."""
        place.ticket.first_byte(now)
        self.placement.conduct.note_success(place.backend, now, place.began)

    async def _died(self, backend: Backend, outcome: Outcome) -> bool:
        """Whether a connection was reset as the backend died, and the run unfinished with it."""
        head = outcome.head
        whole = head is not None and not head.event_stream  # its end was on its way
        if whole or outcome.committed:
            return False
        return await self.relay.refused(backend, _LOOK_SECONDS)

    def settle(self, call: Call, done: Dispatched, record: RequestRecord) -> None:
        """Note that a reply was cut, or raise what is left to be said of a call without one."""
        outcome = done.outcome
        fault = outcome.fault
        if fault is None:
            return
        record.error = fault.value
        done.place.ticket.end(self._clock())
        if outcome.committed:
            self._telemetry.stream_abort(call.family, "upstream")
            return
        match fault:
            case Fault.CONNECT | Fault.CONNECT_TIMEOUT:
                raise UnavailableError(
                    "No backend that could take this request accepts connections. "
                    "Try again shortly.",
                    code="no_backend",
                )
            case Fault.FIRST_BYTE_TIMEOUT | Fault.IDLE_TIMEOUT | Fault.TOTAL_TIMEOUT:
                raise BackendTimeoutError(
                    f"Endpoint '{outcome.backend}' did not answer in time ({fault.value}).",
                    code=fault.value,
                )
            case _:
                raise BackendError(
                    f"Endpoint '{outcome.backend}' broke the connection before it had answered. "
                    "The request may have run; it was not sent again.",
                )


def upstream_request(call: Call, backend: Backend) -> UpstreamRequest:
    """``call`` as it is sent to ``backend``."""
    inbound, endpoint = call.inbound, backend.endpoint
    lines = request_lines(
        inbound.headers,
        request_id=inbound.request_id,
        peer=inbound.peer,
        scheme=inbound.scheme,
        host=inbound.host,
        trusted=inbound.trusted,
        endpoint_headers=endpoint.headers,
        forward_authorization=endpoint.forward_authorization,
        identity_encoding=call.identity,
    )
    return UpstreamRequest(call.method, call.target, lines, call.body)


def served(outcome: Outcome) -> bool:
    """Whether the outcome is a good reply, which ``Telemetry.request_served`` counts."""
    head = outcome.head
    return (
        outcome.fault is None
        and head is not None
        and head.status < 400
        and outcome.first_byte is not None
    )


def _label(outcome: Outcome) -> str:
    """The attempt's outcome as a metrics label."""
    match outcome.fault:
        case None:
            status = outcome.head.status if outcome.head else 0
            return "ok" if status < 400 else "http_4xx" if status < 500 else "http_5xx"
        case Fault.CONNECT:
            return "connect_error"
        case Fault.REFUSED:
            return "overloaded"
        case Fault.STALE | Fault.UNSENT | Fault.RESET | Fault.DIED | Fault.TRUNCATED:
            return "reset"
        case _:
            return "timeout"
