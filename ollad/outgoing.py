"""Replies of backends, as aiohttp takes responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from ollad.relay.exchange import ReplyHead

__all__ = ["SentReply", "WholeReply"]


class WholeReply(web.StreamResponse):
    """A backend's reply that was held, to be sent in one piece once all is known of it.

    Attributes:
        head: of the backend's reply.
        whole: the body.
    """

    def __init__(self, head: ReplyHead, whole: bytes) -> None:
        super().__init__(status=head.status)
        self.head = head
        self.whole = whole

    def sent(self, *, keep_alive: bool) -> None:
        """It has been sent, so aiohttp shall neither start nor end it."""
        self._eof_sent = True
        self._keep_alive = keep_alive


class SentReply(web.StreamResponse):
    """A reply that the relay has written, as aiohttp sees it: one that has been sent.

    Args:
        status: status code.
        keep_alive: whether the connection can be used again.
    """

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._eof_sent = True
        self._keep_alive = keep_alive
