"""Who is next: the order in which requests that wait for a backend are served.

Each model has a line of its own. In a line the clients take turns, and each client's requests keep
their order, so that a client with a thousand requests waiting delays another's first by one turn.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FairLine"]

_Waiter = TypeVar("_Waiter")


class FairLine(Generic[_Waiter]):
    """Those who wait for one model; hashable, each in it once.

    Args:
        size: how many it holds.
    """

    __slots__ = ("_clients", "_count", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._count = 0
        # clients in the order of their turns, each with its waiters in the order of their coming
        self._clients: OrderedDict[str, OrderedDict[_Waiter, None]] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        waiting = {client: len(waiters) for client, waiters in self._clients.items()}
        return f"<FairLine {self._count}/{self.size} {waiting}>"

    def __iter__(self) -> Iterator[_Waiter]:
        """All, in the order in which they would be served if no more came."""
        turns = [iter(waiters) for waiters in self._clients.values()]
        while turns:
            going_on = []
            for turn in turns:
                for waiter in turn:
                    yield waiter
                    going_on.append(turn)
                    break
            turns = going_on

    def join(self, client: str, waiter: _Waiter) -> _Waiter | None:
        """Add ``waiter`` at the end of the client's own.

        Returns:
            Who has to leave, as there is no room: the last of the client with the most, unless
            the newcomer's would be as many; then the newcomer, which has not joined.
        """
        evicted: _Waiter | None = None
        if self._count >= self.size:
            greedy = max(self._clients, key=lambda name: len(self._clients[name]), default=client)
            mine = len(self._clients.get(client, ()))
            if not self._clients or len(self._clients[greedy]) <= mine + 1:
                return waiter
            evicted = next(reversed(self._clients[greedy]))
            self.leave(greedy, evicted)
        self._clients.setdefault(client, OrderedDict())[waiter] = None
        self._count += 1
        return evicted

    def leave(self, client: str, waiter: _Waiter) -> None:
        """Take ``waiter`` out without a turn; no effect if it is not there."""
        waiters = self._clients.get(client)
        if waiters is None or waiter not in waiters:
            return
        del waiters[waiter]
        self._count -= 1
        if not waiters:
            del self._clients[client]

    def served(self, client: str, waiter: _Waiter) -> None:
        """Take ``waiter`` out, whose turn it was: its client's next is after everybody else's."""
        self.leave(client, waiter)
        if client in self._clients:
            self._clients.move_to_end(client)
