"""Requests that wait until some backend has room for them.

Whoever waits is served in the order of ``FairLine``, and chooses its backend anew when its turn
comes: by what is known then, not by what was known when it came. A place that becomes free is
given on in the same loop turn, so what is free when a request comes suits nobody who waits.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from ollad.errors import GatewayError, UnavailableError
from ollad.routing.admission import FairLine

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WaitingRoom"]

_Place = TypeVar("_Place")

_LOOK_SECONDS: Final = 0.25
"""How often those who wait are asked anyway: backends recover, and limits change by a reload."""
_ASKED: Final = 8
"""How many of a line are asked about one place; they mostly differ in nothing that matters."""


class WaitingRoom(Generic[_Place]):
    """Lets requests in as places become free.

    Args:
        give_back: frees a place that was taken for a request that has gone meanwhile.

    Attributes:
        count: how many wait; while there is nobody, ``call`` need not be called.
    """

    def __init__(self, give_back: Callable[[_Place], None]) -> None:
        self._give_back = give_back
        self._lines: dict[str | None, FairLine[_Waiter[_Place]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.count = 0

    def __repr__(self) -> str:
        return f"<WaitingRoom {self._lines}>"

    def waiting(self) -> dict[str | None, int]:
        """How many wait, by model; None stands for requests that name none."""
        return {model: len(line) for model, line in self._lines.items()}

    async def enter(
        self,
        model: str | None,
        client: str,
        take: Callable[[], _Place | None],
        *,
        size: int,
        patience: float | None,
    ) -> _Place:
        """A place, as soon as there is one.

        Args:
            model: whose line to wait in.
            client: with whom others take turns.
            take: takes a free place, or says that there is none; must not wait. What it raises
                ends the waiting.
            size: how many may wait in that line.
            patience: seconds to wait at most; None: no limit.

        Raises:
            UnavailableError: the line is full, or the patience is over.
            GatewayError: raised by ``take``.
            asyncio.CancelledError: the client has gone; no place is taken.
        """
        place = take()
        if place is not None:
            return place
        waiter: _Waiter[_Place] = _Waiter(client, take, asyncio.get_running_loop().create_future())
        line = self._join(model, waiter, size)
        try:
            async with asyncio.timeout(patience):
                return await waiter.place
        except TimeoutError:
            place = waiter.result()
            if place is not None:
                return place
            raise UnavailableError(
                f"Every backend that could take this request was busy for {patience or 0:g} s. "
                "Try again later.",
                code="queue_timeout",
            ) from None
        except asyncio.CancelledError:
            place = waiter.result()
            if place is not None:
                self._give_back(place)
            raise
        finally:
            self._leave(model, line, waiter)

    def call(self) -> None:
        """A place may have become free: it goes to the next whom it suits, the models in turn."""
        for model in tuple(self._lines):
            if self._serve(model, _ASKED, places=1):
                line = self._lines.pop(model, None)
                if line is not None:
                    self._lines[model] = line
                return

    def close(self) -> None:
        """Stop looking; to be called when nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _join(
        self, model: str | None, waiter: _Waiter[_Place], size: int
    ) -> FairLine[_Waiter[_Place]]:
        line = self._lines.get(model)
        if line is None:
            line = self._lines[model] = FairLine(size)
        line.size = size
        evicted = line.join(waiter.client, waiter)
        if evicted is not None:
            evicted.refuse(
                UnavailableError(
                    "Every backend that could take this request is busy, and so many requests "
                    "wait for one already that this one may not. Try again later.",
                    code="queue_full",
                )
            )
        self._recount()
        if self._timer is None:
            self._schedule()
        return line

    def _leave(
        self, model: str | None, line: FairLine[_Waiter[_Place]], waiter: _Waiter[_Place]
    ) -> None:
        line.leave(waiter.client, waiter)
        self._tidy(model, line)

    def _serve(self, model: str | None, asked: int | None, places: int | None) -> int:
        """Ask the first ``asked`` of a line, until ``places`` of them were served."""
        line, served = self._lines[model], 0
        for waiter in tuple(islice(line, asked)):
            if waiter.place.done():  # it has given up, and is about to leave
                continue
            try:
                place = waiter.take()
            except GatewayError as error:
                line.leave(waiter.client, waiter)
                waiter.refuse(error)
                continue
            if place is None:
                continue
            line.served(waiter.client, waiter)
            waiter.place.set_result(place)
            served += 1
            if served == places:
                break
        self._tidy(model, line)
        return served

    def _tidy(self, model: str | None, line: FairLine[_Waiter[_Place]]) -> None:
        if not line and self._lines.get(model) is line:
            del self._lines[model]
        self._recount()
        if not self._lines:
            self.close()

    def _recount(self) -> None:
        self.count = sum(len(line) for line in self._lines.values())

    def _look(self) -> None:
        self._timer = None
        for model in tuple(self._lines):
            self._serve(model, None, places=None)
        if self._lines:
            self._schedule()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)


class _Waiter(Generic[_Place]):
    """A request that waits; as long as it stands in a line, its place is still to come."""

    __slots__ = ("client", "place", "take")

    def __init__(
        self, client: str, take: Callable[[], _Place | None], place: asyncio.Future[_Place]
    ) -> None:
        self.client = client
        self.take = take
        self.place = place

    def refuse(self, error: GatewayError) -> None:
        """End the waiting for nothing."""
        if not self.place.done():
            self.place.set_exception(error)

    def result(self) -> _Place | None:
        """The place it was given and did not come to use."""
        if not self.place.done() or self.place.cancelled() or self.place.exception() is not None:
            return None
        return self.place.result()
