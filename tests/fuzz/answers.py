"""Reading what a client got, strictly: what is no HTTP is a mistake of ollad's."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Answer", "read_answers"]

_HEAD: Final = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d) [^\r\n\0]*\r\n((?:[^\r\n\0]+\r\n)*)\r\n")
_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n]*?)[ \t]*\r\n")
_SIZE: Final = re.compile(rb"([0-9a-fA-F]+)(?:;[^\r\n]*)?\r\n")


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply.

    Attributes:
        status: of the status line.
        headers: by lower-case name; none may come twice but for a few.
        body: as far as it came.
        whole: whether it came to its end.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool

    @property
    def code(self) -> str | None:
        """The code of an error in ollad's envelope."""
        if (
            not self.body
            or not self.whole
            or self.headers.get("content-type") != "application/json"
        ):
            return None
        document: Any = json.loads(self.body)
        error = document.get("error") if isinstance(document, dict) else None
        return error.get("code") if isinstance(error, dict) else None


def read_answers(received: bytes, *, closed: bool, bodiless: bool = False) -> list[Answer]:
    """Read all the replies on one connection.

    Args:
        received: every byte.
        closed: whether the connection ended after them.
        bodiless: whether the replies may be to HEAD, so that a length says nothing.
    """
    answers: list[Answer] = []
    at = 0
    while at < len(received):
        head = _HEAD.match(received, at)
        assert head is not None, received[at : at + 200]
        fields = _FIELD.findall(head[2])
        assert b"".join(_FIELD.sub(b"", head[2]).split()) == b"", head[2]
        names = [name.lower() for name, _ in fields]
        for name in (b"content-length", b"transfer-encoding"):
            assert names.count(name) <= 1, head[0]
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in fields}
        assert not {"content-length", "transfer-encoding"} <= set(headers), head[0]
        status = int(head[1])
        at = head.end()
        body, end, whole = b"", at, True
        if status >= 200 and status not in (204, 304):
            body, end, whole = _body(received, at, headers, closed=closed)
            if bodiless and not body.startswith((b"{", b"data", b"#")):
                body, end, whole = b"", at, True
        at = end
        if status >= 200:
            answers.append(Answer(status, headers, body, whole))
    return answers


def _body(
    received: bytes, at: int, headers: dict[str, str], *, closed: bool
) -> tuple[bytes, int, bool]:
    if "transfer-encoding" in headers:
        return _chunks(received, at)
    if "content-length" not in headers:
        return received[at:], len(received), closed
    end = at + int(headers["content-length"])
    return received[at:end], min(end, len(received)), end <= len(received)


def _chunks(received: bytes, at: int) -> tuple[bytes, int, bool]:
    body = bytearray()
    while size := _SIZE.match(received, at):
        length = int(size[1], 16)
        at = size.end()
        if not length:
            end = received.find(b"\r\n", at)
            while end > at:  # trailers
                at, end = end + 2, received.find(b"\r\n", end + 2)
            return bytes(body), max(end + 2, at), end >= 0
        body += received[at : at + length]
        at += length + 2
    return bytes(body), len(received), False
