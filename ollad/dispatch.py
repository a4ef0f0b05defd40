"""From a call to an outcome: send, and send again where the retry rule allows.

The only writer of ``overloaded_until`` and ``breaker`` of backends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from ollad.backends.budget import RetryBudget
from ollad.errors import BackendError, BackendTimeoutError, GatewayError, UnavailableError
from ollad.headers import request_lines
from ollad.relay.blame import Blame, blame
from ollad.relay.exchange import Fault, UpstreamRequest
from ollad.relay.retry import FREE_FAULTS, OVERLOADED_STATUSES, retry_reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollad.backends.backend import Backend
    from ollad.call import Call
    from ollad.config.schema import Proxy
    from ollad.gateway import Runtime
    from ollad.metrics import Telemetry
    from ollad.placement import Place, Placement
    from ollad.record import RequestRecord
    from ollad.relay.exchange import Outcome, ReplyHead, Sink
    from ollad.relay.forward import Relay
    from ollad.routing.prompt import Prompt

__all__ = ["Dispatched", "Dispatcher"]

OVERLOAD_SECONDS: Final = 2.0
"""How long a backend that answered 429 or 503 counts as overloaded, unless it says longer."""

_MAX_RETRY_AFTER: Final = 60.0

_UNCONNECTED: Final = frozenset({Fault.CONNECT, Fault.CONNECT_TIMEOUT})
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
            last = attempts == 0 or place.alone or self._exhausted(proxy)
            outcome = await self._attempt(runtime, call, place, sink, last, deadline)
            done = Dispatched(outcome, place, prompt)
            reason = await self._why_again(outcome, place, proxy)
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
        if refusal is not None and done.outcome.fault in _UNCONNECTED:
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

    def _exhausted(self, proxy: Proxy) -> bool:
        """Whether nothing may be sent again for a while, lest retries add to an overload."""
        return self._budget.empty(self._clock(), proxy.retry_budget)

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
        label = "client_gone"
        try:
            outcome = await self._relay.forward(
                _upstream_request(call, backend),
                backend,
                sink,
                runtime.config.proxy,
                last=last,
                deadline=deadline,
                first_byte=place.ticket.first_byte,
            )
            label = _label(outcome)
        except BaseException as error:
            if isinstance(error, GatewayError):
                label = "refused"
            place.ticket.end(self._clock())
            raise
        finally:
            backend.in_flight -= 1
            self._telemetry.attempt(call.family, backend.name, label)
            self.placement.vacated()
        if outcome.first_byte is not None:
            self._telemetry.first_byte(call.family, backend.name, outcome.first_byte)
        if label == "ok":
            self._succeeded(place)
        else:
            self._judge(place, outcome)
        return outcome

    async def _why_again(self, outcome: Outcome, place: Place, proxy: Proxy) -> str | None:
        """Why the request may be sent again, or None."""
        if outcome.fault is None and outcome.head is not None and outcome.head.status < 400:
            return None
        reason = retry_reason(outcome)
        if reason is None and outcome.fault is Fault.RESET and not outcome.committed:
            # a prompt dies with the server that ran it
            if outcome.head is None and await self._relay.refuses(place.backend, proxy):
                return "backend_died"
        return reason

    def _succeeded(self, place: Place) -> None:
        backend = place.backend
        if backend.breaker.succeeded(self._clock(), place.began):
            structlog.get_logger().info("backend is trusted again", endpoint=backend.name)

    def _judge(self, place: Place, outcome: Outcome) -> None:
        """Hold against the backend what was its doing."""
        backend, now = place.backend, self._clock()
        match blame(outcome):
            case Blame.WELL:
                self._succeeded(place)
            case Blame.OVERLOAD:
                self._note_overload(backend, outcome)
            case Blame.FAILURE:
                cause = _label(outcome) if outcome.fault is None else outcome.fault.value
                if backend.breaker.failed(now, place.began, cause):
                    self.placement.beware(backend)
                    self._telemetry.ejected(backend.name)
                    structlog.get_logger().warning(
                        "backend ejected",
                        endpoint=backend.name,
                        reason=backend.breaker.reason,
                        seconds=round(backend.breaker.until - now, 3),
                    )
            case Blame.NOTHING:
                pass

    def _note_overload(self, backend: Backend, outcome: Outcome) -> None:
        head = outcome.head
        if outcome.fault is Fault.REFUSED:
            seconds = OVERLOAD_SECONDS
        elif head is not None and head.status in OVERLOADED_STATUSES:
            seconds = max(OVERLOAD_SECONDS, _retry_after(head))
        else:
            return
        backend.overloaded_until = max(backend.overloaded_until, self._clock() + seconds)

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
        case Fault.STALE | Fault.RESET | Fault.UNSENT | Fault.TRUNCATED:
            return "reset"
        case _:
            return "timeout"


def _retry_after(head: ReplyHead) -> float:
    """Seconds of a Retry-After header in its numeric form (RFC 9110 §10.2.3), else 0."""
    for name, value in head.headers:
        if name.lower() == b"retry-after" and value.isdigit():
            return min(float(value), _MAX_RETRY_AFTER)
    return 0.0
