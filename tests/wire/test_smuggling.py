"""Requests whose end two readers could see in different places, and what becomes of them.

Either ollad refuses such a request and closes the connection, so that nothing behind it is ever
taken for a request, or the backend gets exactly one request with the body that RFC 9112 says.
What backends send is in relay/test_refused.py.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.wire.fake_sglang import reply
from tests.wire.raw import connected
from tests.wire.relay.replies import read_reply

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang
    from tests.wire.loglines import LogLines

LINE = b"POST /olla/sglang/tokenize HTTP/1.1\r\n"
FIELDS = b"Host: a\r\nContent-Type: application/json\r\n"
BODY = b'{"prompt": "good"}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
UPGRADE = b"Connection: upgrade, http2-settings\r\n"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
SECRET = b"sesame-in-a-header"

CLOSED_WITHIN = 5.0

SMUGGLED = (
    b"POST /olla/sglang/detokenize HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Content-Length: 2\r\n\r\n{}"
)
"""What must never be carried out, since it stands inside or behind a request that is refused."""


def framed(*fields: bytes, body: bytes = BODY, line: bytes = LINE) -> bytes:
    """A request with these header lines, which end as they are given."""
    return line + FIELDS + b"".join(fields) + b"\r\n" + body


def hosted(host: bytes) -> bytes:
    """A request for this host."""
    return framed(LENGTH).replace(b"Host: a\r", b"Host: %b\r" % host)


def lengths(*values: bytes) -> bytes:
    """A request with these lengths."""
    return framed(*(b"Content-Length: " + value + b"\r\n" for value in values))


def coded(*values: bytes) -> bytes:
    """A request with these transfer codings, and chunks."""
    return framed(*(b"Transfer-Encoding: " + value + b"\r\n" for value in values), body=CHUNKS)


def chunks(data: bytes) -> bytes:
    """A request with a chunked body, as given."""
    return framed(CHUNKED, body=data)


REFUSED = {
    # --- two framings (RFC 9112 §6.1) ---
    "length, then chunked": framed(LENGTH, CHUNKED, body=CHUNKS),
    "chunked, then length": framed(CHUNKED, LENGTH, body=CHUNKS),
    "CL.TE": framed(b"Content-Length: 6\r\n", CHUNKED, body=b"0\r\n\r\nG"),
    "TE.CL": framed(CHUNKED, b"Content-Length: 4\r\n", body=b"5c\r\n" + SMUGGLED),
    "length 0 and chunked": framed(b"Content-Length: 0\r\n", CHUNKED, body=CHUNKS),
    # --- codings that one reader takes for chunked and another does not ---
    "xchunked": coded(b"xchunked"),
    "chunkedx": coded(b"chunkedx"),
    "chunked twice": coded(b"chunked, chunked"),
    "two fields": coded(b"chunked", b"chunked"),
    "chunked, then another": coded(b"chunked, identity"),
    "another field behind": coded(b"chunked", b"identity"),
    "another field before": coded(b"identity", b"chunked"),
    "gzip": coded(b"gzip"),
    "identity": coded(b"identity"),
    "quoted": coded(b'"chunked"'),
    "single quotes": coded(b"'chunked'"),
    "vertical tab": coded(b"\x0bchunked"),
    "form feed behind": coded(b"chunked\x0c"),
    "NUL behind": coded(b"chunked\0"),
    "no-break space": coded(b"\xa0chunked"),
    "tabs": coded(b"\tchunked\t"),
    "parameter": coded(b"chunked;q=1"),
    "empty coding": coded(b""),
    "comma only": coded(b","),
    "coding folded": framed(b"Transfer-Encoding:\r\n chunked\r\n", body=CHUNKS),
    "space before the colon": framed(b"Transfer-Encoding : chunked\r\n", body=CHUNKS),
    "tab before the colon": framed(b"Transfer-Encoding\t: chunked\r\n", body=CHUNKS),
    "line feed before the colon": framed(b"Transfer-Encoding\n: chunked\r\n", body=CHUNKS),
    "field behind a bare LF": framed(b"X: y\nTransfer-Encoding: chunked\r\n", body=CHUNKS),
    "field behind a bare CR": framed(b"X: y\rTransfer-Encoding: chunked\r\n", LENGTH),
    "space before the field": framed(b" Transfer-Encoding: chunked\r\n", body=CHUNKS),
    # --- lengths (RFC 9112 §6.3, RFC 9110 §8.6) ---
    "other lengths": lengths(b"18", b"5"),
    "equal lengths": lengths(b"18", b"18"),
    "list of lengths": lengths(b"18, 18"),
    "plus": lengths(b"+18"),
    "minus": lengths(b"-18"),
    "minus nothing": lengths(b"-0"),
    "space inside": lengths(b"1 8"),
    "underscore": lengths(b"1_8"),
    "hexadecimal": lengths(b"0x12"),
    "fraction": lengths(b"18.0"),
    "empty length": lengths(b""),
    "comma": lengths(b"18,"),
    "Arabic digits": lengths("\u0661\u0668".encode()),
    "over 64 bits": lengths(b"18446744073709551634"),
    "length with NUL": lengths(b"18\0"),
    "length with a vertical tab": lengths(b"\x0b18"),
    "length folded": framed(b"Content-Length:\r\n 18\r\n"),
    "length, space before the colon": framed(b"Content-Length : 18\r\n"),
    # --- header lines (RFC 9112 §2.2, §5) ---
    "bare LF everywhere": framed(LENGTH).replace(b"\r\n", b"\n"),
    "bare LF behind the request line": framed(LENGTH, line=LINE.replace(b"\r\n", b"\n")),
    "bare LF behind a field": framed(b"X-A: b\n", LENGTH),
    "bare LF as the empty line": LINE + FIELDS + LENGTH + b"\n" + BODY,
    "bare CR": framed(b"X-A: b\rc\r\n", LENGTH),
    "bare CR as the empty line": LINE + FIELDS + LENGTH + b"\r" + BODY,
    "folded": framed(b"X-A: b\r\n c\r\n", LENGTH),
    "folded at the start": LINE + b" X-A: b\r\n" + FIELDS + LENGTH + b"\r\n" + BODY,
    "NUL in a value": framed(b"X-A: b\0c\r\n", LENGTH),
    "NUL in a name": framed(b"X\0A: b\r\n", LENGTH),
    "control character": framed(b"X-A: b\x01\r\n", LENGTH),
    "DEL": framed(b"X-A: b\x7f\r\n", LENGTH),
    "space before a colon": framed(b"X-A : b\r\n", LENGTH),
    "space in a name": framed(b"X A: b\r\n", LENGTH),
    "no name": framed(b": b\r\n", LENGTH),
    "no colon": framed(b"Authorization %s\r\n" % SECRET, LENGTH),
    "name that is not ASCII": framed("X-É: b\r\n".encode(), LENGTH),
    # --- chunks (RFC 9112 §7.1) ---
    "chunk size with plus": chunks(b"+12\r\n%s\r\n0\r\n\r\n" % BODY),
    "chunk size with minus": chunks(b"-1\r\n%s\r\n0\r\n\r\n" % BODY),
    "chunk size with 0x": chunks(b"0x12\r\n%s\r\n0\r\n\r\n" % BODY),
    "chunk size with an underscore": chunks(b"1_2\r\n%s\r\n0\r\n\r\n" % BODY),
    "chunk size after a space": chunks(b" 12\r\n%s\r\n0\r\n\r\n" % BODY),
    "chunk size empty": chunks(b"\r\n%s\r\n0\r\n\r\n" % BODY),
    "chunk size of over 64 bits": chunks(b"10000000000000012\r\n%s\r\n0\r\n\r\n" % BODY),
    "chunk size no number": chunks(b"zz\r\n%s\r\n0\r\n\r\n" % BODY),
    "bare LF behind a chunk size": chunks(b"12\n%s\r\n0\r\n\r\n" % BODY),
    "bare CR behind a chunk size": chunks(b"12\r%s\r\n0\r\n\r\n" % BODY),
    "bare LF behind a chunk": chunks(b"12\r\n%s\n0\r\n\r\n" % BODY),
    "nothing behind a chunk": chunks(b"12\r\n%s0\r\n\r\n" % BODY),
    "chunk longer than its size": chunks(b"2\r\n%s\r\n0\r\n\r\n" % BODY),
    "bare LF in a chunk extension": chunks(b"12;a\n%s\r\n0\r\n\r\n" % BODY),
    "NUL in a chunk extension": chunks(b"12;a=\0\r\n%s\r\n0\r\n\r\n" % BODY),
    "bare LF behind the last chunk": chunks(b"12\r\n%s\r\n0\n\n" % BODY),
    "length as a trailer": chunks(b"12\r\n%s\r\n0\r\nContent-Length: 5\r\n\r\n" % BODY),
    "trailer without a colon": chunks(b"12\r\n%s\r\n0\r\nnonsense\r\n\r\n" % BODY),
    # --- the request line (RFC 9112 §3) and the version ---
    "HTTP/0.9": framed(LENGTH, line=LINE.replace(b" HTTP/1.1", b"")),
    "HTTP/0.9, named": framed(LENGTH, line=LINE.replace(b"1.1", b"0.9")),
    "HTTP/1.2": framed(LENGTH, line=LINE.replace(b"1.1", b"1.2")),
    "HTTP/2.0": framed(LENGTH, line=LINE.replace(b"1.1", b"2.0")),
    "HTTP/3.0": framed(LENGTH, line=LINE.replace(b"1.1", b"3.0")),
    "HTTP/11": framed(LENGTH, line=LINE.replace(b"1.1", b"11")),
    "HTTP/1.1x": framed(LENGTH, line=LINE.replace(b"1.1", b"1.1x")),
    "http/1.1": framed(LENGTH, line=LINE.replace(b"HTTP", b"http")),
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "tab for a space": framed(LENGTH, line=LINE.replace(b" /", b"\t/")),
    "space in the target": framed(LENGTH, line=LINE.replace(b"tokenize", b"token ize")),
    "bytes in the method": framed(LENGTH, line=LINE.replace(b"POST", b"PO\xffST")),
    "NUL in the target": framed(LENGTH, line=LINE.replace(b"tokenize", b"tokenize\0")),
    # --- Host (RFC 9112 §3.2) ---
    "no Host": LINE + LENGTH + b"Content-Type: application/json\r\n\r\n" + BODY,
    "two Hosts": framed(b"Host: b\r\n", LENGTH),
    "two equal Hosts": framed(b"Host: a\r\n", LENGTH),
    "two Hosts of HTTP/1.0": framed(b"Host: b\r\n", LENGTH, line=LINE.replace(b"1.1", b"1.0")),
    "space in the Host": hosted(b"a b"),
    "list of Hosts": hosted(b"a, b"),
    "Host with a user": hosted(b"me@a"),
    "Host with a path": hosted(b"a/b"),
    "Host with a query": hosted(b"a?b"),
    "URL as Host": hosted(b"http://a"),
    "backslash in the Host": hosted(b"a\\b"),
    "quoted Host": hosted(b'"a"'),
    "DEL in the Host": hosted(b"a\x7fb"),
    "bytes in the Host": hosted(b"b\xc3\xbccher.example"),
    "half a percent code in the Host": hosted(b"a%2"),
    "word as port": hosted(b"a:http"),
    "two ports": hosted(b"a:1:2"),
    "IPv6 address without brackets": hosted(b"2001:db8::1"),
    "bracket that stays open": hosted(b"[::1"),
    "nothing in brackets": hosted(b"[]:80"),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What came back on a connection.

    Attributes:
        statuses: of all replies.
        last: the body of the last one.
    """

    statuses: tuple[int, ...]
    last: bytes


async def answers(ollad: Running, data: bytes) -> Seen:
    """Send ``data`` and read every reply until ollad closes the connection."""
    statuses: list[int] = []
    last = b""
    async with connected(ollad.port) as (reader, writer):
        writer.write(data)
        # a connection that stays open is the mistake that is looked for
        async with asyncio.timeout(CLOSED_WITHIN):
            while not reader.at_eof():
                try:
                    answer = await read_reply(reader)
                except (EOFError, ConnectionError):
                    break
                statuses.append(answer.status)
                last = answer.body
    return Seen(tuple(statuses), last)


@pytest.mark.parametrize("behind", [b"", SMUGGLED], ids=["alone", "followed"])
@pytest.mark.parametrize("name", REFUSED)
async def test_an_ambiguous_request_is_refused_and_nothing_behind_it_is_a_request(
    name: str, behind: bytes, fake: FakeSGLang, log: LogLines, ollad: Running
) -> None:
    fake.scripts |= {path: reply({}) for path in ("/tokenize", "/detokenize")}
    seen = await answers(ollad, REFUSED[name] + behind)
    assert seen.statuses == (400,)
    assert json.loads(seen.last)["error"]["type"] == "invalid_request_error"
    assert fake.requests == []
    assert [line["status"] for line in log.requests()] == [400]
    assert SECRET.decode() not in log.text
    assert "Traceback" not in log.text


TAKEN = {
    "length": framed(LENGTH),
    "length with zeroes before it": lengths(b"0018"),
    "length between tabs": lengths(b"\t18\t"),
    "chunked": framed(CHUNKED, body=CHUNKS),
    "chunked in capitals": coded(b"CHUNKED"),
    "chunk size in capitals and with zeroes": chunks(b"00012\r\n%s\r\n0000\r\n\r\n" % BODY),
    "many chunks": chunks(b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"),
    "chunk extension": chunks(b"12;a=b;c\r\n%s\r\n0;d\r\n\r\n" % BODY),
    "quoted chunk extension": chunks(b'12;a=";\\"x"\r\n%s\r\n0\r\n\r\n' % BODY),
    "trailers": chunks(b"12\r\n%s\r\n0\r\nX-T: v\r\n\r\n" % BODY),
    "no field of this name": framed(b"Transfer_Encoding: chunked\r\n", LENGTH),
    "empty line before": b"\r\n" + framed(LENGTH),
    "absolute form, other host": framed(LENGTH, line=LINE.replace(b" /", b" http://b.example/")),
    "two spaces before the target": framed(LENGTH, line=LINE.replace(b" /", b"  /")),
    "Connection names the length": framed(b"Connection: content-length\r\n", LENGTH),
    "empty Host": hosted(b""),
    "Host with a port": hosted(b"olla.example:40114"),
    "Host with an empty port": hosted(b"a:"),
    "port without a host": hosted(b":80"),
    "IPv6 Host": hosted(b"[2001:db8::1]:443"),
    "mapped IPv6 Host": hosted(b"[::ffff:192.0.2.1]"),
    "unusual name as Host": hosted(b"A_b-c.~!$&'()*+,;=%C3%bc"),
    "Connection names Host": framed(b"Connection: host, content-type\r\n", LENGTH),
}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "in bytes"])
@pytest.mark.parametrize("name", TAKEN)
async def test_an_unusual_request_is_one_request_with_its_body(
    name: str, split: bool, fake: FakeSGLang, log: LogLines, ollad: Running
) -> None:
    fake.scripts |= {path: reply({}) for path in ("/tokenize", "/detokenize")}
    async with connected(ollad.port) as (reader, writer):
        data = TAKEN[name] + SMUGGLED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        pieces = [data[at : at + 1] for at in range(len(data))] if split else [data]
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        assert (await read_reply(reader)).status == 200
        assert (await read_reply(reader)).status == 200
        assert await reader.read() == b""
    first, second = fake.requests
    assert (first.method, first.target, first.body) == ("POST", "/tokenize", BODY)
    assert (second.target, second.body) == ("/detokenize", b"{}")
    for sent in fake.requests:
        names = [name.lower() for name, _ in sent.headers]
        assert names.count("host") == names.count("content-length") == 1
        assert not {"transfer-encoding", "connection", "upgrade", "http2-settings"} & set(names)
        assert sent.header("host") == f"127.0.0.1:{fake.port}"
    assert "Traceback" not in log.text


CLOSED = {
    "HTTP/1.0 with chunks": framed(CHUNKED, body=CHUNKS, line=LINE.replace(b"1.1", b"1.0")),
    "upgrade to a web socket": framed(UPGRADE, b"Upgrade: websocket\r\n", LENGTH),
    "upgrade to HTTP/2": framed(UPGRADE, b"Upgrade: h2c\r\nHTTP2-Settings: AAA\r\n", LENGTH),
    "upgrade to something": framed(UPGRADE, b"Upgrade: x\r\n", LENGTH),
    "CONNECT": framed(LENGTH, line=b"CONNECT a.example:443 HTTP/1.1\r\n"),
}
"""Requests of which it is not certain where they end (what is behind an ``Upgrade`` might be the
other protocol, and aiohttp loses what came with it): whatever they are answered with, nothing
behind them is a request."""


@pytest.mark.parametrize("behind", [SMUGGLED, b"XX" + SMUGGLED], ids=["a request", "junk"])
@pytest.mark.parametrize("name", CLOSED)
async def test_behind_a_request_with_no_certain_end_nothing_is_a_request(
    name: str, behind: bytes, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts |= {path: reply({}) for path in ("/tokenize", "/detokenize")}
    seen = await answers(ollad, CLOSED[name] + behind)
    assert len(seen.statuses) == 1
    assert all(sent.target == "/tokenize" and sent.body == BODY for sent in fake.requests)


UNWANTED = {
    "an unknown route": b"POST /olla/sglang/none HTTP/1.1\r\n",
    "a wrong method": b"DELETE /olla/sglang/tokenize HTTP/1.1\r\n",
    "a method nobody has": b"BREW /olla/sglang/tokenize HTTP/1.1\r\n",
    "TRACE": b"TRACE /olla/sglang/tokenize HTTP/1.1\r\n",
    "GET": b"GET /olla/sglang/v1/models HTTP/1.1\r\n",
    "ollad's own state": b"GET /internal/health HTTP/1.1\r\n",
}


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("line", UNWANTED.values(), ids=UNWANTED)
async def test_a_body_that_nobody_wants_is_no_request(
    line: bytes, framing: str, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts["/detokenize"] = reply({})
    if framing == "length":
        data = framed(b"Content-Length: %d\r\n" % len(SMUGGLED), line=line, body=SMUGGLED)
    else:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
        data = framed(CHUNKED, line=line, body=body)
    last = b"GET /internal/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    seen = await answers(ollad, data + last)
    assert len(seen.statuses) <= 2
    assert fake.requests == []


async def test_what_is_over_the_length_begins_the_next_request(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts |= {path: reply({}) for path in ("/tokenize", "/detokenize")}
    seen = await answers(ollad, framed(LENGTH, body=BODY + b"}x") + SMUGGLED)
    assert seen.statuses in ((400,), (200, 400))
    assert all(sent.body == BODY for sent in fake.requests)
