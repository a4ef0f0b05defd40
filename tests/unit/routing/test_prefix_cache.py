from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.backends.snapshot import Engine, Load, Snapshot, State
from ollad.config.schema import PrefixSettings
from ollad.routing.demand import UNKNOWN, Demand
from ollad.routing.prefix_cache import PrefixCache
from tests.unit.builders import make_backend
from tests.unit.routing.builders import BLOCK, demand_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ollad.backends.backend import Backend
    from ollad.routing.policy import Ticket

NOW = 1000.0
LONG = "an instruction that many share, or the history of one conversation: "


def policy(**settings: float) -> PrefixCache:
    return PrefixCache(PrefixSettings(**settings), Random(1).random)  # type: ignore[arg-type]


def fleet(count: int = 4) -> list[Backend]:
    return [make_backend(f"backend-{number}") for number in range(count)]


def pick(chooser: PrefixCache, backends: Sequence[Backend], text: str, now: float = NOW) -> str:
    return chooser.pick(backends, demand_of(text), now).name


def send(
    chooser: PrefixCache, backend: Backend, text: str, now: float = NOW, *, silent: bool = False
) -> Ticket:
    return chooser.begin(backend, demand_of(text, silent=silent), now)


def serve(chooser: PrefixCache, backend: Backend, text: str) -> None:
    """Send a request and let it end."""
    ticket = send(chooser, backend, text)
    ticket.first_byte(NOW)
    ticket.end(NOW)


def pending(chooser: PrefixCache, backend: Backend) -> float:
    return chooser.standings()[backend.name].pending_tokens


def engine(backend: Backend, **facts: str | bool) -> None:
    backend.snapshot = Snapshot(
        state=State.HEALTHY,
        weight=1.0,
        engine=Engine(**facts),  # type: ignore[arg-type]
    )


def loaded(backend: Backend, **load: float) -> None:
    backend.snapshot = Snapshot(
        state=State.HEALTHY,
        weight=backend.snapshot.weight,
        load=Load(**load),  # type: ignore[arg-type]
    )


class TestWhatIsCached:
    def test_a_conversation_goes_on_where_it_began(self) -> None:
        backends, chooser = fleet(), policy()
        serve(chooser, backends[2], LONG)
        for _ in range(20):
            assert pick(chooser, backends, LONG + "and a question") == "backend-2"

    def test_the_longest_prefix_wins(self) -> None:
        backends, chooser = fleet(), policy()
        serve(chooser, backends[1], LONG)
        serve(chooser, backends[3], LONG + "with more")
        assert pick(chooser, backends, LONG + "with more and more") == "backend-3"

    def test_a_queue_longer_than_what_the_prefix_saves_is_avoided(self) -> None:
        backends, chooser = fleet(2), policy(recompute_price=3)
        serve(chooser, backends[0], "p" * 50)
        # to compute it again is priced at 3 x 50 blocks of waiting
        send(chooser, backends[0], "q" * 140)
        assert pick(chooser, backends, "p" * 50) == "backend-0"
        send(chooser, backends[0], "r" * 20)
        assert pick(chooser, backends, "p" * 50) == "backend-1"

    def test_a_popular_prefix_is_computed_elsewhere_for_its_plain_price(self) -> None:
        backends, chooser = fleet(2), policy(recompute_price=3, popular_after=4)
        for _ in range(4):
            serve(chooser, backends[0], "p" * 50)
        send(chooser, backends[0], "q" * 40)
        assert pick(chooser, backends, "p" * 50) == "backend-0"
        send(chooser, backends[0], "r" * 20)
        assert pick(chooser, backends, "p" * 50) == "backend-1"

    def test_only_the_popular_part_is_cheap(self) -> None:
        backends, chooser = fleet(2), policy(recompute_price=3, popular_after=4)
        for _ in range(3):
            serve(chooser, backends[0], "p" * 25)
        serve(chooser, backends[0], "p" * 25 + "own" * 10)
        # 25 popular blocks at 1 and 30 own ones at 3
        send(chooser, backends[0], "q" * 105)
        assert pick(chooser, backends, "p" * 25 + "own" * 10) == "backend-0"
        send(chooser, backends[0], "r" * 20)
        assert pick(chooser, backends, "p" * 25 + "own" * 10) == "backend-1"

    def test_what_everybody_waits_for_costs_more(self) -> None:
        """With a request waiting at every backend each needless token delays one more."""
        backends, chooser = fleet(2), policy(recompute_price=1)
        serve(chooser, backends[0], "p" * 50)
        send(chooser, backends[0], "q" * 70)
        assert pick(chooser, backends, "p" * 50) == "backend-1"
        send(chooser, backends[1], "r")
        assert pick(chooser, backends, "p" * 50) == "backend-0"

    def test_the_answer_of_a_whole_reply_is_cached_too(self) -> None:
        backends, chooser = fleet(), policy()
        asked = demand_of(LONG)
        whole = demand_of(LONG + "an answer of some length")
        ticket = chooser.begin(backends[3], asked, NOW)
        ticket.end(NOW, answer=whole.chain[len(asked.chain) :])
        serve(chooser, backends[1], LONG)
        assert pick(chooser, backends, LONG + "an answer of some length, and more") == "backend-3"

    def test_a_backend_without_a_radix_cache_has_nothing_cached(self) -> None:
        backends, chooser = fleet(2), policy()
        engine(backends[0], radix_cache=False)
        ticket = send(chooser, backends[0], LONG)
        ticket.end(NOW, answer=(1, 2, 3))
        assert chooser.standings()["backend-0"].index_blocks == 0

    def test_a_restart_clears_the_index_and_a_probe_that_failed_does_not(self) -> None:
        backends, chooser = fleet(2), policy()
        engine(backends[0], incarnation="first")
        serve(chooser, backends[0], LONG)
        backends[0].snapshot = Snapshot(state=State.DOWN)
        engine(backends[0], incarnation="first")
        assert pick(chooser, backends, LONG) == "backend-0"
        engine(backends[0], incarnation="second")
        assert Counter(pick(chooser, backends, LONG) for _ in range(100))["backend-1"] > 20
        assert chooser.standings()["backend-0"].index_blocks == 0

    def test_the_index_is_as_large_as_the_cache(self) -> None:
        backends, chooser = fleet(1), policy()
        loaded(backends[0], kv_tokens=100 * BLOCK)
        for number in range(200):
            serve(chooser, backends[0], f"{number:010}")
        assert 100 <= chooser.standings()["backend-0"].index_blocks <= 220


class TestWhatIsReported:
    @staticmethod
    def report(chooser: PrefixCache, backend: Backend, cached: int | None, times: int) -> float:
        for _ in range(times):
            ticket = send(chooser, backend, LONG)
            prompt = int(len(LONG) * BLOCK)
            ticket.end(NOW, prompt_tokens=prompt, cached_tokens=cached and cached * prompt // 100)
        return chooser.standings()[backend.name].confidence

    def test_a_backend_whose_reports_contradict_the_index_loses_confidence(self) -> None:
        backends, chooser = fleet(2), policy()
        serve(chooser, backends[0], LONG)
        assert self.report(chooser, backends[0], 0, 10) < 0.5
        assert self.report(chooser, backends[0], 0, 100) > 0

    def test_and_gains_it_again_when_they_agree(self) -> None:
        backends, chooser = fleet(2), policy()
        serve(chooser, backends[0], LONG)
        self.report(chooser, backends[0], 0, 100)
        assert self.report(chooser, backends[0], 100, 100) > 0.95

    def test_what_is_not_believed_attracts_less(self) -> None:
        backends, chooser = fleet(2), policy()
        for backend in backends:
            serve(chooser, backend, LONG)
        self.report(chooser, backends[0], 0, 30)
        assert pick(chooser, backends, LONG) == "backend-1"

    @pytest.mark.parametrize("cached", [None, 100])
    def test_silence_and_agreement_change_nothing(self, cached: int | None) -> None:
        backends, chooser = fleet(1), policy()
        serve(chooser, backends[0], LONG)
        assert self.report(chooser, backends[0], cached, 10) == 1.0

    def test_what_was_not_predicted_is_not_judged(self) -> None:
        backends, chooser = fleet(1), policy()
        send(chooser, backends[0], LONG).end(NOW, prompt_tokens=2000, cached_tokens=0)
        assert chooser.standings()["backend-0"].confidence == 1.0

    def test_a_failure_reports_nothing(self) -> None:
        backends, chooser = fleet(1), policy()
        serve(chooser, backends[0], LONG)
        send(chooser, backends[0], LONG).end(NOW)
        assert chooser.standings()["backend-0"].confidence == 1.0


class TestWhatIsDue:
    def test_only_what_is_not_cached_is_due(self) -> None:
        backends, chooser = fleet(1), policy()
        serve(chooser, backends[0], "cached")
        send(chooser, backends[0], "cached and new")
        assert pending(chooser, backends[0]) == len(" and new") * BLOCK

    def test_what_came_into_the_cache_after_the_choice_is_not_due(self) -> None:
        backends, chooser = fleet(2), policy()
        demand = demand_of(LONG)
        chosen = chooser.pick(backends, demand, NOW)
        backend = next(each for each in backends if each.name == chosen.name)
        serve(chooser, backend, LONG)
        chooser.begin(backend, demand, NOW)
        assert pending(chooser, backend) == 0

    def test_what_was_answered_after_the_choice_is_not_due(self) -> None:
        backends, chooser = fleet(2), policy()
        ticket = send(chooser, backends[0], LONG[:30])
        whole = demand_of(LONG)
        chooser.pick(backends, whole, NOW)
        ticket.end(NOW, answer=whole.chain[30:])
        chooser.begin(backends[0], whole, NOW)
        assert pending(chooser, backends[0]) == 0

    def test_what_was_lost_after_the_choice_is_due(self) -> None:
        backends, chooser = fleet(2), policy()
        engine(backends[0], incarnation="first")
        serve(chooser, backends[0], LONG)
        demand = demand_of(LONG)
        assert chooser.pick(backends, demand, NOW).name == "backend-0"
        engine(backends[0], incarnation="second")
        chooser.begin(backends[0], demand, NOW)
        assert pending(chooser, backends[0]) == demand.tokens

    def test_it_is_released_at_the_first_byte_and_once(self) -> None:
        backends, chooser = fleet(1), policy()
        first = send(chooser, backends[0], "first")
        send(chooser, backends[0], "second")
        for _ in range(2):
            first.first_byte(NOW + 1)
            assert pending(chooser, backends[0]) == len("second") * BLOCK
        for _ in range(2):
            first.end(NOW + 2)
            assert pending(chooser, backends[0]) == len("second") * BLOCK

    def test_it_is_released_by_a_failure(self) -> None:
        backends, chooser = fleet(1), policy()
        send(chooser, backends[0], "first").end(NOW + 1)
        assert pending(chooser, backends[0]) == 0

    def test_a_whole_reply_is_not_waited_for(self) -> None:
        backends, chooser = fleet(2), policy()
        send(chooser, backends[0], "x" * 100, silent=True)
        assert pick(chooser, backends, "y" * 100) == "backend-1"
        later = NOW + 100 * BLOCK / 8000
        assert {pick(chooser, backends, "y" * 100, later) for _ in range(50)} == {
            "backend-0",
            "backend-1",
        }

    def test_only_the_first_end_is_heard(self) -> None:
        backends, chooser = fleet(1), policy()
        serve(chooser, backends[0], LONG)
        ticket = send(chooser, backends[0], LONG)
        ticket.end(NOW)
        ticket.end(NOW, prompt_tokens=2000, cached_tokens=0, answer=(1, 2, 3))
        standing = chooser.standings()["backend-0"]
        assert (standing.confidence, standing.index_blocks) == (1.0, len(LONG))

    def test_queues_that_others_made_are_avoided(self) -> None:
        backends, chooser = fleet(2), policy()
        loaded(backends[0], waiting_uncached_tokens=5000)
        assert pick(chooser, backends, "x") == "backend-1"

    def test_requests_that_ask_for_nothing_are_spread_by_their_number(self) -> None:
        backends, chooser = fleet(4), policy()
        for _ in range(100):
            chosen = chooser.pick(backends, UNKNOWN, NOW)
            next(backend for backend in backends if backend.name == chosen.name).in_flight += 1
        assert [backend.in_flight for backend in backends] == [25] * 4


class TestWeights:
    def test_a_heavier_backend_gets_more(self) -> None:
        heavy, light = make_backend("heavy", weight=1.0), make_backend("light", weight=0.25)
        chooser = policy()
        counts: Counter[str] = Counter()
        for number in range(500):
            text = chr(0x4E00 + number) * 30
            name = pick(chooser, [heavy, light], text)
            send(chooser, heavy if name == "heavy" else light, text)
            counts[name] += 1
        assert counts["light"] == pytest.approx(100, abs=10)

    def test_a_backend_of_no_weight_is_taken_only_when_there_is_no_other(self) -> None:
        weightless, busy = make_backend("weightless", weight=0.0), make_backend("busy", weight=0.01)
        chooser = policy()
        serve(chooser, weightless, LONG)
        send(chooser, busy, "x" * 1000)
        assert pick(chooser, [weightless, busy], LONG) == "busy"
        idle = make_backend("idle", weight=0.0)
        weightless.in_flight = 1
        assert pick(chooser, [weightless, idle], LONG) == "idle"


class TestTies:
    def test_equals_are_taken_evenly(self) -> None:
        backends, chooser = fleet(4), policy()
        counts = Counter(pick(chooser, backends, LONG) for _ in range(2000))
        assert min(counts.values()) > 400

    def test_the_emptier_cache_is_filled_first(self) -> None:
        backends, chooser = fleet(2), policy()
        loaded(backends[0], kv_tokens=1000 * BLOCK)
        loaded(backends[1], kv_tokens=1000 * BLOCK)
        serve(chooser, backends[0], "x" * 100)
        assert {pick(chooser, backends, "new") for _ in range(30)} == {"backend-1"}

    def test_what_a_backend_says_of_its_cache_counts(self) -> None:
        backends, chooser = fleet(2), policy()
        loaded(backends[0], radix_usage=0.8)
        loaded(backends[1], radix_usage=0.2)
        assert {pick(chooser, backends, "new") for _ in range(30)} == {"backend-1"}

    def test_a_cache_may_say_that_it_is_more_than_full(self) -> None:
        backends, chooser = fleet(2), policy()
        for backend in backends:
            loaded(backend, radix_usage=1.5)
        assert pick(chooser, backends, "new") in {"backend-0", "backend-1"}

    def test_nearly_equal_fills_are_equal(self) -> None:
        backends, chooser = fleet(2), policy()
        loaded(backends[0], radix_usage=0.51)
        loaded(backends[1], radix_usage=0.5)
        assert {pick(chooser, backends, "new") for _ in range(30)} == {"backend-0", "backend-1"}

    def test_who_is_alone_is_taken_without_dice(self) -> None:
        chooser = PrefixCache(PrefixSettings(), lambda: 1 / 0)
        assert chooser.pick(fleet(1), UNKNOWN, NOW).name == "backend-0"

    @pytest.mark.parametrize("value", [0.0, 0.999999])
    def test_any_luck_finds_one_of_the_best(self, value: float) -> None:
        chooser = PrefixCache(PrefixSettings(), lambda: value)
        assert chooser.pick(fleet(3), UNKNOWN, NOW).name.startswith("backend-")


class TestBooks:
    def test_a_backend_that_left_is_forgotten(self) -> None:
        backends, chooser = fleet(2), policy()
        serve(chooser, backends[0], LONG)
        ticket = send(chooser, backends[0], LONG)
        chooser.forget("backend-0")
        chooser.forget("never-there")
        ticket.end(NOW)
        assert "backend-0" not in chooser.standings()
        serve(chooser, backends[1], LONG)
        assert pick(chooser, backends, LONG) == "backend-1"

    def test_what_is_kept_is_shown(self) -> None:
        backends, chooser = fleet(1), policy()
        send(chooser, backends[0], LONG)
        standing = chooser.standings()["backend-0"]
        assert standing.index_blocks == len(LONG)
        assert standing.index_bytes > len(LONG) * 48
        assert standing.pending_tokens == len(LONG) * BLOCK

    def test_memory_is_bounded_over_all_backends(self) -> None:
        backends, chooser = fleet(4), policy()
        for backend in backends:
            loaded(backend, kv_tokens=1_000_000_000)
        for number in range(220):
            chain = tuple(range(number * 20_000, (number + 1) * 20_000))
            for backend in backends:
                chooser.begin(backend, Demand(chain, 1.0, 1.0), NOW).end(NOW)
        blocks = sum(one.index_blocks for one in chooser.standings().values())
        assert 1 << 21 < blocks <= (1 << 22) + 4 * 2 * 20_000


@given(
    sent=st.lists(
        st.tuples(st.integers(0, 3), st.text("ab", max_size=12), st.sampled_from("fbe")),
        max_size=40,
    ),
    asked=st.text("ab", max_size=12),
    weights=st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=4, max_size=4),
)
def test_nobody_would_have_been_cheaper(
    sent: list[tuple[int, str, str]], asked: str, weights: list[float]
) -> None:
    """Against the formula, written down over plain lists of what was sent."""
    chooser = policy(recompute_price=3, popular_after=4)
    backends = [
        make_backend(f"backend-{number}", weight=weight) for number, weight in enumerate(weights)
    ]
    texts: list[list[str]] = [[] for _ in backends]
    due = [0.0 for _ in backends]
    waiting = [0 for _ in backends]

    def cached(number: int, text: str) -> int:
        return max((_common(text, other) for other in texts[number]), default=0)

    for number, text, fate in sent:
        ticket = send(chooser, backends[number], text)
        if fate == "b":
            due[number] += (len(text) - cached(number, text)) * BLOCK
            waiting[number] += 1
        elif fate == "f":
            ticket.first_byte(NOW + 1)
        else:
            ticket.end(NOW + 1)
        texts[number].append(text)

    every = [text for held in texts for text in held]
    popular = max(
        (
            end
            for end in range(len(asked) + 1)
            if sum(t.startswith(asked[:end]) for t in every) >= 4
        ),
        default=0,
    )
    behind = min((waiting[n] for n, weight in enumerate(weights) if weight), default=0)
    missing = [len(asked) - cached(number, asked) for number in range(4)]
    own = [min(tokens, len(asked) - popular) for tokens in missing]
    up = [number for number, weight in enumerate(weights) if weight] or [0]
    costs = {}
    for number, weight in enumerate(weights):
        work = missing[number] + 2 * (own[number] - min(own[n] for n in up))
        work += behind * (missing[number] - min(missing[n] for n in up))
        cost = due[number] + BLOCK * work
        costs[f"backend-{number}"] = cost / weight if weight else float("inf")
    assert costs[pick(chooser, backends, asked, NOW + 1)] <= 1.021 * min(costs.values())


def _common(one: str, other: str) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length
