from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trustme
import uvloop

from ollad.config.schema import Config, Endpoint, EndpointTls, Server, ServerTls
from ollad.errors import ConfigError
from ollad.tls import BackendTls, ListenerTls, load_tls

if TYPE_CHECKING:
    from pathlib import Path

AUTHORITY = trustme.CA()


def issue(folder: Path, name: str = "localhost") -> ServerTls:
    identity = AUTHORITY.issue_cert(name)
    identity.private_key_and_cert_chain_pem.write_to_path(folder / "cert.pem")
    identity.private_key_pem.write_to_path(folder / "key.pem")
    return ServerTls(f"{folder}/cert.pem", f"{folder}/key.pem")


def config(tls: ServerTls) -> Config:
    endpoint = Endpoint(url="http://gpu", name="a")
    return Config(endpoints=(endpoint,), server=Server(tls=tls))


async def latest(folder: Path, name: str = "localhost") -> ssl.SSLContext:
    context = (await load_tls(config(issue(folder, name)))).server
    assert context is not None
    return context


async def subject(port: int, name: str | None) -> bytes | None:
    """The certificate that a new connection is shown, by a client that resumes no session."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    shown: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_new_connections_get_the_new_certificate_and_old_ones_go_on(
    runner: object, tmp_path: Path
) -> None:
    async def scenario() -> None:
        listener = ListenerTls(await latest(tmp_path))

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(100):
                writer.write(data)
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=listener.context)
        port = server.sockets[0].getsockname()[1]
        trusting = ssl.create_default_context(cadata=AUTHORITY.cert_pem.bytes().decode())
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting, server_hostname="localhost"
        )
        first = await subject(port, "localhost")

        listener.renew(await latest(tmp_path))

        second = await subject(port, "localhost")
        assert first != second
        assert await subject(port, "") == second  # without a name
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        writer.close()
        server.close()

    assert callable(runner)
    runner(scenario())


async def test_files_that_became_unusable_are_refused(tmp_path: Path) -> None:
    tls = issue(tmp_path)
    (tmp_path / "cert.pem").write_text("")

    with pytest.raises(ConfigError, match="no certificate and private key in PEM"):
        await load_tls(config(tls))


async def test_without_tls_nothing_is_read() -> None:
    files = await load_tls(config(ServerTls()))

    assert files.server is None
    assert files.clients == {}


async def test_each_way_to_reach_backends_has_a_context_of_its_own(tmp_path: Path) -> None:
    identity = issue(tmp_path)
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = EndpointTls(f"{tmp_path}/ca.pem", identity.cert_file, identity.key_file)
    plain = Endpoint(url="http://a", name="a")
    endpoints = (
        plain,
        Endpoint(url="https://b", name="b"),
        Endpoint(url="https://c", name="c", tls=own),
        Endpoint(url="https://c", name="d", tls=replace(own)),
    )
    files = await load_tls(Config(endpoints=endpoints))
    backends = BackendTls(files.clients)

    assert set(files.clients) == {EndpointTls(), own}
    assert backends.context(replace(own)) is files.clients[own]
    assert backends.context(EndpointTls()) is not backends.context(own)

    again = await load_tls(Config(endpoints=endpoints[2:]))
    backends.renew(again.clients)

    assert backends.context(own) is again.clients[own]
    assert backends.context(EndpointTls()) is files.clients[EndpointTls()]
