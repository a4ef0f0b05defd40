"""What is written down while there is chaos: by clients, by backends, by who makes the trouble."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["End", "Kind", "Reply", "Trouble", "Window", "Work", "read_works"]


class Kind(StrEnum):
    """What is asked for."""

    CHAT = "chat"
    CHAT_STREAM = "chat stream"
    GENERATE = "generate"
    GENERATE_STREAM = "generate stream"

    @property
    def stream(self) -> bool:
        """Whether the reply comes as a stream."""
        return self in {Kind.CHAT_STREAM, Kind.GENERATE_STREAM}


class End(StrEnum):
    """How an exchange ended, for the client."""

    WHOLE = "whole"
    """The message ended where its framing says that it ends."""
    CUT = "cut"
    """The connection was closed before that."""
    RESET = "reset"
    """It was reset before that."""
    NOTHING = "nothing"
    """It was closed or reset without a byte of a reply."""
    REFUSED = "refused"
    """There was none to be had."""
    MALFORMED = "malformed"
    """What came is no HTTP."""
    LEFT = "left"
    """The client went away, as it meant to."""
    STUCK = "stuck"
    """The client lost its patience."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What one client got for its prompt. Times are Unix seconds.

    Attributes:
        id: the prompt's, and the request's.
        kind: what was asked for.
        sent: when.
        first: when the first byte of the body came; None if none did.
        ended: when it was over.
        end: how it ended.
        status: of the response; 0 where there was none.
        endpoint: ``X-Olla-Endpoint``; empty where there was none.
        request_id: ``X-Olla-Request-ID``, likewise.
        retry_after: whether it came with ``Retry-After``.
        text: what was generated, as far as it came.
        finished: whether the content itself says that it is all.
        error: code and message of an error, or of an error event of a stream; empty where there is
            none.
        reused: whether the connection had served another request before.
    """

    id: str
    kind: Kind
    sent: float
    first: float | None
    ended: float
    end: End
    status: int
    endpoint: str
    request_id: str
    retry_after: bool
    text: str
    finished: bool
    error: str
    reused: bool

    @property
    def begun(self) -> bool:
        """Whether it is a stream that began, and not with an error."""
        return self.kind.stream and self.status == 200 and not self.error


@dataclass(frozen=True, slots=True)
class Work:
    """A line of a backend's log.

    Attributes:
        id: of the prompt.
        backend: whose log.
        event: ``started``, ``finished`` or ``dropped``.
        time: Unix seconds.
        status: of the response, 0 where there was none.
        fault: what was done to it on purpose, None for nothing.
    """

    id: str
    backend: str
    event: str
    time: float
    status: int
    fault: str | None

    @property
    def completed(self) -> bool:
        """Whether the prompt was run to its end."""
        # A busy server answers a stream with status 200 and an error in it.
        return self.event == "finished" and self.status == 200 and self.fault != "busy"


class Trouble(StrEnum):
    """What is done to a backend.

    The last six make what it answers bad; they are what the simulator calls them.
    """

    KILL = "kill -9"
    RESTART = "restart"
    STOP = "stop"
    BLACK_HOLE = "black hole"
    REMOVE = "remove"
    UNAVAILABLE = "unavailable"
    BUSY = "busy"
    STALL = "stall"
    GARBAGE = "garbage"
    RESET = "reset"
    TRUNCATE = "truncate"


@dataclass(frozen=True, slots=True)
class Window:
    """When a backend was in trouble.

    Attributes:
        backend: which.
        trouble: what.
        begin: Unix seconds.
        end: when it was over, the backend as good as new.
        note: what else there is to say.
    """

    backend: str
    trouble: Trouble
    begin: float
    end: float
    note: str = ""

    def touches(self, begin: float, end: float) -> bool:
        """Whether any of a time lies in it."""
        return self.begin <= end and begin <= self.end

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Self:
        """Read from JSON."""
        return cls(**{**fields, "trouble": Trouble(fields["trouble"])})


def read_works(backend: str, file: Path) -> Iterator[Work]:
    """A backend's log; a last line that was not finished is left out.

    Raises:
        ValueError: a line has more than one prompt or is not JSON.
    """
    whole, _, _ = file.read_bytes().rpartition(b"\n") if file.exists() else (b"", b"", b"")
    yield from _works(backend, whole.splitlines())


def _works(backend: str, lines: Iterable[bytes]) -> Iterator[Work]:
    for line in lines:
        fields = orjson.loads(line)
        (prompt,) = fields["prompt_ids"]
        yield Work(
            id=prompt,
            backend=backend,
            event=fields["event"],
            time=fields["time"],
            status=fields.get("status", 0),
            fault=fields["fault"],
        )
