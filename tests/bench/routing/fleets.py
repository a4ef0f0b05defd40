"""Which servers there are: equal ones, or fast and slow ones that have priorities to match."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench.routing.server import ServerConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["FLEETS"]


def _equal(servers: int) -> list[ServerConfig]:
    return [ServerConfig()] * servers


def _mixed(servers: int, *, decode_rates: tuple[float, float, float]) -> list[ServerConfig]:
    """A quarter prefills twice as fast as the equal ones, a quarter as fast, half half as fast.

    Together they are as fast as as many equal ones.
    """
    kinds = [
        ServerConfig(prefill_rate=prefill_rate, decode_rate=decode_rate, priority=priority)
        for prefill_rate, decode_rate, priority in zip(
            (16_000.0, 8000.0, 4000.0), decode_rates, (100, 50, 25), strict=True
        )
    ]
    quarter = servers // 4
    return [kinds[0]] * quarter + [kinds[1]] * quarter + [kinds[2]] * (servers - 2 * quarter)


FLEETS: Final[Mapping[str, Callable[[int], list[ServerConfig]]]] = {
    "equal": _equal,
    "mixed": lambda servers: _mixed(servers, decode_rates=(50.0, 50.0, 50.0)),
    "mixed-decode": lambda servers: _mixed(servers, decode_rates=(100.0, 50.0, 25.0)),
}
