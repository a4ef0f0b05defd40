"""Backends behind TLS, on IPv6, and below a path."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from ollad.backends.backend import Backend
from ollad.config.schema import Endpoint, Proxy
from ollad.relay.exchange import Fault, UpstreamRequest
from ollad.relay.forward import Relay
from ollad.relay.pool import ConnectionPools
from ollad.replies import HoldSink
from tests.wire.fake_sglang import FakeSGLang, chunked, reply
from tests.wire.relay.replies import OPAQUE, in_pieces

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ollad.relay.exchange import Outcome

GOOD = reply(b"good", content_type="text/plain")
REQUEST = UpstreamRequest("POST", OPAQUE + "?a=%2F", b"", b"{}")


class Elsewhere(FakeSGLang):
    """A scripted server at another kind of address."""

    async def listen(self, host: str, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._connected, host, 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]


@asynccontextmanager
async def elsewhere(host: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Elsewhere]:
    server = Elsewhere()
    await server.listen(host, tls)
    yield server
    await server.stop()


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    async with ConnectionPools() as pools:
        yield Relay(pools)


async def forward(relay: Relay, url: str, request: UpstreamRequest = REQUEST) -> Outcome:
    return await relay.forward(request, Backend(Endpoint(url=url, name="x")), HoldSink(), Proxy())


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust ``authority`` and nobody else."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))


def certified(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.usefixtures("trusted")
async def test_a_backend_with_a_trusted_certificate_is_served(
    relay: Relay, authority: trustme.CA
) -> None:
    async with elsewhere("127.0.0.1", certified(authority, "localhost")) as server:
        large = bytes(range(256)) * 8192
        server.scripts[OPAQUE] = [
            GOOD,
            in_pieces(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                chunked(large),
                b"0\r\n\r\n",
            ),
            in_pieces(b"HTTP/1.1 200 OK\r\n\r\n", large, close=True),
            GOOD,
        ]
        url = f"https://localhost:{server.port}"
        bodies = [(await forward(relay, url)).body for _ in range(4)]
        assert bodies == [b"good", large, large, b"good"]
        upload = UpstreamRequest("POST", OPAQUE, b"", large)
        assert (await forward(relay, url, upload)).body == b"good"
        assert server.requests[-1].body == large
        assert server.requests[-1].header("Host") == f"localhost:{server.port}"


@pytest.mark.usefixtures("trusted")
async def test_connections_with_tls_are_used_again(relay: Relay, authority: trustme.CA) -> None:
    async with elsewhere("127.0.0.1", certified(authority, "localhost")) as server:
        server.scripts[OPAQUE] = GOOD
        for _ in range(3):
            await forward(relay, f"https://localhost:{server.port}")
        assert len({id(request.writer) for request in server.requests}) == 1


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_a_backend_with_a_wrong_certificate_gets_no_byte(
    wrong: str, relay: Relay, authority: trustme.CA
) -> None:
    other = certified(authority, "example.org") if wrong == "name" else None
    context = other or certified(trustme.CA(), "localhost")
    async with elsewhere("127.0.0.1", context) as server:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's own
        server.scripts[OPAQUE] = GOOD
        outcome = await forward(relay, f"https://localhost:{server.port}")
        assert (outcome.fault, outcome.body) == (Fault.CONNECT, None)
        assert not server.requests


@pytest.mark.usefixtures("trusted")
async def test_a_backend_that_speaks_no_tls_gets_no_request(relay: Relay) -> None:
    async with elsewhere("127.0.0.1") as server:
        server.scripts[OPAQUE] = GOOD
        url = f"https://localhost:{server.port}"
        request = relay.forward(
            REQUEST,
            Backend(Endpoint(url=url, name="x")),
            HoldSink(),
            Proxy(connect_timeout=0.2),
        )
        assert (await request).fault in (Fault.CONNECT, Fault.CONNECT_TIMEOUT)
        assert not server.requests


async def test_a_backend_on_ipv6_is_served(relay: Relay) -> None:
    async with elsewhere("::1") as server:
        server.scripts[OPAQUE] = GOOD
        assert (await forward(relay, f"http://[::1]:{server.port}")).body == b"good"
        assert server.requests[0].header("Host") == f"[::1]:{server.port}"


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_backend_below_a_path_is_asked_there(slash: str, relay: Relay) -> None:
    async with elsewhere("127.0.0.1") as server:
        server.scripts["/base/path" + OPAQUE] = GOOD
        assert (await forward(relay, f"{server.url}/base/path{slash}")).body == b"good"
        assert server.requests[0].target == f"/base/path{OPAQUE}?a=%2F"
        assert server.requests[0].header("Host") == f"127.0.0.1:{server.port}"


async def test_nobody_at_an_address_is_a_failure_to_connect(relay: Relay) -> None:
    async with elsewhere("127.0.0.1") as server:
        url = server.url
    assert (await forward(relay, url)).fault is Fault.CONNECT
    assert (await forward(relay, "http://nowhere.invalid:1")).fault is Fault.CONNECT
