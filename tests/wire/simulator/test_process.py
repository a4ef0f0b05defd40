"""``ollad simulate`` as a process: what it prints, how it drains, how it fails."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.wire.simulator.exchange import exchange, parse, request

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator


@asynccontextmanager
async def simulate(*options: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollad", "simulate", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def listening(process: Process) -> str:
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert line.startswith("simulated SGLang listening on http://127.0.0.1:")
    return line.split("//")[1].strip()


async def no_longer_ready(where: str) -> None:
    while b" 200 " in await exchange(where, request("GET", "/ready")):
        pass


def endless() -> bytes:
    messages = [{"role": "user", "content": "Hello"}]
    body = {"messages": messages, "max_tokens": 60, "ignore_eos": True, "stream": True}
    return request("POST", "/v1/chat/completions", body)


async def test_it_says_where_it_listens_and_ends_on_sigterm() -> None:
    async with simulate("--port", "0", "--model", "my/model", "--health-seconds", "0") as process:
        where = await listening(process)
        reply = parse(await exchange(where, request("GET", "/v1/models")))
        assert reply.json["data"][0]["id"] == "my/model"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_after_sigterm_it_is_unhealthy_and_finishes_what_it_serves() -> None:
    async with simulate("--port", "0", "--tokens-per-second", "60") as process:
        where = await listening(process)
        reader, writer = await asyncio.open_connection(*where.split(":"))
        writer.write(endless())
        await reader.readuntil(b"data: ")
        process.send_signal(signal.SIGTERM)
        await no_longer_ready(where)
        assert b" 503 " in await exchange(where, request("GET", "/health"))
        chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        assert b" 200 " in await exchange(where, request("POST", "/v1/chat/completions", chat))
        assert (await reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        writer.close()
        assert await process.wait() == 0


async def test_a_second_signal_ends_it_at_once() -> None:
    async with simulate("--port", "0", "--tokens-per-second", "0.01") as process:
        where = await listening(process)
        reader, writer = await asyncio.open_connection(*where.split(":"))
        writer.write(endless())
        await reader.readuntil(b"data: ")
        process.send_signal(signal.SIGTERM)
        await no_longer_ready(where)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
        assert not (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()


async def test_an_address_that_is_taken_fails_with_one_line() -> None:
    async with simulate("--port", "0") as first:
        port = (await listening(first)).split(":")[1]
        async with simulate("--port", port) as second:
            _, errors = await second.communicate()
            assert second.returncode == 1
            assert errors.decode() == (
                f"ollad simulate: cannot listen on 127.0.0.1:{port}: Address already in use; "
                "see --host and --port\n"
            )


async def test_a_log_that_cannot_be_written_is_named() -> None:
    async with simulate("--port", "0", "--log-requests", "/nowhere/log") as process:
        _, errors = await process.communicate()
        assert process.returncode == 1
        assert errors == b"ollad simulate: /nowhere/log: No such file or directory\n"


@pytest.mark.parametrize(
    "options",
    [
        ("--fail-rate", "2"),
        ("--time-scale", "0"),
        ("--cache-tokens", "0"),
        ("--tokens-per-second", "nan"),
        ("--fail-mode", "fire"),
        ("--port", "99999"),
        ("--port", "-1"),
    ],
)
async def test_an_option_that_cannot_be_is_a_usage_error(options: tuple[str, str]) -> None:
    async with simulate(*options) as process:
        _, errors = await process.communicate()
        assert process.returncode == 2
        assert options[0].encode() in errors
