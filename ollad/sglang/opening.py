"""How a stream of events begins."""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from ollad.sglang.annotate import Usage
from ollad.sglang.event_figures import figures, unparsed_usage
from ollad.sglang.events import DEFAULT_TAIL, StreamScanner, overloaded, turned_away
from ollad.sglang.sse import is_lone_event, json_object

__all__ = ["Opening", "read_opening"]

_ERROR: Final = b'"error"'
_REMEMBERED: Final = 32


class Opening(NamedTuple):
    """What the first bytes of a stream say.

    Attributes:
        overloaded: whether the stream was turned away by a full queue.
        usage: the figures so far.
    """

    overloaded: bool
    usage: Usage


def read_opening(start: bytes, kind: str, tail: int = DEFAULT_TAIL) -> Opening:
    """Read the first bytes of a stream once.

    It says in one what ``overloaded`` and the ``final_usage`` of a ``StreamScanner`` say.

    Args:
        start: the first bytes.
        kind: as of ``StreamScanner.final_usage``.
        tail: as of ``StreamScanner``.
    """
    if len(start) < tail and is_lone_event(start):
        if kind == "openai" and start.find(_ERROR) < 0 and (usage := unparsed_usage(start)):
            return _served(usage)
        document = json_object(start[5:-2])
        if document is None:
            return Opening(False, Usage())
        return Opening(turned_away(document), figures(document, kind) or Usage())
    scanner = StreamScanner(tail)
    scanner.feed(start)
    return Opening(overloaded(start), scanner.final_usage(kind))


@functools.lru_cache(_REMEMBERED)
def _served(usage: Usage) -> Opening:
    """The opening of a stream that tells no more than ``usage``, as most of them do."""
    return Opening(False, usage)
