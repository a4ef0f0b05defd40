"""``ollad probe``: stream one chat through a running ollad and say how it went.

Exactly one prompt is ever sent: nothing here is tried again, whatever fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ollad.cli import EX_FAILED, EX_OK
from ollad.cli.client import (
    FAILURES,
    AnswerError,
    add_url_options,
    explain,
    message_of,
    open_session,
    prepare_output,
    read_stream,
    refuse_errors,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp
    from yarl import URL

__all__ = ["Answer", "add_parser", "run"]

_API: Final = "olla/sglang/v1"
_PROMPT: Final = "Say hello in one sentence."
_MAX_TOKENS: Final = 64
_DONE: Final = "[DONE]"

_SILENCE: Final = 660.0
"""Seconds without a byte; a little more than ollad itself waits for a first one by default."""

_LAST_WORDS: Final = 1.0
"""Seconds the stream may take to end after ``[DONE]``; who leaves earlier counts as gone."""


@dataclass(slots=True)
class Answer:
    """What has come of the chat so far.

    Attributes:
        headers: of the reply.
        sent: when the request was sent, monotonic seconds.
        first: when the first text came, or None.
        last: when the last text came, or None.
        events: events that came.
        pieces: those of them that held text.
        usage: the ``usage`` of the stream, once it came.
        done: whether ``[DONE]`` came.
    """

    sent: float
    headers: Mapping[str, str] = field(default_factory=dict)
    first: float | None = None
    last: float | None = None
    events: int = 0
    pieces: int = 0
    usage: Mapping[str, Any] = field(default_factory=dict)
    done: bool = False

    def take(self, data: str, now: float) -> str:
        """Take in the data of an event that came at ``now`` and return the text it adds.

        Raises:
            AnswerError: it says that something went wrong.
            ValueError: it is no JSON object.
        """
        self.events += 1
        if data == _DONE:
            self.done = True
            return ""
        chunk = json.loads(data)
        if not isinstance(chunk, dict):
            raise ValueError(f"an event of the stream is no JSON object: {data:.60}")  # noqa: TRY004
        if chunk.get("error") is not None or chunk.get("object") == "error":
            raise AnswerError(f"the stream broke off with an error: {message_of(chunk)}")
        if isinstance(usage := chunk.get("usage"), dict):
            self.usage = usage
        if text := _text(chunk):
            self.pieces += 1
            self.last = now
            self.first = now if self.first is None else self.first
        return text

    def report(self, model: str) -> list[str]:
        """The figures, a line each."""
        figures = {
            "model": model,
            "endpoint": self.headers.get("X-Olla-Endpoint"),
            "first token": self._first_token(),
            "tokens/s": self._rate(),
            "tokens": self._tokens(),
            "cache hit": self._cache_hit(),
            "request id": self.headers.get("X-Olla-Request-ID"),
        }
        return [f"{name:<12}{_visible(value or 'unknown')}" for name, value in figures.items()]

    def _first_token(self) -> str:
        if self.first is None:
            return "none came"
        return f"after {(self.first - self.sent) * 1000:.0f} ms"

    def _rate(self) -> str | None:
        """Tokens per second after the first."""
        count = _count(self.usage.get("completion_tokens"))
        if self.first is None or self.last is None or self.last <= self.first:
            return None
        more = (self.pieces if count is None else count) - 1
        return f"{more / (self.last - self.first):.1f}" if more > 0 else None

    def _tokens(self) -> str | None:
        count = _count(self.usage.get("completion_tokens"))
        prompt = _count(self.usage.get("prompt_tokens"))
        if count is None:
            return None
        return f"{count}" if prompt is None else f"{count}, after {prompt} of the prompt"

    def _cache_hit(self) -> str | None:
        """From the usage, which counts; else from the header, which was sent before the text."""
        details = self.usage.get("prompt_tokens_details")
        cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
        prompt = _count(self.usage.get("prompt_tokens"))
        if cached is None:
            known = {"true": "yes", "false": "no"}
            hint = "unknown (SGLang tells with --enable-cache-report)"
            return known.get(self.headers.get("X-SGLang-Cache-Hit", ""), hint)
        if cached == 0:
            return "no"
        return f"yes, {cached} of {prompt or '?'} tokens of the prompt"


def _text(chunk: Mapping[str, Any]) -> str:
    """The text a chunk adds, reasoning included."""
    choices = chunk.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    delta = choice.get("delta") if isinstance(choice, dict) else None
    if not isinstance(delta, dict):
        return ""
    parts = (delta.get("reasoning_content"), delta.get("content"))
    return "".join(part for part in parts if isinstance(part, str))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _visible(text: str) -> str:
    """``text`` without what could steer the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "probe",
        help="stream one chat through a running ollad",
        description="Stream one chat through a running ollad: its text as it comes, then how "
        "long it took, who answered, and whether the prompt was cached.",
    )
    add_url_options(parser)
    parser.add_argument("--model", metavar="ID", help="default: the first one that ollad lists")
    parser.add_argument(
        "--max-tokens",
        metavar="N",
        type=_positive,
        default=_MAX_TOKENS,
        help="length of the answer (default: %(default)s)",
    )
    parser.add_argument(
        "prompt",
        metavar="PROMPT",
        nargs="?",
        default=_PROMPT,
        help="what to say (default: %(default)r)",
    )
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no positive number")
    return number


def run(options: argparse.Namespace) -> int:
    """Send the chat, print what comes."""
    prepare_output()
    try:
        return asyncio.run(_probe(options))
    except FAILURES as error:
        message, code = explain(error, options.url)
        sys.stderr.write(f"ollad probe: {message}\n")
        return code


async def _probe(options: argparse.Namespace) -> int:
    answer = Answer(time.monotonic())

    async def answered(response: aiohttp.ClientResponse) -> None:
        answer.headers = response.headers
        await refuse_errors(response)

    async with open_session(answered, _SILENCE, options.ca) as session:
        model = options.model or await _first_model(session, options.url)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": options.prompt}],
            "max_tokens": options.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return await _converse(session, options.url, body, answer)


async def _first_model(session: aiohttp.ClientSession, url: URL) -> str:
    async with session.get(url / _API / "models") as response:
        document = await response.json()
    cards = document.get("data") if isinstance(document, dict) else None
    for card in cards if isinstance(cards, list) else []:
        if isinstance(card, dict) and isinstance(model := card.get("id"), str):
            return model
    raise AnswerError(
        f"the ollad at {shown(url)} has no model: does 'ollad top' show a healthy endpoint?"
    )


async def _converse(
    session: aiohttp.ClientSession, url: URL, body: Mapping[str, Any], answer: Answer
) -> int:
    """Print the stream and then the figures, also when it breaks off.

    Raises:
        Exception: one of ``FAILURES``, if there was no stream or it carried an error.
    """
    cut = f"it ended without {_DONE}"
    try:
        await _print_stream(session, url, body, answer)
    except AnswerError:
        raise
    except FAILURES as error:
        if answer.events == 0:
            raise
        cut, _ = explain(error, url)
    finally:
        if answer.events:
            lines = "\n".join(answer.report(str(body["model"])))
            sys.stdout.write(f"\n\n{lines}\n")
            sys.stdout.flush()
    if answer.done:
        return EX_OK
    sys.stderr.write(f"ollad probe: the stream was cut: {cut}\n")
    return EX_FAILED


async def _print_stream(
    session: aiohttp.ClientSession, url: URL, body: Mapping[str, Any], answer: Answer
) -> None:
    answer.sent = time.monotonic()
    stream = read_stream(session, url / _API / "chat/completions", method="POST", json=body)
    async with aclosing(stream), asyncio.timeout(None) as patience:
        async for event in stream:
            sys.stdout.write(_visible(answer.take(event.data, time.monotonic())))
            sys.stdout.flush()
            if answer.done:
                patience.reschedule(asyncio.get_running_loop().time() + _LAST_WORDS)
