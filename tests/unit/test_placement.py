"""Where requests are sent, what that counts, and what is kept across reloads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ollad.backends.pool import Pool
from ollad.call import Call, Inbound
from ollad.config.schema import PrefixSettings, Proxy, Queue, Routing
from ollad.errors import UnavailableError
from ollad.metrics import Telemetry
from ollad.placement import NO_PROMPT, Placement
from ollad.relay.exchange import Outcome, ReplyHead
from tests.unit.builders import InOrder, make_backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollad.backends.backend import Backend
    from ollad.placement import Place

INBOUND = Inbound((), "request-1", "192.0.2.7", "http", "ollad.example", False)
PROMPT = "You answer briefly and politely. " * 40


def chat(prompt: str = PROMPT, **fields: Any) -> Call:
    document = {"messages": [{"role": "user", "content": prompt}], "stream": True}
    call = Call("chat", "POST", "/v1/chat/completions", b"{}", INBOUND, document, "tiny-llama")
    return call._replace(**fields)


class Desk:
    """A placement with the policies that operators can have, or one that notes."""

    def __init__(
        self, *backends: Backend, routing: Routing | None = None, policy: InOrder | None = None
    ) -> None:
        self.now = 100.0
        self.telemetry = Telemetry()
        self.pool = Pool(backends)
        routing = routing or Routing()
        self.placement = Placement(
            routing,
            self.telemetry,
            lambda: self.now,
            lambda: 0.0,
            wall=lambda: 0.0,
            policy=policy,
        )
        self.placement.adopt(routing, self.pool)

    async def take(
        self,
        call: Call | None = None,
        *,
        tried: Sequence[Backend] = (),
        patience: float | None = None,
        **queue: Any,
    ) -> Place:
        call = call or chat()
        proxy = Proxy(queue=Queue(**queue))
        demand = self.placement.read(call).demand
        return await self.placement.take(self.pool, call, demand, tried, proxy, patience)

    def pending(self) -> dict[str, float]:
        standings = self.placement.standings()
        return {name: standing.pending_tokens for name, standing in standings.items()}

    def reload(self, *names: str, **routing: Any) -> None:
        backends = [self.pool.get(name) or make_backend(name) for name in names]
        self.pool = Pool(backends)
        self.placement.adopt(Routing(**routing), self.pool)


# --- places


@pytest.mark.parametrize(
    ("roll", "overloaded", "asked"),
    [
        (0.1, ["a"], ["b", "c"]),
        (0.09, ["a"], ["a", "b", "c"]),
        (0.9, ["a", "b", "c"], ["a", "b", "c"]),
    ],
)
async def test_an_overloaded_backend_is_left_out_nine_times_of_ten(
    roll: float, overloaded: list[str], asked: list[str]
) -> None:
    backends, policy = [make_backend(name) for name in "abc"], InOrder()
    desk = Desk(*backends, policy=policy)
    desk.placement._random = lambda: roll
    busy = Outcome("a", ReplyHead(503, b"Busy", (), "", 0), b"")
    for backend in backends:
        if backend.name in overloaded:
            desk.placement.conduct.note(backend, busy, desk.now)
    await desk.take()
    desk.now += 2.0
    await desk.take()
    assert policy.asked == [asked, ["a", "b", "c"]]


async def test_a_place_counts_from_its_taking_to_its_leaving() -> None:
    backend, policy = make_backend("a"), InOrder()
    desk = Desk(backend, policy=policy)
    place = await desk.take()
    assert (place.backend, place.began, place.alone) == (backend, 100.0, True)
    assert backend.in_flight == 1
    assert len(policy.tickets) == 1
    desk.placement.leave(place)
    assert backend.in_flight == 0
    # whoever reads the reply ends the ticket, with its figures
    assert policy.tickets[0].ends == []


async def test_who_has_been_tried_is_no_candidate() -> None:
    backends = [make_backend(name) for name in "abc"]
    policy = InOrder()
    desk = Desk(*backends, policy=policy)
    first = await desk.take()
    second = await desk.take(tried=backends[:2])
    assert (first.alone, second.alone) == (False, True)
    assert policy.asked == [["a", "b", "c"], ["c"]]
    with pytest.raises(UnavailableError) as caught:
        await desk.take(tried=backends)
    assert caught.value.code == "no_backend"


async def test_who_is_ejected_is_no_candidate_as_long_as_another_is_not() -> None:
    backends = [make_backend(name) for name in "ab"]
    desk = Desk(*backends)
    breaker = backends[0].breaker
    while breaker.closed:
        breaker.failed(desk.now, desk.now, "status 500")
    desk.placement.conduct.wary_until = breaker.until + 60.0
    places = [await desk.take() for _ in range(4)]
    assert {place.backend.name for place in places} == {"b"}
    assert not places[0].alone


async def test_a_trial_is_noted_when_it_is_sent() -> None:
    backend = make_backend("a")
    desk = Desk(backend)
    breaker = backend.breaker
    while breaker.closed:
        breaker.failed(desk.now, desk.now, "status 500")
    desk.now = breaker.until
    assert breaker.admits(desk.now)
    await desk.take()
    assert not breaker.admits(desk.now)


# --- prompts


@pytest.mark.parametrize("policy", ["least-connections", "round-robin"])
def test_a_prompt_is_not_read_for_policies_to_which_it_is_nothing(policy: str) -> None:
    desk = Desk(make_backend("a"), routing=Routing(policy=policy))
    assert desk.placement.read(chat()) is NO_PROMPT


@pytest.mark.parametrize("policy", ["prefix-cache", "priority"])
def test_a_prompt_is_read_for_policies_that_follow_prefixes(policy: str) -> None:
    desk = Desk(make_backend("a"), routing=Routing(policy=policy))
    demand = desk.placement.read(chat()).demand
    assert len(demand.chain) == len(PROMPT) // PrefixSettings().block_bytes
    assert desk.placement.read(chat(document=None)) is NO_PROMPT


def test_the_query_of_a_target_does_not_hide_its_route() -> None:
    desk = Desk(make_backend("a"))
    with_query = desk.placement.read(chat(target="/v1/chat/completions?x=1")).demand
    assert with_query.chain == desk.placement.read(chat()).demand.chain != ()


async def test_a_conversation_goes_where_it_was_before() -> None:
    desk = Desk(*(make_backend(name) for name in "abc"))
    place = await desk.take()
    place.ticket.end(desk.now)
    desk.placement.leave(place)
    for _ in range(3):
        again = await desk.take(chat(PROMPT + "And then? " * 20))
        assert again.backend is place.backend
        again.ticket.end(desk.now)
        desk.placement.leave(again)


# --- tiers


def tiered(**limits: int) -> list[Backend]:
    """Two backends of the higher tier and one of the lower."""
    priorities = {"a": 200, "b": 200, "c": 100}
    return [
        make_backend(name, endpoint={"priority": priority, "max_concurrent": limits.get(name, 0)})
        for name, priority in priorities.items()
    ]


async def test_the_lower_tier_gets_nothing_while_the_higher_has_room() -> None:
    desk = Desk(*tiered(), routing=Routing(policy="priority"))
    names = [(await desk.take(chat(f"{number}" * 4000))).backend.name for number in range(12)]
    assert set(names) == {"a", "b"}


async def test_the_lower_tier_gets_what_the_higher_may_not_have() -> None:
    desk = Desk(*tiered(a=1, b=1), routing=Routing(policy="priority"))
    names = [(await desk.take(chat(f"{number}" * 4000))).backend.name for number in range(5)]
    assert set(names[:2]) == {"a", "b"}
    assert names[2:] == ["c", "c", "c"]


async def test_a_tier_is_what_the_last_reload_says() -> None:
    backends = tiered()
    desk = Desk(*backends, routing=Routing(policy="priority"))
    desk.pool = Pool([*backends[:2], make_backend("c", endpoint={"priority": 300})])
    desk.placement.adopt(Routing(policy="priority"), desk.pool)
    assert (await desk.take()).backend.name == "c"


async def test_a_request_older_than_a_reload_may_still_find_a_backend_that_left() -> None:
    old = Desk(*tiered(), routing=Routing(policy="priority"))
    before = old.pool
    old.reload("c", policy="priority")
    demand = old.placement.read(chat()).demand
    tried = [before.named("c")]
    place = await old.placement.take(before, chat(), demand, tried, Proxy(), None)
    assert place.backend.name in {"a", "b"}
    place.ticket.end(old.now)
    old.placement.leave(place)
    assert all(tokens == 0 for tokens in old.pending().values())


# --- reloads


def test_only_backends_that_left_are_forgotten() -> None:
    policy = InOrder()
    desk = Desk(*(make_backend(name) for name in "abc"), policy=policy)
    desk.reload("b", "d")
    assert sorted(policy.forgotten) == ["a", "c"]
    desk.reload("b", "d")
    assert len(policy.forgotten) == 2


async def test_a_reload_that_does_not_concern_routing_forgets_nothing() -> None:
    desk = Desk(*(make_backend(name) for name in "ab"))
    place = await desk.take()
    kept = desk.placement.standings()[place.backend.name]
    assert kept.index_blocks > 0
    desk.reload("a", "b", model_aliases={"gpt": "tiny-llama"})
    assert desk.placement.standings()[place.backend.name] == kept


@pytest.mark.parametrize(
    "routing",
    [
        {"policy": "round-robin"},
        {"policy": "priority"},
        {"prefix": PrefixSettings(block_bytes=64)},
        {"prefix": PrefixSettings(recompute_price=1.0)},
    ],
)
async def test_another_way_to_route_begins_with_nothing(routing: dict[str, Any]) -> None:
    desk = Desk(*(make_backend(name) for name in "ab"))
    place = await desk.take()
    desk.reload("a", "b", **routing)
    assert desk.placement.standings() == {}
    # what began before ends in the books that it began in
    place.ticket.end(desk.now)
    desk.placement.leave(place)
    assert desk.placement.standings() == {}
    assert place.backend.in_flight == 0


async def test_the_new_way_keeps_its_books_at_the_next_reload() -> None:
    desk = Desk(make_backend("a"))
    desk.reload("a", policy="priority")
    await desk.take()
    kept = desk.placement.standings()
    desk.reload("a", policy="priority")
    assert desk.placement.standings() == kept != {}


def test_prompts_are_read_as_the_new_configuration_says() -> None:
    desk = Desk(make_backend("a"))
    long = len(desk.placement.read(chat()).demand.chain)
    desk.reload("a", prefix=PrefixSettings(block_bytes=256))
    assert len(desk.placement.read(chat()).demand.chain) == long // 2
    desk.reload("a", policy="least-connections")
    assert desk.placement.read(chat()) is NO_PROMPT


async def test_a_new_policy_chooses_at_once() -> None:
    desk = Desk(*(make_backend(name) for name in "abc"))
    desk.reload(*"abc", policy="round-robin")
    names = [(await desk.take()).backend.name for _ in range(6)]
    assert sorted(names) == [*"aabbcc"]
    assert names[:3] == names[3:]


# --- waiting


async def waiting(desk: Desk, **options: Any) -> asyncio.Task[Place]:
    """A request that waits for room."""
    count = desk.placement.room.count
    task = asyncio.create_task(desk.take(**options))
    while desk.placement.room.count == count:  # noqa: ASYNC110 - a room announces nothing
        await asyncio.sleep(0)
    return task


async def test_who_waits_gets_the_place_of_who_leaves() -> None:
    policy = InOrder()
    desk = Desk(make_backend("a", endpoint={"max_concurrent": 1}), policy=policy)
    first = await desk.take()
    later = await waiting(desk)
    assert len(policy.tickets) == 1
    desk.placement.leave(first)
    second = await later
    assert second.backend.in_flight == 1
    assert len(policy.tickets) == 2


async def test_a_place_that_comes_to_who_has_gone_goes_to_the_next() -> None:
    policy = InOrder()
    backend = make_backend("a", endpoint={"max_concurrent": 1})
    desk = Desk(backend, policy=policy)
    first = await desk.take()
    gone, last = await waiting(desk), await waiting(desk)
    desk.placement.leave(first)
    desk.now += 1.0
    gone.cancel()  # which has its place, and has not come to use it
    with pytest.raises(asyncio.CancelledError):
        await gone
    place = await last
    assert [len(ticket.ends) for ticket in policy.tickets] == [0, 1, 0]
    assert policy.tickets[1].ends == [{"now": 101.0}]
    assert place.ticket is policy.tickets[2]
    assert backend.in_flight == 1


async def test_who_gives_up_leaves_nothing() -> None:
    policy = InOrder()
    backend = make_backend("a", endpoint={"max_concurrent": 1})
    desk = Desk(backend, policy=policy)
    place = await desk.take()
    with pytest.raises(UnavailableError) as late:
        await desk.take(timeout=0.01)
    with pytest.raises(UnavailableError) as full:
        await desk.take(size=0)
    assert (late.value.code, full.value.code) == ("queue_timeout", "queue_full")
    assert len(policy.tickets) == 1
    desk.placement.leave(place)
    assert backend.in_flight == desk.placement.room.count == 0
    for code in ("queue_timeout", "queue_full"):
        labels = {"family": "chat", "reason": code}
        assert desk.telemetry.registry.get_sample_value("ollad_queue_refusals_total", labels) == 1


@pytest.mark.parametrize(("longest", "patience"), [(0.0, 0.01), (60.0, 0.01), (0.01, 60.0)])
async def test_the_shorter_patience_counts_and_0_is_none(longest: float, patience: float) -> None:
    desk = Desk(make_backend("a", endpoint={"max_concurrent": 1}))
    await desk.take()
    with pytest.raises(UnavailableError):
        await desk.take(timeout=longest, patience=patience)


async def test_a_limit_counts_with_every_policy() -> None:
    for name in ("prefix-cache", "least-connections", "round-robin", "priority"):
        backends = [make_backend(each, endpoint={"max_concurrent": 2}) for each in "ab"]
        desk = Desk(*backends, routing=Routing(policy=name))
        for _ in range(4):
            await desk.take()
        assert [backend.in_flight for backend in backends] == [2, 2]
        with pytest.raises(UnavailableError):
            await desk.take(size=0)
