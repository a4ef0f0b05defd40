"""The head of a backend's reply: what its status line and headers say, and what of it goes on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ollad.headers import reply_lines
from ollad.relay.exchange import ReplyHead

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BrokenReplyError", "is_chunked", "reply_head", "sized"]

_VERSIONS: Final = frozenset({"1.0", "1.1"})
_BODILESS: Final = frozenset({204, 304})

_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""What a reason phrase does not contain (RFC 9112 §4); llhttp takes anything but line ends."""


class BrokenReplyError(Exception):
    """The backend sent what is not one well-formed reply."""


def reply_head(
    status: int, reason: bytes, headers: Sequence[tuple[bytes, bytes]], version: str = "1.1"
) -> ReplyHead:
    """Judge the head of a final reply that llhttp has parsed.

    Args:
        status: status code.
        reason: reason phrase.
        headers: names and values as received, in order.
        version: of HTTP.

    Raises:
        BrokenReplyError: it is not one of HTTP/1.
    """
    if version not in _VERSIONS:
        raise BrokenReplyError("not HTTP/1")
    if _CONTROL.search(reason):
        raise BrokenReplyError("control characters in the reason phrase")
    length: int | None = None
    content_type = ""
    for name, value in headers:
        match len(name):
            case 12 if name.lower() == b"content-type":
                content_type = value.decode("latin-1").strip().lower()
            case 14 if name.lower() == b"content-length":
                length = int(value)
    lines, believed = reply_lines(headers)
    return ReplyHead(
        status,
        reason,
        headers,
        content_type,
        0 if status in _BODILESS else length,
        content_type.startswith("text/event-stream"),
        lines,
        believed,
    )


def is_chunked(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether the body comes in chunks.

    Raises:
        BrokenReplyError: it comes in a transfer coding that is not known here.
    """
    codings = [value for name, value in headers if name.lower() == b"transfer-encoding"]
    if codings and (len(codings) > 1 or codings[0].strip().lower() != b"chunked"):
        raise BrokenReplyError("a transfer coding other than chunked")
    return bool(codings)


def sized(head: ReplyHead, length: int) -> ReplyHead:
    """The same head of a reply with a body of ``length`` bytes."""
    if head.content_length == length:
        return head
    status, reason, headers, content_type, _, event_stream, lines, believed = head
    return ReplyHead(status, reason, headers, content_type, length, event_stream, lines, believed)
