"""A new configuration while requests are under way."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import structlog

import ollad
from ollad.config.schema import Config, Conversations, Server
from ollad.control import ControlServer, Verdict
from ollad.daemon import Daemon
from ollad.errors import ConfigError
from tests.wire.byte_client import until
from tests.wire.conftest import PREFIX, endpoint
from tests.wire.fake_sglang import STREAM_HEAD, FakeSGLang, chunked, reply, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.wire.fake_sglang import Exchange

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


class Files:
    """What the daemon finds when it reads its configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.problems: tuple[str, ...] = ()

    def load(self, _path: str | None) -> Config:
        if self.problems:
            raise ConfigError(self.problems)
        return self.config


class Running:
    def __init__(self, daemon: Daemon, files: Files, session: aiohttp.ClientSession) -> None:
        self.daemon = daemon
        self.files = files
        self.session = session

    async def chat(self) -> aiohttp.ClientResponse:
        async with self.session.post(f"{PREFIX}/v1/chat/completions", json=CHAT) as response:
            await response.read()
            return response


@pytest.fixture
async def running(fake: FakeSGLang, tmp_path: Path) -> AsyncIterator[Running]:
    fake.scripts["/v1/chat/completions"] = reply({"choices": []})
    files = Files(Config(endpoints=(endpoint(fake, "old"),), server=Server(port=0)))
    daemon = Daemon(
        files.config,
        structlog.get_logger(),
        load=files.load,
        config_file="/etc/usual.yaml",
        environ={"RUNTIME_DIRECTORY": str(tmp_path)},
    )
    await daemon.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{daemon.port}") as session:
        yield Running(daemon, files, session)
    await daemon.close()


async def test_a_new_endpoint_serves_at_once_and_a_removed_one_no_longer(
    running: Running,
) -> None:
    other = FakeSGLang()
    other.scripts["/v1/chat/completions"] = reply({"choices": []})
    async with serving(other):
        assert (await running.chat()).headers["X-Olla-Endpoint"] == "old"
        running.files.config = replace(running.files.config, endpoints=(endpoint(other, "new"),))
        verdict = await running.daemon.reload()
        assert verdict == Verdict(True, ("endpoints added: new", "endpoints removed: old"))
        assert (await running.chat()).headers["X-Olla-Endpoint"] == "new"


async def test_a_stream_outlives_the_endpoint_it_comes_from(
    running: Running, fake: FakeSGLang
) -> None:
    go_on = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunked(b"data: 1\n\n"))
        await go_on.wait()
        await exchange.send(chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    fake.scripts["/v1/chat/completions"] = slow
    other = FakeSGLang()
    async with serving(other):
        body = {**CHAT, "stream": True}
        async with running.session.post(f"{PREFIX}/v1/chat/completions", json=body) as response:
            assert await response.content.readany() == b"data: 1\n\n"
            running.files.config = replace(
                running.files.config, endpoints=(endpoint(other, "new"),)
            )
            assert (await running.daemon.reload()).accepted
            go_on.set()
            assert await response.content.read() == b"data: [DONE]\n\n"


async def test_a_reload_that_is_given_up_leaves_nothing_with_the_endpoints_that_stay(
    running: Running,
) -> None:
    async def silent(exchange: Exchange) -> None:
        await exchange.client_gone.wait()

    gateway = running.daemon._gateway
    assert gateway is not None
    (kept,) = gateway.runtime.pool
    before = len(kept._pools)
    mute = FakeSGLang()
    async with serving(mute):
        mute.scripts["/v1/models"] = silent
        running.files.config = replace(
            running.files.config,
            endpoints=(*running.files.config.endpoints, endpoint(mute, "mute")),
        )
        reload = asyncio.create_task(running.daemon.reload())
        await until(lambda: any(one.path == "/v1/models" for one in mute.requests))
        reload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reload
    assert len(kept._pools) == before


async def test_a_file_with_problems_changes_nothing(running: Running) -> None:
    before = running.daemon._gateway and running.daemon._gateway.runtime
    running.files.problems = ("f:1:1: endpoints: must be a list",)
    verdict = await running.daemon.reload()
    assert verdict == Verdict(False, ("f:1:1: endpoints: must be a list",))
    assert running.daemon._gateway is not None
    assert running.daemon._gateway.runtime is before
    assert (await running.chat()).status == 200


async def test_a_removed_endpoint_is_probed_no_longer(running: Running) -> None:
    other = FakeSGLang()
    async with serving(other):
        running.files.config = replace(running.files.config, endpoints=(endpoint(other, "new"),))
        await running.daemon.reload()
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert "health of new" in names
        assert "health of old" not in names


async def test_new_bounds_of_conversations_hold_at_once(running: Running) -> None:
    gateway = running.daemon._gateway
    assert gateway is not None
    gateway.conversations.put("", "talk", text="x" * 100, model="tiny", tokens=None)
    bounds = Conversations(max_bytes=50, max_conversation_bytes=50)
    running.files.config = replace(running.files.config, conversations=bounds)
    await running.daemon.reload()
    assert not gateway.conversations.has("", "talk")


async def test_a_kept_endpoint_keeps_its_standing(running: Running) -> None:
    gateway = running.daemon._gateway
    assert gateway is not None
    (backend,) = gateway.runtime.pool
    since = backend.snapshot.since
    proxy = replace(running.files.config.proxy, attempts=1)
    running.files.config = replace(running.files.config, proxy=proxy)
    verdict = await running.daemon.reload()
    assert verdict.messages == ("sections changed: proxy",)
    assert tuple(gateway.runtime.pool) == (backend,)
    assert backend.snapshot.since == since
    assert gateway.runtime.config.proxy.attempts == 1


async def test_what_needs_a_restart_is_said_and_left_as_it_is(running: Running) -> None:
    server = replace(running.files.config.server, host="::1", port=1)
    running.files.config = replace(running.files.config, server=server)
    verdict = await running.daemon.reload()
    assert verdict.accepted
    assert verdict.messages == ("needs a restart to take effect: server.host, server.port",)
    assert (await running.chat()).status == 200


async def test_the_control_socket_tells_the_verdict_and_belongs_to_its_owner(
    running: Running, tmp_path: Path
) -> None:
    path = tmp_path / "control.sock"
    assert (await asyncio.to_thread(path.stat)).st_mode & 0o777 == 0o600
    running.files.problems = ("f:1:1: no", "f:2:1: nor this")
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.post("http://ollad/reload", json={"config": None}) as response,
    ):
        assert json.loads(await response.read()) == {
            "accepted": False,
            "messages": ["f:1:1: no", "f:2:1: nor this"],
            "under_way": 0,
            "pid": os.getpid(),
            "version": ollad.__version__,
            "config": "/etc/usual.yaml",
        }


async def test_a_second_daemon_leaves_the_control_socket_to_the_first(
    running: Running, tmp_path: Path
) -> None:
    with pytest.raises(FileExistsError):
        await ControlServer(tmp_path / "control.sock", running.daemon).start()
    assert await asyncio.to_thread((tmp_path / "control.sock").exists)


async def test_a_second_daemon_serves_and_says_how_to_have_a_control_socket(
    fake: FakeSGLang, tmp_path: Path, running: Running
) -> None:
    assert running.daemon.port
    second = Daemon(
        Config(endpoints=(endpoint(fake),), server=Server(port=0)),
        structlog.get_logger(),
        load=running.files.load,
        environ={"RUNTIME_DIRECTORY": str(tmp_path)},
    )
    with structlog.testing.capture_logs() as logged:
        await second.start()
    await second.close()
    (warning,) = [line for line in logged if line["event"] == "no control socket"]
    assert "another ollad" in warning["reason"]
    assert "RUNTIME_DIRECTORY=" in warning["advice"]


async def test_a_drained_backend_finishes_what_it_has_gets_nothing_new_and_stays_so(
    running: Running, fake: FakeSGLang, tmp_path: Path
) -> None:
    go_on = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + chunked(b"data: 1\n\n"))
        await go_on.wait()
        await exchange.send(chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    other = FakeSGLang()
    other.scripts["/v1/chat/completions"] = reply({"choices": []})
    fake.scripts["/v1/chat/completions"] = slow
    async with (
        serving(other),
        running.session.post(f"{PREFIX}/v1/chat/completions", json={**CHAT, "stream": True}) as on,
    ):
        assert await on.content.readany() == b"data: 1\n\n"
        assert (await ordered(tmp_path, "drain", "old"))["under_way"] == 1
        assert (await running.chat()).status == 503

        # a change to the endpoint makes a new backend of the same name
        again = endpoint(fake, "old", priority=7)
        running.files.config = replace(
            running.files.config, endpoints=(again, endpoint(other, "new"))
        )
        assert (await running.daemon.reload()).accepted
        served = {(await running.chat()).headers["X-Olla-Endpoint"] for _ in range(6)}
        assert served == {"new"}

        go_on.set()
        assert await on.content.read() == b"data: [DONE]\n\n"
    fake.scripts["/v1/chat/completions"] = reply({"choices": []})
    assert (await ordered(tmp_path, "drain", "gone"))["accepted"] is False
    await ordered(tmp_path, "drain", "new")
    assert (await ordered(tmp_path, "enable", "old"))["accepted"] is True
    assert (await running.chat()).headers["X-Olla-Endpoint"] == "old"


async def ordered(folder: Path, command: str, name: str) -> Any:
    """What the daemon says to an order at its control socket."""
    connector = aiohttp.UnixConnector(str(folder / "control.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"http://ollad/{command}", json={"name": name}) as response,
    ):
        return json.loads(await response.read())


async def test_a_socket_left_by_a_dead_daemon_is_replaced(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "left" / "control.sock"
    first = ControlServer(path, running.daemon)
    await first.start()
    assert first._runner is not None
    await first._runner.cleanup()  # as a killed process leaves it: the file stays
    second = ControlServer(path, running.daemon)
    await second.start()
    await second.close()
    assert not await asyncio.to_thread(path.exists)
