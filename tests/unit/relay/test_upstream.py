from __future__ import annotations

import socket
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollad.relay import upstream
from ollad.relay.chunks import UNKNOWN, split
from ollad.relay.upstream import Connection
from tests.unit.builders import raw

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator

    from ollad.relay.exchange import ReplyHead

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

    def head_received(self, head: ReplyHead) -> None:
        assert self.head is None
        assert self.end is None
        self.head = head

    def body_received(self, data: bytes, chunks: bytes = b"") -> None:
        assert self.head is not None
        assert self.end is None
        assert data
        if chunks:
            held, missing = split(chunks)
            assert (b"".join(held), missing) == (data, 0)
            self.untouched += 1
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

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.idle = 0
        self.lost = 0
        self.connection = Connection(bytearray(LIMIT), self._on_idle, self._on_lost)
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
            self.connection.get_buffer(-1)[: len(segment)] = segment
            self.connection.buffer_updated(len(segment))

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
            patch.setattr(upstream, "split", shortcut)
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
