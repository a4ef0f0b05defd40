"""The workloads: a trace of a real service, and made-up ones that ask one question each.

Each is scaled to the number of servers: so many requests come that every server has as much to do
as with eight of them.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tests.bench.places import TREE
from tests.bench.routing.load import Followup, Load, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from random import Random

__all__ = ["SYNTHETIC", "TRACE", "WORKLOADS", "Workload", "trace", "workload"]

_SERVERS: Final = 8
"""To how many servers the figures below apply."""
_TRACE_BLOCK: Final = 512
_BLOCK: Final = 128


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of load.

    Attributes:
        name: what tables and the command line call it.
        title: what it is, for readers.
        make: makes it for a number of servers.
    """

    name: str
    title: str
    make: Callable[[int, Random], Load]


def trace(path: Path, servers: int, *, spread: Random | None = None) -> Load:
    """A trace in the format of Mooncake's: arrival, lengths, numbers of 512-token prefix blocks.

    Args:
        path: JSON lines with ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids``.
        servers: time runs faster in proportion to their number.
        spread: the trace knows arrivals to three seconds; given, it draws them in between.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else.
    """
    faster = servers / _SERVERS
    arrivals = []
    with path.open() as lines:
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                at = entry["timestamp"] / 1000
                request = Request(
                    chain=tuple(entry["hash_ids"]),
                    tokens=entry["input_length"],
                    output=entry["output_length"],
                )
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}:{number}: no request of a trace: {error!r}") from error
            if spread is not None:
                at += spread.uniform(0, 3)
            arrivals.append((at / faster, request))
    arrivals.sort(key=lambda arrival: arrival[0])
    return Load("trace", arrivals, _TRACE_BLOCK)


class _Prompts:
    """Makes chains of blocks that were never seen before."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._numbers = itertools.count()

    def blocks(self, tokens: float) -> tuple[int, ...]:
        """New whole blocks of about that many tokens, at least one."""
        count = max(1, round(tokens / self.block_tokens))
        return tuple(itertools.islice(self._numbers, count))

    def request(self, chain: tuple[int, ...], output: float) -> Request:
        return Request(chain, len(chain) * self.block_tokens, max(1, int(output)))


def _poisson(random: Random, rate: float, seconds: float) -> Iterator[float]:
    now = random.expovariate(rate)
    while now < seconds:
        yield now
        now += random.expovariate(rate)


def _zipf(count: int, exponent: float) -> list[float]:
    return list(itertools.accumulate(1 / rank**exponent for rank in range(1, count + 1)))


def _lognormal(random: Random, median: float, sigma: float, most: float) -> float:
    return min(most, median * random.lognormvariate(0, sigma))


def _random(servers: int, random: Random) -> Load:
    made = _Prompts(_BLOCK)
    rate, seconds = 8.0 * servers / _SERVERS, 600.0 * _SERVERS / servers
    arrivals = [
        (at, made.request(made.blocks(_lognormal(random, 4000, 0.8, 32_000)), 200))
        for at in _poisson(random, rate, seconds)
    ]
    return Load("random", arrivals, _BLOCK)


def _hot_prefix(servers: int, random: Random) -> Load:
    made = _Prompts(_BLOCK)
    rate, seconds = 60.0 * servers / _SERVERS, 120.0 * _SERVERS / servers
    hot = made.blocks(6000)
    arrivals = [
        (at, made.request(hot + made.blocks(random.uniform(64, 512)), 200))
        for at in _poisson(random, rate, seconds)
    ]
    return Load("hot-prefix", arrivals, _BLOCK)


def _system_prompts(servers: int, random: Random) -> Load:
    made = _Prompts(_BLOCK)
    rate, seconds = 40.0 * servers / _SERVERS, 240.0 * _SERVERS / servers
    systems = [made.blocks(_lognormal(random, 3000, 0.6, 16_000)) for _ in range(1000)]
    weights = _zipf(len(systems), 1.0)
    arrivals = []
    for at in _poisson(random, rate, seconds):
        system = random.choices(systems, cum_weights=weights)[0]
        own = made.blocks(_lognormal(random, 400, 0.8, 4000))
        arrivals.append((at, made.request(system + own, 150)))
    return Load("system-prompts", arrivals, _BLOCK)


def _few_shot(servers: int, random: Random) -> Load:
    # 6 M tokens of templates: more than one cache holds, less than eight do
    made = _Prompts(_BLOCK)
    rate, seconds = 30.0 * servers / _SERVERS, 300.0 * _SERVERS / servers
    templates = [made.blocks(random.uniform(1500, 4500)) for _ in range(250 * servers)]
    arrivals = [
        (at, made.request(random.choice(templates) + made.blocks(random.uniform(64, 320)), 60))
        for at in _poisson(random, rate, seconds)
    ]
    return Load("few-shot", arrivals, _BLOCK)


def _agents(servers: int, random: Random) -> Load:
    made = _Prompts(_BLOCK)
    rate, seconds = 1.4 * servers / _SERVERS, 480.0 * _SERVERS / servers
    kinds = [made.blocks(random.uniform(2000, 8000)) for _ in range(12)]
    weights = _zipf(len(kinds), 0.8)
    arrivals = []
    for at in _poisson(random, rate, seconds):
        chain = random.choices(kinds, cum_weights=weights)[0]
        chain += made.blocks(_lognormal(random, 600, 0.8, 6000))
        arrivals.append(
            (at, _session(made, chain, min(40, int(random.expovariate(1 / 12)) + 1), random))
        )
    return Load("agents", arrivals, _BLOCK)


def _session(made: _Prompts, chain: tuple[int, ...], calls: int, random: Random) -> Request:
    """A conversation that grows by each answer and by what a tool returned."""
    turns = []
    for _ in range(calls):
        answer = made.blocks(_lognormal(random, 150, 0.6, 1000))
        turns.append((chain, answer, random.expovariate(1 / 3) + 0.2))
        chain += answer + made.blocks(_lognormal(random, 700, 1.0, 8000))
    following: Followup | None = None
    for prompt, answer, pause in reversed(turns):
        request = Request(
            prompt,
            len(prompt) * made.block_tokens,
            len(answer) * made.block_tokens,
            answer,
            following,
        )
        following = Followup(pause, request)
    assert following is not None
    return following.request


SYNTHETIC: Final = (
    Workload(
        "random",
        "prompts that have nothing in common, log-normal around 4,000 tokens, 8/s",
        _random,
    ),
    Workload(
        "hot-prefix",
        "60/s, all of them with the same 6,000 tokens before 64 to 512 own",
        _hot_prefix,
    ),
    Workload(
        "system-prompts",
        "40/s, 1,000 system prompts around 3,000 tokens, popular by Zipf's law, and a question",
        _system_prompts,
    ),
    Workload(
        "few-shot",
        "30/s, 2,000 templates of 1,500 to 4,500 tokens, equally popular: more than one cache "
        "holds, less than all do",
        _few_shot,
    ),
    Workload(
        "agents",
        "conversations of up to 40 calls that grow by the answer and by what a tool returned, on "
        "12 kinds of instructions; the next call comes when the tool is done",
        _agents,
    ),
)

TRACE: Final = TREE.parent / "shared/traces/conversation.jsonl"
WORKLOADS: Final = {
    "trace": "one hour of a real chat service: 12,031 requests of 12,000 tokens on average",
    "trace-spread": "the same, arrivals drawn within the three seconds to which the trace rounds",
    "trace-unary": "the same as `trace`, but nothing is streamed",
    **{one.name: one.title for one in SYNTHETIC},
}
"""What they are, by name."""


def workload(name: str, servers: int, random: Random, path: Path) -> Load:
    """The workload of that name.

    Raises:
        OSError: the trace cannot be read.
        ValueError: it is something else.
        KeyError: there is no such workload.
    """
    if name == "trace":
        return trace(path, servers)
    if name == "trace-spread":
        return trace(path, servers, spread=random)
    if name == "trace-unary":
        return replace(trace(path, servers), unary=1.0)
    return {one.name: one.make for one in SYNTHETIC}[name](servers, random)
