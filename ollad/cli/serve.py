"""``ollad serve``: run the daemon."""

from __future__ import annotations

import argparse
import errno
import faulthandler
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import uvloop

from ollad.cli import EX_CONFIG, EX_FAILED, EX_OK
from ollad.config.load import load_file
from ollad.config.schema import DEFAULT_PATH
from ollad.daemon import Daemon
from ollad.errors import ConfigError, ListenError
from ollad.logs import configure

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollad.config.schema import Config

__all__ = ["add_parser", "run"]

_HIGHEST_PORT: Final = 65535

_DESCRIPTION: Final = (
    "Run the daemon in the foreground, logging to standard error. SIGTERM drains, SIGHUP reloads."
)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser("serve", help="run the daemon", description=_DESCRIPTION)
    parser.add_argument(
        "--config", metavar="PATH", default=DEFAULT_PATH, help="default: %(default)s"
    )
    parser.add_argument("--host", type=_host, help="address to listen on, instead of server.host")
    parser.add_argument(
        "--port", type=_port, help="port to listen on, instead of server.port; 0 takes a free one"
    )
    parser.set_defaults(run=run)


def _host(text: str) -> str:
    if not text.strip():  # would mean every address of the machine
        raise argparse.ArgumentTypeError("an empty address")
    return text


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _HIGHEST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is no port number from 0 to {_HIGHEST_PORT}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop."""
    load = _loader(options)
    try:
        config = load(None)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EX_CONFIG
    server = config.server
    lines = configure(config.logging, stream=sys.stderr.buffer, environ=os.environ)
    logger = structlog.get_logger()
    daemon = Daemon(
        config,
        logger,
        lines=lines,
        load=load,
        config_file=str(Path(options.config).absolute()),
        environ=os.environ,
    )
    # a watchdog that ends the process shall leave a trace of where it hung
    faulthandler.enable(sys.__stderr__ or sys.stderr)
    try:
        uvloop.run(daemon.run())
    except ListenError as error:
        logger.error(  # noqa: TRY400 - it says it all
            "cannot listen",
            host=server.host,
            port=server.port,
            reason=str(error),
            advice=_advice(error.__cause__),
        )
        return EX_FAILED
    return EX_OK


def _advice(cause: BaseException | None) -> str:
    """What to do about an address that cannot be listened on."""
    match cause:
        case OSError(errno=errno.EADDRINUSE):
            return (
                "something else has it, perhaps another ollad, or an outgoing connection, against "
                "which docs/install.md has a remedy: stop it, or choose another port with --port "
                "or server.port"
            )
        case OSError(errno=errno.EADDRNOTAVAIL):
            return (
                "this machine has no such address: choose one of its own with --host or "
                "server.host; 0.0.0.0 is all of them"
            )
        case OSError(errno=errno.EACCES):
            return (
                "a port below 1024 needs a privilege, which docs/install.md says how to give; or "
                "choose another port with --port or server.port"
            )
    return "choose another address with --host or server.host"


def _loader(options: argparse.Namespace) -> Callable[[str | None], Config]:
    """What reads the configuration, at the start and for each reload."""
    usual = Path(options.config).absolute()

    def load(path: str | None) -> Config:
        config = load_file(str(path or usual), os.environ)
        server = config.server
        host = server.host if options.host is None else options.host
        port = server.port if options.port is None else options.port
        return replace(config, server=replace(server, host=host, port=port))

    return load
