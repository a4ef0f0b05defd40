from __future__ import annotations

import asyncio
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pytest

from ollad.backends.pool import Pool
from ollad.backends.snapshot import State
from ollad.call import Call, Inbound
from ollad.config.schema import Config, Endpoint, Proxy, Routing
from ollad.dispatch import Dispatcher
from ollad.errors import BackendError, BackendTimeoutError, UnavailableError
from ollad.gateway import Runtime
from ollad.headers import TrustedProxies
from ollad.metrics import Telemetry
from ollad.placement import Placement
from ollad.relay.exchange import Fault, Outcome, ReplyHead
from ollad.replies import HoldSink
from tests.unit.builders import InOrder, header_pairs, make_backend, make_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ollad.backends.backend import Backend
    from ollad.relay.downstream import Downstream
    from ollad.relay.exchange import Sink, UpstreamRequest
    from ollad.relay.forward import Relay

CALL = Call(
    family="chat",
    method="POST",
    target="/v1/chat/completions",
    body=b"{}",
    inbound=Inbound(
        ((b"X-Client", b"1"),), "request-1", "192.0.2.7", "http", "ollad.example", False
    ),
    model="tiny-llama",
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


Answer = Outcome | BaseException


class ScriptedRelay:
    """Ends each exchange as told, without a network."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, bool]] = []
        self.requests: list[UpstreamRequest] = []
        self.deadlines: list[float | None] = []
        self.in_flight: list[int] = []
        self.dead = False

    async def forward(
        self,
        request: UpstreamRequest,
        backend: Backend,
        _sink: Sink,
        _proxy: Proxy,
        *,
        last: bool = True,
        deadline: float | None = None,
        first_byte: Callable[[float], None] | None = None,  # noqa: ARG002 - no stream begins here
    ) -> Outcome:
        self.sent.append((backend.name, last))
        self.requests.append(request)
        self.deadlines.append(deadline)
        self.in_flight.append(backend.in_flight)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer._replace(backend=backend.name)

    async def refused(self, _backend: Backend, _seconds: float) -> bool:
        return self.dead


def reply(
    status: int, body: bytes = b"{}", headers: Mapping[str, str] = MappingProxyType({})
) -> Outcome:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Outcome("", head=ReplyHead(status, b"", pairs, "application/json", len(body)), body=body)


def fault(kind: Fault, *, committed: bool = False) -> Outcome:
    response = cast("Downstream", object()) if committed else None
    return Outcome("", fault=kind, response=response)


class Desk:
    """A dispatcher and what surrounds it."""

    def __init__(self, *answers: Answer, names: str = "abc", **proxy: Any) -> None:
        self.relay = ScriptedRelay(*answers)
        self.backends = [make_backend(name) for name in names]
        self.policy = InOrder()
        self.clock = Clock()
        self.telemetry = Telemetry()
        self.record = make_record()
        endpoints = tuple(backend.endpoint for backend in self.backends)
        self.runtime = Runtime(
            Config(endpoints=endpoints, proxy=Proxy(**proxy)),
            Pool(self.backends),
            TrustedProxies(()),
        )
        self.placement = Placement(
            Routing(),
            self.telemetry,
            self.clock,
            lambda: 0.0,
            wall=lambda: 0.0,
            policy=self.policy,
        )
        self.dispatcher = Dispatcher(
            cast("Relay", self.relay), self.placement, self.telemetry, self.clock
        )

    async def dispatch(self, call: Call = CALL) -> Outcome:
        done = await self.dispatcher.dispatch(self.runtime, call, HoldSink(), self.record)
        return done.outcome

    def sample(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(name, labels) or 0.0


async def test_a_reply_is_handed_back_as_it_is() -> None:
    desk = Desk(reply(200, b"fine"))
    outcome = await desk.dispatch()
    assert outcome.body == b"fine"
    assert desk.relay.sent == [("a", False)]
    assert desk.record.endpoint == "a"
    assert desk.record.attempts == 1
    assert desk.record.error is None


async def test_a_request_counts_as_in_flight_from_dispatch_to_its_end() -> None:
    desk = Desk(fault(Fault.CONNECT), reply(200))
    await desk.dispatch()
    assert desk.relay.in_flight == [1, 1]
    assert [backend.in_flight for backend in desk.backends] == [0, 0, 0]


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), ConnectionResetError(), BackendError("")]
)
async def test_nothing_stays_in_flight_when_an_attempt_is_cut_short(error: BaseException) -> None:
    desk = Desk(error)
    with pytest.raises(type(error)):
        await desk.dispatch()
    assert [backend.in_flight for backend in desk.backends] == [0, 0, 0]
    assert len(desk.relay.sent) == 1


@pytest.mark.parametrize(
    "first",
    [
        fault(Fault.CONNECT),
        fault(Fault.CONNECT_TIMEOUT),
        fault(Fault.REFUSED),
        reply(429),
        reply(502),
        reply(503),
        reply(504),
    ],
)
async def test_what_was_not_served_goes_to_another_backend(first: Outcome) -> None:
    desk = Desk(first, reply(200))
    outcome = await desk.dispatch()
    assert outcome.head is not None
    assert outcome.head.status == 200
    assert desk.policy.asked == [["a", "b", "c"], ["b", "c"]]
    assert desk.record.endpoint == "b"
    assert desk.record.attempts == 2


async def test_the_attempt_after_which_there_is_none_is_the_last() -> None:
    desk = Desk(reply(503), reply(503), reply(503, b"third"))
    outcome = await desk.dispatch()
    assert outcome.body == b"third"
    assert desk.relay.sent == [("a", False), ("b", False), ("c", True)]
    limited = Desk(reply(503), reply(503, b"second"), attempts=2)
    outcome = await limited.dispatch()
    assert outcome.body == b"second"
    assert limited.relay.sent == [("a", False), ("b", True)]
    assert limited.sample("ollad_retries_total", family="chat", reason="status_503") == 1


async def test_the_only_backends_refusal_is_the_reply() -> None:
    desk = Desk(reply(429, b"later"), names="a")
    outcome = await desk.dispatch()
    assert outcome.body == b"later"
    assert desk.relay.sent == [("a", True)]


async def test_a_stale_connection_is_tried_again_even_on_the_only_backend() -> None:
    desk = Desk(fault(Fault.STALE), reply(200), names="a", attempts=1)
    await desk.dispatch()
    assert desk.relay.sent == [("a", True), ("a", True)]


async def test_stale_connections_do_not_go_on_for_ever() -> None:
    desk = Desk(*[fault(Fault.STALE)] * 9)
    with pytest.raises(BackendError):
        await desk.dispatch()
    assert [name for name, _ in desk.relay.sent] == ["a", "a", "b", "c"]


async def test_after_a_stale_connection_all_are_candidates() -> None:
    desk = Desk(fault(Fault.STALE), reply(200))
    await desk.dispatch()
    assert desk.policy.asked == [["a", "b", "c"], ["a", "b", "c"]]


@pytest.mark.parametrize("kind", [Fault.CONNECT, Fault.CONNECT_TIMEOUT])
async def test_when_nobody_can_be_reached_the_request_can_be_sent_again_later(kind: Fault) -> None:
    desk = Desk(fault(kind), fault(kind), fault(kind))
    with pytest.raises(UnavailableError) as caught:
        await desk.dispatch()
    assert caught.value.headers["Retry-After"] == "1"
    assert caught.value.code == "no_backend"
    assert desk.record.error == kind.value
    assert (
        desk.sample(
            "ollad_upstream_attempts_total",
            family="chat",
            backend="c",
            outcome="connect_error" if kind is Fault.CONNECT else "timeout",
        )
        == 1
    )


async def test_a_refusal_says_more_than_a_backend_that_cannot_be_reached() -> None:
    desk = Desk(reply(429, b"later"), fault(Fault.CONNECT), names="ab")
    outcome = await desk.dispatch()
    assert (outcome.backend, outcome.body) == ("a", b"later")
    assert desk.record.endpoint == "a"
    assert desk.record.error is None


async def test_a_refusal_does_not_hide_what_may_have_run() -> None:
    desk = Desk(reply(429, b"later"), fault(Fault.RESET), names="ab")
    with pytest.raises(BackendError):
        await desk.dispatch()


@pytest.mark.parametrize("kind", [Fault.RESET, Fault.TRUNCATED])
async def test_a_broken_exchange_is_502_and_not_repeated(kind: Fault) -> None:
    desk = Desk(fault(kind))
    with pytest.raises(BackendError, match="'a'") as caught:
        await desk.dispatch()
    assert caught.value.status == 502
    assert desk.record.error == kind.value
    assert len(desk.relay.sent) == 1


@pytest.mark.parametrize(
    "kind", [Fault.FIRST_BYTE_TIMEOUT, Fault.IDLE_TIMEOUT, Fault.TOTAL_TIMEOUT]
)
async def test_a_backend_that_is_too_slow_is_504_and_not_asked_again(kind: Fault) -> None:
    desk = Desk(fault(kind))
    with pytest.raises(BackendTimeoutError) as caught:
        await desk.dispatch()
    assert caught.value.status == 504
    assert caught.value.code == kind.value
    assert len(desk.relay.sent) == 1


@pytest.mark.parametrize("kind", Fault)
async def test_a_fault_after_the_first_byte_is_counted_never_raised(kind: Fault) -> None:
    desk = Desk(fault(kind, committed=True))
    outcome = await desk.dispatch()
    assert outcome.fault is kind
    assert desk.record.error == kind.value
    assert desk.sample("ollad_stream_aborts_total", family="chat", side="upstream") == 1
    assert len(desk.relay.sent) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ({}, 2.0),
        ({"Retry-After": "0"}, 2.0),
        ({"Retry-After": "5"}, 5.0),
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After": "60"}, 60.0),
        ({"Retry-After": "61"}, 60.0),
        ({"Retry-After": "9" * 400}, 60.0),
        ({"Retry-After": "-1"}, 2.0),
        ({"Retry-After": "1.5"}, 2.0),
        ({"Retry-After": "\u0663"}, 2.0),
        ({"Retry-After": ""}, 2.0),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:09 GMT"}, 9.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_backend_counts_as_overloaded_as_long_as_it_says(
    status: int, header: dict[str, str], seconds: float
) -> None:
    desk = Desk(reply(status, headers=header), reply(200))
    await desk.dispatch()
    assert desk.backends[0].overloaded_until == 100.0 + seconds
    assert desk.backends[1].overloaded_until == 0.0


async def test_a_later_refusal_does_not_shorten_an_overload() -> None:
    desk = Desk(reply(503, headers={"Retry-After": "30"}), reply(503), names="a")
    await desk.dispatch()
    desk.clock.now += 1
    await desk.dispatch()
    assert desk.backends[0].overloaded_until == 130.0


async def test_a_full_queue_in_a_stream_counts_as_overload() -> None:
    desk = Desk(fault(Fault.REFUSED), reply(200))
    await desk.dispatch()
    assert desk.backends[0].overloaded_until == 102.0


@pytest.mark.parametrize("answer", [reply(500), reply(502), reply(504), fault(Fault.CONNECT)])
async def test_no_other_trouble_counts_as_overload(answer: Outcome) -> None:
    desk = Desk(answer, reply(200))
    await desk.dispatch()
    assert desk.backends[0].overloaded_until == 0.0


async def test_only_backends_that_can_serve_the_call_are_candidates() -> None:
    desk = Desk(reply(200), names="abcd")
    desk.backends[0] = make_backend("a", state=State.DOWN)
    desk.backends[1] = make_backend("b", models=("another",))
    desk.runtime = replace(desk.runtime, pool=Pool(desk.backends))
    await desk.dispatch(CALL._replace(suits=lambda backend: backend.name != "c"))
    assert desk.policy.asked == [["d"]]


async def test_a_pinned_call_goes_nowhere_else() -> None:
    desk = Desk(reply(503, b"busy"))
    outcome = await desk.dispatch(CALL._replace(pinned="b"))
    assert outcome.body == b"busy"
    assert desk.relay.sent == [("b", True)]


@pytest.mark.parametrize("change", [{"pinned": "z"}, {"model": "z"}, {"suits": lambda _: False}])
async def test_a_call_that_nobody_can_serve_now_is_503(change: dict[str, Any]) -> None:
    desk = Desk()
    with pytest.raises(UnavailableError) as caught:
        await desk.dispatch(CALL._replace(**change))
    assert "Retry-After" in caught.value.headers
    assert desk.record.endpoint is None
    assert not desk.relay.sent


async def test_the_total_time_counts_from_the_arrival_of_the_request() -> None:
    desk = Desk(fault(Fault.CONNECT), reply(200), total_timeout=30.0)
    desk.record.started = 90.0
    await desk.dispatch()
    assert desk.relay.deadlines == [120.0, 120.0]
    limitless = Desk(reply(200))
    await limitless.dispatch()
    assert limitless.relay.deadlines == [None]


async def test_each_backend_gets_its_own_headers() -> None:
    desk = Desk(fault(Fault.CONNECT), reply(200), names="a")
    endpoint = Endpoint(url="http://b.example", name="b", headers={"X-API-Key": "secret"})
    other = make_backend("b", endpoint={"url": endpoint.url, "headers": endpoint.headers})
    desk.runtime = replace(desk.runtime, pool=Pool([*desk.backends, other]))
    await desk.dispatch()
    first, second = (dict(header_pairs(sent.header_lines)) for sent in desk.relay.requests)
    assert "X-API-Key" not in first
    assert second["X-API-Key"] == "secret"
    assert first["X-Client"] == second["X-Client"] == "1"
    assert first["X-Olla-Request-ID"] == "request-1"


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        (reply(200), "ok"),
        (reply(302), "ok"),
        (reply(404), "http_4xx"),
        (reply(500), "http_5xx"),
        (fault(Fault.TRUNCATED, committed=True), "reset"),
        (fault(Fault.IDLE_TIMEOUT, committed=True), "timeout"),
    ],
)
async def test_every_attempt_is_counted_by_its_end(answer: Outcome, label: str) -> None:
    desk = Desk(answer)
    await desk.dispatch()
    counted = desk.sample(
        "ollad_upstream_attempts_total", family="chat", backend="a", outcome=label
    )
    assert counted == 1
