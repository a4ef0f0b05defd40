"""The command line against sockets: what is taken, what is down, what is missing."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import yaml

from tests.wire.conftest import PREFIX
from tests.wire.fake_sglang import FakeSGLang, reply, serving
from tests.wire.process import configuration, launched, serve
from tests.wire.raw import exchange, request

if TYPE_CHECKING:
    from pathlib import Path

    from tests.wire.fake_sglang import Exchange


async def check(config: Path, *arguments: str) -> tuple[int, str, str]:
    """Run ``ollad check``: its exit code, what it printed, what it complained of."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollad", "check", "--config", str(config), *arguments),
        env={**os.environ, "KEY_OF_THE_TEST": "sesame-of-the-test"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_live_check_of_good_backends_is_fine(fake: FakeSGLang, tmp_path: Path) -> None:
    config = configuration(tmp_path, fake.url)
    code, out, err = await check(config, "--live")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{config}: fine, 1 endpoint(s)",
        "b0: healthy, SGLang 0.5.23, serves tiny",
    ]


async def test_a_live_check_names_what_is_down(fake: FakeSGLang, tmp_path: Path) -> None:
    gone = FakeSGLang()
    async with serving(gone):
        url = gone.url
    code, out, err = await check(configuration(tmp_path, fake.url, url), "--live")
    assert (code, err) == (1, "")
    _, up, down = out.splitlines()
    assert up.startswith("b0: healthy")
    assert down == "b1: down: connection refused"


async def test_a_live_check_says_what_a_backend_was_started_without(
    fake: FakeSGLang, tmp_path: Path
) -> None:
    fake.scripts["/metrics"] = reply(b"", "404 Not Found")
    fake.server_info |= {"enable_cache_report": False, "disable_radix_cache": True}
    code, out, _ = await check(configuration(tmp_path, fake.url), "--live")
    assert code == 0
    missing = [line for line in out.splitlines() if line.startswith("b0: without ")]
    assert len(missing) == 3
    for line, word in zip(
        missing, ("--enable-metrics", "--enable-cache-report", "radix cache"), strict=True
    ):
        assert word in line


async def test_a_live_check_uses_the_keys_but_never_prints_them(
    fake: FakeSGLang, tmp_path: Path
) -> None:
    seen: list[str | None] = []

    async def denied(exchange: Exchange) -> None:
        seen.append(exchange.header("X-API-Key"))
        await reply({}, "401 Unauthorized")(exchange)

    fake.scripts["/v1/models"] = denied
    config = configuration(tmp_path, fake.url)
    document = yaml.safe_load(config.read_text())
    document["endpoints"][0]["headers"] = {"X-API-Key": "${KEY_OF_THE_TEST}"}
    config.write_text(yaml.safe_dump(document))
    code, out, err = await check(config, "--live", "--dump")
    assert code == 1
    assert "401 on /v1/models" in out
    assert set(seen) == {"sesame-of-the-test"}
    for secret in ("sesame-of-the-test", "backend-secret-key"):
        assert secret not in out + err


async def test_a_port_in_use_is_one_clear_line_and_no_traceback(
    fake: FakeSGLang, tmp_path: Path
) -> None:
    config = configuration(tmp_path, fake.url)
    async with launched(config, "--port", str(fake.port)) as ollad:
        assert await ollad.process.wait() == 1
        (line,) = ollad.entries("cannot listen")
        assert line["level"] == "error"
        assert line["port"] == fake.port
        assert line["reason"] == "Address already in use"
        assert ollad.log.read_text().splitlines()[-1].count("cannot listen") == 1
        assert "Traceback" not in ollad.log.read_text()
        assert not ollad.entries("stopped")


async def test_a_host_that_is_not_ours_is_one_clear_line(fake: FakeSGLang, tmp_path: Path) -> None:
    for host in ("192.0.2.1", "no such host", "nowhere.invalid", "a" * 70):
        async with launched(configuration(tmp_path, fake.url), "--host", host) as ollad:
            assert await ollad.process.wait() == 1
            assert len(ollad.entries("cannot listen")) == 1
            assert "Traceback" not in ollad.log.read_text()


async def test_host_and_port_of_the_command_line_are_listened_on(
    fake: FakeSGLang, tmp_path: Path
) -> None:
    config = configuration(tmp_path, fake.url, server={"port": fake.port})
    async with serve(config, "--host", "127.0.0.1", "--port", "0") as ollad:
        assert ollad.port != fake.port
        data = await exchange(ollad.port, request(f"GET {PREFIX}/health"))
        assert data.startswith(b"HTTP/1.1 200")
