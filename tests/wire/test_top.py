"""``ollad top`` against a running ollad, against a server that breaks off, and in a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import sys
import termios
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from yarl import URL

from ollad.cli import main
from ollad.cli.client import AnswerError, open_session, refuse_errors
from ollad.cli.top import views
from tests.wire.fake_sglang import STREAM_HEAD, chunked, reply
from tests.wire.raw import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, FakeSGLang, Script
    from tests.wire.loglines import LogLines

FEED = "/internal/events"
LEAVE_SCREEN = b"\x1b[?1049l"


def event(number: int, **status: Any) -> bytes:
    return chunked(b"id: %d\nevent: status\ndata: %s\n\n" % (number, json.dumps(status).encode()))


def breaking_off(*chunks: bytes) -> Script:
    """A feed whose connection is closed in the middle."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + b"".join(chunks))
        exchange.writer.close()

    return script


def ending(*chunks: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + b"".join(chunks) + b"0\r\n\r\n")

    return script


async def collected(fake: FakeSGLang, count: int) -> list[tuple[Any, str | None]]:
    """The versions and notes of the first views of a scripted feed."""
    seen: list[tuple[Any, str | None]] = []
    async with (
        open_session(refuse_errors, 5.0) as session,
        aclosing(views(session, URL(fake.url), retry=0.0)) as following,
    ):
        while len(seen) < count:
            view = await anext(following)
            assert view.status is not None
            seen.append((view.status["version"], view.note))
    return seen


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["top", *arguments])


async def test_without_a_terminal_one_plain_table_is_printed(
    log: LogLines, ollad: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("--url", f"127.0.0.1:{ollad.port}") == 0
    assert len(log.entries("listening")) == 1
    title, heading, row = capsys.readouterr().out.splitlines()
    assert title.endswith("1/1 endpoints take requests, 0 requests under way")
    assert heading.split()[:3] == ["NAME", "STATE", "WEIGHT"]
    assert row.split()[:9] == ["one", "healthy", "1.00", "0", "2", "1", "10%", "-", "tiny"]


async def test_no_daemon_is_one_clear_line_and_69(
    unused_tcp_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("--url", f"http://127.0.0.1:{unused_tcp_port}") == 69
    output = capsys.readouterr()
    assert output.out == ""
    [line] = output.err.splitlines()
    assert f"no ollad can be reached at http://127.0.0.1:{unused_tcp_port}" in line
    assert "Connection refused" in line


async def test_a_server_that_is_no_ollad_is_said_to_be_none(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("--url", fake.url) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "answered 404: Not Found" in line


@pytest.mark.parametrize(
    ("script", "part"),
    [
        (reply({"status": "ok"}), "something other than an event stream"),
        (ending(), "ended before its first event"),
        (ending(chunked(b"data: [1]\n\n")), "holds no JSON object"),
        (ending(chunked(b"data: \xff\n\n")), "cannot be read"),
        (reply({"error": {"message": "Wrong key."}}, "401 Unauthorized"), "401: Wrong key."),
    ],
)
async def test_a_feed_that_cannot_be_read_is_one_clear_line(
    fake: FakeSGLang, capsys: pytest.CaptureFixture[str], script: Script, part: str
) -> None:
    fake.scripts[FEED] = script
    assert await run("--url", fake.url, "--once") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert part in line


async def test_a_feed_that_breaks_off_is_opened_again_where_it_was(fake: FakeSGLang) -> None:
    fake.scripts[FEED] = [
        breaking_off(event(7, version="1"), b"20\r\nid: 8\nevent: st"),
        ending(event(9, version="2")),
    ]
    first, lost, second = await collected(fake, 3)
    assert (first, second) == (("1", None), ("2", None))
    assert lost[0] == "1"
    assert "out of date" in str(lost[1])
    assert [request.header("Last-Event-ID") for request in fake.requests] == [None, "7"]


@pytest.mark.parametrize(
    ("failure", "part"),
    [
        (reply(b"", "502 Bad Gateway"), "answered 502"),
        (ending(chunked(b"data: nonsense\n\n")), "cannot be read"),
        (ending(), "it ended"),
    ],
)
async def test_whatever_happens_to_a_feed_that_once_was_is_said_and_it_is_tried_again(
    fake: FakeSGLang, failure: Script, part: str
) -> None:
    fake.scripts[FEED] = [
        ending(event(1, version="1")),
        failure,
        failure,
        ending(event(2, version="2")),
    ]
    *between, last = await collected(fake, 5)
    assert part in str(between[2][1])
    assert last == ("2", None)


async def test_the_first_failure_ends_it(fake: FakeSGLang) -> None:
    fake.scripts[FEED] = reply(b"", "502 Bad Gateway")
    with pytest.raises(AnswerError, match="502"):
        await collected(fake, 1)


async def test_a_daemon_that_drains_is_told_from_one_that_is_lost(ollad: Running) -> None:
    url = URL(f"http://127.0.0.1:{ollad.port}")
    async with (
        open_session(refuse_errors, 5.0) as session,
        aclosing(views(session, url, retry=0.0)) as following,
    ):
        await anext(following)
        ollad.gateway.draining = True
        notes = [(await anext(following)).note for _ in range(2)]
        ollad.gateway.draining = False
        while (view := await anext(following)).note is not None:
            pass
    assert notes == [None, "out of date: ollad has stopped, or is about to (trying again)"]
    assert view.status is not None
    assert view.status["draining"] is False


class Terminal:
    """The master side of a terminal that a program runs in."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.modes = termios.tcgetattr(self.slave)
        self.output = b""
        os.set_blocking(self.master, False)
        asyncio.get_running_loop().add_reader(self.master, self._read)

    def _read(self) -> None:
        self.output += os.read(self.master, 65536)

    def resize(self, columns: int, rows: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, size)

    async def shows(self, text: bytes) -> None:
        await until(lambda: text in self.output)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.master)
        os.close(self.master)
        os.close(self.slave)


@asynccontextmanager
async def top_in_terminal(
    url: str, **environment: str
) -> AsyncIterator[tuple[Terminal, asyncio.subprocess.Process]]:
    terminal = Terminal()
    terminal.resize(100, 20)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollad", "top", "--url", url),
        stdin=terminal.slave,
        stdout=terminal.slave,
        stderr=terminal.slave,
        env={**os.environ, "TERM": "xterm", **environment},
    )
    try:
        yield terminal, process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        terminal.close()


def press_q(terminal: Terminal, _process: asyncio.subprocess.Process) -> None:
    os.write(terminal.master, b"q")


def interrupt(_terminal: Terminal, process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("end", [press_q, interrupt])
async def test_a_terminal_is_given_back_as_it_was(
    ollad: Running, end: Callable[[Terminal, asyncio.subprocess.Process], None]
) -> None:
    async with top_in_terminal(f"http://127.0.0.1:{ollad.port}") as (terminal, process):
        await terminal.shows(b"\x1b[32mhealthy\x1b[0m")
        assert termios.tcgetattr(terminal.slave) != terminal.modes
        end(terminal, process)
        assert await process.wait() == 0
        await terminal.shows(LEAVE_SCREEN)
        assert termios.tcgetattr(terminal.slave) == terminal.modes


async def test_a_terminal_that_shrinks_is_drawn_anew_without_colours_if_so_wished(
    ollad: Running,
) -> None:
    url = f"http://127.0.0.1:{ollad.port}"
    async with top_in_terminal(url, NO_COLOR="1") as (terminal, process):
        await terminal.shows(b"SINCE")
        terminal.output = b""
        terminal.resize(14, 5)
        process.send_signal(signal.SIGWINCH)
        await terminal.shows(b"\x1b[2Kone   healthy\r")
        assert b"\x1b[32m" not in terminal.output
