"""The control socket: how ``ollad reload`` and ``ollad backend`` speak to the running daemon.

HTTP over a Unix socket that only the daemon's own user and root can open.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiohttp import web

from ollad import __version__
from ollad.responses import json_response
from ollad.unixsocket import OWNER, bind_unix

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ControlServer", "Orders", "Verdict", "control_path"]

_NAME: Final = "control.sock"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a command.

    Attributes:
        accepted: whether it was carried out.
        messages: what was done, or why not; a line each.
        under_way: requests that the backend concerned has not answered in full.
    """

    accepted: bool
    messages: tuple[str, ...]
    under_way: int = 0


class Orders(Protocol):
    """What carries out the commands."""

    async def reload(self, path: str | None) -> Verdict:
        """Take on the configuration in the file ``path``, or in the usual one for None."""

    def drain_backend(self, name: str) -> Verdict:
        """Send no new requests to the backend called ``name``."""

    def enable_backend(self, name: str) -> Verdict:
        """Let the backend called ``name`` have requests again."""


def control_path(environ: Mapping[str, str]) -> Path:
    """Where the control socket is.

    In the directory that systemd made for the service, else in the user's runtime directory
    (XDG Base Directory Specification), else where the service's is.
    """
    runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if runtime:
        return Path(runtime, _NAME)
    user = environ.get("XDG_RUNTIME_DIR")
    if user and os.geteuid() != 0:
        return Path(user, "ollad", _NAME)
    return Path("/run/ollad", _NAME)


class ControlServer:
    """Listens on the control socket.

    Args:
        path: of the socket.
        orders: carries the commands out.
        config_file: the usual file, for who asks which one was loaded.
    """

    def __init__(self, path: Path, orders: Orders, *, config_file: str = "") -> None:
        self._path = path
        self._orders = orders
        self._config_file = config_file
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: the socket cannot be made, or another daemon listens there.
        """
        listener = await asyncio.to_thread(bind_unix, self._path, OWNER)
        app = web.Application()
        app.router.add_post("/reload", self._on_reload)
        app.router.add_post("/drain", self._on_drain)
        app.router.add_post("/enable", self._on_enable)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            await asyncio.to_thread(self._path.unlink, missing_ok=True)

    async def _on_reload(self, request: web.Request) -> web.Response:
        path = await _argument(request, "config")
        verdict = await self._orders.reload(path)
        return _told(verdict, config=path or self._config_file)

    async def _on_drain(self, request: web.Request) -> web.Response:
        name = await _argument(request, "name")
        return _told(self._orders.drain_backend(name or ""))

    async def _on_enable(self, request: web.Request) -> web.Response:
        name = await _argument(request, "name")
        return _told(self._orders.enable_backend(name or ""))


async def _argument(request: web.Request, name: str) -> str | None:
    """The text under ``name`` in the order, or None."""
    order: Any = await request.json()
    argument = order.get(name) if isinstance(order, dict) else None
    return argument if isinstance(argument, str) else None


def _told(verdict: Verdict, **more: Any) -> web.Response:
    """The verdict, and who gives it."""
    return json_response(
        {
            "accepted": verdict.accepted,
            "messages": verdict.messages,
            "under_way": verdict.under_way,
            "pid": os.getpid(),
            "version": __version__,
            **more,
        }
    )
