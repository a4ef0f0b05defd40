"""What policies share that keep nothing of requests under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ollad.routing.demand import Demand
    from ollad.routing.policy import Candidate, Standing, Ticket

__all__ = ["Bookless"]


class _NoTicket:
    """Hears of a request and keeps nothing."""

    __slots__ = ()

    def first_byte(self, now: float) -> None:
        """Nothing waited for it."""

    def end(
        self,
        now: float,
        *,
        prompt_tokens: int | None = None,
        cached_tokens: int | None = None,
        answer: tuple[int, ...] = (),
    ) -> None:
        """Nothing waited for it."""


_NO_TICKET: Final = _NoTicket()


class Bookless:
    """A policy for which ``in_flight`` is enough."""

    def begin(self, backend: Candidate, demand: Demand, now: float) -> Ticket:  # noqa: ARG002 - nothing is kept of them
        """Keep nothing."""
        return _NO_TICKET

    def forget(self, name: str) -> None:
        """There is nothing to drop."""

    def standings(self) -> Mapping[str, Standing]:
        """There is nothing to show."""
        return {}
