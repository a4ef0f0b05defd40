"""Whatever happens to requests, backends and the configuration: nothing stays counted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from hypothesis import event, given, settings
from hypothesis import strategies as st

from ollad.backends.pool import Pool
from ollad.backends.snapshot import Engine, Load
from ollad.call import Call, Inbound
from ollad.config.schema import Config, Proxy, Queue, Routing
from ollad.dispatch import Dispatcher
from ollad.errors import GatewayError
from ollad.gateway import Runtime
from ollad.headers import TrustedProxies
from ollad.metrics import Telemetry
from ollad.placement import Placement
from ollad.relay.exchange import Fault, Outcome, ReplyHead
from ollad.replies import HoldSink
from tests.unit.builders import make_backend, make_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ollad.backends.backend import Backend
    from ollad.relay.downstream import Downstream
    from ollad.relay.exchange import Sink, UpstreamRequest
    from ollad.relay.forward import Relay

NAMES = "abc"
POLICIES = ("prefix-cache", "least-connections", "round-robin", "priority")
SETTLED = 8
"""Turns of the loop after which nobody has anything to do any more."""

Action = tuple[str, int, int]


@dataclass
class Sent:
    """An exchange under way."""

    backend: Backend
    first_byte: Callable[[float], None] | None
    end: asyncio.Future[Outcome] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class OpenRelay:
    """Leaves every exchange open until it is told how it ends."""

    def __init__(self) -> None:
        self.open: list[Sent] = []

    async def forward(
        self,
        _request: UpstreamRequest,
        backend: Backend,
        _sink: Sink,
        _proxy: Proxy,
        *,
        last: bool,  # noqa: ARG002 - decided by who ends the exchange
        deadline: float | None,  # noqa: ARG002 - nobody is late
        first_byte: Callable[[float], None] | None,
    ) -> Outcome:
        sent = Sent(backend, first_byte)
        self.open.append(sent)
        try:
            return await sent.end
        finally:
            self.open.remove(sent)

    async def refused(self, _backend: Backend, _seconds: float) -> bool:
        await asyncio.sleep(0)
        return True


def reply(status: int) -> Outcome:
    return Outcome("", head=ReplyHead(status, b"", [], "application/json", 2), body=b"{}")


ENDS: list[Outcome] = [
    reply(200),
    reply(400),
    reply(429),
    reply(503),
    *(Outcome("", fault=kind) for kind in Fault),
    Outcome("", fault=Fault.TRUNCATED, response=cast("Downstream", object())),
]


class World:
    """A dispatcher with real policies, and clients, backends and operators that do anything."""

    def __init__(self, limits: Sequence[int], policy: str) -> None:
        self.now = 100.0
        self.relay = OpenRelay()
        self.telemetry = Telemetry()
        self.known: dict[int, Backend] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.served = 0
        self.books: list[Any] = []
        backends = [self.backend(name, limit) for name, limit in zip(NAMES, limits, strict=True)]
        self.placement = Placement(
            Routing(policy=policy), self.telemetry, self.clock, lambda: 0.0, wall=lambda: 0.0
        )
        self.dispatcher = Dispatcher(
            cast("Relay", self.relay), self.placement, self.telemetry, self.clock
        )
        self.adopt(Routing(policy=policy), Pool(backends))

    def clock(self) -> float:
        return self.now

    def backend(self, name: str, limit: int) -> Backend:
        backend = make_backend(name, endpoint={"max_concurrent": limit})
        self.known[id(backend)] = backend
        return backend

    def adopt(self, routing: Routing, pool: Pool) -> None:
        self.placement.adopt(routing, pool)
        if self.placement._policy not in self.books:
            self.books.append(self.placement._policy)
        config = Config(
            endpoints=tuple(backend.endpoint for backend in pool),
            routing=routing,
            proxy=Proxy(queue=Queue(size=4, timeout=0.0)),
        )
        self.runtime = Runtime(config, pool, TrustedProxies(()))

    async def request(self, prompt: str, stream: bool) -> None:
        document = {"messages": [{"role": "user", "content": prompt}], "stream": stream}
        inbound = Inbound((), "request-1", "192.0.2.7", "http", "ollad.example", False)
        target = "/v1/chat/completions"
        call = Call("chat", "POST", target, b"{}", inbound, document, "tiny-llama")
        try:
            done = await self.dispatcher.dispatch(self.runtime, call, HoldSink(), make_record())
        except (GatewayError, asyncio.CancelledError):
            return
        self.served += 1
        done.place.ticket.end(
            self.now, prompt_tokens=900, cached_tokens=300, answer=done.prompt.answer("yes" * 99)
        )

    async def act(self, action: str, number: int, turns: int) -> None:
        """Do one thing, and give everybody some turns of the loop to react."""
        self.now += 0.25
        open_, pool = self.relay.open, self.runtime.pool
        match action:
            case "ask":
                prompt = "ab"[number % 2] * 3000
                self.tasks.append(asyncio.create_task(self.request(prompt, number % 3 > 0)))
            case "begin" if open_:
                first_byte = open_[number % len(open_)].first_byte
                if first_byte is not None:
                    first_byte(self.now)
            case "end" if open_:
                sent = open_[number % len(open_)]
                outcome = ENDS[number % len(ENDS)]
                if not sent.end.done():
                    sent.end.set_result(outcome._replace(backend=sent.backend.name, seconds=0.25))
            case "leave" if self.tasks:
                self.tasks[number % len(self.tasks)].cancel()
            case "restart":
                backend = list(pool)[number % len(pool)]
                load = Load(waiting_uncached_tokens=number)
                backend.snapshot = replace(
                    backend.snapshot, load=load, engine=Engine(incarnation=str(self.now))
                )
            case "reload":
                names = NAMES[: 1 + number % 3]
                fresh = [pool.get(name) or self.backend(name, number % 4) for name in names]
                self.adopt(Routing(policy=POLICIES[number % 4]), Pool(fresh))
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns == SETTLED:
            self.check()

    def check(self) -> None:
        """What is counted is what is under way."""
        for backend in self.known.values():
            under_way = sum(sent.backend is backend for sent in self.relay.open)
            assert backend.in_flight == under_way <= backend.limit

    async def finish(self) -> None:
        """Let everything end well."""
        while not all(task.done() for task in self.tasks):
            self.now += 10.0
            for sent in self.relay.open:
                if not sent.end.done():
                    sent.end.set_result(reply(200)._replace(backend=sent.backend.name))
            for _ in range(SETTLED):
                await asyncio.sleep(0)
            self.placement.room.call()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)


ACTIONS = st.tuples(
    st.sampled_from(["ask", "ask", "ask", "begin", "end", "end", "leave", "restart", "reload"]),
    st.integers(0, 1000),
    st.sampled_from([0, 1, 2, SETTLED]),
)


async def run(limits: Sequence[int], policy: str, actions: Sequence[Action]) -> None:
    world = World(limits, policy)
    for action in actions:
        await world.act(*action)
    event(f"served {min(world.served, 3)}, waiting {min(world.placement.room.count, 2)}")
    await world.finish()
    world.check()
    assert world.placement.room.waiting() == {}
    for book in world.books:
        for standing in book.standings().values():
            assert standing.pending_tokens == 0


@settings(max_examples=100)
@given(
    st.lists(st.integers(0, 2), min_size=3, max_size=3),
    st.sampled_from(POLICIES),
    st.lists(ACTIONS, min_size=15, max_size=50),
)
def test_nothing_stays_counted(limits: list[int], policy: str, actions: list[Action]) -> None:
    asyncio.run(run(limits, policy, actions))
