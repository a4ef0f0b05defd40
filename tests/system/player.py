"""A scripted backend: it plays recorded HTTP responses and remembers what it was asked."""

from __future__ import annotations

import json
import socketserver
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Player", "Request", "playing"]


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was received; the names of its headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(slots=True)
class Player:
    """A running scripted backend.

    Attributes:
        url: its base URL.
        choose: the whole response, as it goes over the wire, to a request.
        requests: what it was asked, in order.
    """

    url: str
    choose: Callable[[Request], bytes]
    requests: list[Request] = field(default_factory=list)

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests with this method and path."""
        return [one for one in self.requests if (one.method, one.path) == (method, path)]


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    player: Player


class _Connection(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        player = cast("_Server", self.server).player
        while (request := self._read()) is not None:
            player.requests.append(request)
            self.wfile.write(player.choose(request))

    def _read(self) -> Request | None:
        line = self.rfile.readline().decode("latin-1").split()
        if not line:
            return None
        headers = {}
        while (field_line := self.rfile.readline().decode("latin-1").strip()) != "":
            name, _, value = field_line.partition(":")
            headers[name.lower()] = value.strip()
        body = self.rfile.read(int(headers.get("content-length", 0)))
        return Request(line[0], line[1], headers, body)


@contextmanager
def playing(choose: Callable[[Request], bytes]) -> Iterator[Player]:
    """Run a scripted backend on a free port."""
    with _Server(("127.0.0.1", 0), _Connection) as server:
        server.player = Player(f"http://127.0.0.1:{server.server_address[1]}", choose)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.player
        finally:
            server.shutdown()
            thread.join()
