"""How commands talk to a running ollad, and what they say when they cannot."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import ssl
import sys
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp_sse_client.client import EventSource  # type: ignore[import-untyped]
from yarl import URL

from ollad import __version__
from ollad.cli import EX_FAILED, EX_UNAVAILABLE
from ollad.config.certificates import unusable
from ollad.errors import OlladError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from aiohttp_sse_client.client import MessageEvent

__all__ = [
    "FAILURES",
    "AnswerError",
    "add_url_options",
    "explain",
    "message_of",
    "open_session",
    "prepare_output",
    "read_stream",
    "refuse_errors",
    "shown",
]

_DEFAULT_URL: Final = "http://127.0.0.1:40114"
_CONNECT_SECONDS: Final = 5.0
_LONGEST_LINE: Final = 4 * 1024 * 1024
"""Bytes of the longest line that is read; the state of a thousand backends fits."""

_LONGEST_MESSAGE: Final = 500


class AnswerError(OlladError):
    """ollad answered, but not with what was asked for; the text says what it said."""


class _EndOfStreamError(Exception):
    """Raised into the event source where it would send its request again."""


FAILURES: Final = (AnswerError, aiohttp.ClientError, TimeoutError, ValueError)
"""What asking a daemon may raise; ``ValueError`` is a reply that cannot be read."""


def add_url_options(parser: argparse.ArgumentParser) -> None:
    """Declare ``--url``, an absolute ``yarl.URL`` afterwards, and ``--ca``, an ``SSLContext``.

    ``ca`` is None where the system's authorities are to be trusted.
    """
    parser.add_argument(
        "--url",
        metavar="URL",
        type=_base_url,
        default=_DEFAULT_URL,
        help="where ollad listens (default: %(default)s)",
    )
    parser.add_argument(
        "--ca",
        metavar="PATH",
        type=_trusting,
        help="certificates to trust, in PEM, where ollad speaks TLS (default: the system's)",
    )


def _base_url(text: str) -> URL:
    try:
        url = URL(text if "://" in text else f"http://{text}")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise argparse.ArgumentTypeError(f"'{text}' is no http:// or https:// URL with a host")
    return url.with_query(None).with_fragment(None)


def _trusting(path: str) -> ssl.SSLContext:
    """Trust those that the certificates at ``path`` vouch for, and nobody else."""
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        why = unusable(error, "it holds no certificate in PEM")
        raise argparse.ArgumentTypeError(f"'{path}' cannot be used: {why}") from error


def prepare_output() -> None:
    """Let what the terminal's encoding lacks become ``?``, and keep libraries off stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    logging.getLogger("aiohttp_sse_client").addHandler(logging.NullHandler())


def open_session(
    answered: Callable[[aiohttp.ClientResponse], Awaitable[None]],
    silence: float,
    ca: ssl.SSLContext | None = None,
) -> aiohttp.ClientSession:
    """A session that sends each request once, on a connection of its own.

    Args:
        answered: is given the head of every reply before anyone else; may raise.
        silence: seconds without a byte after which a reply is given up.
        ca: whom to trust, or None for the system's authorities.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, ssl=ca or True),
        timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS, sock_read=silence),
        raise_for_status=answered,
        read_bufsize=_LONGEST_LINE,
        headers={"User-Agent": f"ollad/{__version__}"},
    )


async def refuse_errors(response: aiohttp.ClientResponse) -> None:
    """Accept 200.

    Raises:
        AnswerError: it is another status; carries the message of the reply.
    """
    if response.status == 200:
        return
    try:
        message = _error_message(await response.read())
    finally:
        response.close()
    raise AnswerError(f"{response.url.origin()} answered {response.status}: {message}")


def _error_message(body: bytes) -> str:
    """What an error reply says, be it OpenAI's envelope, SGLang's or plain text."""
    try:
        document = json.loads(body)
    except ValueError:
        return _one_line(body.decode(errors="replace")) or "(no text)"
    return message_of(document)


def message_of(document: Any) -> str:
    """The message of an error object: ``error.message``, ``message``, ``detail``, or all of it."""
    error = document.get("error", document) if isinstance(document, dict) else document
    said = error.get("message", error.get("detail")) if isinstance(error, dict) else error
    return _one_line(said if isinstance(said, str) else json.dumps(document))


def _one_line(text: str) -> str:
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())[:_LONGEST_MESSAGE]


async def read_stream(
    session: aiohttp.ClientSession,
    url: URL,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    **request: Any,
) -> AsyncGenerator[MessageEvent]:
    """The events of one reply to one request.

    The event source sends its request again when a stream ends in order, and may do so when it
    cannot connect; here it does neither. Close the iterator (``contextlib.aclosing``).

    Raises:
        AnswerError: the reply is no event stream.
        aiohttp.ClientError: no connection, or it broke.
        ValueError: a line cannot be read.
    """
    opened = False

    def on_open() -> None:
        nonlocal opened
        opened = True

    def on_error() -> None:
        if opened:
            raise _EndOfStreamError

    source = EventSource(
        str(url),
        option={"method": method},
        max_connect_retry=0,
        session=session,
        on_open=on_open,
        on_error=on_error,
        headers=dict(headers or {}),
        allow_redirects=False,
        **request,
    )
    try:
        async with source:
            async for event in source:
                yield event
    except _EndOfStreamError:
        return
    except ConnectionAbortedError as error:
        raise AnswerError(
            f"{shown(url)} answered with something other than an event stream"
        ) from error


def explain(error: Exception, url: URL) -> tuple[str, int]:
    """One line for the user about one of ``FAILURES``, and the exit code."""
    match error:
        case AnswerError():
            return str(error), EX_FAILED
        case aiohttp.ClientConnectorCertificateError(certificate_error=cause):
            why = _one_line(getattr(cause, "verify_message", "") or str(cause)).rstrip(".")
            hint = "Name the certificates to trust with --ca, or the certificate's host with --url."
            return f"{shown(url)} is not trusted: {why}. {hint}", EX_UNAVAILABLE
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            hint = "Start one with 'ollad serve', or say where it is with --url."
            said = f"no ollad can be reached at {shown(url)}: {_cause(error)}. {hint}"
            return said, EX_UNAVAILABLE
        case aiohttp.ServerTimeoutError() | TimeoutError():
            return f"{shown(url)} stopped answering", EX_FAILED
        case (
            aiohttp.ServerDisconnectedError()
            | aiohttp.ClientPayloadError()
            | aiohttp.ClientOSError()
        ):
            return f"{shown(url)} closed the connection before its reply was complete", EX_FAILED
        case _:
            said = _one_line(str(error)) or type(error).__name__
            return f"the reply of {shown(url)} cannot be read: {said}", EX_FAILED


def shown(url: URL) -> str:
    """``url`` for messages: without credentials."""
    return str(url.with_user(None)).rstrip("/")


def _cause(error: aiohttp.ClientError) -> str:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return "it does not answer"
        case aiohttp.ClientConnectorError() if not isinstance(error, aiohttp.ClientSSLError):
            system = error.os_error
            known = system.errno is not None and system.errno > 0
            return os.strerror(system.errno or 0) if known else _one_line(str(system.strerror))
        case _:
            return _one_line(str(error))
