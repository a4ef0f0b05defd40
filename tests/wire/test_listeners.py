"""Listening: with TLS, apart for operators, within limits."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import structlog
import trustme

from ollad.config.load import load_text
from ollad.config.schema import Admin, EndpointTls, Server, ServerTls
from ollad.daemon import Daemon
from ollad.errors import ListenError
from tests.compiled import COMPILED
from tests.wire.byte_client import until
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, reply, sse
from tests.wire.raw import connected, exchange, request

if TYPE_CHECKING:
    from pathlib import Path

    from tests.wire.loglines import LogLines

AUTHORITY = trustme.CA()
JSON = "Content-Type: application/json"


def issue(folder: Path, name: str = "127.0.0.1") -> ServerTls:
    identity = AUTHORITY.issue_cert(name)
    identity.private_key_and_cert_chain_pem.write_to_path(folder / "cert.pem")
    identity.private_key_pem.write_to_path(folder / "key.pem")
    AUTHORITY.cert_pem.write_to_path(folder / "ca.pem")
    return ServerTls(f"{folder}/cert.pem", f"{folder}/key.pem")


def port_for_operators(log: LogLines) -> int:
    [line] = log.entries("listening for operators")
    port: int = line["port"]
    return port


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=AUTHORITY.cert_pem.bytes().decode())


async def test_requests_and_streams_come_through_tls(fake: FakeSGLang, tmp_path: Path) -> None:
    fake.scripts["/v1/completions"] = [reply({"usage": {}}), sse({"n": 1}, {"n": 2})]
    async with (
        running(endpoint(fake), server=Server(tls=issue(tmp_path))) as ollad,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting())) as session,
    ):
        url = f"https://127.0.0.1:{ollad.port}{PREFIX}/v1/completions"
        bodies = []
        for _ in range(2):
            async with session.post(url, json={"prompt": "x"}) as response:
                assert response.status == 200
                bodies.append(await response.read())
        assert b'data: {"n": 2}' in bodies[1]
        answer = await exchange(ollad.port, request("GET /version"))
        assert answer == b""
    assert [one.header("X-Forwarded-Proto") for one in fake.requests] == ["https", "https"]


@pytest.mark.parametrize("command", ["top", "probe"])
async def test_commands_trust_the_authority_they_are_told(
    command: str, fake: FakeSGLang, tmp_path: Path
) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "Hi."}}]}
    fake.scripts["/v1/chat/completions"] = sse(chunk)
    tls = issue(tmp_path)

    async def run(host: str, *arguments: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ollad", command),
            *("--url", f"https://{host}:{ollad.port}", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    async with running(endpoint(fake), server=Server(tls=tls)) as ollad:
        code, _, said = await run("127.0.0.1")
        assert code == 69
        [line] = said.splitlines()
        assert f"https://127.0.0.1:{ollad.port} is not trusted: " in line
        assert "local issuer certificate" in line
        assert "--ca" in line
        code, _, said = await run("localhost", "--ca", f"{tmp_path}/ca.pem")
        assert code == 69
        assert "Hostname mismatch" in said
        code, out, _ = await run("127.0.0.1", "--ca", f"{tmp_path}/ca.pem")
        assert code == 0
        assert ("1/1 endpoints" if command == "top" else "Hi.") in out


async def test_a_reload_takes_new_certificates_and_refuses_bad_ones(
    fake: FakeSGLang, tmp_path: Path
) -> None:
    tls = issue(tmp_path)
    text = (
        f'endpoints: [{{url: "{fake.url}", name: a}}]\n'
        f"server: {{port: 0, tls: {{cert_file: {tls.cert_file}, key_file: {tls.key_file}}}}}\n"
    )

    def load(_path: str | None) -> Any:
        return load_text(text, "f", {})

    async def certificate() -> bytes | None:
        _, writer = await asyncio.open_connection("127.0.0.1", daemon.port, ssl=trusting())
        shown: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return shown

    daemon = Daemon(
        load(None), structlog.get_logger(), load=load, environ={"RUNTIME_DIRECTORY": str(tmp_path)}
    )
    await daemon.start()
    try:
        first = await certificate()
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port, ssl=trusting())
        issue(tmp_path)
        assert (await daemon.reload()).accepted
        second = await certificate()
        assert second != first
        (tmp_path / "key.pem").write_text("")
        verdict = await daemon.reload()
        assert not verdict.accepted
        assert "server.tls" in verdict.messages[0]
        assert await certificate() == second
        writer.write(request("GET /version"))
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    finally:
        await daemon.close()


async def test_a_backend_may_ask_for_a_certificate(tmp_path: Path) -> None:
    identity = issue(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    fake = FakeSGLang()
    fake.scripts["/v1/completions"] = reply({"usage": {}})
    fake._server = await asyncio.start_server(fake._connected, "127.0.0.1", 0, ssl=context)
    fake.port = fake._server.sockets[0].getsockname()[1]
    own = EndpointTls(f"{tmp_path}/ca.pem", identity.cert_file, identity.key_file)
    stranger = EndpointTls(f"{tmp_path}/ca.pem")
    secure = endpoint(fake).url.replace("http:", "https:")
    try:
        for tls, status in ((own, 200), (stranger, 503), (EndpointTls(), 503)):
            one = endpoint(fake, check_interval=60.0)
            one = type(one)(url=secure, name="one", check_interval=60.0, tls=tls)
            async with running(one) as ollad:
                response, _ = await ollad.post("/v1/completions", {"prompt": "x"})
                assert response.status == status
    finally:
        await fake.stop()
    assert len(fake.requests) == 1


async def test_operators_can_have_a_listener_of_their_own(log: LogLines, fake: FakeSGLang) -> None:
    async with running(endpoint(fake), admin=Admin(port=0)) as ollad:
        admin = port_for_operators(log)
        assert admin not in (0, ollad.port)
        for path in ("/metrics", "/internal/status", "/internal/ready"):
            assert (await exchange(admin, request(f"GET {path}"))).startswith(b"HTTP/1.1 200 ")
            assert (await exchange(ollad.port, request(f"GET {path}")))[9:12] == b"404"
        for port in (admin, ollad.port):
            assert (await exchange(port, request("GET /version")))[9:12] == b"200"
        line = f"GET {PREFIX}/v1/models"
        assert (await exchange(admin, request(line)))[9:12] == b"404"
        assert (await exchange(ollad.port, request(line)))[9:12] == b"200"


async def test_the_log_says_whether_ollad_runs_compiled(log: LogLines, fake: FakeSGLang) -> None:
    async with running(endpoint(fake)):
        (line,) = log.entries("listening")
    assert line["compiled"] is COMPILED


async def test_operators_can_have_a_socket(fake: FakeSGLang, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with running(endpoint(fake), admin=Admin(socket=str(path))):
        assert path.stat().st_mode & 0o777 == 0o660
        connector = aiohttp.UnixConnector(str(path))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://ollad/internal/status") as response,
        ):
            assert response.status == 200
        with pytest.raises(ListenError, match=r"admin\.sock"):
            async with running(endpoint(fake), admin=Admin(socket=str(path))):
                pass
    assert not path.exists()


async def test_a_connection_too_many_is_told_so_and_operators_still_get_in(
    log: LogLines, fake: FakeSGLang
) -> None:
    server = Server(max_connections=2)
    async with running(endpoint(fake), server=server, admin=Admin(port=0)) as ollad:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                reader, writer = await stack.enter_async_context(connected(ollad.port))
                writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
                await reader.readuntil(b"}")
            answer = await exchange(ollad.port, request("GET /version"))
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == (
                "too_many_connections"
            )
            status = await exchange(port_for_operators(log), request("GET /internal/health"))
            assert status[9:12] == b"200"

        async def welcome() -> bool:
            return (await exchange(ollad.port, request("GET /version")))[9:12] == b"200"

        while not await welcome():  # noqa: ASYNC110 - the other end of a close tells nobody
            await asyncio.sleep(0.01)


async def test_a_slow_head_and_a_slow_body_are_408(fake: FakeSGLang) -> None:
    server = Server(header_timeout=0.1, body_timeout=0.1)
    async with running(endpoint(fake), server=server) as ollad:
        async with connected(ollad.port) as (reader, writer):
            writer.write(b"GET /version HTTP/1.1\r\nHost")
            answer = await reader.read()
            assert b" 408 " in answer.partition(b"\r\n")[0]
            assert b"server.header_timeout" in answer
        async with connected(ollad.port) as (reader, writer):
            head = f"POST {PREFIX}/generate HTTP/1.1\r\nHost: x\r\n{JSON}\r\n"
            writer.write(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            answer = await reader.readuntil(b"}}")
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"server.body_timeout" in answer
            assert b"Connection: close" in answer
    assert fake.requests == []


async def test_bodies_are_held_within_a_budget(fake: FakeSGLang) -> None:
    fake.deaf = {"/v1/completions"}
    fake.scripts["/generate"] = reply({"text": "", "meta_info": {}})
    server = Server(max_body_size=100_000, max_buffered_bytes=150_000)
    async with running(endpoint(fake), server=server) as ollad:
        large = {"prompt": "x" * 90_000}
        first = asyncio.create_task(ollad.post("/v1/completions", large))
        await until(lambda: len(fake.requests) == 1)
        assert 90_000 <= ollad.gateway.bodies.held <= 91_000
        response, answer = await ollad.post("/generate", {"text": "x" * 90_000})
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        assert json.loads(answer)["error"]["code"] == "too_many_bodies"
        response, _ = await ollad.post("/generate", {"text": "x" * 20_000})
        assert response.status == 200
        first.cancel()
        await until(lambda: ollad.gateway.bodies.held == 0)
        response, _ = await ollad.post("/generate", {"text": "x" * 90_000})
        assert response.status == 200
    assert ollad.gateway.bodies.held == 0
