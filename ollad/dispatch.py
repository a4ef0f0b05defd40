"""From a call to an outcome: pick a backend, send, and send again where the retry rule allows.

The only writer of ``in_flight`` and ``overloaded_until`` of backends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.errors import BackendError, BackendTimeoutError, GatewayError, UnavailableError
from ollad.headers import request_lines
from ollad.relay.exchange import Fault, UpstreamRequest
from ollad.relay.retry import OVERLOADED_STATUSES, retry_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ollad.backends.backend import Backend
    from ollad.call import Call
    from ollad.gateway import Runtime
    from ollad.metrics import Telemetry
    from ollad.record import RequestRecord
    from ollad.relay.exchange import Outcome, ReplyHead, Sink
    from ollad.relay.forward import Relay
    from ollad.routing.policies import Policy

__all__ = ["Dispatcher"]

OVERLOAD_SECONDS: Final = 2.0
"""How long a backend that answered 429 or 503 counts as overloaded, unless it says longer."""

_MAX_RETRY_AFTER: Final = 60.0

_UNCONNECTED: Final = frozenset({Fault.CONNECT, Fault.CONNECT_TIMEOUT})
"""Faults that say less than the reply of a backend tried before."""


class Dispatcher:
    """Sends calls to backends."""

    def __init__(
        self, relay: Relay, policy: Policy, telemetry: Telemetry, clock: Callable[[], float]
    ) -> None:
        self._relay = relay
        self._policy = policy
        self._telemetry = telemetry
        self._clock = clock

    async def dispatch(
        self, runtime: Runtime, call: Call, sink: Sink, record: RequestRecord
    ) -> Outcome:
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
        candidates = self._candidates(runtime, call)
        attempts = proxy.attempts
        stale_before = False
        refusal: Outcome | None = None
        while True:
            backend = self._policy.pick(candidates, self._clock())
            attempts -= 1
            record.attempts += 1
            record.endpoint = backend.name
            last = attempts == 0 or len(candidates) == 1
            request = _upstream_request(call, backend)
            outcome = await self._attempt(runtime, request, backend, sink, call, last, deadline)
            reason = retry_reason(outcome)
            if reason is None:
                break
            others = [candidate for candidate in candidates if candidate is not backend]
            if outcome.body is not None:
                refusal = outcome
            if outcome.fault is Fault.STALE:
                others.append(backend)
                # not the backend's failure, so it costs no attempt; but only once
                attempts += not stale_before
                stale_before = True
            if attempts == 0 or not others:
                self._telemetry.retries_exhausted(call.family)
                break
            self._telemetry.retry(call.family, reason)
            candidates = others
        if refusal is not None and outcome.fault in _UNCONNECTED:
            record.endpoint = refusal.backend
            return refusal
        return self._settle(call, outcome, record)

    def _candidates(self, runtime: Runtime, call: Call) -> Sequence[Backend]:
        pool = runtime.pool
        candidates: Sequence[Backend] = (
            pool.routable() if call.model is None else pool.serving(call.model)
        )
        pinned, suits = call.pinned, call.suits
        if pinned is not None:
            candidates = [backend for backend in candidates if backend.name == pinned]
        if suits is not None:
            candidates = [backend for backend in candidates if suits(backend)]
        if not candidates:
            raise UnavailableError(
                "No backend can take this request now. Try again shortly; "
                "/internal/status says why each backend is out.",
                code="no_backend",
            )
        return candidates

    async def _attempt(
        self,
        runtime: Runtime,
        request: UpstreamRequest,
        backend: Backend,
        sink: Sink,
        call: Call,
        last: bool,
        deadline: float | None,
    ) -> Outcome:
        backend.in_flight += 1
        label = "client_gone"
        try:
            outcome = await self._relay.forward(
                request, backend, sink, runtime.config.proxy, last=last, deadline=deadline
            )
            label = _label(outcome)
        except GatewayError:
            label = "refused"
            raise
        finally:
            backend.in_flight -= 1
            self._telemetry.attempt(call.family, backend.name, label)
        if outcome.first_byte is not None:
            self._telemetry.first_byte(call.family, backend.name, outcome.first_byte)
        if label != "ok":
            self._note_overload(backend, outcome)
        return outcome

    def _note_overload(self, backend: Backend, outcome: Outcome) -> None:
        head = outcome.head
        if outcome.fault is Fault.REFUSED:
            seconds = OVERLOAD_SECONDS
        elif head is not None and head.status in OVERLOADED_STATUSES:
            seconds = max(OVERLOAD_SECONDS, _retry_after(head))
        else:
            return
        backend.overloaded_until = max(backend.overloaded_until, self._clock() + seconds)

    def _settle(self, call: Call, outcome: Outcome, record: RequestRecord) -> Outcome:
        fault = outcome.fault
        if fault is None:
            return outcome
        record.error = fault.value
        if outcome.committed:
            self._telemetry.stream_abort(call.family, "upstream")
            return outcome
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
        case Fault.STALE | Fault.RESET | Fault.TRUNCATED:
            return "reset"
        case _:
            return "timeout"


def _retry_after(head: ReplyHead) -> float:
    """Seconds of a Retry-After header in its numeric form (RFC 9110 §10.2.3), else 0."""
    for name, value in head.headers:
        if name.lower() == b"retry-after" and value.isdigit():
            return min(float(value), _MAX_RETRY_AFTER)
    return 0.0
