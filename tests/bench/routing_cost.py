"""What a choice costs: ``python -m tests.bench.routing_cost``.

Reads prompts into chains, chooses among warm backends and keeps the books, and weighs the index.
"""

from __future__ import annotations

import gc
import sys
import time
import timeit
import tracemalloc
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from ollad.backends.backend import Backend
from ollad.backends.snapshot import Load, Snapshot, State
from ollad.config.schema import Endpoint, PrefixSettings
from ollad.routing.demand import Demand
from ollad.routing.index import PrefixIndex
from ollad.routing.prefix_cache import PrefixCache
from ollad.routing.prompt import PromptReader

if TYPE_CHECKING:
    from collections.abc import Callable

_WARMING = 400
_ROUNDS, _TIMES = 25, 40
"""The best of so many rounds, of processor time: the machine may have other things to do."""
_DICE = Random(1)
_WORDS = "".join(_DICE.choices("abcdefghijklmnopqrstuvwxyz     ", k=1 << 21))


def main() -> int:
    """Print the figures."""
    reader = PromptReader(PrefixSettings().block_bytes)
    print(f"{'what':48} {'microseconds':>12}")
    for size, messages in ((1 << 10, 2), (1 << 15, 16), (1 << 20, 64)):
        document = _chat(size, messages)
        _report(f"read a chat of {size >> 10} KiB", partial(_read, reader, document))
    for backends in (16, 256):
        _choice(reader, backends)
    _memory()
    return 0


def _choice(reader: PromptReader, count: int) -> None:
    """Prompts of 32 KiB that share an eighth with all others, on backends that know many."""
    policy = PrefixCache(PrefixSettings(), Random(1).random)
    fleet = [_backend(number) for number in range(count)]
    shared = _text(1 << 12)
    for _ in range(_WARMING):
        demand = _read(reader, _prompt(shared))
        policy.begin(policy.pick(fleet, demand, 0.0), demand, 0.0).end(0.0)
    # each conversation known at one backend, the instructions everywhere
    for backend in fleet:
        policy.begin(backend, _read(reader, _prompt(shared)), 0.0).end(0.0)
    documents = [_prompt(shared) for _ in range(32)]
    turn = iter(documents * 1000)

    def read_and_choose() -> None:
        demand = _read(reader, next(turn))
        policy.begin(policy.pick(fleet, demand, 1.0), demand, 1.0).end(2.0)

    demands = [_read(reader, document) for document in documents]
    again = iter(demands * 1000)
    _report(f"choose among {count}", lambda: policy.pick(fleet, next(again), 1.0))
    _report(f"read 32 KiB, choose among {count}, keep the books", read_and_choose)


def _memory() -> None:
    """Weigh an index of 100,000 blocks of one backend."""
    blocks = 100_000
    gc.collect()
    tracemalloc.start()
    index = PrefixIndex(1e9, 1 << 30)
    for _ in range(blocks // 100):
        chain = tuple(_DICE.getrandbits(63) for _ in range(100))
        index.add(chain, Demand(chain, 3200.0, 32.0))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"memory of a block: {held / blocks:.0f} bytes; reported as {index.memory / blocks:.0f}")


def _report(what: str, act: Callable[[], object]) -> None:
    timer = timeit.Timer(act, timer=time.process_time)
    seconds = min(timer.repeat(repeat=_ROUNDS, number=_TIMES)) / _TIMES
    print(f"{what:48} {seconds * 1e6:12.1f}", flush=True)


def _read(reader: PromptReader, document: dict[str, Any]) -> Demand:
    return reader.read("/v1/chat/completions", document, model="model", size=0).demand


def _chat(size: int, messages: int) -> dict[str, Any]:
    return {
        "model": "model",
        "stream": True,
        "messages": [{"role": "user", "content": _text(size // messages)} for _ in range(messages)],
    }


def _prompt(shared: str) -> dict[str, Any]:
    document = _chat((1 << 15) - len(shared), 15)
    document["messages"].insert(0, {"role": "system", "content": shared})
    return document


def _text(length: int) -> str:
    start = _DICE.randrange(len(_WORDS) - length)
    return _WORDS[start : start + length]


def _backend(number: int) -> Backend:
    backend = Backend(Endpoint(url="http://127.0.0.1:1", name=f"backend-{number}"))
    backend.snapshot = Snapshot(
        state=State.HEALTHY, weight=1.0, load=Load(kv_tokens=2_000_000, radix_usage=0.5)
    )
    return backend


if __name__ == "__main__":
    sys.exit(main())
