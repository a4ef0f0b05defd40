"""The load: requests at a constant rate, whatever becomes of them, and what each of them got.

It must keep up on a machine that does much else: sockets without streams or sessions, replies
taken apart by httptools, contents only once they are over.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, cast

import httptools

from tests.chaos.prompts import prompt, read_reply
from tests.chaos.records import End, Reply

if TYPE_CHECKING:
    from tests.chaos.prompts import Prompt

__all__ = ["Load"]

_MOST_SECONDS: Final = 3.0
"""So many seconds' worth of requests may be under way; the next one waits. A machine that is too
slow for the load then shows that in its rate, and not in connections that nobody can take."""
_TURN_SECONDS: Final = 0.02
_REUSED_WITHIN: Final = 1.0
"""Idle seconds after which a connection is not used again: the daemon would be about to close it,
and a request lost with it would be nobody's fault."""


class _Connection(asyncio.Protocol):
    """A connection to the daemon, on which one exchange follows another."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._prompt: Prompt | None = None
        self._served = 0
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        # mypy does not know the parser's protocol
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self._sent = time.time()
        self._first: float | None = None
        self._whole = False

    def ask(self, prompt: Prompt, patience: float) -> None:
        """Send a request."""
        assert self._transport is not None
        self._reset()
        self._prompt = prompt
        if prompt.leaves_after is None:
            self._timer = self._loop.call_later(patience, self._give_up, End.STUCK)
        else:
            self._timer = self._loop.call_later(prompt.leaves_after, self._give_up, End.LEFT)
        self._transport.write(prompt.request())

    @property
    def usable(self) -> bool:
        """Whether it can take another request."""
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and time.monotonic() - self.idle_since < _REUSED_WITHIN
        )

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._prompt is None:  # nothing was asked
            self._load.unasked += 1
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._over(End.MALFORMED)
            return
        if self._whole:
            self._over(End.WHOLE)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the loop."""
        if self._prompt is None:
            return
        if not self._headers:
            self._over(End.NOTHING)
        else:
            self._over(End.CUT if error is None else End.RESET)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        if self._first is None:
            self._first = time.time()
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._whole = True

    def _give_up(self, end: End) -> None:
        self._over(end)

    def _over(self, end: End) -> None:
        """Note what there was."""
        prompt, self._prompt = self._prompt, None
        if prompt is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        headers = self._headers
        status = self._parser.get_status_code() if headers else 0
        content = read_reply(prompt.kind, status, b"".join(self._pieces))
        reply = Reply(
            id=prompt.id,
            kind=prompt.kind,
            sent=self._sent,
            first=self._first,
            ended=time.time(),
            end=end,
            status=status,
            endpoint=headers.get(b"x-olla-endpoint", b"").decode(),
            request_id=headers.get(b"x-olla-request-id", b"").decode(),
            retry_after=b"retry-after" in headers,
            text=content.text,
            finished=content.finished,
            error=content.error,
            reused=self._served > 0,
        )
        self._served += 1
        again = end is End.WHOLE and self._parser.should_keep_alive()
        if not again:
            self.close()
        self._load.over(reply, self if again else None)


class Load:
    """Requests of clients.

    Args:
        port: where the daemon listens on 127.0.0.1.
        seed: what the prompts depend on.
        patience: how long a client waits, seconds.

    Attributes:
        prompts: all that was asked.
        replies: what became of it.
        unasked: connections on which something came that nobody had asked for.
        late: the longest that a request was sent after its time, seconds.
        rate: requests a second that were made, in the last run.
    """

    def __init__(self, port: int, seed: int, patience: float) -> None:
        self.prompts: list[Prompt] = []
        self.replies: list[Reply] = []
        self.unasked = 0
        self.late = 0.0
        self.rate = 0.0
        self._port = port
        self._seed = seed
        self._patience = patience
        self._idle: list[_Connection] = []
        self._under_way = 0

    async def run(self, seconds: float, rate: float) -> None:
        """Make requests for some time at some rate, a second; then wait until all are over."""
        start = due = time.monotonic()
        before = len(self.prompts)
        async with asyncio.TaskGroup() as connecting:
            while (now := time.monotonic()) < start + seconds:
                if due > now:
                    await asyncio.sleep(due - now)
                elif self._under_way >= rate * _MOST_SECONDS:
                    await asyncio.sleep(_TURN_SECONDS)
                    due = time.monotonic()
                else:
                    self.late = max(self.late, now - due)
                    due += 1 / rate
                    self._ask(prompt(self._seed, len(self.prompts)), connecting)
        self.rate = (len(self.prompts) - before) / seconds
        while self._under_way:  # noqa: ASYNC110 - every request ends within its patience
            await asyncio.sleep(_TURN_SECONDS)
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _ask(self, prompt: Prompt, connecting: asyncio.TaskGroup) -> None:
        self.prompts.append(prompt)
        self._under_way += 1
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.ask(prompt, self._patience)
                return
            connection.close()
        connecting.create_task(self._connect(prompt))

    async def _connect(self, prompt: Prompt) -> None:
        begin = time.time()
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self), "127.0.0.1", self._port
            )
        except OSError as error:
            self.over(_refused(prompt, begin, str(error)), None)
            return
        connection.ask(prompt, self._patience)

    def over(self, reply: Reply, connection: _Connection | None) -> None:
        """A request is over; its connection, if any is given, can take another one."""
        self.replies.append(reply)
        self._under_way -= 1
        if connection is not None:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)


def _refused(prompt: Prompt, begin: float, reason: str) -> Reply:
    return Reply(
        id=prompt.id,
        kind=prompt.kind,
        sent=begin,
        first=None,
        ended=time.time(),
        end=End.REFUSED,
        status=0,
        endpoint="",
        request_id="",
        retry_after=False,
        text="",
        finished=False,
        error=reason,
        reused=False,
    )
