"""What ``CHAOS_*`` variables ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BACKENDS", "Settings"]

BACKENDS: Final = ("b0", "b1", "b2", "b3")
_SHORT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run is made.

    Attributes:
        seconds: how long the load lasts.
        rate: requests a second.
        seed: what prompts and troubles depend on.
        namespaces: whether network namespaces are used, without which no packet is dropped.
        folder: where everything goes that is written down.
    """

    seconds: float
    rate: float
    seed: int
    namespaces: bool
    folder: Path

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables.

        Raises:
            ValueError: one of them is no number.
        """
        return cls(
            seconds=float(environment.get("CHAOS_SECONDS") or 120),
            rate=float(environment.get("CHAOS_RATE") or 200),
            seed=int(environment.get("CHAOS_SEED") or 1),
            namespaces=environment.get("CHAOS_NAMESPACES") != "no",
            folder=Path(environment.get("CHAOS_OUT") or "build/chaos").resolve(),
        )

    @property
    def short(self) -> bool:
        """Whether there is so little time that everything has to go faster."""
        return self.seconds < _SHORT

    @property
    def pace(self) -> float:
        """What the durations of troubles are multiplied with."""
        return 0.25 if self.short else 1.0

    @property
    def least_up(self) -> int:
        """How many backends are up at least, outside of the outage.

        One is the hardest; two forgive a machine so busy that probes come late.
        """
        return 2 if self.short else 1

    @property
    def interval(self) -> float:
        """The daemon's ``check_interval``, seconds."""
        return 0.5 if self.short else 1.0

    @property
    def idle_timeout(self) -> float:
        """The daemon's, seconds."""
        return 2.0 if self.short else 10.0

    @property
    def first_byte_timeout(self) -> float:
        """The daemon's, seconds: longer than what black holes and their retransmissions take."""
        return 8.0 if self.short else 25.0

    @property
    def patience(self) -> float:
        """How long a client waits for anything, seconds."""
        return self.first_byte_timeout + 10

    @property
    def recovery(self) -> float:
        """How long the daemon may take to see that a backend is well again, seconds.

        Two good rounds of probes, the first of which begins up to an interval (and a fifth for
        jitter) later, and some time for probes on a busy machine.
        """
        return 3.4 * self.interval + 0.3
