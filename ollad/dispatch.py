"""From a call to an outcome: pick a backend, send, and send again where the retry rule allows.

The only writer of ``in_flight`` of backends; what they did is noted by ``Conduct``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.backends.breaker import eligible
from ollad.backends.budget import RetryBudget
from ollad.conduct import Conduct
from ollad.errors import BackendError, BackendTimeoutError, GatewayError, UnavailableError
from ollad.headers import request_lines
from ollad.relay.exchange import Fault, UpstreamRequest
from ollad.relay.retry import FREE_FAULTS, retry_reason
from ollad.waiting import WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ollad.backends.backend import Backend
    from ollad.call import Call
    from ollad.gateway import Runtime
    from ollad.metrics import Telemetry
    from ollad.record import RequestRecord
    from ollad.relay.exchange import Outcome, Sink
    from ollad.relay.forward import Relay
    from ollad.routing.policies import Policy

__all__ = ["Dispatcher"]

_LOOK_SECONDS: Final = 1.0
"""How long to wait for a backend to refuse a connection or not."""

_UNSERVED: Final = frozenset({Fault.CONNECT, Fault.CONNECT_TIMEOUT, Fault.REFUSED})
"""Faults that say less than the reply of a backend tried before."""


class Dispatcher:
    """Sends calls to backends.

    Attributes:
        room: where requests wait while every backend that could take them is busy.
    """

    def __init__(
        self, relay: Relay, policy: Policy, telemetry: Telemetry, clock: Callable[[], float]
    ) -> None:
        self._relay = relay
        self._policy = policy
        self._telemetry = telemetry
        self._clock = clock
        self._conduct = Conduct(telemetry)
        self._budget = RetryBudget(clock())
        self.room: WaitingRoom[Backend] = WaitingRoom(self._free)

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
        self._budget.requests += 1
        while True:
            now = self._clock()
            if runtime.pool.limited:
                admitted = await self._admit(runtime, call, candidates, deadline, refusal)
                if admitted is None:
                    break
                backend, now = admitted, self._clock()
            else:
                backend = self._choose(candidates, now)
            attempts -= 1
            record.attempts += 1
            record.endpoint = backend.name
            last = (
                attempts == 0
                or len(candidates) == 1
                or (self._budget.tokens < 1.0 and self._budget.empty(now, proxy.retry_budget))
            )
            outcome = await self._attempt(runtime, backend, sink, call, now, last, deadline)
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
            free = outcome.fault in FREE_FAULTS
            if attempts == 0 or not others or (last and not free):
                self._telemetry.retries_exhausted(call.family)
                break
            if not free:
                self._budget.spend(now, proxy.retry_budget)
            self._telemetry.retry(call.family, reason)
            candidates = others
        if refusal is not None and outcome.fault in _UNSERVED:
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

    def _choose(self, candidates: Sequence[Backend], now: float) -> Backend:
        """Pick one and count the request as in flight there."""
        if now < self._conduct.wary_until:
            backend = self._policy.pick(eligible(candidates, now), now)
            backend.breaker.tried(now)
        else:
            backend = self._policy.pick(candidates, now)
        backend.in_flight += 1
        return backend

    async def _admit(
        self,
        runtime: Runtime,
        call: Call,
        left: Sequence[Backend],
        deadline: float | None,
        refusal: Outcome | None,
    ) -> Backend | None:
        """Like ``_choose``, once one of those ``left`` has room.

        Returns:
            None if none is to be had but there is a ``refusal``, which says as much.

        Raises:
            UnavailableError: none is to be had.
        """

        def take() -> Backend | None:
            now = self._clock()
            able = [backend for backend in self._candidates(runtime, call) if backend in left]
            free = [backend for backend in eligible(able, now) if backend.in_flight < backend.limit]
            return self._choose(free, now) if free else None

        queue, came = runtime.config.proxy.queue, self._clock()
        patience = queue.timeout or None
        if deadline is not None:
            rest = max(0.0, deadline - came)
            patience = rest if patience is None else min(patience, rest)
        try:
            backend = await self.room.enter(
                call.model, call.tenant, take, size=queue.size, patience=patience
            )
        except UnavailableError as error:
            self._telemetry.queue_refusal(call.family, error.code)
            if refusal is None:
                raise
            return None
        self._telemetry.queue_left(call.family, self._clock() - came)
        return backend

    def _free(self, backend: Backend) -> None:
        """A request there has ended, or will not begin; the next may."""
        backend.in_flight -= 1
        if self.room.count:
            self.room.call()

    async def _attempt(
        self,
        runtime: Runtime,
        backend: Backend,
        sink: Sink,
        call: Call,
        began: float,
        last: bool,
        deadline: float | None,
    ) -> Outcome:
        label = "client_gone"
        proxy = runtime.config.proxy
        try:
            request = _upstream_request(call, backend)
            outcome = await self._relay.forward(
                request, backend, sink, proxy, last=last, deadline=deadline
            )
            if outcome.fault is Fault.RESET and not last and await self._died(backend, outcome):
                outcome = outcome._replace(fault=Fault.DIED)
            label = _label(outcome)
        except GatewayError:
            label = "refused"
            raise
        finally:
            self._free(backend)
            self._telemetry.attempt(call.family, backend.name, label)
        if outcome.first_byte is not None:
            self._telemetry.first_byte(call.family, backend.name, outcome.first_byte)
        self._conduct.note(backend, outcome, began)
        return outcome

    async def _died(self, backend: Backend, outcome: Outcome) -> bool:
        """Whether a connection was reset as the backend died, and the run unfinished with it."""
        head = outcome.head
        whole = head is not None and not head.event_stream  # its end was on its way
        if whole or outcome.committed:
            return False
        return await self._relay.refused(backend, _LOOK_SECONDS)

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
        case Fault.STALE | Fault.UNSENT | Fault.RESET | Fault.DIED | Fault.TRUNCATED:
            return "reset"
        case _:
            return "timeout"
