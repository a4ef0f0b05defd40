"""The discrete-event model: what policies are told, and that nothing is lost."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.bench.routing.baselines import RoundRobin
from tests.bench.routing.figures import figures, percentile
from tests.bench.routing.fleets import FLEETS
from tests.bench.routing.load import Followup, Load, Request
from tests.bench.routing.policies import POLICIES
from tests.bench.routing.server import ServerConfig
from tests.bench.routing.simulation import simulate
from tests.bench.routing.workloads import SYNTHETIC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollad.routing.demand import Demand
    from ollad.routing.policy import Candidate, Ticket
    from tests.bench.routing.simulation import Outcome

SLOW = ServerConfig(prefill_rate=100, chunk_tokens=100, decode_rate=10, cache_tokens=10_000)


class Listener(RoundRobin):
    """Takes turns and writes down what it hears, as a policy and as its own ticket."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, float, object]] = []
        self.seen: list[list[int]] = []
        self.waiting: list[int | None] = []

    def pick(self, candidates: Sequence[Candidate], demand: Demand, now: float) -> Candidate:
        self.seen.append([one.in_flight for one in candidates])
        self.waiting.append(candidates[0].snapshot.load.waiting)
        return super().pick(candidates, demand, now)

    def begin(self, backend: Candidate, demand: Demand, now: float) -> Ticket:  # noqa: ARG002
        self.heard.append(("begin", now, demand.silent))
        return self

    def first_byte(self, now: float) -> None:
        self.heard.append(("first byte", round(now, 6), None))

    def end(
        self,
        now: float,
        *,
        prompt_tokens: int | None = None,
        cached_tokens: int | None = None,
        answer: tuple[int, ...] = (),
    ) -> None:
        self.heard.append(("end", round(now, 6), (prompt_tokens, cached_tokens, answer)))


def ran(policy: Listener, load: Load, servers: int = 1) -> Outcome:
    return simulate(policy, [SLOW] * servers, load, Random(1))


@cache
def beginning(workload: str) -> Load:
    """The first arrivals of a workload."""
    made = next(one for one in SYNTHETIC if one.name == workload).make(4, Random(3))
    return Load(made.name, made.arrivals[:40], made.block_tokens)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("workload", [one.name for one in SYNTHETIC])
def test_every_request_gets_a_first_token(policy: str, workload: str) -> None:
    load = beginning(workload)
    servers = FLEETS["mixed"](4)
    found = simulate(POLICIES[policy](Random(3)), servers, load, Random(3))
    assert len(found.ttft) == load.requests == sum(found.requests)
    assert min(found.ttft) > 0
    computed = sum(
        busy * server.prefill_rate for busy, server in zip(found.busy, servers, strict=True)
    )
    assert computed == pytest.approx(found.prompt_tokens - found.cached_tokens)


def test_a_policy_hears_of_the_first_byte_and_of_the_end() -> None:
    policy = Listener()
    ran(policy, Load("", [(0.0, Request((1,), 10, 10, answer=(2,)))], 10))
    assert policy.heard == [
        ("begin", 0.0, False),
        ("first byte", 0.1, None),
        ("end", 1.0, (10, 0, (2,))),
    ]


def test_of_what_is_not_streamed_it_hears_only_the_end() -> None:
    policy = Listener()
    outcome = ran(policy, Load("", [(0.0, Request((1,), 10, 10))], 10, unary=1.0))
    assert [what for what, _, _ in policy.heard] == ["begin", "end"]
    assert policy.heard[0][2] is True
    assert list(outcome.ttft) == pytest.approx([0.1])


def test_the_next_call_of_a_conversation_comes_after_its_pause_and_finds_the_answer_cached() -> (
    None
):
    policy = Listener()
    following = Request((1, 2, 3), 30, 1)
    begun = Request((1,), 10, 10, (2,), Followup(5.0, following))
    outcome = ran(policy, Load("", [(0.0, begun)], 10))
    assert policy.heard[3:] == [
        ("begin", pytest.approx(6.0), False),
        ("first byte", 6.1, None),
        ("end", 6.1, (30, 20, ())),
    ]
    assert outcome.cached_tokens == 20


def test_requests_in_flight_are_known_at_once_and_the_queue_only_later() -> None:
    policy = Listener()
    arrivals = [(0.0, Request((n,), 100, 1)) for n in range(1, 21)]
    arrivals.append((9.0, Request((99,), 10, 1)))
    ran(policy, Load("", arrivals, 100), servers=2)
    assert policy.seen[19] in ([10, 9], [9, 10])
    assert set(policy.waiting[:20]) == {0}
    waiting = policy.waiting[20]
    assert waiting is not None
    assert 1 <= waiting <= 5, "the queue of one to five seconds ago"


def test_equal_seeds_give_equal_figures() -> None:
    load = beginning("agents")
    outcomes = [
        figures(
            simulate(POLICIES["ollad:prefix-cache"](Random(5)), FLEETS["equal"](4), load, Random(5))
        )
        for _ in range(2)
    ]
    assert outcomes[0] == outcomes[1]


def test_a_percentile_is_the_nearest_rank() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 0.5) == 50
    assert percentile(values, 0.99) == 99
    assert percentile([7.0], 0.99) == 7
    assert percentile([], 0.5) == 0
