from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from aiohttp import HttpVersion10, HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy

from ollad.relay.downstream import Downstream, send_whole
from ollad.relay.exchange import ReplyHead
from tests.unit.relay.direct import DIRECT

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from aiohttp import HttpVersion

LINES = b"Content-Type: text/plain\r\nX-A: b\r\n"
LONG = b"x" * (64 * 1024)


class FakeTransport:
    """As much of a transport as a reply uses."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.together: list[list[bytes]] = []
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        assert data
        self.sent.append(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        self.together.append([*pieces])
        self.sent += self.together[-1]


class FakeConnection:
    """The connection of a client."""

    _paused = False


class FakeClient:
    """Somebody to answer."""

    def __init__(
        self,
        method: str = "POST",
        version: HttpVersion = HttpVersion11,
        *,
        keep_alive: bool = True,
    ) -> None:
        self.method = method
        self.version = version
        self.keep_alive = keep_alive
        self.headers: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())
        self.fake: FakeTransport | None = FakeTransport()
        self.protocol: object = FakeConnection()

    @property
    def transport(self) -> asyncio.Transport | None:
        return cast("asyncio.Transport | None", self.fake)

    @property
    def got(self) -> bytes:
        assert self.fake is not None
        return b"".join(self.fake.sent)

    @property
    def writes(self) -> int:
        assert self.fake is not None
        return len(self.fake.sent) - sum(len(lines) - 1 for lines in self.fake.together)


def head(length: int | None = None, status: int = 200, reason: bytes = b"OK") -> ReplyHead:
    return ReplyHead(status, reason, [], "text/plain", length)


def streamed(
    client: FakeClient,
    reply: ReplyHead,
    *pieces: bytes,
    last: bool = False,
    trailers: tuple[str, ...] = (),
    said: tuple[tuple[str, str], ...] = (),
) -> Downstream:
    """A reply of these pieces, the first of which goes with the head."""
    made = Downstream(client, reply, LINES, last=last, trailers=trailers)
    made.start(pieces[0] if pieces else b"")
    for piece in pieces[1:]:
        made.pass_on(piece)
    made.finish(said)
    return made


# --- a reply that is written while it arrives --------------------------------------------------


def test_a_body_of_known_length_is_framed_by_that() -> None:
    client = FakeClient()
    made = streamed(client, head(10), b"hello", b"world")
    assert client.got == (b"HTTP/1.1 200 OK\r\n" + LINES + b"Content-Length: 10\r\n\r\nhelloworld")
    assert (made.chunked, made.until_close, made.keep_alive) == (False, False, True)


def test_a_body_of_unknown_length_is_sent_in_chunks() -> None:
    client = FakeClient()
    made = streamed(client, head(), b"hello", b"x" * 26)
    assert client.got == (
        b"HTTP/1.1 200 OK\r\n" + LINES + b"Transfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n1a\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n"
    )
    assert (made.chunked, made.until_close, made.keep_alive) == (True, False, True)


def test_a_chunked_body_of_nothing_has_only_its_end() -> None:
    client = FakeClient()
    streamed(client, head())
    assert client.got.endswith(b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("keep_alive", [True, False])
def test_a_body_of_unknown_length_ends_with_the_connection_of_an_old_client(
    keep_alive: bool,
) -> None:
    client = FakeClient(version=HttpVersion10, keep_alive=keep_alive)
    made = streamed(client, head(), b"hello", b"world")
    assert client.got == (b"HTTP/1.0 200 OK\r\n" + LINES + b"Connection: close\r\n\r\nhelloworld")
    assert (made.chunked, made.until_close, made.keep_alive) == (False, True, False)


@pytest.mark.parametrize(
    ("version", "keep_alive", "last", "line", "option", "persistent"),
    [
        (HttpVersion11, True, False, b"HTTP/1.1", b"", True),
        (HttpVersion11, True, True, b"HTTP/1.1", b"Connection: close\r\n", False),
        (HttpVersion11, False, False, b"HTTP/1.1", b"Connection: close\r\n", False),
        (HttpVersion10, True, False, b"HTTP/1.0", b"Connection: keep-alive\r\n", True),
        (HttpVersion10, True, True, b"HTTP/1.0", b"Connection: close\r\n", False),
        (HttpVersion10, False, False, b"HTTP/1.0", b"Connection: close\r\n", False),
    ],
)
def test_the_connection_stays_only_as_long_as_both_want_it(
    version: HttpVersion,
    keep_alive: bool,
    last: bool,
    line: bytes,
    option: bytes,
    persistent: bool,
) -> None:
    expected = line + b" 200 OK\r\n" + LINES + b"Content-Length: 5\r\n" + option + b"\r\nhello"
    client = FakeClient(version=version, keep_alive=keep_alive)
    made = streamed(client, head(5), b"hello", last=last)
    assert (client.got, made.keep_alive) == (expected, persistent)

    client = FakeClient(version=version, keep_alive=keep_alive)
    assert send_whole(client, head(), LINES, b"hello", DIRECT, last=last) is persistent
    assert client.got == expected


def test_the_status_and_the_reason_are_the_backends() -> None:
    client = FakeClient()
    streamed(client, head(0, 429, b"Slow \xe9down"))
    assert client.got.startswith(b"HTTP/1.1 429 Slow \xe9down\r\n")
    client = FakeClient()
    streamed(client, head(0, 500, b""))
    assert client.got.startswith(b"HTTP/1.1 500 \r\n")


@pytest.mark.parametrize("length", [None, 0, 10])
@pytest.mark.parametrize("version", [HttpVersion10, HttpVersion11])
def test_head_is_answered_without_a_body_whatever_comes(
    length: int | None, version: HttpVersion
) -> None:
    client = FakeClient("HEAD", version)
    made = streamed(client, head(length), b"hello", b"world", trailers=("X-T",), said=())
    assert client.got.endswith(b"\r\n\r\n")
    assert client.got.count(b"\r\n\r\n") == 1
    assert not made.chunked
    assert not made.trailing
    named = b"Content-Length: %d\r\n" % length if length is not None else b""
    assert named in client.got
    chunked = b"Transfer-Encoding: chunked\r\n" in client.got
    assert chunked is (length is None and version == HttpVersion11)


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("length", [None, 0])
@pytest.mark.parametrize("version", [HttpVersion10, HttpVersion11])
def test_a_status_without_a_body_has_no_framing_of_one(
    status: int, length: int | None, version: HttpVersion
) -> None:
    client = FakeClient(version=version)
    made = streamed(client, head(length, status))
    assert b"Content-Length" not in client.got
    assert b"Transfer-Encoding" not in client.got
    assert client.got.endswith(b"\r\n\r\n")
    assert (made.chunked, made.until_close, made.keep_alive) == (False, False, True)


def test_trailers_are_announced_and_said_after_the_body() -> None:
    client = FakeClient()
    made = streamed(
        client, head(), b"hello", trailers=("X-A", "X-B"), said=(("X-A", "1"), ("X-B", "\xe9"))
    )
    assert made.trailing
    before, _, after = client.got.partition(b"\r\n\r\n")
    assert before.endswith(b"Transfer-Encoding: chunked\r\nTrailer: X-A, X-B")
    assert after == b"5\r\nhello\r\n0\r\nX-A: 1\r\nX-B: \xe9\r\n\r\n"


@pytest.mark.parametrize(
    ("client", "reply"),
    [
        (FakeClient(), head(5)),
        (FakeClient(version=HttpVersion10), head()),
        (FakeClient("HEAD"), head()),
        (FakeClient(), head(None, 304)),
    ],
)
def test_no_trailers_are_announced_where_nothing_can_carry_them(
    client: FakeClient, reply: ReplyHead
) -> None:
    made = Downstream(client, reply, LINES, trailers=("X-A",))
    made.start(b"")
    assert not made.trailing
    assert b"Trailer" not in client.got


def test_announced_trailers_may_come_to_nothing() -> None:
    client = FakeClient()
    streamed(client, head(), b"hello", trailers=("X-A",))
    assert client.got.endswith(b"5\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize("first", [b"hello", LONG[1:]])
def test_the_head_goes_out_with_the_first_bytes_in_one_piece(first: bytes) -> None:
    for reply in (head(len(first)), head()):
        client = FakeClient()
        made = Downstream(client, reply, LINES)
        assert client.writes == 0
        made.start(first)
        assert client.writes == 1


def test_a_long_beginning_is_written_beside_its_head_and_not_copied() -> None:
    client = FakeClient()
    streamed(client, head(len(LONG)), LONG)
    assert client.fake is not None
    assert client.writes == 1
    assert client.fake.together[0][1] is LONG
    assert client.got.endswith(b"Content-Length: 65536\r\n\r\n" + LONG)


def test_a_client_that_does_not_take_what_it_is_sent_is_seen() -> None:
    client = FakeClient()
    made = Downstream(client, head(), LINES)
    assert not made.congested
    made.connection._paused = True
    assert made.congested


@pytest.mark.parametrize("gone", ["lost", "closing"])
def test_a_client_that_has_gone_is_not_answered(gone: str) -> None:
    client = FakeClient()
    assert client.fake is not None
    if gone == "lost":
        client.fake = None
    else:
        client.fake.closing = True
    with pytest.raises(ConnectionResetError):
        Downstream(client, head(5), LINES)
    with pytest.raises(ConnectionResetError):
        send_whole(client, head(5), LINES, b"hello", DIRECT, last=False)
    if client.fake is not None:
        assert client.got == b""


# --- a reply that is there as a whole ----------------------------------------------------------


@pytest.mark.parametrize("length", [None, 5, 7])
def test_a_whole_body_is_framed_by_its_own_length(length: int | None) -> None:
    client = FakeClient()
    assert send_whole(client, head(length), LINES, b"hello", DIRECT, last=False)
    assert client.got == (b"HTTP/1.1 200 OK\r\n" + LINES + b"Content-Length: 5\r\n\r\nhello")
    assert client.writes == 1


def test_a_long_whole_body_is_written_beside_its_head_and_not_copied() -> None:
    client = FakeClient()
    send_whole(client, head(), LINES, LONG, DIRECT, last=False)
    assert client.fake is not None
    assert client.fake.together[0][1] is LONG
    assert client.got.endswith(b"Content-Length: 65536\r\n\r\n" + LONG)
    client = FakeClient()
    send_whole(client, head(), LINES, LONG[1:], DIRECT, last=False)
    assert client.fake is not None
    assert (client.fake.together, client.writes) == ([], 1)


@pytest.mark.parametrize("body", [b"hello", LONG])
def test_head_is_answered_with_the_length_of_what_it_does_not_get(body: bytes) -> None:
    client = FakeClient("HEAD")
    assert send_whole(client, head(), LINES, body, DIRECT, last=False)
    assert client.got.endswith(b"Content-Length: %d\r\n\r\n" % len(body))


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("version", [HttpVersion10, HttpVersion11])
def test_a_whole_reply_without_a_body_has_no_framing_of_one(
    status: int, version: HttpVersion
) -> None:
    client = FakeClient(version=version)
    assert send_whole(client, head(0, status), LINES, b"", DIRECT, last=False)
    assert b"Content-Length" not in client.got
    assert client.got.endswith(b"\r\n\r\n")


def test_a_whole_reply_of_nothing_says_so() -> None:
    client = FakeClient()
    send_whole(client, head(), b"", b"", DIRECT, last=False)
    assert client.got == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
