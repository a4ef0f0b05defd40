"""Watching a stream of events."""

from __future__ import annotations

from ollad.sglang.events import StreamScanner, error_event, overloaded
from tests.fuzz.choices import Choices

__all__ = ["check_events"]

KINDS = ("openai", "generate", "responses", "messages")


def check_events(data: bytes) -> None:
    """What is seen of a stream does not depend on how it was cut into chunks."""
    choices = Choices(data)
    step = choices.number(64) + 1
    tail = (16, 100, 5000, 64 * 1024)[choices.number(4)]
    stream = choices.rest()
    error_event(stream)
    overloaded(stream)
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    assert _seen(pieces, tail) == _seen([stream], tail)


def _seen(pieces: list[bytes], tail: int) -> tuple[object, ...]:
    scanner = StreamScanner(tail)
    for piece in pieces:
        scanner.feed(piece)
    return (
        scanner.first_event,
        scanner.last_document(),
        scanner.generate_text(),
        *(scanner.final_usage(kind) for kind in KINDS),
    )
