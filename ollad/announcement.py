"""The headers by which a response says how it came about."""

from __future__ import annotations

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


def announced_lines(record: RequestRecord, elapsed: float, sent: Collection[str]) -> bytes:
    """What every response says of itself, as header lines, and its ``Date``.

    Args:
        record: what is known of the request.
        elapsed: seconds since its arrival.
        sent: names that the backend's reply has already, whose values are believed.
    """
    headers = announcement(record, elapsed)
    headers.append(("Date", rfc822_formatted_time()))
    if sent:
        headers = [header for header in headers if header[0] not in sent]
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("latin-1")


def announcement(record: RequestRecord, elapsed: float) -> list[tuple[str, str]]:
    """The headers that every response carries, as far as their values are known.

    Args:
        record: what is known of the request.
        elapsed: seconds since its arrival.
    """
    headers = [("X-Olla-Request-ID", record.request_id), ("x-request-id", record.request_id)]
    if record.path.startswith(PREFIX):
        headers.append(("X-Olla-Backend-Type", "sglang"))
    if record.endpoint is not None:
        headers.append(("X-Olla-Endpoint", record.endpoint))
    if record.model is not None:
        headers.append(("X-Olla-Model", _printable(record.model)))
    headers.append(("X-Olla-Response-Time", f"{round(elapsed * 1000)}ms"))
    if record.cache_hit is not None:
        headers.append(("X-SGLang-Cache-Hit", record.cache_hit))
    if record.spec_decode is not None:
        headers.append(("X-SGLang-Spec-Decode", record.spec_decode))
    if record.ignored_parameters:
        headers.append(("X-Olla-Ignored-Params", ",".join(record.ignored_parameters)))
    if record.cors:
        headers += record.cors
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
