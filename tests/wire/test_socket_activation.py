"""A listening socket that outlives the daemon: nothing is refused while another takes over."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.wire.conftest import PREFIX
from tests.wire.fake_sglang import reply
from tests.wire.process import Process, configuration
from tests.wire.raw import request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.wire.fake_sglang import Exchange, FakeSGLang

CHAT_PATH = "/v1/chat/completions"
CHAT = request(
    f"POST {PREFIX}{CHAT_PATH}",
    "Content-Type: application/json",
    body=b'{"model": "tiny", "messages": []}',
)
LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": sys.argv[2]}
os.execv(sys.executable, [sys.executable, "-m", "ollad", "serve", "--config", sys.argv[3]])
"""
"""Becomes a daemon that was handed a socket; its process is the one that the environment names."""


@pytest.fixture
def shared() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        yield listener


@asynccontextmanager
async def activated(
    shared: socket.socket, config: Path, name: str = "proxy"
) -> AsyncIterator[Process]:
    """Run a daemon on a socket that is not its own."""
    log = config.with_suffix(".log")
    number = shared.fileno()
    with log.open("ab") as stream:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LAUNCHER, str(number), name, str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            pass_fds=(number,),
        )
    try:
        yield Process(process, log, shared.getsockname()[1])
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def started(process: Process, times: int = 1) -> None:
    async with asyncio.timeout(30):
        while len(process.entries("listening")) < times:  # noqa: ASYNC110 - a file announces nothing
            await asyncio.sleep(0.01)


async def answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """The status of one reply, and whether it is the last on its connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    lowered = head.lower()
    (length,) = [
        int(line.split(b":")[1])
        for line in lowered.split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    await reader.readexactly(length)
    return int(head.split()[1]), b"\r\nconnection: close\r\n" in lowered


class Client:
    """Sends one chat after another until told to stop, on one connection as long as it lasts.

    Attributes:
        statuses: of all replies.
    """

    def __init__(self, port: int, *, keep_alive: bool) -> None:
        self.port = port
        self.keep_alive = keep_alive
        self.statuses: list[int] = []
        self.stop = False

    async def run(self) -> None:
        while not self.stop:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            last = False
            while not last and not self.stop:
                writer.write(CHAT)
                status, last = await answer(reader)
                self.statuses.append(status)
                last = last or not self.keep_alive
                await asyncio.sleep(0.005)
            writer.close()
            await writer.wait_closed()


async def test_no_request_is_lost_while_one_daemon_takes_over_from_another(
    fake: FakeSGLang, shared: socket.socket, tmp_path: Path
) -> None:
    fake.scripts[CHAT_PATH] = reply({"choices": []})
    config = configuration(tmp_path, fake.url)
    port = shared.getsockname()[1]
    clients = [Client(port, keep_alive=number % 2 == 0) for number in range(8)]
    tasks = []
    async with activated(shared, config) as first:
        await started(first)
        tasks = [asyncio.create_task(client.run()) for client in clients]
        await asyncio.sleep(0.2)
        first.process.send_signal(signal.SIGTERM)
        assert await first.process.wait() == 0
    before = [len(client.statuses) for client in clients]
    async with activated(shared, config) as second:
        await started(second, 2)
        async with asyncio.timeout(20):
            while any(len(c.statuses) <= n for c, n in zip(clients, before, strict=True)):  # noqa: ASYNC110 - clients announce nothing
                await asyncio.sleep(0.01)
        for client in clients:
            client.stop = True
        await asyncio.gather(*tasks)
    assert {status for client in clients for status in client.statuses} == {200}
    assert min(before) > 1


async def test_it_says_where_it_listens_and_that_the_socket_was_given(
    fake: FakeSGLang, shared: socket.socket, tmp_path: Path
) -> None:
    config = configuration(tmp_path, fake.url, server={"host": "::1", "port": 1})
    async with activated(shared, config) as process:
        await started(process)
        (entry,) = process.entries("listening")
        assert (entry["host"], entry["port"], entry["inherited"]) == (
            "127.0.0.1",
            shared.getsockname()[1],
            True,
        )


async def test_a_request_under_way_finishes_and_a_new_connection_waits(
    fake: FakeSGLang, shared: socket.socket, tmp_path: Path
) -> None:
    release, asked = asyncio.Event(), asyncio.Event()
    prompts = 0

    async def slow(exchange: Exchange) -> None:
        nonlocal prompts
        prompts += 1
        asked.set()
        await release.wait()
        await reply({"choices": []})(exchange)

    fake.scripts[CHAT_PATH] = slow
    config = configuration(tmp_path, fake.url)
    port = shared.getsockname()[1]
    async with activated(shared, config) as first:
        await started(first)
        under_way = await asyncio.open_connection("127.0.0.1", port)
        under_way[1].write(CHAT)
        await asked.wait()
        first.process.send_signal(signal.SIGTERM)
        await first.logged("draining")
        waiting = await asyncio.open_connection("127.0.0.1", port)
        waiting[1].write(CHAT)
        release.set()
        assert await answer(under_way[0]) == (200, True)
        assert await first.process.wait() == 0
    assert prompts == 1
    async with activated(shared, config):
        async with asyncio.timeout(30):
            status, _ = await answer(waiting[0])
    assert status == 200
    for _, writer in (under_way, waiting):
        writer.close()
        await writer.wait_closed()


async def test_a_connection_just_accepted_may_still_bring_its_request(
    fake: FakeSGLang, shared: socket.socket, tmp_path: Path
) -> None:
    fake.scripts[CHAT_PATH] = reply({"choices": []})
    async with activated(shared, configuration(tmp_path, fake.url)) as process:
        await started(process)
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
        await asyncio.sleep(0.05)  # until it is accepted, which nothing tells
        process.process.send_signal(signal.SIGTERM)
        await process.logged("draining")
        writer.write(CHAT)
        assert await answer(reader) == (200, True)
        writer.close()
        await writer.wait_closed()


async def test_a_socket_of_another_name_is_refused(
    fake: FakeSGLang, shared: socket.socket, tmp_path: Path
) -> None:
    async with activated(shared, configuration(tmp_path, fake.url), "web") as process:
        assert await process.process.wait() == 1
    (entry,) = process.entries("cannot listen")
    assert "FileDescriptorName=proxy" in entry["reason"]


async def test_a_unix_socket_is_refused(fake: FakeSGLang, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        log = configuration(tmp_path, fake.url)
        number = listener.fileno()
        with (tmp_path / "out.log").open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", LAUNCHER, str(number), "proxy", str(log)),
                stdout=stream,
                stderr=stream,
                pass_fds=(number,),
            )
        assert await process.wait() == 1
    lines = [json.loads(line) for line in (tmp_path / "out.log").read_text().splitlines()]
    (entry,) = [line for line in lines if line["event"] == "cannot listen"]
    assert "none of TCP" in entry["reason"]
