"""A client's connection: many requests on it, of which some take the short way and some do not."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import socket
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from aiohttp import web
from aiohttp.http import RawRequestMessage

from ollad.config.schema import Server
from ollad.connection import Connection
from ollad.ordinary import OrdinaryHandler
from tests.wire.byte_client import connect, until
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import STREAM_HEAD, chunked, event_bytes
from tests.wire.relay.replies import LONE, OPAQUE, in_pieces, post, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.wire.byte_client import ByteClient
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, FakeSGLang, Script
    from tests.wire.loglines import LogLines
    from tests.wire.relay.replies import Reply

EVENT = event_bytes({"x": 1})
LARGEST = 1000


@pytest.fixture(autouse=True)
async def _no_task_ends_with_an_error_that_nobody_sees() -> AsyncIterator[None]:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    yield
    assert complaints == []


Made = TypeVar("Made", Connection, OrdinaryHandler)


def noting(kind: type[Made], monkeypatch: pytest.MonkeyPatch) -> list[Made]:
    """Where those are found that are told of a transport from now on."""
    found: list[Made] = []
    connection_made = kind.connection_made

    def note(self: Made, transport: asyncio.BaseTransport) -> None:
        found.append(self)
        connection_made(self, transport)

    monkeypatch.setattr(kind, "connection_made", note)
    return found


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """The connections that clients make; to be asked for before they do."""
    return noting(Connection, monkeypatch)


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> list[OrdinaryHandler]:
    """Those that are made for connections; to be asked for before they are."""
    return noting(OrdinaryHandler, monkeypatch)


@pytest.fixture
async def small(fake: FakeSGLang) -> AsyncIterator[Running]:
    """An ollad that takes small bodies only."""
    async with running(endpoint(fake), server=Server(max_body_size=LARGEST)) as instance:
        yield instance


async def echo(exchange: Exchange) -> None:
    """Answer with what was asked."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(exchange.body))
    await exchange.send(exchange.body)


def held() -> tuple[Script, asyncio.Event]:
    """Answers so, too, but only when the event is set."""
    release = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await release.wait()
        await echo(exchange)

    return script, release


def numbered(number: int, **options: Any) -> bytes:
    return post(body=b'{"number": %d}' % number, **options)


def get(path: str, *, version: str = "1.1", headers: str = "") -> bytes:
    return f"GET {path} HTTP/{version}\r\nHost: x\r\n{headers}\r\n".encode()


async def answers(client: ByteClient, count: int) -> list[Reply]:
    return [await read_reply(client.reader) for _ in range(count)]


def bodies(replies: list[Reply]) -> list[Any]:
    return [json.loads(reply.body) for reply in replies]


# --- what arrives, however it is cut


async def test_requests_of_one_segment_are_answered_in_their_order(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = echo
    async with connect(ollad.port) as client:
        await client.send(b"".join(map(numbered, range(50))))
        assert bodies(await answers(client, 50)) == [{"number": n} for n in range(50)]
        await client.send(numbered(50))
        assert bodies(await answers(client, 1)) == [{"number": 50}]


async def test_a_pipelined_request_waits_for_the_reply_before_it(
    fake: FakeSGLang, ollad: Running
) -> None:
    first, release = held()
    fake.scripts[OPAQUE] = [first, echo]
    async with connect(ollad.port) as client:
        await client.send(numbered(1) + numbered(2))
        await until(lambda: len(fake.requests) == 1)
        await client.send(get("/version"))
        await ollad.get("/internal/health")
        assert len(fake.requests) == 1
        release.set()
        one, two, version = bodies(await answers(client, 3))
    assert (one, two) == ({"number": 1}, {"number": 2})
    assert "version" in version


@pytest.mark.parametrize("size", [1, 3, 7, 50, 131, 220, 400])
async def test_where_requests_are_cut_makes_no_difference(
    size: int, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = echo
    stream = numbered(1) + get("/version") + numbered(2) + numbered(3)
    async with connect(ollad.port) as client:
        reading = asyncio.create_task(answers(client, 4))
        for start in range(0, len(stream), size):
            await client.send(stream[start : start + size])
            await asyncio.sleep(0)
        one, version, two, three = bodies(await reading)
    assert (one, two, three) == ({"number": 1}, {"number": 2}, {"number": 3})
    assert "version" in version


@pytest.mark.parametrize("framing", ["sized", "chunked"])
async def test_a_body_may_come_long_after_its_head(
    framing: str, fake: FakeSGLang, ollad: Running, handlers: list[OrdinaryHandler]
) -> None:
    fake.scripts[OPAQUE] = echo
    head, body = post().split(b"\r\n\r\n")
    pieces = [body[:5], body[5:]]
    if framing == "chunked":
        head = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
        pieces = [*map(chunked, pieces), b"0\r\n\r\n"]
    async with connect(ollad.port) as client:
        await client.send(head + b"\r\n\r\n")
        for piece in pieces:
            await until(lambda: any(one._request_in_progress for one in handlers))
            await asyncio.sleep(0.01)
            assert fake.requests == []
            await client.send(piece)
        await client.send(numbered(2))
        first, second = await answers(client, 2)
    assert (first.body, second.body) == (body, b'{"number": 2}')


async def test_a_large_body_arrives_whole_with_the_next_request_behind_it(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = echo
    body = b'{"text": "%b"}' % (b"x" * 3_000_000)
    async with connect(ollad.port) as client:
        client.writer.write(post(body=body) + numbered(2))
        first, second = await answers(client, 2)
    assert first.body == body
    assert second.body == b'{"number": 2}'


@pytest.mark.parametrize("size", [400_000, 530_000, 600_000, 700_000, 1_500_000])
async def test_a_large_body_that_arrives_before_its_turn_is_served_in_it(
    size: int, fake: FakeSGLang, ollad: Running
) -> None:
    first, release = held()
    fake.scripts[OPAQUE] = [first, echo, echo]
    body = b'{"text": "%b"}' % (b"x" * size)
    async with connect(ollad.port) as client:
        client.writer.write(numbered(1) + post(body=body) + numbered(3))
        await until(lambda: len(fake.requests) == 1)
        for _ in range(50):
            await asyncio.sleep(0.002)
        release.set()
        one, two, three = await answers(client, 3)
    assert (one.body, two.body, three.body) == (b'{"number": 1}', body, b'{"number": 3}')


# --- one way or the other

KNOWN, UNKNOWN = "/version", "/nothing/here"
STATUSES = {KNOWN: 200, UNKNOWN: 404, PREFIX + LONE: 200, KNOWN + "?x=1": 200, PREFIX + OPAQUE: 405}


@pytest.mark.parametrize("together", [True, False], ids=["pipelined", "in turn"])
@pytest.mark.parametrize(
    "paths",
    [
        [KNOWN, UNKNOWN, KNOWN],
        [UNKNOWN, KNOWN, UNKNOWN],
        [KNOWN, KNOWN + "?x=1", KNOWN, PREFIX + LONE, KNOWN],
        [PREFIX + OPAQUE, KNOWN, PREFIX + LONE, UNKNOWN, KNOWN],
    ],
    ids=lambda paths: f"{len(paths)} paths, first {paths[0]}",
)
async def test_the_ways_of_requests_may_change_on_a_connection(
    paths: list[str], together: bool, fake: FakeSGLang, ollad: Running, log: LogLines
) -> None:
    del log
    fake.scripts[LONE] = in_pieces(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    async with connect(ollad.port) as client:
        if together:
            await client.send(b"".join(map(get, paths)))
            got = await answers(client, len(paths))
        else:
            got = []
            for path in paths:
                await client.send(get(path))
                got += await answers(client, 1)
    assert [reply.status for reply in got] == [STATUSES[path] for path in paths]
    ids = {reply.header("X-Olla-Request-ID") for reply in got}
    assert len(ids) == len(paths)


async def test_after_an_upgrade_that_nobody_wants_the_connection_ends(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = echo
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    async with connect(ollad.port) as client:
        await client.send(get(KNOWN, headers=upgrade) + numbered(1))
        [refused] = await answers(client, 1)
        assert refused.status == 200
        assert refused.header("connection") == "close"
    assert fake.requests == []


async def test_both_ways_say_and_log_the_same(
    fake: FakeSGLang, log: LogLines, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = echo
    short = numbered(1)
    long = short.replace(b"/tokenize HTTP", b"/tokenize? HTTP")  # no path that is known as such
    async with connect(ollad.port) as client:
        got = []
        for data in (short, long):
            await client.send(data)
            got += await answers(client, 1)
    await until(lambda: len(log.requests()) == 2)
    own = {"X-Olla-Request-ID", "x-request-id", "X-Olla-Response-Time", "Date"}
    told = [[(name, name in own or value) for name, value in reply.headers] for reply in got]
    assert told[0] == told[1]
    differing = {"timestamp", "request_id", "first_byte_ms", "total_ms"}
    first, second = (
        {key: value for key, value in line.items() if key not in differing}
        for line in log.requests()
    )
    assert first == second
    assert first["client"] == "127.0.0.1"
    assert [one.header("X-Forwarded-For") for one in fake.requests] == ["127.0.0.1"] * 2
    assert [one.header("X-Forwarded-Proto") for one in fake.requests] == ["http"] * 2


async def test_no_http_after_good_requests_is_answered_in_the_envelope(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = echo
    async with connect(ollad.port) as client:
        await client.send(numbered(1) + get("/version"))
        good = await answers(client, 2)
        await client.send(b"NO HTTP AT ALL\r\n\r\n")
        (bad,) = await answers(client, 1)
        assert await client.reader.read() == b""
    assert [reply.status for reply in good] == [200, 200]
    assert bad.status == 400
    assert json.loads(bad.body)["error"]["code"] == "malformed_http"


# --- bodies nobody reads


def too_much(length: int = LARGEST * 1000) -> bytes:
    return post().partition(b"Content-Length")[0] + b"Content-Length: %d\r\n\r\n" % length


async def test_a_client_that_goes_on_sending_what_was_refused_reads_why(small: Running) -> None:
    async with connect(small.port) as client:
        length = LARGEST * 1000
        await client.send(too_much(length) + b"x" * 100)
        reply = await read_reply(client.reader)
        assert (reply.status, reply.header("Connection")) == (413, "close")
        for _ in range(10):
            await client.send(b"x" * (length // 10 - 10))
        # all of it has been taken: an end, not a reset
        assert await client.reader.read() == b""


async def test_what_follows_a_refused_body_is_no_request(fake: FakeSGLang, small: Running) -> None:
    async with connect(small.port) as client:
        client.writer.write(post(body=b'{"text": "%b"}' % (b"x" * 1000 * LARGEST)) + post())
        assert (await read_reply(client.reader)).status == 413
        assert await client.reader.read() == b""
    assert fake.requests == []


async def test_a_refused_body_that_is_there_does_not_cost_the_connection(
    fake: FakeSGLang, small: Running
) -> None:
    fake.scripts[OPAQUE] = echo
    async with connect(small.port) as client:
        await client.send(post(body=b'{"text": "%b"}' % (b"x" * LARGEST)) + numbered(2))
        refused, served = await answers(client, 2)
    assert (refused.status, refused.header("Connection")) == (413, None)
    assert served.body == b'{"number": 2}'


async def test_a_client_that_stops_sending_what_was_refused_is_left(
    small: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollad.ordinary._LINGER_SECONDS", 0.05)
    async with connect(small.port) as client:
        await client.send(too_much())
        assert (await read_reply(client.reader)).status == 413
        assert await client.reader.read() == b""


async def test_a_client_may_leave_what_was_refused(small: Running, made: list[Connection]) -> None:
    async with connect(small.port) as client:
        await client.send(too_much())
        assert (await read_reply(client.reader)).status == 413
    await until(lambda: made[0].transport is None)


BROKEN = (
    post().partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    b"no size\r\nx",
)


async def test_a_body_whose_framing_is_broken_ends_its_connection(ollad: Running) -> None:
    async with connect(ollad.port) as client:
        await client.send(b"".join(BROKEN))
        reply = await read_reply(client.reader)
        assert reply.status == 400
        assert await client.reader.read() == b""


async def test_an_unwanted_body_whose_framing_breaks_ends_its_connection(
    ollad: Running, log: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    del log
    monkeypatch.setattr("ollad.ordinary._LINGER_SECONDS", 0.05)
    head, rest = BROKEN
    async with connect(ollad.port) as client:
        await client.send(head.replace(b"application/json", b"text/plain"))
        assert (await read_reply(client.reader)).status == 415
        await client.send(rest)
        assert await client.reader.read() == b""


async def test_a_wanted_body_whose_framing_breaks_reaches_no_backend(
    fake: FakeSGLang, ollad: Running, handlers: list[OrdinaryHandler]
) -> None:
    async with connect(ollad.port) as client:
        for piece in BROKEN:
            await client.send(piece)
            await until(lambda: any(one._request_in_progress for one in handlers))
        await until(lambda: len(handlers[0]._messages) == 1)
    await until(lambda: handlers[0].transport is None)
    assert fake.requests == []


# --- clients that leave


@pytest.mark.parametrize("stage", ["head", "body", "waiting", "streaming", "pipelined"])
async def test_a_client_that_leaves_ends_what_it_asked_for(
    stage: str,
    fake: FakeSGLang,
    log: LogLines,
    ollad: Running,
    made: list[Connection],
    handlers: list[OrdinaryHandler],
) -> None:
    gone = asyncio.Event()

    async def silent(exchange: Exchange) -> None:
        if stage == "streaming":
            await exchange.send(STREAM_HEAD + chunked(EVENT))
        await exchange.client_gone.wait()
        gone.set()

    fake.scripts[OPAQUE] = silent
    async with connect(ollad.port) as client:
        if stage in ("head", "body"):
            await client.send(post()[: {"head": 30, "body": -3}[stage]])
            await until(lambda: len(handlers) == 1)
            if stage == "body":
                await until(lambda: handlers[0]._request_in_progress)
        else:
            await client.send(post() * (3 if stage == "pipelined" else 1))
            await until(lambda: len(fake.requests) == 1)
            if stage == "streaming":
                await client.reader.readuntil(EVENT)
        client.leave()
        await until(lambda: made[0].transport is None)
    if stage == "head":
        assert log.requests() == []
        return
    if stage != "body":
        await gone.wait()
        assert len(fake.requests) == 1
    await until(lambda: len(log.requests()) == 1)
    (line,) = log.requests()
    assert line["error"] == "client_gone"
    assert line["status"] == (200 if stage == "streaming" else 499)
    assert len(ollad.gateway.traffic) == 0
    assert ollad.gateway.runtime.pool.named("one").in_flight == 0


# --- how long a connection lasts


@pytest.mark.parametrize(
    ("version", "headers", "lasts"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
    ],
)
@pytest.mark.parametrize("relayed", [True, False], ids=["relayed", "own"])
async def test_a_connection_lasts_as_its_client_says(
    version: str, headers: str, lasts: bool, relayed: bool, fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE] = echo
    make = numbered if relayed else lambda _, **options: get(KNOWN, **options)
    async with connect(ollad.port) as client:
        for number in range(3):
            await client.send(make(number, version=version, headers=headers))
            reply = await read_reply(client.reader)
            assert reply.status == 200
            told = reply.header("Connection")
            assert told == (None if version == "1.1" else "keep-alive") if lasts else "close"
            if not lasts:
                assert await client.reader.read() == b""
                break


async def test_what_is_pipelined_behind_a_last_request_is_not_served(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE], release = held()
    async with connect(ollad.port) as client:
        await client.send(numbered(1, headers="Connection: close\r\n"))
        await until(lambda: len(fake.requests) == 1)
        await client.send(numbered(2))
        release.set()
        assert bodies(await answers(client, 1)) == [{"number": 1}]
        assert await client.reader.read() == b""
    assert len(fake.requests) == 1


async def test_a_connection_that_was_idle_for_long_is_closed(
    ollad: Running, made: list[Connection]
) -> None:
    async with connect(ollad.port) as client:
        await client.send(get(KNOWN))
        await answers(client, 1)
        (connection,) = made
        assert connection._timer is not None
        connection._ring()
        await client.send(get(KNOWN))
        await answers(client, 1)  # it was not yet time
        connection._deadline = 0.0
        connection._ring()
        assert await client.reader.read() == b""


async def test_the_system_looks_after_clients_that_are_gone(
    ollad: Running, made: list[Connection]
) -> None:
    async with connect(ollad.port) as client:
        await client.send(get(KNOWN))
        await answers(client, 1)
        (connection,) = made
        assert connection.transport is not None
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_a_client_that_says_nothing_is_no_reason_to_stay(ollad: Running) -> None:
    async with connect(ollad.port) as silent, connect(ollad.port) as idle:
        await idle.send(get(KNOWN))
        await answers(idle, 1)
        await ollad.daemon.close()
        assert await silent.reader.read() == b""
        assert await idle.reader.read() == b""


async def test_an_answer_under_way_ends_before_a_daemon_that_drains(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[OPAQUE], release = held()
    async with connect(ollad.port) as client:
        await client.send(numbered(1) + numbered(2))
        await until(lambda: len(fake.requests) == 1)
        draining = asyncio.create_task(ollad.daemon.drain(asyncio.Event()))
        await until(lambda: ollad.gateway.draining)
        release.set()
        reply = await read_reply(client.reader)
        assert (reply.body, reply.header("Connection")) == (b'{"number": 1}', "close")
        assert await client.reader.read() == b""
        await draining
    assert len(fake.requests) == 1


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
async def test_a_daemon_in_a_hurry_cuts_what_is_under_way(
    begun: bool, fake: FakeSGLang, ollad: Running
) -> None:
    async def silent(exchange: Exchange) -> None:
        if begun:
            await exchange.send(STREAM_HEAD + chunked(EVENT))
        await exchange.client_gone.wait()

    fake.scripts[OPAQUE] = silent
    async with connect(ollad.port) as client:
        await client.send(post() + post())
        await until(lambda: len(fake.requests) == 1)
        if begun:
            await client.reader.readuntil(EVENT + b"\r\n")
        hurry = asyncio.Event()
        hurry.set()
        await ollad.daemon.drain(hurry)
        if begun:
            assert await client.reader.read() == b""  # without the last chunk
        else:
            reply = await read_reply(client.reader)
            assert (reply.status, reply.header("Connection")) == (503, "close")
            assert await client.reader.read() == b""
    assert len(fake.requests) == 1
    assert len(ollad.gateway.traffic) == 0


async def test_a_daemon_that_is_closed_leaves_no_connection(
    fake: FakeSGLang, ollad: Running, made: list[Connection]
) -> None:
    async def silent(exchange: Exchange) -> None:
        await exchange.client_gone.wait()

    fake.scripts[OPAQUE] = silent
    async with connect(ollad.port) as client:
        await client.send(post())
        await until(lambda: len(fake.requests) == 1)
        await ollad.daemon.close()
        assert (await client.reader.read()).count(b"HTTP/1.1") <= 1
    assert made[0].transport is None


# --- fairness and faults


async def test_many_pipelined_requests_do_not_keep_others_waiting(
    ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[int] = []
    turn = 0
    serve = OrdinaryHandler._serve

    async def noting(self: OrdinaryHandler, *args: Any) -> bool:
        served.append(turn)
        return await serve(self, *args)

    monkeypatch.setattr(OrdinaryHandler, "_serve", noting)
    async with connect(ollad.port) as client:
        client.writer.write(get("/internal/health") * 300)
        reading = asyncio.create_task(answers(client, 300))
        while not reading.done():
            turn += 1
            await asyncio.sleep(0)
        assert {reply.status for reply in await reading} == {200}
    longest = max(served.count(one) for one in set(served))
    assert longest <= 2


async def test_an_error_below_the_frame_is_logged_and_ends_the_connection(
    ollad: Running, log: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("detail")

    monkeypatch.setattr("ollad.closing.access_line", broken)
    async with connect(ollad.port) as client:
        await client.send(get(KNOWN) + get(KNOWN))
        data = await client.reader.read()
    assert data.count(b"HTTP/1.1 ") <= 1
    (entry,) = log.entries("unexpected error on a connection")
    assert "KeyError" in json.dumps(entry)


# --- what aiohttp does not promise

USED = {
    "_buffer_paused",
    "_close",
    "_current_request",
    "_drain_helper",
    "_force_close",
    "_handler_waiter",
    "_keepalive",
    "_keepalive_handle",
    "_loop",
    "_messages",
    "_msg_queue_resume_size",
    "_parser",
    "_paused",
    "_process_keepalive",
    "_reading_paused",
    "_request_count",
    "_request_factory",
    "_request_in_progress",
    "_resume_reading_if_drained",
    "_task_handler",
    "_waiter",
}
"""aiohttp's private names that ``ollad.ordinary`` uses."""


def private_names() -> Iterator[str]:
    """Those that ``OrdinaryHandler`` says it uses or replaces, without its own."""
    for name in vars(OrdinaryHandler):
        if name.startswith("_") and not name.startswith("__") and hasattr(web.RequestHandler, name):
            yield name
    for node in ast.walk(ast.parse(inspect.getsource(OrdinaryHandler))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            own = node.attr in vars(OrdinaryHandler) and not hasattr(web.RequestHandler, node.attr)
            if node.value.id == "self" and node.attr.startswith("_") and not own:
                yield node.attr


def test_what_a_handler_uses_of_aiohttp_is_listed_here() -> None:
    assert set(private_names()) == USED


@pytest.mark.parametrize("name", sorted(USED))
def test_aiohttp_still_has_what_a_handler_uses(name: str) -> None:
    owners = [owner for owner in web.RequestHandler.__mro__ if name in vars(owner)]
    assert owners, f"this aiohttp has no RequestHandler.{name}; see ollad/ordinary.py"


async def test_aiohttp_still_works_as_a_handler_expects(
    fake: FakeSGLang,
    ollad: Running,
    handlers: list[OrdinaryHandler],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That requests come through the queue, and that the long way is taken by choice only."""
    fake.scripts[OPAQUE] = echo
    long_way: list[Any] = []
    start = web.RequestHandler.start

    async def noting(self: web.RequestHandler) -> None:
        long_way.append(self)
        await start(self)

    monkeypatch.setattr(web.RequestHandler, "start", noting)
    messages: list[Any] = []
    known_server = OrdinaryHandler._known_server

    def peeking(self: OrdinaryHandler) -> Any:
        messages.append(self._messages[0][0])
        assert self._parser is not None
        assert callable(self._parser.message_consumed)
        return known_server(self)

    monkeypatch.setattr(OrdinaryHandler, "_known_server", peeking)
    async with connect(ollad.port) as client:
        await client.send(numbered(1) + get(KNOWN))
        await answers(client, 2)
        assert long_way == []
        await client.send(get(UNKNOWN))
        await answers(client, 1)
        assert long_way == handlers
    assert all(isinstance(message, RawRequestMessage) for message in messages)
    assert [(message.method, message.path) for message in messages] == [
        ("POST", PREFIX + OPAQUE),
        ("GET", KNOWN),
        ("GET", UNKNOWN),
    ]
