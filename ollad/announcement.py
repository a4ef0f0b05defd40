"""The headers by which a response says how it came about."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from aiohttp.helpers import rfc822_formatted_time

if TYPE_CHECKING:
    from collections.abc import Collection

    from ollad.record import RequestRecord

__all__ = ["PREFIX", "announced_lines", "announcement", "final_announcement"]

PREFIX: Final = "/olla/"
"""What the paths of the API begin with."""

_LONGEST_VALUE: Final = 256

_FINAL: Final = frozenset({"X-Olla-Response-Time", "X-SGLang-Cache-Hit", "X-SGLang-Spec-Decode"})
"""Whose values are known only when a stream has ended."""

_DATE: Final = frozenset({"Date"})
"""What backends send of all this."""

_LINES_REMEMBERED: Final = 256


def announced_lines(record: RequestRecord, elapsed: float, sent: Collection[str]) -> bytes:
    """What every response says of itself, as header lines, and its ``Date``.

    Args:
        record: what is known of the request.
        elapsed: seconds since its arrival.
        sent: names that the backend's reply has already, whose values are believed.
    """
    model = record.model
    if (
        (sent and sent != _DATE)
        or record.ignored_parameters
        or record.cors
        or (model is not None and len(model) > _LONGEST_VALUE)
    ):
        headers = announcement(record, elapsed)
        headers.append(("Date", rfc822_formatted_time()))
        return _lines([header for header in headers if header[0] not in sent]).encode("latin-1")
    request_id = record.request_id
    lines = _usual_lines(
        record.path.startswith(PREFIX), record.endpoint, model, record.cache_hit, record.spec_decode
    ) % (request_id, request_id, round(elapsed * 1000))
    if not sent:
        lines += f"Date: {rfc822_formatted_time()}\r\n"
    return lines.encode("latin-1")


@functools.lru_cache(_LINES_REMEMBERED)
def _usual_lines(
    api: bool,
    endpoint: str | None,
    model: str | None,
    cache_hit: str | None,
    spec_decode: str | None,
) -> str:
    """The header lines of a response, to be formatted with its id, twice, and milliseconds."""
    shown = None if model is None else _printable(model)
    lines = _lines(_usual_headers("\0", api, endpoint, shown, "\1ms", cache_hit, spec_decode))
    return lines.replace("%", "%%").replace("\0", "%s").replace("\1", "%d")


def _lines(headers: list[tuple[str, str]]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in headers])


def announcement(record: RequestRecord, elapsed: float) -> list[tuple[str, str]]:
    """The headers that every response carries, as far as their values are known.

    Args:
        record: what is known of the request.
        elapsed: seconds since its arrival.
    """
    headers = _usual_headers(
        record.request_id,
        record.path.startswith(PREFIX),
        record.endpoint,
        None if record.model is None else _printable(record.model),
        f"{round(elapsed * 1000)}ms",
        record.cache_hit,
        record.spec_decode,
    )
    if record.ignored_parameters:
        headers.append(("X-Olla-Ignored-Params", ",".join(record.ignored_parameters)))
    if record.cors:
        headers += record.cors
    return headers


def _usual_headers(
    request_id: str,
    api: bool,
    endpoint: str | None,
    model: str | None,
    time: str,
    cache_hit: str | None,
    spec_decode: str | None,
) -> list[tuple[str, str]]:
    headers = [("X-Olla-Request-ID", request_id), ("x-request-id", request_id)]
    if api:
        headers.append(("X-Olla-Backend-Type", "sglang"))
    if endpoint is not None:
        headers.append(("X-Olla-Endpoint", endpoint))
    if model is not None:
        headers.append(("X-Olla-Model", model))
    headers.append(("X-Olla-Response-Time", time))
    if cache_hit is not None:
        headers.append(("X-SGLang-Cache-Hit", cache_hit))
    if spec_decode is not None:
        headers.append(("X-SGLang-Spec-Decode", spec_decode))
    return headers


def final_announcement(record: RequestRecord, elapsed: float) -> list[tuple[str, str]]:
    """Those of the headers that say more at the end of a stream than at its beginning.

    Args:
        record: what is known of the request.
        elapsed: seconds since its arrival.
    """
    return [pair for pair in announcement(record, elapsed) if pair[0] in _FINAL]


def _printable(text: str) -> str:
    """``text`` as a header value: visible ASCII, the rest percent-encoded."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(
            char if " " <= char <= "~" else "".join(f"%{octet:02X}" for octet in char.encode())
            for char in text[:_LONGEST_VALUE]
        )
    return text[:_LONGEST_VALUE]
