from __future__ import annotations

import asyncio
import re
import socket
from itertools import cycle, pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ollad.config.schema import Proxy
from ollad.framing import FamiliarHeads
from ollad.metrics.histogram import Observations
from ollad.relay import reading
from ollad.relay.chunks import UNKNOWN, split
from ollad.relay.exchange import Plan
from ollad.relay.outbox import Outbox
from ollad.relay.reading import RECENT_EVENTS
from ollad.relay.underway import Exchange
from ollad.relay.upstream import Connection
from tests.unit.builders import make_backend, raw
from tests.unit.relay.direct import DIRECT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ollad.relay.exchange import Fault, ReplyHead

OK = b"HTTP/1.1 200 OK\r\n"
SIZED = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
REQUEST = b"POST /generate HTTP/1.1\r\n\r\n"
LIMIT = 64 * 1024


class FakeTransport:
    """As much of a transport as a connection uses."""

    def __init__(self) -> None:
        self.ours, self.peers = socket.socketpair()
        self.sent: list[bytes] = []
        self.unsent = 0
        self.closing = False
        self.reading = True

    def get_extra_info(self, _: str) -> socket.socket:
        return self.ours

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.sent += pieces

    def set_write_buffer_limits(self, *, high: int) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.ours.close()
        self.peers.close()


class Received:
    """One reply as its receiver saw it."""

    def __init__(self) -> None:
        self.head: ReplyHead | None = None
        self.body = b""
        self.pieces = 0
        self.untouched = 0
        self.end: str | None = None
        self.after_end = 0
        self.familiar = False

    def head_received(self, head: ReplyHead) -> None:
        assert self.head is None
        assert self.end is None
        self.head = head

    def whole_received(self, head: ReplyHead, body: bytes) -> None:
        self.head_received(head)
        if body:
            self.body_received(body)
        self.reply_ended()
        self.familiar = True

    def chunks_received(self, chunks: bytes, data: bytes, last: bool) -> None:
        assert chunks.endswith(b"0\r\n\r\n") or not last
        held, missing = split(chunks.removesuffix(b"0\r\n\r\n") if last else chunks)
        assert (b"".join(held), missing) == (data, 0)
        self.untouched += 1
        self.body_received(b"".join(held))

    def events_passed(self, size: int, recent: Sequence[bytes], last: float) -> None:
        raise AssertionError(size, recent, last)

    def body_received(self, data: bytes) -> None:
        assert self.head is not None
        assert self.end is None
        assert data
        self.body += data
        self.pieces += 1

    def reply_ended(self) -> None:
        assert self.end is None
        self.end = "whole"

    def connection_broken(self, _: BaseException | None) -> None:
        assert self.end is None
        self.end = "broken"


class Rig:
    """A connection without an event loop."""

    def __init__(
        self, heads: FamiliarHeads[ReplyHead] | None = None, outbox: Outbox = DIRECT
    ) -> None:
        self.transport = FakeTransport()
        self.idle = 0
        self.lost = 0
        self.heads: FamiliarHeads[ReplyHead] = FamiliarHeads(8, LIMIT) if heads is None else heads
        self.connection = Connection(self.heads, outbox, self._on_idle, self._on_lost)
        self.connection.connection_made(cast("asyncio.Transport", self.transport))

    def _on_idle(self, _: Connection) -> None:
        self.idle += 1

    def _on_lost(self, _: Connection) -> None:
        self.lost += 1

    def ask(self, *, head_only: bool = False) -> Received:
        received = Received()
        self.connection.send(received, REQUEST, b"", head_only=head_only)
        return received

    def feed(self, *segments: bytes) -> None:
        """What the event loop does with segments until the connection is aborted."""
        for segment in segments:
            if self.transport.closing:
                return
            self.connection.data_received(segment)

    def exchange(self, *segments: bytes, head_only: bool = False) -> Received:
        received = self.ask(head_only=head_only)
        self.feed(*segments)
        return received

    def lose(self, error: Exception | None = None) -> None:
        self.connection.connection_lost(error)

    @property
    def reusable(self) -> bool:
        return not self.transport.closing


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.transport.close()


def cut_at(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The bytes in segments, cut at these places."""
    edges = sorted({0, len(data), *(cut % (len(data) or 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


def fed(data: bytes, cuts: Iterable[int] = (), **options: Any) -> tuple[Rig, Received]:
    rig = Rig()
    received = rig.exchange(*cut_at(data, cuts), **options)
    rig.transport.close()
    return rig, received


CUTS = st.lists(st.integers(min_value=0, max_value=1 << 16), max_size=12)
TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_", min_size=1, max_size=20)
VALUE = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, blacklist_characters="\x7f"), max_size=40
).map(str.strip)
HEADERS = st.lists(st.tuples(TOKEN.map(lambda name: f"X-{name}"), VALUE), max_size=6)
BODY = st.binary(max_size=3000) | st.sampled_from([b"", b"\r\n", b"0\r\n\r\n", b"x\r\n\r\n", SIZED])


@st.composite
def chunks(draw: st.DrawFn, body: bytes) -> bytes:
    """The body in chunked coding, with whatever that allows."""
    pieces = cut_at(body, draw(CUTS)) if body else []
    extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b;\\"c"', b";a=b;c=d"]))
    zeros = b"0" * draw(st.integers(min_value=0, max_value=3))
    upper = draw(st.booleans())
    out = b""
    for piece in pieces:
        size = b"%X" % len(piece) if upper else b"%x" % len(piece)
        out += zeros + size + extension + b"\r\n" + piece + b"\r\n"
    out += b"0" + zeros + extension + b"\r\n"
    for name, value in draw(HEADERS):
        out += f"{name}: {value}\r\n".encode("latin-1")
    return out + b"\r\n"


def head_bytes(headers: Iterable[tuple[str, str]], *framing: str, line: str = "") -> bytes:
    lines = [line or "HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in headers), *framing]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    together=st.lists(st.booleans(), min_size=10, max_size=10),
)
def test_whole_chunks_are_handed_over_as_they_came(
    pieces: list[bytes], together: list[bool]
) -> None:
    segments = [OK + b"Transfer-Encoding: chunked\r\n\r\n"]
    for piece, joined in zip(pieces, together, strict=False):
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
        if joined:
            segments[-1] += chunk
        else:
            segments.append(chunk)
    rig = Rig()
    got = rig.exchange(*segments, b"0\r\n\r\n")
    rig.transport.close()
    assert (got.end, got.body) == ("whole", b"".join(pieces))
    assert got.untouched == len(segments) - 1
    assert rig.reusable


def test_a_chunk_that_came_in_two_segments_does_not_spoil_those_after_it() -> None:
    chunk = b"5\r\nhello\r\n"
    head = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    cut = [chunk[:5], chunk[5:7], chunk[7:] + chunk + chunk[:9], chunk[9:]]
    rig = Rig()
    got = rig.exchange(head, chunk, *cut, chunk, chunk, b"0\r\n\r\n")
    rig.transport.close()
    assert (got.end, got.body, got.untouched) == ("whole", b"hello" * 6, 3)


def no_chunks(_data: bytes, _start: int = 0) -> tuple[list[bytes], int]:
    """In place of ``split``, so that llhttp sees everything."""
    return [], UNKNOWN


MARKS = st.sampled_from(
    [b"\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"a\r\n", b";", b"\n", b"g", b"00"]
)


@settings(max_examples=300)
@given(
    body=st.lists(MARKS | st.binary(max_size=30), max_size=12).flatmap(
        lambda parts: chunks(b"".join(parts))
    ),
    wounds=st.lists(st.tuples(st.integers(0, 1 << 12), MARKS), max_size=3),
    cuts=CUTS,
)
def test_what_is_no_chunk_is_seen_whether_chunks_are_parsed_or_passed_over(
    body: bytes, wounds: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    for place, mark in wounds:
        at = place % len(body)
        body = body[:at] + mark + body[at:]
    data = OK + b"Transfer-Encoding: chunked\r\n\r\n" + body
    ends = []
    for shortcut in (split, no_chunks):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reading, "split", shortcut)
            rig, got = fed(data, [45, *cuts])
            rig.lose()
        ends.append((got.end, got.body, rig.reusable))
    assert ends[0] == ends[1]


@given(headers=HEADERS, body=BODY, cuts=CUTS)
def test_a_sized_reply_is_the_same_however_it_is_split(
    headers: list[tuple[str, str]], body: bytes, cuts: list[int]
) -> None:
    _, got = fed(head_bytes(headers, f"Content-Length: {len(body)}") + body, cuts)
    assert got.end == "whole"
    assert got.head is not None
    assert got.head.headers == raw([*headers, ("Content-Length", str(len(body)))])
    assert got.head.content_length == len(body)
    assert got.body == body


@given(data=st.data(), headers=HEADERS, body=BODY, cuts=CUTS)
def test_a_chunked_reply_is_the_same_however_it_is_split(
    data: st.DataObject, headers: list[tuple[str, str]], body: bytes, cuts: list[int]
) -> None:
    coded = data.draw(chunks(body))
    _, got = fed(head_bytes(headers, "Transfer-Encoding: chunked") + coded, cuts)
    assert got.end == "whole"
    assert got.head is not None
    assert got.head.headers == raw([*headers, ("Transfer-Encoding", "chunked")])
    assert got.head.content_length is None
    assert got.body == body


@given(headers=HEADERS, body=BODY, cuts=CUTS)
def test_a_reply_that_ends_with_its_connection_is_whole_only_then(
    headers: list[tuple[str, str]], body: bytes, cuts: list[int]
) -> None:
    rig, got = fed(head_bytes(headers) + body, cuts)
    assert (got.body, got.end) == (body, None)
    rig.lose()
    assert got.end == "whole"
    assert rig.idle == 0


@given(
    interim=st.lists(st.sampled_from([100, 102, 103]), max_size=4),
    headers=HEADERS,
    body=BODY,
    cuts=CUTS,
)
def test_interim_replies_are_dropped(
    interim: list[int], headers: list[tuple[str, str]], body: bytes, cuts: list[int]
) -> None:
    before = b"".join(
        head_bytes([("Link", "</x>")], "Content-Length: 7", line=f"HTTP/1.1 {status} Early")
        for status in interim
    )
    _, got = fed(before + head_bytes(headers, f"Content-Length: {len(body)}") + body, cuts)
    assert got.end == "whole"
    assert got.head is not None
    assert (got.head.status, got.head.reason) == (200, b"OK")
    assert got.head.headers == raw([*headers, ("Content-Length", str(len(body)))])
    assert got.body == body


@given(data=st.data(), body=BODY, cuts=CUTS, lost=st.integers(min_value=1))
def test_a_reply_that_lacks_its_last_bytes_is_broken(
    data: st.DataObject, body: bytes, cuts: list[int], lost: int
) -> None:
    sized = head_bytes([], f"Content-Length: {len(body)}") + body
    coded = head_bytes([], "Transfer-Encoding: chunked") + data.draw(chunks(body))
    whole = data.draw(st.sampled_from([sized, coded]))
    rig, got = fed(whole[: -(lost % len(whole)) or -1], cuts)
    assert (got.end, body.startswith(got.body)) == (None, True)
    rig.lose()
    assert got.end == "broken"


@given(
    reply=st.sampled_from(
        [
            SIZED,
            CHUNKED,
            OK + b"Content-Length: 0\r\n\r\n",
            OK + b"Content-Length: 2\r\n\r\n\r\n",
            OK + b"Content-Length: 5\r\n\r\nx\r\n\r\n",
            OK + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n\r\n\r\n0\r\nX: y\r\n\r\n",
            OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        ]
    ),
    junk=st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\r\n" * 4])
    | st.sampled_from([b"x", b"0\r\n\r\n", b"HTTP/1.1", SIZED, OK])
    | st.binary(min_size=1, max_size=8),
    cuts=CUTS,
)
def test_a_connection_with_bytes_after_a_reply_is_never_used_again(
    reply: bytes, junk: bytes, cuts: list[int]
) -> None:
    rig, got = fed(reply + junk, cuts)
    assert not rig.reusable
    assert got.end in ("whole", "broken")


@given(junk=st.binary(min_size=1, max_size=8), cuts=CUTS)
def test_bytes_before_a_reply_break_it(junk: bytes, cuts: list[int]) -> None:
    rig, got = fed(junk + SIZED, cuts)
    assert (got.end, got.head, got.body) == ("broken", None, b"")
    assert not rig.reusable


@given(data=st.binary(max_size=300), cuts=CUTS)
def test_no_bytes_do_harm(data: bytes, cuts: list[int]) -> None:
    rig, got = fed(OK + data, cuts)
    rig.lose()
    assert got.end in ("whole", "broken")


@given(
    replies=st.lists(
        st.sampled_from(
            [
                SIZED,
                CHUNKED,
                OK + b"Content-Length: 0\r\n\r\n",
                OK + b"Content-Length: 6\r\n\r\nhello\n",
                OK + b"Transfer-Encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\nTrailer: y\r\n\r\n",
                b"HTTP/1.1 100 Go on\r\n\r\n" + SIZED,
                b"HTTP/1.1 204 No Content\r\n\r\n",
                b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
                b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
            ]
        ),
        min_size=2,
        max_size=6,
    )
)
def test_a_connection_serves_one_reply_after_another(replies: list[bytes]) -> None:
    rig = Rig()
    for count, reply in enumerate(replies):
        assert rig.connection.reused == (count > 0)
        got = rig.exchange(reply)
        assert got.end == "whole"
        assert rig.idle == count + 1
    assert rig.reusable
    rig.transport.close()


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"CONTENT-LENGTH: 10\r\n", b"5\r\nhello\r\n"),
        (b"Content-Length:  10\r\n", b"5\r\nhello\r\n"),
        (b"Content-Length: 10\r\n", b"5\r\nhello\r\n"),
    ],
)
def test_a_sized_body_that_looks_like_chunks_is_none_however_its_head_is_spelled(
    head: bytes, body: bytes, rig: Rig
) -> None:
    for segments in [(OK + head + b"\r\n" + body,), (OK + head + b"\r\n", body)] * 2:
        got = rig.exchange(*segments)
        assert (got.end, got.body) == ("whole", body)
    assert rig.reusable


def test_a_head_without_the_digits_of_its_length_is_as_broken_as_ever(rig: Rig) -> None:
    assert rig.exchange(SIZED).end == "whole"
    head = SIZED.removesuffix(b"hello").replace(b" 5\r\n", b" \r\n")
    got = rig.exchange(head, b"5\r\nhello\r\n", b"0\r\n\r\n")
    assert got.end == "broken"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_a_reply_without_a_body_ends_each_time_whatever_its_head_says_of_one(
    status: bytes, rig: Rig
) -> None:
    for _ in range(3):
        got = rig.exchange(b"HTTP/1.1 %b\r\nTransfer-Encoding: chunked\r\n\r\n" % status)
        assert (got.end, got.body) == ("whole", b"")


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("reply", [SIZED, CHUNKED], ids=["sized", "chunked"])
def test_small_segments_spoil_no_connection_that_ends_clean(
    reply: bytes, step: int, rig: Rig
) -> None:
    framed = 5 if reply is CHUNKED else 1
    body, end = reply[:-framed], reply[-framed:]
    for _ in range(3):
        got = rig.exchange(*(body[at : at + step] for at in range(0, len(body), step)), end)
        assert (got.end, got.body) == ("whole", b"hello")
    assert rig.idle == 3


@pytest.mark.parametrize(
    "reply",
    [
        OK + b"Connection: close\r\nContent-Length: 1\r\n\r\na",
        OK + b"Connection: Close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_a_connection_that_is_to_be_closed_is(reply: bytes, rig: Rig) -> None:
    assert rig.exchange(reply).end == "whole"
    assert not rig.reusable
    assert rig.idle == 0


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"X: y\r\n",
    ],
)
@settings(max_examples=30)
@given(cuts=CUTS)
def test_a_reply_to_head_ends_with_its_head(headers: bytes, cuts: list[int]) -> None:
    _, got = fed(OK + headers + b"\r\n", cuts, head_only=True)
    assert (got.end, got.body) == ("whole", b"")


@pytest.mark.parametrize(
    "headers",
    [b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"],
)
def test_a_connection_is_reused_after_head(headers: bytes, rig: Rig) -> None:
    assert rig.exchange(OK + headers + b"\r\n", head_only=True).end == "whole"
    assert rig.exchange(b"HTTP/1.1 503 Busy\r\n" + headers + b"\r\n", head_only=True).end == "whole"
    got = rig.exchange(SIZED)
    assert (got.end, got.body) == ("whole", b"hello")
    assert rig.idle == 3


@pytest.mark.parametrize(
    "reply",
    [
        SIZED,
        CHUNKED,
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n",
        OK + b"\r\nhello",
        OK + b"Content-Length: 0\r\n\r\n\r\n",
        OK + b"Content-Length: 1\r\n\r\n\r\n\r\n",
    ],
)
@settings(max_examples=30)
@given(cuts=CUTS)
def test_a_connection_with_a_body_after_head_is_never_used_again(
    reply: bytes, cuts: list[int]
) -> None:
    rig, got = fed(reply, cuts, head_only=True)
    assert not rig.reusable
    assert got.body == b""


REFUSED = {
    "equal lengths": OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "other lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "list of lengths": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "signed length": OK + b"Content-Length: +5\r\n\r\nhello",
    "hex length": OK + b"Content-Length: 0x5\r\n\r\nhello",
    "empty length": OK + b"Content-Length:\r\n\r\nhello",
    "endless length": OK + b"Content-Length: 99999999999999999999\r\n\r\nhello",
    "length, then chunked": OK
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, then length": OK
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "coding twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two codings": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding in two headers": OK + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
    "other coding": OK + b"Transfer-Encoding: identity\r\n\r\nhello",
    "space before colon": OK + b"Content-Length : 5\r\n\r\nhello",
    "folded header": OK + b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
    "bare LF after a header": OK + b"X: y\nContent-Length: 5\r\n\r\nhello",
    "bare LF after the status": b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello",
    "bare LF at the end": OK + b"Content-Length: 5\r\n\nhello",
    "bare CR": OK + b"X: a\rb\r\nContent-Length: 5\r\n\r\nhello",
    "NUL in a value": OK + b"X: a\0b\r\nContent-Length: 5\r\n\r\nhello",
    "NUL in a name": OK + b"X\0: a\r\nContent-Length: 5\r\n\r\nhello",
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\nContent-Length: 5\r\n\r\nhello",
    "escape in the reason": b"HTTP/1.1 200 O\x1bK\r\nContent-Length: 5\r\n\r\nhello",
    "no name": OK + b": v\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "other protocol": b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
    "leading empty line": b"\r\n" + SIZED,
    "switch of protocols": b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "bare switch of protocols": b"HTTP/1.1 101 Go\r\n\r\n",
    "status 0": b"HTTP/1.1 000 No\r\nContent-Length: 5\r\n\r\nhello",
    "status 99": b"HTTP/1.1 099 No\r\nContent-Length: 5\r\n\r\nhello" + SIZED,
    "body of an interim reply": b"HTTP/1.1 199 X\r\nContent-Length: 5\r\n\r\nhello" + SIZED,
    "short status": b"HTTP/1.1 20 OK\r\n\r\n",
}


@pytest.mark.parametrize("reply", REFUSED.values(), ids=REFUSED.keys())
@settings(max_examples=30)
@given(cuts=CUTS)
def test_a_head_that_can_be_read_in_two_ways_is_refused(reply: bytes, cuts: list[int]) -> None:
    rig, got = fed(reply, cuts)
    assert (got.end, got.head, got.body) == ("broken", None, b"")
    assert not rig.reusable


@pytest.mark.parametrize(
    "garbage",
    [
        b"g\r\n",
        b"-1\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"\r\nhello\r\n",
        b"5\nhello\r\n",
        b"ffffffffffffffffff\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello!\r\n",
        b"5;a\0b\r\nhello\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"0\r\nX: \0\r\n\r\n",
        b"0\r\nContent-Length: 9\r\n\r\n",
        b"0\r\nX\r\n\r\n",
        b"0\r\n\nHTTP/1.1",
    ],
)
@settings(max_examples=30)
@given(cuts=CUTS)
def test_broken_chunks_break_the_reply(garbage: bytes, cuts: list[int]) -> None:
    chunk = b"3\r\nabc\r\n"
    rig, got = fed(OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + garbage, cuts)
    assert got.end == "broken"
    assert b"abchello".startswith(got.body)
    assert not rig.reusable


@pytest.mark.parametrize("length", [2, 4, 5, 21, 262, 4103])
def test_line_ends_around_what_is_no_chunk_do_not_make_it_one(length: int, rig: Rig) -> None:
    garbage = (b"\r\n" + b"x" * (length - 4) + b"\r\n")[-length:]
    got = rig.exchange(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n", garbage)
    assert (got.end, got.body) == ("broken", b"a")
    assert not rig.reusable


@pytest.mark.parametrize("size", [100, 1000, LIMIT - 1, LIMIT])
@pytest.mark.parametrize("over", [0, 1, 30_000, 200_000])
def test_a_head_over_the_limit_is_refused(size: int, over: int, rig: Rig) -> None:
    fixed = len("Content-Length: 0") + 2 + len("X: ") + 3
    reply = OK + b"Content-Length: 0\r\nX: %b\r\n\r\n" % (b"y" * (LIMIT - fixed - 40 + over))
    got = rig.exchange(*(reply[at : at + size] for at in range(0, len(reply), size)))
    assert got.end == ("broken" if over >= 30_000 else got.end)
    assert got.end == ("whole" if over == 0 else got.end)
    assert rig.reusable == (got.end == "whole")


def test_interim_replies_without_end_are_refused(rig: Rig) -> None:
    got = rig.exchange(*[b"HTTP/1.1 102 Wait\r\n\r\n" * 1000] * 4)
    assert got.end == "broken"


@pytest.mark.parametrize("field", [b"X: y\r\n", b"y"])
def test_trailers_without_end_are_refused(field: bytes, rig: Rig) -> None:
    got = rig.exchange(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", *[field * 1000] * 70)
    assert got.end == "broken"


def test_chunk_extensions_without_end_are_refused(rig: Rig) -> None:
    got = rig.exchange(OK + b"Transfer-Encoding: chunked\r\n\r\n5;", *[b"y" * 1000] * 70)
    assert got.end == "broken"


def test_a_long_stream_of_tiny_segments_is_no_framing_without_end(rig: Rig) -> None:
    received = rig.ask()
    rig.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(LIMIT // 4):
        rig.feed(b"1;abc\r\n", b"x", b"\r\n")
    rig.feed(b"0\r\n\r\n")
    assert received.end == "whole"
    assert len(received.body) == LIMIT // 4


def test_a_segment_is_passed_on_in_one_piece(rig: Rig) -> None:
    got = rig.ask()
    rig.feed(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    assert got.head is not None
    rig.feed(b"1\r\na\r\n2\r\nbc\r\n3\r\nde")
    assert (got.body, got.pieces) == (b"abcde", 1)


def test_trailers_are_dropped(rig: Rig) -> None:
    got = rig.exchange(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Secret: y\r\n\r\n")
    assert got.head is not None
    assert got.head.headers == [(b"Transfer-Encoding", b"chunked")]


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/event-stream", True),
        ("text/event-stream; charset=utf-8", True),
        ("text/event-stream;charset=utf-8", True),
        ("Text/Event-Stream", True),
        ("application/json", False),
        ("text/plain", False),
        ("", False),
    ],
)
def test_an_event_stream_is_told_by_its_content_type(
    rig: Rig, content_type: str, expected: bool
) -> None:
    got = rig.exchange(head_bytes([("Content-Type", content_type)], "Content-Length: 0"))
    assert got.head is not None
    assert got.head.event_stream is expected
    assert got.head.content_type == content_type.lower()


def test_white_space_around_a_value_is_no_part_of_it(rig: Rig) -> None:
    got = rig.exchange(
        OK + b"Transfer-Encoding: \tchunked \r\nContent-Type:  Text/Plain\t \r\n\r\n0\r\n\r\n"
    )
    assert got.end == "whole"
    assert got.head is not None
    assert got.head.content_type == "text/plain"


def test_bytes_on_an_idle_connection_end_it(rig: Rig) -> None:
    rig.exchange(SIZED)
    assert rig.reusable
    rig.feed(b"\r\n")
    assert not rig.reusable


def test_a_connection_is_clean_only_while_nothing_waits_in_it(rig: Rig) -> None:
    rig.exchange(SIZED)
    assert rig.connection.clean()
    rig.transport.peers.send(b"\r\n")
    assert not rig.connection.clean()


def test_a_connection_whose_peer_has_ended_it_is_not_clean(rig: Rig) -> None:
    rig.exchange(SIZED)
    rig.transport.peers.shutdown(socket.SHUT_WR)
    assert not rig.connection.clean()


def test_a_connection_that_is_lost_is_not_clean(rig: Rig) -> None:
    rig.exchange(SIZED)
    rig.lose()
    assert rig.lost == 1
    assert not rig.connection.clean()


def test_a_reply_that_overtakes_its_request_spoils_the_connection(rig: Rig) -> None:
    rig.transport.unsent = 1
    assert rig.exchange(SIZED).end == "whole"
    assert not rig.reusable
    assert rig.idle == 0


def test_an_idle_connection_is_read_even_if_its_last_reply_was_paused(rig: Rig) -> None:
    rig.ask()
    rig.connection.pause_reading()
    rig.feed(SIZED)
    assert rig.idle == 1
    assert rig.transport.reading


def test_the_request_goes_out_whole(rig: Rig) -> None:
    rig.connection.send(Received(), b"head", b"body")
    assert b"".join(rig.transport.sent) == b"headbody"


def test_a_request_on_a_lost_connection_is_broken_at_once(rig: Rig) -> None:
    rig.lose()
    assert rig.ask().end == "broken"


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", OK, SIZED[:-1], CHUNKED[:-1]])
def test_a_connection_that_ends_early_breaks_the_reply(
    sent: bytes, error: Exception | None, rig: Rig
) -> None:
    got = rig.ask()
    rig.feed(*([sent] if sent else []))
    assert rig.connection.replied == bool(sent)
    rig.lose(error)
    assert got.end == "broken"


def test_a_reset_is_no_end_of_a_reply_that_ends_with_its_connection(rig: Rig) -> None:
    got = rig.exchange(OK + b"\r\nhello")
    rig.lose(ConnectionResetError())
    assert got.end == "broken"


def test_an_aborted_exchange_hears_nothing_more(rig: Rig) -> None:
    got = rig.ask()
    rig.connection.abort()
    assert rig.transport.closing
    rig.lose()
    assert got.end is None


# --- heads that were seen before ---------------------------------------------------------------


class NoParser:
    """In place of llhttp, where it must not be asked."""

    def feed_data(self, data: bytes) -> None:
        raise AssertionError(data)


def without_parser(rig: Rig) -> None:
    rig.connection._parser = cast("Any", NoParser())


CODED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"5\r\nhello\r\n"
END = b"0\r\n\r\n"


@pytest.mark.parametrize("body", [b"", b"x", b"hello", b"\r\n", b"0\r\n\r\n", b"y" * 70_000])
def test_a_sized_reply_with_a_head_seen_before_is_taken_without_llhttp(
    body: bytes, rig: Rig
) -> None:
    rig.exchange(SIZED)
    without_parser(rig)
    for count in (2, 3):
        got = rig.exchange(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert (got.end, got.body, got.familiar) == ("whole", body, True)
        assert got.head is not None
        assert got.head.content_length == len(body)
        assert (rig.reusable, rig.idle, rig.connection.reused) == (True, count, True)


@pytest.mark.parametrize(
    "segments",
    [
        [CODED, END],
        [CODED, CHUNK, END],
        [CODED, CHUNK + END],
        [CODED + CHUNK, CHUNK, CHUNK + CHUNK, END],
        [CODED + CHUNK + CHUNK, CHUNK + CHUNK + END],
    ],
)
def test_a_chunked_reply_with_a_head_seen_before_is_taken_without_llhttp(
    segments: list[bytes], rig: Rig
) -> None:
    rig.exchange(CODED + CHUNK, END)
    without_parser(rig)
    for count in (2, 3):
        got = rig.exchange(*segments)
        assert (got.end, got.body) == ("whole", b"hello" * b"".join(segments).count(CHUNK))
        assert got.head is not None
        assert got.head.content_length is None
        assert (rig.reusable, rig.idle, rig.connection.reused) == (True, count, True)


@pytest.mark.parametrize(
    ("segments", "body"),
    [
        ([CODED, b"10\r\n\r\n", b"x" * 14 + b"\r\n", END], b"\r\n" + b"x" * 14),
        ([CODED + CHUNK, b"10\r\n\r\n", b"x" * 14 + b"\r\n" + END], b"hello\r\n" + b"x" * 14),
        ([CODED, b"a\r\n0\r\n\r\n", b"x" * 5 + b"\r\n", END], b"0\r\n\r\n" + b"x" * 5),
        ([CODED + CHUNK, CHUNK, b"5;a\r\nhello\r\n", CHUNK, END], b"hello" * 4),
        ([CODED + CHUNK + CHUNK, CHUNK[:4], CHUNK[4:], CHUNK + END], b"hello" * 4),
        ([CODED + CHUNK, CHUNK + b"0;a\r\n\r\n"], b"hello" * 2),
        ([CODED + CHUNK, CHUNK + b"00\r\n\r\n"], b"hello" * 2),
        ([CODED + CHUNK, CHUNK, b"0\r\nX: y\r\n\r\n"], b"hello" * 2),
    ],
)
def test_llhttp_is_asked_once_a_reply_with_a_head_seen_before_becomes_unusual(
    segments: list[bytes], body: bytes, rig: Rig
) -> None:
    rig.exchange(CODED + CHUNK, END)
    for _ in range(2):
        got = rig.exchange(*segments)
        assert (got.end, got.body, rig.reusable) == ("whole", body, True)


@pytest.mark.parametrize(
    "segments",
    [
        [CODED + CHUNK, END + END],
        [CODED + CHUNK, CHUNK + END + b"\r\n"],
        [CODED + CHUNK, b"5\r\nhello!\r\n" + END],
        [CODED + CHUNK, b"x" + END],
        [CODED + CHUNK, b"0\r\nX: \0\r\n\r\n"],
    ],
)
def test_what_is_wrong_with_a_reply_with_a_head_seen_before_is_seen(
    segments: list[bytes], rig: Rig
) -> None:
    rig.exchange(CODED + CHUNK, END)
    got = rig.exchange(*segments)
    assert not rig.reusable
    assert rig.idle == 1
    assert got.body == b"hello" or got.end == "whole"


def test_what_one_connection_has_seen_the_others_know(rig: Rig) -> None:
    rig.exchange(SIZED)
    other = Rig(rig.heads)
    without_parser(other)
    assert other.exchange(SIZED).end == "whole"
    other.transport.close()


@pytest.mark.parametrize(
    ("lesson", "head_only"),
    [
        ([SIZED[:-1], SIZED[-1:]], False),
        ([SIZED[:20], SIZED[20:]], False),
        ([SIZED + b"\r\n"], False),
        ([OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello"], False),
        ([OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n", END], False),
        ([b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", END], False),
        ([CODED + CHUNK[:4], CHUNK[4:], END], False),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], False),
        ([b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"], False),
        ([b"HTTP/1.1 100 Go on\r\n\r\n" + SIZED], False),
        ([b"HTTP/1.1 100 Go on\r\n\r\n" + CODED + CHUNK, END], False),
        ([OK + b"\r\nhello"], False),
        ([OK + b"Content-Length: 5\r\n\r\n"], True),
    ],
)
def test_a_head_is_not_remembered_of_what_was_not_seen_to_be_usual(
    lesson: list[bytes], head_only: bool, rig: Rig
) -> None:
    rig.exchange(*lesson, head_only=head_only)
    assert len(rig.heads) == 0


@pytest.mark.parametrize("segments", [[SIZED], [CODED, CHUNK, END]])
def test_a_familiar_reply_that_overtakes_its_request_spoils_the_connection(
    segments: list[bytes], rig: Rig
) -> None:
    rig.exchange(*segments)
    rig.transport.unsent = 1
    assert rig.exchange(*segments).end == "whole"
    assert (rig.reusable, rig.idle) == (False, 1)


def test_a_reply_to_head_ends_with_its_head_though_that_was_seen_before(rig: Rig) -> None:
    rig.exchange(SIZED)
    rig.exchange(CODED + CHUNK, END)
    for head in (OK + b"Content-Length: 0\r\n\r\n", OK + b"Content-Length: 5\r\n\r\n", CODED):
        got = rig.exchange(head, head_only=True)
        assert (got.end, got.body, rig.reusable) == ("whole", b"", True)
    assert rig.exchange(SIZED).body == b"hello"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_a_reply_that_has_no_body_ends_with_its_head_though_it_names_a_coding(
    status: bytes, rig: Rig
) -> None:
    reply = b"HTTP/1.1 %b\r\nTransfer-Encoding: chunked\r\n\r\n" % status
    assert rig.exchange(reply).end == "whole"
    assert rig.exchange(reply).end == "whole"
    assert rig.exchange(SIZED).body == b"hello"


@pytest.mark.parametrize(
    "field", [b"CONTENT-LENGTH: 10", b"Content-Length:  10", b"Content-Length: 010"]
)
def test_a_sized_reply_is_sized_however_its_length_is_spelled(field: bytes, rig: Rig) -> None:
    reply = OK + field + b"\r\n\r\n" + CHUNK
    for _ in range(2):
        got = rig.exchange(reply)
        assert (got.end, got.body) == ("whole", CHUNK)


def test_a_head_without_the_digits_of_its_length_is_refused_though_one_with_them_was_seen(
    rig: Rig,
) -> None:
    rig.exchange(SIZED)
    got = rig.exchange(OK + b"Content-Length: \r\n\r\n" + CHUNK)
    assert (got.end, got.body) == ("broken", b"")


FRAMED = st.sampled_from(["sized", "chunked"])
STATUS = st.sampled_from(["200 OK", "500 Oops", "204 No Content", "304 Not Modified"])
CONNECTION = st.sampled_from(["", "close", "keep-alive", "Close", "x"])


def seasoned(head: bytes, coding: str) -> Rig:
    """A connection that has learnt the head, or at least has had the chance to."""
    lesson = [head + b"x"] if coding == "sized" else [head + CHUNK, END]
    rig = Rig()
    if rig.exchange(*lesson).end == "whole" and rig.reusable:
        return rig
    rig.transport.close()
    return Rig(rig.heads)


def compared(rig: Rig, got: Received) -> tuple[object, ...]:
    """What must not depend on whether the head was seen before."""
    head = got.head
    if head is not None:  # but for the length in the header itself, of which nobody makes anything
        others = [pair for pair in head.headers if pair[0] != b"Content-Length"]
        head = head._replace(headers=others)
    return got.end, got.body, head, rig.reusable


@settings(max_examples=400)
@given(
    data=st.data(),
    coding=FRAMED,
    status=STATUS,
    connection=CONNECTION,
    version=st.sampled_from(["1.1", "1.1", "1.0"]),
    headers=st.sampled_from([[], [("Content-Type", "text/event-stream")], [("X-A", "b")]]),
    body=st.lists(MARKS | st.binary(max_size=30), max_size=6).map(b"".join),
    wounds=st.lists(st.tuples(st.integers(0, 1 << 12), MARKS), max_size=2),
    after=st.sampled_from([b"", b"", b"\r\n", b"x", END, SIZED]),
    lost=st.sampled_from([0, 0, 0, 1, 2, 7]),
    head_only=st.sampled_from([False, False, False, True]),
    at_edges=st.booleans(),
    cuts=CUTS,
)
def test_a_reply_is_the_same_whether_its_head_was_seen_before_or_not(
    data: st.DataObject,
    coding: str,
    status: str,
    connection: str,
    version: str,
    headers: list[tuple[str, str]],
    body: bytes,
    wounds: list[tuple[int, bytes]],
    after: bytes,
    lost: int,
    head_only: bool,
    at_edges: bool,
    cuts: list[int],
) -> None:
    if connection:
        headers = [*headers, ("Connection", connection)]
    # a coding of a body that there is not has a test of its own
    assume(coding == "sized" or status in ("200 OK", "500 Oops"))

    def head(length: int) -> bytes:
        framing = "Transfer-Encoding: chunked"
        framing = framing if coding == "chunked" else f"Content-Length: {length}"
        return head_bytes(headers, framing, line=f"HTTP/{version} {status}")

    if coding == "sized":
        coded = body
    else:
        pieces = cut_at(body, data.draw(CUTS)) if body else []
        plain = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + END
        coded = data.draw(st.just(plain) | chunks(body))
    whole = head(len(body)) + coded
    hurt = coded
    for place, mark in wounds:
        at = place % (len(hurt) + 1)
        hurt = hurt[:at] + mark + hurt[at:]
    hurt = (hurt + after)[: len(hurt + after) - lost if lost else None]
    reply = head(len(body)) + hurt
    if at_edges:  # where a head ends, and most chunks
        edges = [found.end() for found in re.finditer(rb"\r\n", hurt)]
        drawn = data.draw(st.lists(st.sampled_from(edges), max_size=4)) if edges else []
        cuts = [len(reply) - len(hurt) + edge for edge in [0, *drawn]]
    segments = cut_at(reply, cuts)

    results: list[list[tuple[object, ...]]] = []
    for rig in (Rig(), seasoned(head(1), coding)):
        got = rig.exchange(*segments, head_only=head_only)
        seen = [compared(rig, got)]
        rig.lose()
        results.append([*seen, compared(rig, got)])
        rig.transport.close()
    fresh, known = results
    if coding == "sized" and not body.strip(b"\r\n") and [reply] == segments == [whole]:
        # of a body of line ends alone llhttp cannot tell whether more of them follow
        assert [result[:3] for result in fresh] == [result[:3] for result in known]
    else:
        assert fresh == known


# --- events that are passed on -----------------------------------------------------------------


BEGUN = 100.0
"""When the first event of a stream was passed on, before its reader is asked to do so."""


class Clock:
    """What the reader takes the time from."""

    now = BEGUN + 0.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(reading, "monotonic", made)
    return made


class Turning(Rig):
    """A connection whose outbox waits for turns of the event loop to be ended by hand."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self._due: list[Callable[[], None]] = []
        self.outbox._await_end = lambda: self._due.append(self.outbox.flush)
        super().__init__(outbox=self.outbox)

    def turn(self) -> None:
        """End the present turn."""
        due = self._due.copy()
        self._due.clear()
        for call in due:
            call()


@pytest.fixture
def turning() -> Iterator[Turning]:
    made = Turning()
    yield made
    made.transport.close()


class ClientTransport:
    """As much of a client's transport as events are written to."""

    def __init__(self, fails_at: int = 1 << 30) -> None:
        self._fails_at = fails_at
        self.written: list[bytes] = []
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def write(self, data: bytes) -> None:
        if len(self.written) == self._fails_at:
            raise RuntimeError("gone")
        self.written.append(data)


def new_gaps() -> Observations:
    """With a bucket for each whole second."""
    return Observations([float(seconds) for seconds in range(1, 600)])


class Passing(Received):
    """A receiver that has events passed on, and notes what it is told of them."""

    ending = b""

    def __init__(self, rig: Rig, fails_at: int = 1 << 30) -> None:
        super().__init__()
        self._rig = rig
        self.client = ClientTransport(fails_at)
        self.gaps = new_gaps()
        self.tellings: list[tuple[int, list[bytes], float]] = []

    def head_received(self, head: ReplyHead) -> None:
        super().head_received(head)
        onward = cast("asyncio.Transport", self.client)
        self._rig.connection.pass_events(onward, self.gaps, BEGUN, self.ending)

    def events_passed(self, size: int, recent: Sequence[bytes], last: float) -> None:
        assert self.end is None
        self.tellings.append((size, list(recent), last))


class Told(Passing):
    """One that writes to the same client, and has to know of all that is written there."""

    def __init__(self, rig: Turning) -> None:
        super().__init__(rig)
        self._outbox = rig.outbox
        self._known = 0
        self.told: list[bytes] = []
        self.own: list[bytes] = []

    def events_passed(self, size: int, recent: Sequence[bytes], last: float) -> None:
        super().events_passed(size, recent, last)
        passed = self.client.written[self._known :]
        assert passed
        assert size == sum(len(split(chunk)[0][0]) for chunk in passed)
        assert list(recent) == passed[-16:]
        self.told += passed
        self._known = len(self.client.written)
        self.knows_all()

    def body_received(self, data: bytes) -> None:
        self.knows_all()
        super().body_received(data)
        self.own.append(b"%x\r\n%b\r\n" % (len(data), data))
        self.client.write(self.own[-1])
        self._known += 1

    def reply_ended(self) -> None:
        self.knows_all()
        super().reply_ended()

    def connection_broken(self, error: BaseException | None) -> None:
        self.knows_all()
        super().connection_broken(error)

    def knows_all(self) -> None:
        """Assert that no event waits, and that there is none that it was not told of."""
        assert len(self._outbox) == 0
        assert self._known == len(self.client.written)


def listening(rig: Turning) -> Told:
    told = Told(rig)
    rig.connection.send(told, REQUEST, b"")
    rig.turn()
    rig.feed(CODED)
    return told


def event(text: bytes) -> bytes:
    data = b"data: " + text + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def size_of(events: Iterable[bytes]) -> int:
    """Bytes that are in such chunks."""
    return sum(len(chunk.partition(b"\r\n")[2]) - 2 for chunk in events)


PASSED = st.binary(max_size=60).map(event)
UNLIKE = st.sampled_from([CHUNK, CHUNK + CHUNK, b"2\r\n\n\n\r\n" + CHUNK, b"5;a\r\nhello\r\n"])


@pytest.mark.parametrize("familiar", [False, True])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(
        st.lists(PASSED, max_size=3)
        | st.integers(15, 40).map(lambda number: [event(b"%d" % n) for n in range(number)])
        | UNLIKE.map(lambda chunk: [chunk])
        | st.tuples(PASSED, st.integers(1, 8)).map(lambda cut: [cut[0][: cut[1]], cut[0][cut[1] :]])
        | PASSED.map(lambda chunk: [chunk + chunk]),
        max_size=6,
    ),
    ends_turn=st.lists(st.booleans(), min_size=1, max_size=7),
    end=st.sampled_from([[END], [b"0\r\n", b"\r\n"], [event(b"last") + END], [b"!"], None]),
)
def test_events_are_passed_on_in_order_and_told_of_before_anything_else(
    clock: Clock,
    familiar: bool,
    runs: list[list[bytes]],
    ends_turn: list[bool],
    end: list[bytes] | None,
) -> None:
    rig = Turning()
    if familiar:
        rig.exchange(CODED + CHUNK, END)
    clock.now = BEGUN + 0.5
    told = listening(rig)
    segments = [segment for run in runs for segment in run]
    passed: list[bytes] = []
    wire: list[bytes] = []
    lasts: list[float] = []
    gaps = new_gaps()
    before = last = BEGUN
    untold = 0
    for number, (segment, ends) in enumerate(zip(segments, cycle(ends_turn), strict=False)):
        clock.now += number + 1
        waiting, own = len(rig.outbox), len(told.own)
        rig.feed(segment)
        if len(rig.outbox) > waiting:
            assert segment.endswith(b"\n\n\r\n")
            assert (len(split(segment)[0]), split(segment)[1]) == (1, 0)
            passed.append(segment)
            wire.append(segment)
            gaps.observe(clock.now - before)
            last = clock.now
            untold += 1
        elif untold:
            lasts.append(last)
            untold = 0
        wire += told.own[own:]
        if len(rig.outbox) > waiting or len(told.own) > own:  # and not framing alone
            before = clock.now
        assert [telling[2] for telling in told.tellings] == lasts
        assert rig.connection.last_event == before
        assert len(rig.connection._recent) == min(untold, 16)
        if ends:
            rig.turn()
            assert told.client.written == wire
    own = len(told.own)
    if end is None:
        rig.lose()
    else:
        rig.feed(*end)
    rig.transport.close()
    wire += told.own[own:]
    assert told.end == ("broken" if end in ([b"!"], None) else "whole")
    assert told.told == passed
    assert [telling[2] for telling in told.tellings] == [*lasts, *([last] if untold else [])]
    assert (told.gaps.counts, told.gaps.total) == (gaps.counts, gaps.total)
    rig.turn()
    told.knows_all()
    assert told.client.written == wire

    plain = Rig()
    same = plain.exchange(CODED, *segments, *(end or []))
    plain.transport.close()
    held, missing = split(b"".join(wire))
    assert (b"".join(held), missing) == (same.body, 0)


@pytest.mark.parametrize("familiar", [False, True])
def test_each_event_is_written_byte_for_byte_at_the_end_of_the_turn_in_which_it_comes(
    familiar: bool, turning: Turning
) -> None:
    if familiar:
        turning.exchange(CODED + CHUNK, END)
        without_parser(turning)
    told = listening(turning)
    events = [event(b"%d" % number * 3) for number in range(100)]
    for number, chunk in enumerate(events):
        turning.feed(chunk)
        assert told.client.written == events[:number]
        turning.turn()
        assert told.client.written == events[: number + 1]
    turning.feed(END)
    assert (told.end, told.told, told.body) == ("whole", events, b"")
    assert turning.reusable


@pytest.mark.parametrize(
    "after",
    [[CHUNK], [CHUNK[:4]], [event(b"x" * 2000)], [event(b"3") + event(b"4")], [END], [b"!"]],
)
def test_events_that_wait_are_written_and_told_of_before_what_comes_in_the_same_turn(
    after: list[bytes], turning: Turning
) -> None:
    told = listening(turning)
    events = [event(b"1"), event(b"2")]
    turning.feed(*events)
    assert (told.client.written, told.tellings) == ([], [])
    turning.feed(*after)
    assert (told.client.written, told.told) == ([*events, *told.own], events)
    turning.turn()
    assert told.client.written == [*events, *told.own]


def test_an_event_is_written_at_the_end_of_its_turn_though_others_were_written_before_that(
    turning: Turning,
) -> None:
    told = listening(turning)
    turning.feed(event(b"1"), CHUNK, event(b"2"))
    assert told.client.written == [event(b"1"), CHUNK]
    turning.turn()
    assert told.client.written == [event(b"1"), CHUNK, event(b"2")]


def test_of_events_not_told_of_yet_the_last_ones_are_kept_and_the_bytes_of_all_counted(
    clock: Clock, turning: Turning
) -> None:
    told = listening(turning)
    events = [event(b"%d" % number) for number in range(1000)]
    for number, chunk in enumerate(events):
        clock.now = BEGUN + number
        turning.feed(chunk)
        assert len(turning.connection._recent) <= RECENT_EVENTS == 16
    turning.turn()
    assert told.tellings == []
    turning.connection.tell_events()
    assert told.tellings == [(size_of(events), events[-16:], BEGUN + 999)]


def test_events_that_end_as_those_that_tell_nothing_are_counted_and_not_kept(
    clock: Clock, turning: Turning
) -> None:
    told = Passing(turning)
    told.ending = b"null}"
    turning.connection.send(told, REQUEST, b"")
    turning.turn()
    turning.feed(CODED)
    events = [event(b"{%d, null}" % number) for number in range(100)]
    events[40:40] = [event(b"{stop}"), event(b"null} "), event(b"ull}")]
    for chunk in events:
        turning.feed(chunk)
    turning.turn()
    assert told.client.written == events
    assert sum(told.gaps.counts) == len(events)
    turning.connection.tell_events()
    assert told.tellings == [(size_of(events), events[40:43], clock.now)]


@pytest.mark.parametrize("ending", [b"", b"null}"])
def test_a_chunk_without_its_line_end_is_no_event_whatever_it_ends_with(
    ending: bytes, turning: Turning
) -> None:
    turning.exchange(CODED + CHUNK, END)
    told = Passing(turning)
    told.ending = ending
    turning.connection.send(told, REQUEST, b"")
    turning.turn()
    turning.feed(CODED, event(b"1"), b"3\r\nabcX\0")
    assert (told.end, turning.reusable) == ("broken", False)


def test_events_that_tell_nothing_leave_nothing_for_the_next_reply(turning: Turning) -> None:
    told = Passing(turning)
    told.ending = b"null}"
    turning.connection.send(told, REQUEST, b"")
    turning.turn()
    turning.feed(CODED, event(b"null}"), END)
    assert (told.end, [telling[1] for telling in told.tellings]) == ("whole", [[]])
    then = listening(turning)
    turning.feed(event(b"null}"))
    turning.connection.tell_events()
    assert [telling[1] for telling in then.tellings] == [[event(b"null}")]]


def test_events_are_told_of_once_however_often_that_is_asked_for(
    clock: Clock, turning: Turning
) -> None:
    told = listening(turning)
    turning.connection.tell_events()
    assert told.tellings == []
    clock.now = 101.0
    turning.feed(event(b"1"))
    for _ in range(2):
        turning.connection.tell_events()
        assert told.tellings == [(len(b"data: 1\n\n"), [event(b"1")], 101.0)]
    clock.now = 102.0
    turning.feed(event(b"22"))
    turning.connection.tell_events()
    assert told.tellings[1:] == [(len(b"data: 22\n\n"), [event(b"22")], 102.0)]


def test_the_time_of_the_last_bytes_but_not_of_framing_is_there_while_events_are_passed_on(
    clock: Clock, turning: Turning
) -> None:
    told = Told(turning)
    turning.connection.send(told, REQUEST, b"")
    turning.turn()
    assert turning.connection.last_event == 0.0
    turning.feed(CODED)
    assert turning.connection.last_event == BEGUN
    for segment in (event(b"1"), CHUNK[:4], CHUNK[4:], event(b"2") + event(b"3")):
        clock.now += 1
        turning.feed(segment)
        assert turning.connection.last_event == clock.now
    came = clock.now
    clock.now += 1
    turning.feed(b"5;a\r\n")
    turning.connection.tell_events()
    assert turning.connection.last_event == came
    turning.feed(CHUNK[3:], END)
    assert (told.end, turning.connection.last_event) == ("whole", 0.0)


def test_of_a_stream_whose_events_are_not_passed_on_there_is_no_last_event(rig: Rig) -> None:
    got = rig.exchange(CODED, event(b"1"), event(b"2"))
    assert (got.body, rig.connection.last_event) == (b"data: 1\n\ndata: 2\n\n", 0.0)


def test_a_lost_connection_has_no_last_event(turning: Turning) -> None:
    told = listening(turning)
    turning.feed(event(b"1"))
    turning.lose()
    assert (told.end, turning.connection.last_event) == ("broken", 0.0)


def test_the_gap_before_each_event_is_counted_as_soon_as_it_comes(
    clock: Clock, turning: Turning
) -> None:
    told = listening(turning)
    gaps = new_gaps()
    clock.now = BEGUN
    for seconds in (3.0, 1.0, 0.25, 7.5, 1.0):
        clock.now += seconds
        gaps.observe(seconds)
        turning.feed(event(b"x"))
        assert (told.gaps.counts, told.gaps.total) == (gaps.counts, gaps.total)
    turning.turn()
    turning.connection.tell_events()
    turning.feed(END)
    assert (told.gaps.counts, told.gaps.total) == (gaps.counts, gaps.total)


@pytest.mark.parametrize(
    "between", [[CHUNK], [CHUNK[:4], CHUNK[4:]], [event(b"1") + event(b"2")], [event(b"x" * 2000)]]
)
def test_a_gap_begins_with_whatever_came_before_and_is_left_to_the_receiver_if_it_ends_so(
    between: list[bytes], clock: Clock, turning: Turning
) -> None:
    told = listening(turning)
    expected = new_gaps()
    clock.now = BEGUN + 2
    turning.feed(event(b"1"))
    expected.observe(2.0)
    for segment in between:
        clock.now += 40
        turning.feed(segment)
    clock.now += 3
    turning.feed(event(b"2"))
    expected.observe(3.0)
    clock.now += 5
    turning.feed(event(b"3"))
    expected.observe(5.0)
    assert (told.gaps.counts, told.gaps.total) == (expected.counts, expected.total)


def test_who_aborts_is_told_of_all_events_once_they_are_written(turning: Turning) -> None:
    told = listening(turning)
    turning.feed(event(b"1"), event(b"2"))
    turning.connection.abort()
    assert told.client.written == told.told == [event(b"1"), event(b"2")]
    turning.lose()
    turning.turn()
    assert told.client.written == told.told == [event(b"1"), event(b"2")]
    assert told.end is None


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
def test_what_waits_when_a_backend_goes_away_is_written_and_told_of_before_that(
    error: Exception | None, turning: Turning
) -> None:
    told = listening(turning)
    turning.feed(event(b"1"), event(b"2"))
    turning.lose(error)
    assert told.client.written == told.told == [event(b"1"), event(b"2")]
    assert told.end == "broken"


@pytest.mark.parametrize("fails_at", [0, 1, 2])
@pytest.mark.parametrize(
    ("rest", "end"), [([], None), ([CHUNK], None), ([END], "whole"), ([b"!"], "broken")]
)
@pytest.mark.parametrize("together", [False, True])
async def test_an_event_that_cannot_be_written_ends_the_clients_transport_and_disturbs_nobody(
    fails_at: int,
    rest: list[bytes],
    end: str | None,
    together: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loop = asyncio.get_running_loop()
    raised: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: raised.append(context))
    rig = Rig(outbox=Outbox())
    got = Passing(rig, fails_at)
    rig.connection.send(got, REQUEST, b"")
    events = [event(b"%d" % number) for number in range(3)]
    for segment in [CODED, *events, *rest]:
        loop.call_soon(rig.connection.data_received, segment)
        if not together:
            await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert raised == []
    assert (got.client.written, got.client.closing) == (events[:fails_at], True)
    assert "cannot be written to" in capsys.readouterr().out
    rig.connection.tell_events()
    assert [telling[:2] for telling in got.tellings] == [(size_of(events), events)]
    assert (got.end, rig.reusable) == (end, end != "broken")
    rig.transport.close()


def test_events_of_the_next_reply_are_its_receivers(turning: Turning) -> None:
    first = listening(turning)
    turning.feed(event(b"1"), END)
    counted = [*first.gaps.counts]
    second = turning.ask()
    turning.turn()
    turning.feed(CODED, event(b"2"), END)
    turning.turn()
    assert first.client.written == first.told == [event(b"1")]
    assert (second.body, second.end) == (b"data: 2\n\n", "whole")
    assert first.gaps.counts == counted


@pytest.mark.parametrize(
    "segment",
    [
        event(b"x" * 2000),
        CHUNK,
        event(b"1")[:-4] + b"x\n\r\n",
        b"7;a\r\nhello\n\n\r\n",
        b"07\r\nhello\n\n\r\n",
        b"ff\r\nhello\n\n\r\n",
        b"1\r\nhello\n\n\r\n",
        event(b"1") + event(b"2"),
        event(b"1")[:4],
    ],
)
def test_what_is_not_one_short_event_is_not_passed_on(
    segment: bytes, clock: Clock, turning: Turning
) -> None:
    told = listening(turning)
    clock.now += 1
    turning.feed(segment)
    turning.turn()
    assert (told.client.written, told.tellings) == (told.own, [])
    assert sum(told.gaps.counts) == 0


def test_the_end_of_a_chunk_is_not_taken_for_an_event(turning: Turning) -> None:
    told = listening(turning)
    inner = event(b"1")
    turning.feed(b"%x\r\n" % (len(inner) + 2), inner, b"yz\r\n", event(b"2"), END)
    assert told.told == [event(b"2")]
    assert told.client.written == [*told.own, event(b"2")]
    assert (told.end, told.body) == ("whole", inner + b"yz")


# --- exchanges that have events passed on ------------------------------------------------------


class Watching:
    """As much of a sink, of a reply and of an ending as an exchange uses."""

    limit = 1 << 20
    chunked = True
    congested = trailing = whole = False
    ending = b""

    def __init__(self, gaps: Observations | None) -> None:
        self.transport = ClientTransport()
        self.connection = SimpleNamespace(on_pressure=None, on_relief=None)
        self.gaps = gaps
        self.error: Exception | None = None
        self.seen: list[tuple[object, float]] = []
        self.ended: list[Fault | None] = []
        self.failed: list[Exception] = []

    def plan(self, _: ReplyHead) -> Plan:
        return Plan.STREAM

    def ready(self, head: ReplyHead, first: bytes) -> bool:
        return head.event_stream and first.endswith(b"\n\n")

    def begin(self, _: ReplyHead, __: bytes) -> Watching:
        return self

    def observe(self, data: bytes, now: float) -> None:
        self.seen.append((data, now))

    def event_gaps(self) -> Observations | None:
        assert self.seen
        return self.gaps

    def silent_ending(self) -> bytes:
        return self.ending

    def observe_events(self, size: int, recent: Sequence[bytes], last: float) -> None:
        if self.error is not None:
            raise self.error
        self.seen.append(((size, list(recent)), last))

    def start(self, first: bytes) -> None:
        self.transport.write(first)

    def pass_on(self, data: bytes) -> None:
        self.transport.write(data)

    def trailers(self) -> tuple[()]:
        return ()

    def pass_chunks(self, chunks: bytes, last: bool) -> None:
        self.transport.write(chunks)
        self.whole = last

    def finish(self, _: object) -> None:
        if not self.whole:
            self.transport.write(END)

    def stream_begins(self, _: float) -> None:
        pass

    def exchange_ended(self, fault: Fault | None) -> None:
        self.ended.append(fault)

    def exchange_failed(self, error: Exception) -> None:
        self.failed.append(error)


STREAM = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def exchanging(rig: Turning, clock: Clock, watching: Watching) -> Exchange:
    """An exchange whose stream has begun with one event."""
    made = Exchange(
        make_backend(),
        cast("Any", watching),
        Proxy(idle_timeout=10.0),
        watching,
        cast("Any", SimpleNamespace(add=lambda *_: None, discard=lambda *_: None)),
        clock,
        last=True,
        deadline=None,
    )
    made.send(rig.connection, REQUEST, b"", head_only=False)
    rig.turn()
    rig.feed(STREAM, event(b"1"))
    return made


def test_an_exchange_has_events_passed_on_once_its_sink_has_seen_the_first(
    clock: Clock, turning: Turning
) -> None:
    gaps = new_gaps()
    watching = Watching(gaps)
    exchanging(turning, clock, watching)
    begun = clock.now
    for number in (2, 3):
        clock.now += number
        turning.feed(event(b"%d" % number))
    turning.turn()
    assert watching.transport.written[1:] == [event(b"2"), event(b"3")]
    assert watching.seen == [(b"data: 1\n\n", begun)]
    assert (sum(gaps.counts), gaps.counts[1:3], gaps.total) == (2, [1, 1], 5.0)
    turning.feed(END)
    passed = [event(b"2"), event(b"3")]
    assert watching.seen[1:] == [((size_of(passed), passed), clock.now)]
    assert watching.transport.written[1:] == [*passed, END]
    assert (watching.ended, watching.failed) == ([None], [])


@pytest.mark.parametrize("trailing", [False, True])
def test_an_exchange_passes_the_rest_of_a_stream_on_as_it_came_unless_trailers_follow_it(
    clock: Clock, turning: Turning, trailing: bool
) -> None:
    for watching in (Watching(new_gaps()), Watching(new_gaps())):
        watching.trailing = trailing
        exchanging(turning, clock, watching)
        turning.feed(event(b"2"), event(b"3") + event(b"[DONE]") + END)
        turning.turn()
        rest = b"data: 3\n\ndata: [DONE]\n\n"
        assert watching.seen[-1] == (rest, clock.now)
        assert watching.ended == [None]
    # the second has a head that was seen before
    as_it_came = [event(b"3") + event(b"[DONE]") + END]
    assert watching.transport.written[2:] == ([rest, END] if trailing else as_it_came)


def test_an_exchange_shows_its_sink_each_event_that_has_to_be_seen(
    clock: Clock, turning: Turning
) -> None:
    watching = Watching(None)
    exchanging(turning, clock, watching)
    times = [clock.now]
    for number in (2, 3):
        clock.now += number
        times.append(clock.now)
        turning.feed(event(b"%d" % number))
        assert watching.transport.written[-1] == event(b"%d" % number)
    assert watching.seen == [
        (b"data: %d\n\n" % number, now) for number, now in enumerate(times, start=1)
    ]
    assert turning.connection.last_event == 0.0


def test_a_sink_that_fails_at_what_was_passed_on_fails_its_exchange_and_not_the_event_loop(
    clock: Clock, turning: Turning
) -> None:
    watching = Watching(new_gaps())
    exchanging(turning, clock, watching)
    watching.error = ValueError("odd")
    turning.feed(event(b"2"), CHUNK)
    assert watching.failed == [watching.error]
    assert watching.ended == []


def test_a_stream_is_silent_since_its_last_event_and_not_since_its_sink_was_told(
    clock: Clock, turning: Turning
) -> None:
    watching = Watching(new_gaps())
    exchange = exchanging(turning, clock, watching)
    for _ in range(5):
        clock.now += 9
        turning.feed(event(b"2"))
        assert exchange.look(clock.now) == clock.now + 10
    assert exchange.look(clock.now + 9.9) == clock.now + 10
    assert watching.ended == []
    exchange.look(clock.now + 10)
    assert [fault.value for fault in watching.ended if fault] == ["idle_timeout"]
