"""What passes by in a stream of server-sent events, read without touching it.

The format is WHATWG HTML §9.2.6; what SGLang puts into it is in entrypoints/openai/serving_chat.py
and http_server.py. While a stream runs only its first event and the last ones that may tell
anything are kept; they are looked into once, at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ollad.sglang.annotate import Usage, generate_usage, openai_usage
from ollad.sglang.event_figures import (
    added_up,
    event_usage,
    figures,
    merged,
    tells_figures,
    unparsed_usage,
)
from ollad.sglang.sse import (
    cut_usage,
    event_data,
    first_document,
    is_lone_event,
    json_object,
    next_boundary,
)
from ollad.sglang.values import count, mapping, text

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "EventError",
    "StreamScanner",
    "error_event",
    "overloaded",
    "turned_away",
]

DEFAULT_TAIL: Final = 64 * 1024
"""Most bytes of a stream's end that are kept: enough for all but cumulative texts."""

RECENT: Final = 4 * 1024
"""Least bytes of it that are kept: finish reason, ``sglext``, usage and ``[DONE]`` fit in."""

_SLACK: Final = 2 * 1024
"""Bytes no longer needed that may pile up, so that they need not go with every event."""

_HEAD: Final = 64 * 1024
"""Longest start of a stream in which its first event is looked for."""

_LONGEST_BOUNDARY: Final = 4
_NEWLINE: Final = 0x0A
_RETURN: Final = 0x0D
_BRACE: Final = 0x7B
_DONE: Final = b"[DONE]"
_EMPTY: Final = len(b"data: [DONE]\n\n")
"""Bytes of an event that is too short for figures."""
_UNFINISHED: Final = b'"finish_reason":null'
_OVERLOAD: Final = frozenset({429, 503})


class EventError(NamedTuple):
    """An error that arrived inside a stream.

    Attributes:
        status: the HTTP status it would have had, or None.
        message: SGLang's own words.
    """

    status: int | None
    message: str


def error_event(event: bytes) -> EventError | None:
    """The error that an event, or the first event of ``event``, reports; None if none.

    Knows SGLang's ``{"error": {…}}`` of every route, a ``/generate`` event whose
    ``finish_reason`` is an abort with a status, and Anthropic's ``error`` event.
    """
    document = first_document(event)
    return None if document is None else _error_of(document)


def _error_of(document: dict[str, Any]) -> EventError | None:
    error = mapping(document.get("error"))
    if error:
        return EventError(_status(error.get("code")), text(error.get("message")) or "")
    if "meta_info" not in document:
        return None
    reason = mapping(mapping(document["meta_info"]).get("finish_reason"))
    if reason.get("type") == "abort" and _status(reason.get("status_code")) is not None:
        return EventError(_status(reason["status_code"]), text(reason.get("message")) or "")
    return None


def overloaded(event: bytes) -> bool:
    """Whether a stream that begins with ``event`` was turned away by a full queue.

    SGLang then answers 200 and says so in the first event (``--max-queued-requests``).
    """
    document = first_document(event)
    return document is not None and turned_away(document)


def turned_away(document: dict[str, Any]) -> bool:
    """Whether ``document``, the first event of a stream, is what ``overloaded`` looks for."""
    error = _error_of(document)
    if error is None or (error.status is not None and error.status not in _OVERLOAD):
        return False
    # In a stream over several prompts the others may have been taken.
    return "index" not in document and (
        error.status is not None or "queue is full" in error.message
    )


class StreamScanner:
    """Watches one event stream; never raises, whatever passes.

    What is kept of the stream's end begins with the last whole event, however long, or
    ``RECENT`` bytes before the end if that is more. Of a ``/generate`` stream over several
    prompts as much as possible is kept, since the last event of each prompt counts.

    Args:
        tail: most bytes of the end to keep.
    """

    # Offsets count from the start of the stream.
    __slots__ = (
        "_fed",
        "_first",
        "_head",
        "_last",
        "_limit",
        "_open",
        "_resumed",
        "_room",
        "_several",
        "_tail",
    )

    def __init__(self, tail: int = DEFAULT_TAIL) -> None:
        self._limit = tail
        self._room = min(tail, RECENT + _SLACK)
        self._tail = bytearray()
        self._head: bytearray | None = bytearray()
        self._first: bytes | None = None
        self._several = False  # whether the stream is over several prompts
        self._fed = 0
        self._last = 0  # where the last whole event began
        self._open = 0  # where the event under way began
        self._resumed = 0  # where the event after what was skipped last began

    def feed(self, chunk: bytes) -> None:
        """See the next bytes of the stream, wherever they were cut.

        It is quicker to be fed many events at once.
        """
        if not self._fed and len(chunk) <= self._room and is_lone_event(chunk):
            self._begin(chunk)
            return
        if self._head is not None:
            self._look_for_first(self._head, chunk)
        tail = self._tail
        held = len(tail)
        base = self._fed - held
        tail += chunk
        self._fed += len(chunk)
        end = _boundary(tail, held, len(tail))
        if end:
            opened = self._open - base
            self._open = base + end
            while end - opened > _EMPTY:
                start = _boundary(tail, held, end - 1) or opened
                if end - start > _EMPTY:
                    self._last = base + start
                    break
                end = start
        if len(tail) > self._room:
            stale = self._start() - base
            if stale > _SLACK or len(tail) > self._limit:
                del tail[:stale]

    def _begin(self, event: bytes) -> None:
        """See the first bytes of the stream, which are its first event, as most often."""
        self._see_first(event[:-2], event[5:-2])
        self._tail += event
        self._fed = self._open = len(event)

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes of events, which will not be known; an event follows.

        To be used only where ``last_events_suffice``. What was kept before them is forgotten, as
        it is in a stream whose last events are looked for.
        """
        if count:
            self._tail.clear()
            self._fed += count
            self._open = self._last = self._resumed = self._fed

    @property
    def last_events_suffice(self) -> bool:
        """Whether the first event and the last ones say all that will be asked for."""
        return self._first is not None and not self._several

    @property
    def first_event(self) -> bytes | None:
        """The first event with data, without its blank line; None until it is complete."""
        return self._first

    @property
    def silent_ending(self) -> bytes:
        """How events of a chat or completion end that tell no figures, if the first one shows it.

        Until the end all of them are the same from ``finish_reason`` on, unless there is usage all
        along (tests/data/replies/chat_stream_*.sse). It is without the blank line, and empty if the
        first one tells any figures. Of several choices in one event it is the last that has not
        finished.
        """
        first = self._first
        if first is None:
            return b""
        start = first.rfind(_UNFINISHED)
        if start < 0 or _BRACE in first[start:] or tells_figures(first[:start]):
            return b""
        return first[start:]

    def first_document(self) -> dict[str, Any] | None:
        """The first event, parsed; None if it is not complete, or no JSON object."""
        data = None if self._first is None else event_data(self._first)
        return None if data is None else json_object(data)

    def last_document(self) -> dict[str, Any] | None:
        """The last event whose data is a JSON object, parsed; None if it is not in the tail."""
        for data, _ in _backwards(*self._kept()):
            if data != _DONE:
                return json_object(data)
        return None

    def generate_text(self, *, cumulative: bool | None = None) -> str | None:
        """The whole text that a ``/generate`` stream over one prompt has produced.

        Args:
            cumulative: whether each event holds all of the text so far, as it does unless the
                server runs with ``--incremental-streaming-output``; None lets the last event
                decide, whose ``output_ids`` are then as many as its ``completion_tokens``, or
                missing (up to 0.4.6, which always sends all of the text).

        Returns:
            The text, or None if the stream did not end well, or it cannot be told for certain.
        """
        document = self.last_document()
        if document is None or "index" in document or cumulative is False:
            return None
        usage = generate_usage(document)
        if usage.finish_reason in (None, "abort"):
            return None
        if cumulative is None and "output_ids" in document:
            ids = document["output_ids"]
            if not isinstance(ids, list) or len(ids) != usage.completion_tokens:
                return None
        whole = document.get("text")
        return whole if isinstance(whole, str) else None

    def final_usage(self, kind: str) -> Usage:
        """The figures of the whole stream, as far as its end and its first event tell them.

        Args:
            kind: ``generate``, ``openai``, ``responses`` or ``messages``.
        """
        match kind:
            case "generate":
                return self._generate_usage()
            case "responses":
                return self._responses_usage()
            case "openai":
                return self._unparsed_usage() or self._openai_usage()
            case _:
                return self._openai_usage()

    def _unparsed_usage(self) -> Usage | None:
        """What ``_openai_usage`` says, if no event that is kept has to be parsed for that."""
        if self._first is not None and tells_figures(self._first):
            return None
        return unparsed_usage(self._kept()[0])

    def _generate_usage(self) -> Usage:
        """Figures of the last event; for several prompts, of the last one of each, added up."""
        finals: dict[int | None, Usage] = {}
        for data, whole in _backwards(*self._kept()):
            document = json_object(data)
            if document is None:
                info = None if whole else cut_usage(data, b'"meta_info":')
                if info is None or finals:
                    continue
                document = {"meta_info": info}
            if "meta_info" not in document:
                continue
            index = count(document.get("index"))
            finals.setdefault(index, generate_usage(document))
            if index is None:
                break
        if not finals:
            return Usage()
        usages = list(finals.values())
        return usages[0] if len(usages) == 1 else added_up(usages)

    def _responses_usage(self) -> Usage:
        for data, whole in _backwards(*self._kept()):
            document = json_object(data)
            if document is not None:
                found = figures(document, "responses")
                if found is not None:
                    return found
            elif not whole and (usage := cut_usage(data, b'"usage":')) is not None:
                return openai_usage({"usage": usage})
        return Usage()

    def _openai_usage(self) -> Usage:
        """Chat, completions, and Anthropic messages, whose parts come in several events."""
        found: Usage | None = None
        first = None
        if self._first is not None and not self.silent_ending:
            first = event_data(self._first)
        kept, uncut = self._kept()
        for data, _ in _backwards(kept, uncut):
            # The finish reason stands before sglext and usage, unless there is usage all along
            # (continuous_usage_stats): of hundreds of events few have to be parsed.
            finished = found is not None and found.finish_reason is not None
            if data == _DONE or (finished and not _has_usage(data)):
                continue
            document = json_object(data)
            if document is None:
                continue
            usage = event_usage(document)
            found = usage if found is None else merged(found, usage)
            if data == first:
                first = None
            if found.finish_reason is not None and (
                found.prompt_tokens is not None or b'"usage":' not in kept
            ):
                break
        document = None if first is None else json_object(first)
        if document is not None:
            usage = event_usage(document)
            found = usage if found is None else merged(found, usage)
        return found or Usage()

    def _look_for_first(self, head: bytearray, chunk: bytes) -> None:
        start = max(0, len(head) - _LONGEST_BOUNDARY)
        head += chunk[: _HEAD - self._fed]
        returns = _RETURN in head
        end, after = next_boundary(head, start, returns)
        while end >= 0:
            event = bytes(head[:end]).strip(b"\r\n")
            if (data := event_data(event)) is not None:
                self._see_first(event, data)
                return
            del head[:after]
            end, after = next_boundary(head, 0, returns)
        if self._fed + len(chunk) >= _HEAD:
            self._head = None

    def _see_first(self, event: bytes, data: bytes) -> None:
        self._first, self._head = event, None
        self._several = data.find(b'"meta_info"') >= 0 and "index" in (json_object(data) or {})

    def _start(self) -> int:
        """From which offset on the stream is needed."""
        needed = 0 if self._several else min(self._last, self._fed - RECENT)
        return max(needed, self._fed - min(len(self._tail), self._limit))

    def _kept(self) -> tuple[bytes, bool]:
        """What is needed of the stream, its lines ended alike, and whether it begins an event.

        It does not depend on how the stream was cut into chunks.
        """
        start = self._start()
        tail = bytes(self._tail[start - self._fed + len(self._tail) :])
        if _RETURN in tail:
            tail = tail.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return tail, start in (0, self._last, self._open, self._resumed)


def _boundary(tail: bytearray, start: int, end: int) -> int:
    """Where the last blank line ends that ends in ``tail[start:end]``; 0 if none does."""
    # One byte is found many times faster than two.
    at = tail.rfind(b"\n", start, end)
    while at > 0:
        before = tail[at - 1]
        if before == _NEWLINE or (before == _RETURN and at > 1 and tail[at - 2] == _NEWLINE):
            return at + 1
        at = tail.rfind(b"\n", start, at)
    return 0


def _backwards(kept: bytes, uncut: bool) -> Iterator[tuple[bytes, bool]]:
    """Data of the events in ``kept``, last first, and whether the event is there as a whole."""
    end = len(kept)
    while end > 0:
        start = kept.rfind(b"\n\n", 0, end)
        whole = start >= 0 or uncut
        event = kept[start + 2 if start >= 0 else 0 : end].strip(b"\n")
        data = event_data(event) if whole else event
        if data:
            yield data, whole
        end = start


def _has_usage(data: bytes) -> bool:
    return b'"usage":' in data and b'"usage":null' not in data


def _status(code: object) -> int | None:
    """An HTTP status given as a number, or as text by some versions."""
    return int(code) if isinstance(code, str) and code.isdecimal() else count(code)
