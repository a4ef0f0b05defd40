"""What passes by in a stream of server-sent events, read without touching it.

The format is WHATWG HTML §9.2.6; what SGLang puts into it is in entrypoints/openai/serving_chat.py
and http_server.py. While a stream runs only its start and its last bytes are kept; they are
looked into once, at the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from ollad.sglang.annotate import Usage, generate_usage, openai_usage
from ollad.sglang.values import count, mapping, text

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EventError", "StreamScanner", "error_event", "overloaded"]

DEFAULT_TAIL: Final = 64 * 1024
"""Bytes of a stream's end that are kept: enough for all but cumulative texts."""

_HEAD: Final = 64 * 1024
"""Longest start of a stream in which its first event is looked for."""

_BOUNDARY: Final = re.compile(rb"(?:\r\n|\r(?!\n)|\n)(?:\r\n|\r|\n)")
_LONGEST_BOUNDARY: Final = 4
_MOST_ENDS: Final = 32  # objects nested in a usage or meta_info are a handful
_DONE: Final = b"[DONE]"
_FINAL_TYPES: Final = frozenset(
    {"message_stop", "response.completed", "response.incomplete", "response.failed"}
)
_OVERLOAD: Final = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class EventError:
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
    document = _first_document(event)
    if document is None:
        return None
    error = mapping(document.get("error"))
    if error:
        return EventError(_status(error.get("code")), text(error.get("message")) or "")
    reason = mapping(mapping(document.get("meta_info")).get("finish_reason"))
    if reason.get("type") == "abort" and _status(reason.get("status_code")) is not None:
        return EventError(_status(reason["status_code"]), text(reason.get("message")) or "")
    return None


def overloaded(event: bytes) -> bool:
    """Whether a stream that begins with ``event`` was turned away by a full queue.

    SGLang then answers 200 and says so in the first event (``--max-queued-requests``).
    """
    error = error_event(event)
    if error is None or (error.status is not None and error.status not in _OVERLOAD):
        return False
    # In a stream over several prompts the others may have been taken.
    document = _first_document(event) or {}
    return "index" not in document and (
        error.status is not None or "queue is full" in error.message
    )


class StreamScanner:
    """Watches one event stream; never raises, whatever passes.

    Args:
        tail: bytes of the end to keep.
    """

    __slots__ = ("_fed", "_first", "_head", "_limit", "_tail")

    def __init__(self, tail: int = DEFAULT_TAIL) -> None:
        self._limit = tail
        self._tail = bytearray()
        self._head: bytearray | None = bytearray()
        self._first: bytes | None = None
        self._fed = 0

    def feed(self, chunk: bytes) -> None:
        """See the next bytes of the stream, wherever they were cut."""
        if self._head is not None:
            self._look_for_first(self._head, chunk)
        self._fed += len(chunk)
        tail = self._tail
        if len(chunk) >= self._limit:
            tail[:] = chunk[len(chunk) - self._limit :]
        else:
            tail += chunk
            del tail[: max(0, len(tail) - self._limit)]

    @property
    def first_event(self) -> bytes | None:
        """The first event with data, without its blank line; None until it is complete."""
        return self._first

    @property
    def finished(self) -> bool:
        """Whether the stream said that it was at its end, as against being cut."""
        for data, whole in self._backwards():
            if data == _DONE:
                return True
            document = _parse(data)
            if document is not None:
                return document.get("type") in _FINAL_TYPES
            # A Responses stream ends with the whole reply, which can outgrow the tail.
            return not whole and _cut_usage(data, b'"usage":') is not None
        return False

    def last_document(self) -> dict[str, Any] | None:
        """The last event whose data is a JSON object, parsed; None if it is not in the tail."""
        for data, _ in self._backwards():
            if data != _DONE:
                return _parse(data)
        return None

    def generate_text(self, *, cumulative: bool | None = None) -> str | None:
        """The whole text that a ``/generate`` stream over one prompt has produced.

        Args:
            cumulative: whether each event holds all of the text so far, as it does unless the
                server runs with ``--incremental-streaming-output``; None lets the last event
                decide, whose ``output_ids`` are then as many as its ``completion_tokens``.

        Returns:
            The text, or None if the stream did not end well, or it cannot be told for certain.
        """
        document = self.last_document()
        if document is None or "index" in document or cumulative is False:
            return None
        usage = generate_usage(document)
        if usage.finish_reason in (None, "abort"):
            return None
        ids = document.get("output_ids")
        if cumulative is None and not (
            isinstance(ids, list) and len(ids) == usage.completion_tokens
        ):
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
            case _:
                return self._openai_usage()

    def _generate_usage(self) -> Usage:
        """Figures of the last event; for several prompts, of the last one of each, added up."""
        finals: dict[int | None, Usage] = {}
        for data, whole in self._backwards():
            document = _parse(data)
            if document is None:
                info = None if whole else _cut_usage(data, b'"meta_info":')
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
        return usages[0] if len(usages) == 1 else _sum(usages)

    def _responses_usage(self) -> Usage:
        for data, whole in self._backwards():
            document = _parse(data)
            if document is not None:
                response = document.get("response")
                if mapping(mapping(response).get("usage")):
                    return openai_usage(mapping(response))
            elif not whole and (usage := _cut_usage(data, b'"usage":')) is not None:
                return openai_usage({"usage": usage})
        return Usage()

    def _openai_usage(self) -> Usage:
        """Chat, completions, and Anthropic messages, whose parts come in several events."""
        found = Usage()
        for data, _ in self._backwards():
            # The finish reason stands before sglext and usage, unless there is usage all along
            # (continuous_usage_stats): of hundreds of events few have to be parsed.
            if found.finish_reason is not None and not _has_usage(data):
                continue
            document = _parse(data)
            if document is not None:
                found = _merge(found, _event_usage(document))
                if found.finish_reason is not None and found.prompt_tokens is not None:
                    break
        first = _first_document(self._first or b"")
        return found if first is None else _merge(found, _event_usage(first))

    def _look_for_first(self, head: bytearray, chunk: bytes) -> None:
        start = max(0, len(head) - _LONGEST_BOUNDARY)
        head += chunk[: _HEAD - self._fed]
        while boundary := _BOUNDARY.search(head, start):
            event = bytes(head[: boundary.start()]).strip(b"\r\n")
            if _data(event) is not None:
                self._first, self._head = event, None
                return
            del head[: boundary.end()]
            start = 0
        if self._fed + len(chunk) >= _HEAD:
            self._head = None

    def _backwards(self) -> Iterator[tuple[bytes, bool]]:
        """Data of the events in the tail, last first, and whether the event is there as a whole."""
        tail = bytes(self._tail)
        if b"\r" in tail:
            tail = tail.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        end = len(tail)
        while end > 0:
            start = tail.rfind(b"\n\n", 0, end)
            whole = start >= 0 or self._fed == len(self._tail)
            event = tail[start + 2 if start >= 0 else 0 : end].strip(b"\n")
            data = _data(event) if whole else event
            if data:
                yield data, whole
            end = start


def _data(event: bytes) -> bytes | None:
    """The data of one event, None if it has none."""
    if event.startswith(b"data:") and b"\n" not in event and b"\r" not in event:
        return event[5:].removeprefix(b" ")
    lines = [
        line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _first_document(start: bytes) -> dict[str, Any] | None:
    """The first event of ``start`` that has data, parsed."""
    for event in _BOUNDARY.split(start):
        data = _data(event)
        if data is not None:
            return _parse(data)
    return None


def _cut_usage(data: bytes, key: bytes) -> dict[str, Any] | None:
    """The last object called ``key`` with token counts in an event whose start is missing.

    Inside a JSON string the name's quotation marks would be escaped, so it is a real member.
    """
    at = data.rfind(key)
    while at >= 0:
        found = _object_at(data, at + len(key))
        if found is not None and ("prompt_tokens" in found or "input_tokens" in found):
            return found
        at = data.rfind(key, 0, at)
    return None


def _object_at(data: bytes, start: int) -> dict[str, Any] | None:
    """The JSON object that begins at ``start``, found by trying its possible ends."""
    end = start
    for _ in range(_MOST_ENDS):
        end = data.find(b"}", end) + 1
        if not end:
            break
        found = _parse(data[start:end])
        if found is not None:
            return found
    return None


def _has_usage(data: bytes) -> bool:
    return b'"usage":' in data and b'"usage":null' not in data


def _event_usage(document: dict[str, Any]) -> Usage:
    """Figures of one event of an OpenAI or Anthropic stream."""
    message = document.get("message")  # message_start
    delta = mapping(document.get("delta"))  # message_delta
    if isinstance(message, dict):
        return openai_usage(message)
    return openai_usage({**document, "stop_reason": delta.get("stop_reason")})


def _merge(found: Usage, earlier: Usage) -> Usage:
    """``found``, with what it lacks taken from an earlier event."""
    missing = {
        field.name: getattr(earlier, field.name)
        for field in fields(Usage)
        if getattr(found, field.name) is None
    }
    return replace(found, **missing)


def _sum(usages: list[Usage]) -> Usage:
    """Token counts of several prompts together; times and reasons belong to one alone."""

    def total(name: str) -> int | None:
        values = [getattr(usage, name) for usage in usages]
        return None if None in values else sum(values)

    spec = [usage.spec_used for usage in usages if usage.spec_used is not None]
    return Usage(
        prompt_tokens=total("prompt_tokens"),
        completion_tokens=total("completion_tokens"),
        cached_tokens=total("cached_tokens"),
        image_tokens=total("image_tokens"),
        spec_used=any(spec) if spec else None,
    )


def _status(code: object) -> int | None:
    """An HTTP status given as a number, or as text by some versions."""
    return int(code) if isinstance(code, str) and code.isdecimal() else count(code)
