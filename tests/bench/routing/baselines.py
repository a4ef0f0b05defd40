"""What ollad's policies are compared with, behind the same interface.

None of them is a port; each is written from what its original documents or does.
"""

from __future__ import annotations

import bisect
import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random as Dice

    from ollad.routing.demand import Demand
    from ollad.routing.policy import Candidate, Standing, Ticket

__all__ = ["AnyOne", "BoundedHash", "CacheAware", "LeastConnections", "RoundRobin", "Sticky"]

STICKY_TOKENS: Final = 1024
"""How much of a prompt is the key of an affinity by its beginning. All prompts of the trace have
their first 512 tokens in common, so that a shorter key would send all of them to one server."""


class _NoTicket:
    """Of what nobody takes note."""

    def first_byte(self, now: float) -> None:
        """Do nothing."""

    def end(
        self,
        now: float,
        *,
        prompt_tokens: int | None = None,
        cached_tokens: int | None = None,
        answer: tuple[int, ...] = (),
    ) -> None:
        """Do nothing."""


_NO_TICKET: Final = _NoTicket()


class _Baseline:
    """A policy that keeps no books of requests."""

    def begin(self, backend: Candidate, demand: Demand, now: float) -> Ticket:  # noqa: ARG002
        """Take no note."""
        return _NO_TICKET

    def forget(self, name: str) -> None:
        """Do nothing: no backend ever leaves."""

    def standings(self) -> Mapping[str, Standing]:
        """Nothing is kept."""
        return {}


class AnyOne(_Baseline):
    """Any."""

    def __init__(self, random: Dice) -> None:
        self._random = random

    def pick(self, candidates: Sequence[Candidate], demand: Demand, now: float) -> Candidate:  # noqa: ARG002
        """Choose at random."""
        return self._random.choice(candidates)


class RoundRobin(_Baseline):
    """Each in turn."""

    def __init__(self) -> None:
        self._next = 0

    def pick(self, candidates: Sequence[Candidate], demand: Demand, now: float) -> Candidate:  # noqa: ARG002
        """Choose the next."""
        self._next += 1
        return candidates[self._next % len(candidates)]


class LeastConnections(_Baseline):
    """The one with the fewest requests in flight; equals at random."""

    def __init__(self, random: Dice) -> None:
        self._random = random

    def pick(self, candidates: Sequence[Candidate], demand: Demand, now: float) -> Candidate:  # noqa: ARG002
        """Choose by requests in flight."""
        return min(candidates, key=lambda one: (one.in_flight, self._random.random()))


class Sticky(_Baseline):
    """Sessions by a hash of the beginning of the prompt, as Olla has them.

    What begins like something of the last ten minutes goes where that went; else to the one with
    the fewest requests in flight, whose it is from then on.
    """

    _SECONDS: Final = 600.0
    _MOST: Final = 10_000

    def __init__(self, random: Dice) -> None:
        self._least = LeastConnections(random)
        self._sessions: OrderedDict[int, tuple[str, float]] = OrderedDict()

    def pick(self, candidates: Sequence[Candidate], demand: Demand, now: float) -> Candidate:
        """Choose by what came before."""
        key = _beginning(demand)
        name, last = self._sessions.get(key, ("", 0.0))
        known = next((one for one in candidates if one.name == name), None)
        if known is None or now - last > self._SECONDS:
            known = self._least.pick(candidates, demand, now)
        self._sessions[key] = (known.name, now)
        self._sessions.move_to_end(key)
        if len(self._sessions) > self._MOST:
            self._sessions.popitem(last=False)
        return known


class BoundedHash(_Baseline):
    """Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016).

    The beginning of the prompt has a place on a ring of the backends, and the next one on it that
    has less than 1.25 times the mean of requests in flight takes it.
    """

    _POINTS: Final = 100
    _FACTOR: Final = 1.25

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._ring: list[tuple[int, int]] = []

    def pick(self, candidates: Sequence[Candidate], demand: Demand, now: float) -> Candidate:  # noqa: ARG002
        """Choose by place and load."""
        names = tuple(one.name for one in candidates)
        if names != self._names:
            self._names = names
            self._ring = sorted(
                (_hash(f"{name}/{point}"), index)
                for index, name in enumerate(names)
                for point in range(self._POINTS)
            )
        in_flight = sum(one.in_flight for one in candidates)
        bound = self._FACTOR * (in_flight + 1) / len(candidates)
        start = bisect.bisect(self._ring, (_hash(str(_beginning(demand))), 0))
        for step in range(len(self._ring)):
            chosen = candidates[self._ring[(start + step) % len(self._ring)][1]]
            if chosen.in_flight < bound:
                return chosen
        raise AssertionError("some backend always has less than the mean, one more counted")


class CacheAware(_Baseline):
    """The policy ``cache_aware`` of SGLang's router, with the defaults of its command line.

    One tree of all prompts says who got which. Where the difference of requests in flight is over
    64 and over 1.5-fold, the least busy is chosen. Else the backend that first got the longest
    known prefix of the prompt, if that is over 0.3 of it, and the least busy (of equals the first)
    if not. Once a minute the least recently used of what a backend has over 2^26 characters is
    forgotten. The original matches characters, this one blocks.
    """

    _THRESHOLD: Final = 0.3
    _ABSOLUTE: Final = 64
    _RELATIVE: Final = 1.5
    _EVICTION_SECONDS: Final = 60.0
    _MOST_TOKENS: Final = (1 << 26) / 4

    def __init__(self) -> None:
        self._owners: dict[int, list[str]] = {}
        self._held: dict[str, OrderedDict[int, None]] = {}
        self._evicted = 0.0

    def pick(self, candidates: Sequence[Candidate], demand: Demand, now: float) -> Candidate:
        """Choose by prefix while loads are balanced."""
        if now - self._evicted >= self._EVICTION_SECONDS:
            self._evicted = now
            self._evict(int(self._MOST_TOKENS / demand.block_tokens))
        least = min(candidates, key=lambda one: one.in_flight)
        most = max(one.in_flight for one in candidates)
        chosen = least
        imbalanced = (
            most - least.in_flight > self._ABSOLUTE and most > self._RELATIVE * least.in_flight
        )
        if not imbalanced:
            blocks, owner = self._match(demand.chain)
            if demand.prefix_tokens(blocks) > self._THRESHOLD * demand.tokens:
                chosen = next(one for one in candidates if one.name == owner)
        self._insert(demand.chain, chosen.name)
        return chosen

    def _match(self, chain: Sequence[int]) -> tuple[int, str | None]:
        owner = None
        for count, block in enumerate(chain):
            owners = self._owners.get(block)
            if not owners:
                return count, owner
            owner = owners[0]
        return len(chain), owner

    def _insert(self, chain: Sequence[int], name: str) -> None:
        held = self._held.setdefault(name, OrderedDict())
        for block in reversed(chain):
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
                self._owners.setdefault(block, []).append(name)

    def _evict(self, most: int) -> None:
        for name, held in self._held.items():
            while len(held) > most:
                block, _ = held.popitem(last=False)
                owners = self._owners[block]
                owners.remove(name)
                if not owners:
                    del self._owners[block]


def _beginning(demand: Demand) -> int:
    """What stands for the first tokens of a prompt."""
    if not demand.chain:
        return 0
    blocks = max(1, int(STICKY_TOKENS / demand.block_tokens))
    return demand.chain[min(blocks, len(demand.chain)) - 1]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
