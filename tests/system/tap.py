"""A listener on the wire between ollad and a backend: passes bytes on and keeps a copy."""

from __future__ import annotations

import selectors
import socket
import socketserver
import threading
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.rig import Server

__all__ = ["Tap", "tapping"]


@dataclass(slots=True)
class Connection:
    """What went over one connection, in both directions."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class Tap:
    """A running tap; ``url`` stands for the backend's."""

    url: str
    backend: tuple[str, int]
    connections: list[Connection] = field(default_factory=list)

    def body_of_last_reply(self, marker: bytes) -> bytes:
        """The chunked body the backend sent on the connection that a marker went over."""
        (connection,) = (one for one in self.connections if marker in one.sent)
        reply = bytes(connection.received).rpartition(b"HTTP/1.1 ")[2]
        return b"".join(_chunks(reply.partition(b"\r\n\r\n")[2]))


def _chunks(body: bytes) -> Iterator[bytes]:
    while True:
        size, _, rest = body.partition(b"\r\n")
        if not (length := int(size, 16)):
            return
        yield rest[:length]
        body = rest[length + 2 :]


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    tap: Tap


class _Relay(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        tap = cast("_Server", self.server).tap
        client = cast("socket.socket", self.request)
        connection = Connection()
        tap.connections.append(connection)
        with socket.create_connection(tap.backend) as backend, selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, (backend, connection.sent))
            ready.register(backend, selectors.EVENT_READ, (client, connection.received))
            while True:
                for key, _ in ready.select():
                    other, copy = key.data
                    data = cast("socket.socket", key.fileobj).recv(65536)
                    if not data:
                        return
                    copy += data
                    other.sendall(data)


@contextmanager
def tapping(server: Server) -> Iterator[Tap]:
    """Listen on a free port for whoever wants to talk to a server."""
    address = urllib.parse.urlsplit(server.url)
    with _Server(("127.0.0.1", 0), _Relay) as relay:
        url = f"http://127.0.0.1:{relay.server_address[1]}"
        relay.tap = Tap(url, (address.hostname or "", address.port or 80))
        thread = threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield relay.tap
        finally:
            relay.shutdown()
            thread.join()
