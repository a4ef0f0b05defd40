"""The default policy: the backend where the first token is expected soonest.

    cost = (ahead + mine + (W - 1) x repeated own + n x repeated + c x in flight) / weight

``ahead`` is what the backend has been sent and must prefill yet, ``mine`` what it would have to
prefill of this prompt. ``repeated`` is how much more that is than at the backend that has most of
the prompt cached, and ``repeated own`` the part of it that few requests have in common.

To prefill one conversation's history a second time is waste, so it costs W times its wait; a prefix
that many share is an investment wherever it goes, and costs its wait. With one price, the low one
for all forgets conversations, and the high one for all crowds everyone onto the backend that holds
a popular prefix.

Both prices rise by ``n``, the number of requests that wait for their prefill where the fewest do,
since what is computed needlessly delays all who come behind. While some backend is idle that is
none; where even the shortest queue is long, nothing but what is cached can be afforded, and the
queues shrink again. It is the shortest queue that tells: a long one alone says that one backend is
popular, and to pay more for leaving it would make its queue longer still.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, TypeAlias

from ollad.routing.index import PrefixIndex
from ollad.routing.ledger import Ledger
from ollad.routing.policy import Standing
from ollad.routing.popularity import Popularity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ollad.backends.snapshot import Snapshot
    from ollad.config.schema import PrefixSettings
    from ollad.routing.demand import Demand
    from ollad.routing.ledger import Due
    from ollad.routing.policy import Candidate

__all__ = ["PrefixCache"]

_IN_FLIGHT_TOKENS: Final = 64.0
"""What a request in flight costs those after it, in tokens of prefill."""
_NEAR: Final = 1.02
"""Costs within this factor of the least are as good."""
_CACHE_STEPS: Final = 16
"""How finely the fill of caches is compared."""
_USUAL_KV_TOKENS: Final = 500_000.0
"""Capacity of a backend that does not say."""
_MAX_BLOCKS: Final = 1 << 22
"""Blocks in the indexes of all backends together, at most: some 400 MB, though no index has more
than two fillings of its backend's cache, which is 4 MB for half a million tokens."""
_DISBELIEF: Final = 0.1
"""Weight of one report in the confidence."""
_LEAST_CONFIDENCE: Final = 0.05
_TELLING_TOKENS: Final = 256.0
"""Predictions of fewer cached tokens are not judged: templates and page sizes blur them."""
_INFINITE: Final = float("inf")
_COUNTLESS: Final = sys.maxsize


class PrefixCache:
    """Chooses by expected wait.

    Args:
        settings: what the operator said.
        random: uniform in 0..1; decides between equals.
    """

    def __init__(self, settings: PrefixSettings, random: Callable[[], float]) -> None:
        self._price = settings.recompute_price
        self._random = random
        self._popularity = Popularity(settings.popular_after)
        self._books: dict[str, _Book] = {}

    def pick(self, candidates: Sequence[Candidate], demand: Demand, now: float) -> Candidate:
        """Choose the cheapest; of those as good the one with the emptier cache, then any."""
        if len(candidates) == 1:
            return candidates[0]
        bids, least, behind = self._bids(candidates, demand, now)
        if not bids:
            return min(candidates, key=_in_flight)
        own = least_own = -1.0
        cheapest = second = _INFINITE
        costs = []
        for due, wait, weight, candidate, book in bids:
            cost = wait
            if due > least:
                if own < 0.0:  # mostly it is the same everywhere, and need not be known
                    own = self._own(demand)
                    least_own = min(least, own)
                cost += (self._price - 1.0) * (min(due, own) - least_own)
                cost += behind * (due - least)
            cost /= weight
            costs.append((cost, candidate, book))
            if cost < cheapest:
                cheapest, second, best = cost, cheapest, candidate
            elif cost < second:
                second = cost
        bound = cheapest * _NEAR
        return best if second > bound else self._emptiest(costs, bound)

    def begin(self, backend: Candidate, demand: Demand, now: float) -> _Ticket:
        """Count what is sent to ``backend``, and expect it in its cache from now on."""
        book = self._books.get(backend.name)
        if book is None or book.snapshot is not backend.snapshot:
            book = self._book(backend, now)
        chain, tokens, silent = demand.chain, demand.tokens, demand.silent
        if book.asked is demand:
            believed = book.believed
        else:
            believed = demand.prefix_tokens(book.index.match(chain))
        due = book.ledger.begin(tokens - believed * book.confidence, now, silent)
        if chain and book.caches:
            book.asked = None
            book.index.add(chain, demand)
            self._popularity.see(chain)
        return _Ticket(book, due, demand, believed)

    def forget(self, name: str) -> None:
        """Drop the books of a backend."""
        self._books.pop(name, None)
        self._share_memory()

    def standings(self) -> Mapping[str, Standing]:
        """The books of each backend, as they were when it was last considered."""
        return {name: book.standing() for name, book in self._books.items()}

    def _book(self, backend: Candidate, now: float) -> _Book:
        book = self._books.get(backend.name)
        if book is None:
            book = self._books[backend.name] = _Book()
            self._share_memory()
        if book.snapshot is not backend.snapshot:
            book.learn(backend.snapshot, now)
        return book

    def _share_memory(self) -> None:
        for book in self._books.values():
            book.index.max_blocks = _MAX_BLOCKS // len(self._books)

    def _bids(
        self, candidates: Sequence[Candidate], demand: Demand, now: float
    ) -> tuple[list[_Bid], float, int]:
        """What each candidate of some weight offers.

        Returns:
            The bids; the least tokens due at any of them; the least requests that wait at any.
        """
        chain, tokens = demand.chain, demand.tokens
        books = self._books
        matched, prefix = 0, 0.0
        least, behind = _INFINITE, _COUNTLESS
        bids: list[_Bid] = []
        for candidate in candidates:
            weight = candidate.weight(now)
            if weight <= 0:
                continue
            book = books.get(candidate.name)
            if book is None or book.snapshot is not candidate.snapshot:
                book = self._book(candidate, now)
            found = book.index.match(chain, matched)
            if found != matched:
                matched, prefix = found, demand.prefix_tokens(found)
            book.asked, book.believed = demand, prefix
            due = tokens - prefix * book.confidence
            if due < least:  # noqa: PLR1730 - in here a call of min() is a tenth of the work
                least = due
            ledger = book.ledger
            wait = ledger.pending(now) + _IN_FLIGHT_TOKENS * candidate.in_flight + due
            if ledger.waiting < behind:  # noqa: PLR1730 - as above
                behind = ledger.waiting
            bids.append((due, wait, weight, candidate, book))
        return bids, least, behind

    def _own(self, demand: Demand) -> float:
        """Tokens of a prompt that few requests have in common."""
        return demand.tokens - demand.prefix_tokens(self._popularity.popular(demand.chain))

    def _emptiest(self, costs: Sequence[tuple[float, Candidate, _Book]], bound: float) -> Candidate:
        """Any of the emptiest of those that cost at most ``bound``."""
        least = _COUNTLESS
        emptiest: list[Candidate] = []
        for cost, candidate, book in costs:
            if cost > bound:
                continue
            fill = round(_CACHE_STEPS * book.fill())
            if fill < least:
                least, emptiest = fill, [candidate]
            elif fill == least:
                emptiest.append(candidate)
        return emptiest[int(self._random() * len(emptiest))]


_Bid: TypeAlias = "tuple[float, float, float, Candidate, _Book]"
"""Tokens that would be due, and with them what is ahead; the backend's weight, it, its book."""


def _in_flight(backend: Candidate) -> int:
    return backend.in_flight


class _Book:
    """What is kept of one backend.

    Attributes:
        snapshot: what was taken in last of what the health task saw.
        index: what is believed to be in its cache.
        ledger: what it has to prefill yet.
        confidence: how far the index is believed, 0..1.
        caches: whether it has a radix cache.
        asked: the demand that was looked up last, until the index changes.
        believed: tokens of it that are believed to be cached.
    """

    __slots__ = (
        "_incarnation",
        "_told_fill",
        "asked",
        "believed",
        "caches",
        "confidence",
        "index",
        "ledger",
        "snapshot",
    )

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.index = PrefixIndex(_USUAL_KV_TOKENS, _MAX_BLOCKS)
        self.ledger = Ledger()
        self.confidence = 1.0
        self.caches = True
        self._incarnation: str | None = None
        self._told_fill = 0.0
        self.asked: Demand | None = None
        self.believed = 0.0

    def learn(self, snapshot: Snapshot, now: float) -> None:
        """Take in what the health task saw."""
        self.snapshot = snapshot
        engine, load = snapshot.engine, snapshot.load
        self.caches = engine.radix_cache is not False
        if engine.incarnation is not None and engine.incarnation != self._incarnation:
            self._incarnation = engine.incarnation
            self.index.clear()
            self.asked = None
            self.confidence = 1.0
        self._told_fill = load.radix_usage or 0.0
        self.index.capacity = load.kv_tokens or _USUAL_KV_TOKENS
        self.ledger.correct(load.waiting_uncached_tokens or 0, now)

    def fill(self) -> float:
        """How full its cache is, 0..1: the more of what it said and what it was sent since."""
        told, held = self._told_fill, self.index.fill
        if told > held:
            return told
        return held

    def report(self, predicted: float, actual: float) -> None:
        """It had ``actual`` of a prompt cached, 0..1, where the index said ``predicted``."""
        truth = min(1.0, actual / predicted)
        confidence = self.confidence + _DISBELIEF * (truth - self.confidence)
        self.confidence = max(_LEAST_CONFIDENCE, confidence)

    def standing(self) -> Standing:
        return Standing(
            index_blocks=len(self.index),
            index_bytes=self.index.memory,
            pending_tokens=self.ledger.tokens,
            confidence=self.confidence,
        )


class _Ticket:
    """One request at one backend."""

    __slots__ = ("_believed", "_book", "_demand", "_due", "_ended")

    def __init__(self, book: _Book, due: Due, demand: Demand, believed: float) -> None:
        self._book = book
        self._due = due
        self._demand = demand
        self._believed = believed
        self._ended = False

    def first_byte(self, now: float) -> None:
        """Release what was due."""
        self._book.ledger.prefilled(self._due, now)

    def end(
        self,
        now: float,
        *,
        prompt_tokens: int | None = None,
        cached_tokens: int | None = None,
        answer: tuple[int, ...] = (),
    ) -> None:
        """Release what is due still, and believe what the backend said of its cache."""
        if self._ended:
            return
        self._ended = True
        book, demand = self._book, self._demand
        book.ledger.end(self._due, now, prompt_tokens is not None)
        if prompt_tokens and cached_tokens is not None and self._believed >= _TELLING_TOKENS:
            book.report(self._believed / demand.tokens, cached_tokens / prompt_tokens)
        if answer and book.caches:
            book.asked = None
            book.index.add(demand.chain, demand, answer)
