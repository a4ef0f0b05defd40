"""From a call to an outcome: send, and send again where the retry rule allows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from ollad.backends.budget import RetryBudget
from ollad.errors import BackendError, BackendTimeoutError, GatewayError, UnavailableError
from ollad.headers import request_lines
from ollad.relay.exchange import Fault, UpstreamRequest
from ollad.relay.retry import FREE_FAULTS, retry_reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollad.backends.backend import Backend
    from ollad.call import Call
    from ollad.gateway import Runtime
    from ollad.metrics import Telemetry
    from ollad.placement import Place, Placement
    from ollad.record import RequestRecord
    from ollad.relay.exchange import Outcome, Sink
    from ollad.relay.forward import Relay
    from ollad.routing.prompt import Prompt

__all__ = ["Dispatched", "Dispatcher"]

_LOOK_SECONDS: Final = 1.0
"""How long to wait for a backend to refuse a connection or not."""

_UNSERVED: Final = frozenset({Fault.CONNECT, Fault.CONNECT_TIMEOUT, Fault.REFUSED})
"""Faults that say less than the reply of a backend tried before."""


class Dispatched(NamedTuple):
    """How a call was carried out.

    Attributes:
        outcome: of its last exchange.
        place: where that was; its ticket is to be ended by whoever reads the reply's figures.
        prompt: of the call.
    """

    outcome: Outcome
    place: Place
    prompt: Prompt


class Dispatcher:
    """Sends calls to backends.

    Attributes:
        placement: chooses the backends.
    """

    def __init__(
        self,
        relay: Relay,
        placement: Placement,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._relay = relay
        self._telemetry = telemetry
        self._clock = clock
        self._budget = RetryBudget(clock())
        self.placement = placement

    async def dispatch(
        self, runtime: Runtime, call: Call, sink: Sink, record: RequestRecord
    ) -> Dispatched:
        """Carry out ``call``.

        Returns:
            An outcome with a reply: held in ``body``, or sent on in ``response``.

        Raises:
            UnavailableError: no backend can take it now.
            BackendError: the backend broke the exchange before a byte reached the client.
            BackendTimeoutError: it did not answer in time.
        """
        proxy = runtime.config.proxy
        deadline = record.started + proxy.total_timeout if proxy.total_timeout else None
        prompt = self.placement.read(call)
        budget = self._budget
        budget.requests += 1
        attempts = proxy.attempts
        tried: list[Backend] = []
        stale_before = False
        done: Dispatched | None = None
        refusal: Dispatched | None = None
        while True:
            try:
                place = await self._place(runtime, call, prompt, tried, deadline)
            except UnavailableError:
                if done is None:
                    raise
                break
            attempts -= 1
            record.attempts += 1
            record.endpoint = place.backend.name
            last = (
                attempts == 0
                or place.alone
                or (budget.tokens < 1.0 and budget.empty(place.began, proxy.retry_budget))
            )
            outcome = await self._attempt(runtime, call, place, sink, last, deadline)
            done = Dispatched(outcome, place, prompt)
            reason = retry_reason(outcome)
            if reason is None:
                break
            place.ticket.end(self._clock())
            if outcome.body is not None:
                refusal = done
            alone = place.alone
            if outcome.fault is Fault.STALE and not stale_before:
                # not the backend's failure, so it costs no attempt; but only once
                attempts += 1
                stale_before, alone = True, False
            else:
                tried.append(place.backend)
            free = outcome.fault in FREE_FAULTS
            if attempts == 0 or alone or (last and not free):
                self._telemetry.retries_exhausted(call.family)
                break
            if not free:
                budget.spend(self._clock(), proxy.retry_budget)
            self._telemetry.retry(call.family, reason)
        if refusal is not None and done.outcome.fault in _UNSERVED:
            record.endpoint = refusal.outcome.backend
            return refusal
        self._settle(call, done, record)
        return done

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
        backend, first_byte = place.backend, place.ticket.first_byte
        if not backend.breaker.closed:
            first_byte = partial(self._trial_begins, place)
        label = "client_gone"
        try:
            outcome = await self._relay.forward(
                _upstream_request(call, backend),
                backend,
                sink,
                runtime.config.proxy,
                last=last,
                deadline=deadline,
                first_byte=first_byte,
            )
            if outcome.fault is Fault.RESET and not last and await self._died(backend, outcome):
                outcome = outcome._replace(fault=Fault.DIED)
            label = _label(outcome)
        except BaseException as error:
            if isinstance(error, GatewayError):
                label = "refused"
            place.ticket.end(self._clock())
            raise
        finally:
            self.placement.leave(place)
            self._telemetry.attempt(call.family, backend.name, label)
        if outcome.first_byte is not None:
            self._telemetry.first_byte(call.family, backend.name, outcome.first_byte)
        self.placement.conduct.note(backend, outcome, place.began)
        return outcome

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
        return await self._relay.refused(backend, _LOOK_SECONDS)

    def _settle(self, call: Call, done: Dispatched, record: RequestRecord) -> None:
        """Raise what is left to be said of a call that brought no reply."""
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


def _upstream_request(call: Call, backend: Backend) -> UpstreamRequest:
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
