"""The control socket: how ``ollad reload`` speaks to the running daemon.

HTTP over a Unix socket that only the daemon's own user and root can open.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from ollad.responses import json_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["ControlServer", "Verdict", "control_path"]

_NAME: Final = "control.sock"
_OWNER_ONLY: Final = 0o177
"""The umask for a socket that its owner alone may use; root always may."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a command.

    Attributes:
        accepted: whether it was carried out.
        messages: what was done, or why not; a line each.
    """

    accepted: bool
    messages: tuple[str, ...]


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
        reload: carries out a reload, given the path of the file to load, or None for the usual.
    """

    def __init__(self, path: Path, reload: Callable[[str | None], Awaitable[Verdict]]) -> None:
        self._path = path
        self._reload = reload
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            OSError: the socket cannot be made, or another daemon listens there.
        """
        listener = await asyncio.to_thread(_bind, self._path)
        app = web.Application()
        app.router.add_post("/reload", self._on_reload)
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
        order: Any = await request.json()
        path = order.get("config") if isinstance(order, dict) else None
        verdict = await self._reload(path if isinstance(path, str) else None)
        return json_response({"accepted": verdict.accepted, "messages": verdict.messages})


def _bind(path: Path) -> socket.socket:
    """A listening socket at ``path``; one that a dead daemon left there is replaced."""
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    if path.is_socket():
        if _answers(path):
            raise FileExistsError(f"another ollad listens on {path}")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(_OWNER_ONLY)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
