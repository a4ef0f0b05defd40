"""``ollad top``: a live table of the backends of a running ollad."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ollad.cli import EX_OK
from ollad.cli.client import (
    FAILURES,
    AnswerError,
    add_url_options,
    explain,
    open_session,
    prepare_output,
    read_stream,
    refuse_errors,
    shown,
)
from ollad.cli.screen import Screen
from ollad.cli.table import render

if TYPE_CHECKING:
    import argparse
    import ssl
    from collections.abc import AsyncGenerator, Mapping

    import aiohttp
    from yarl import URL

__all__ = ["View", "add_parser", "run", "views"]

_SILENCE: Final = 5.0
"""Seconds without an event, of which there is one a second, after which the feed is lost."""

_RETRY: Final = 1.0
"""Seconds between two tries to get a lost feed back."""

_UNLIMITED: Final = 10_000
"""Columns where there is no terminal to fit into."""


@dataclass(frozen=True, slots=True)
class View:
    """What is known of the daemon.

    Attributes:
        status: the data of the last event, or None.
        note: why it may be out of date, or None.
    """

    status: Mapping[str, Any] | None
    note: str | None = None


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "top",
        help="watch the backends of a running ollad",
        description="A live table of the backends of a running ollad; q or Ctrl-C ends it.",
    )
    add_url_options(parser)
    parser.add_argument(
        "--once", action="store_true", help="print the table once; so does a pipe or a file"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the table until told to stop."""
    prepare_output()
    live = sys.stdout.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}
    show = _print_once if options.once or not live else _watch
    try:
        asyncio.run(show(options.url, options.ca))
    except FAILURES as error:
        message, code = explain(error, options.url)
        sys.stderr.write(f"ollad top: {message}\n")
        return code
    return EX_OK


async def _print_once(url: URL, ca: ssl.SSLContext | None) -> None:
    terminal = sys.stdout.isatty()
    width = os.get_terminal_size(sys.stdout.fileno()).columns if terminal else _UNLIMITED
    async with (
        open_session(refuse_errors, _SILENCE, ca) as session,
        aclosing(views(session, url)) as following,
    ):
        view = await anext(following)
    lines = render(view.status, width or _UNLIMITED, colour=terminal and _colour_wanted())
    sys.stdout.write("".join(f"{line}\n" for line in lines))


async def _watch(url: URL, ca: ssl.SSLContext | None) -> None:
    """Show views until a signal or ``q``; the terminal is given back in any case."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    with Screen(sys.stdout) as screen:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGWINCH, screen.redraw)
        loop.add_signal_handler(signal.SIGTSTP, screen.suspend)
        if sys.stdin.isatty():
            loop.add_reader(sys.stdin, _on_key, stop)
        tasks = [asyncio.create_task(_show(url, ca, screen)), asyncio.create_task(stop.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _on_key(stop: asyncio.Event) -> None:
    if os.read(sys.stdin.fileno(), 64) in {b"q", b"Q", b""}:
        stop.set()


async def _show(url: URL, ca: ssl.SSLContext | None, screen: Screen) -> None:
    colour = _colour_wanted()
    async with (
        open_session(refuse_errors, _SILENCE, ca) as session,
        aclosing(views(session, url)) as following,
    ):
        async for view in following:
            screen.show(_Painter(view, colour))


@dataclass(frozen=True, slots=True)
class _Painter:
    """Makes the lines of a view for any size of the terminal."""

    view: View
    colour: bool

    def __call__(self, columns: int, rows: int) -> list[str]:
        return render(self.view.status, columns, rows, colour=self.colour, note=self.view.note)


def _colour_wanted() -> bool:
    return not os.environ.get("NO_COLOR")


async def views(
    session: aiohttp.ClientSession, url: URL, *, retry: float = _RETRY
) -> AsyncGenerator[View]:
    """Follow the feed of the ollad at ``url`` for ever, across its restarts.

    Args:
        session: whose replies are checked for errors.
        url: where ollad listens.
        retry: seconds between two tries to get a lost feed back.

    Raises:
        Exception: one of ``FAILURES``, if the very first try fails.
    """
    status: Mapping[str, Any] | None = None
    last_id = ""
    while True:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        lost = "it ended"
        try:
            feed = read_stream(session, url / "internal/events", headers=headers)
            async with aclosing(feed):
                async for event in feed:
                    status, last_id = _status_of(event.data), event.last_event_id
                    yield View(status)
        except FAILURES as error:
            if status is None:
                raise
            lost, _ = explain(error, url)
        if status is None:
            raise AnswerError(f"the event feed of {shown(url)} ended before its first event")
        if status.get("draining") is True:
            lost = "ollad has stopped, or is about to"
        yield View(status, f"out of date: {lost} (trying again)")
        await asyncio.sleep(retry)


def _status_of(data: str) -> dict[str, Any]:
    """The document of an event.

    Raises:
        ValueError: it is no JSON object.
    """
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("the event holds no JSON object")  # noqa: TRY004 - it is data that is wrong
    return document
