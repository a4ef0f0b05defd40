"""Streams of a chat whose events but for the last ones tell nothing, and are not kept."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from tests.wire.byte_client import connect, post_bytes
from tests.wire.fake_sglang import STREAM_HEAD, chunked
from tests.wire.relay.replies import ask, in_pieces

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang
    from tests.wire.loglines import LogLines

CHAT = "/v1/chat/completions"
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi."}], "stream": True}
USAGE = b'{"prompt_tokens":9,"completion_tokens":60,"prompt_tokens_details":{"cached_tokens":5}}'
END = b"0\r\n\r\n"
EVENTS = [
    *(
        b'data: {"choices":[{"index":0,"delta":{"content":"%d"},"finish_reason":null}]}\n\n' % word
        for word in range(60)
    ),
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"choices":[],"usage":%b}\n\n' % USAGE,
    b"data: [DONE]\n\n",
]


def segments(chance: random.Random, last: str) -> Iterable[bytes]:
    """The stream, one to three events at once; its last chunk with them, apart, or in halves."""
    pieces = [STREAM_HEAD + chunked(EVENTS[0])]
    at = 1
    while at < len(EVENTS):
        size = chance.choice([1, 1, 1, 1, 2, 3])
        pieces.append(b"".join(map(chunked, EVENTS[at : at + size])))
        at += size
    if last == "apart":
        pieces.append(END)
    else:
        pieces[-1] += END
    if last == "in halves":
        pieces[-1:] = [pieces[-1][:-3], pieces[-1][-3:]]
    return pieces


@pytest.mark.parametrize("last", ["with events", "apart", "in halves"])
@pytest.mark.parametrize(
    ("headers", "version", "times"),
    [
        ("", "1.1", 3),
        ("TE: trailers\r\n", "1.1", 3),
        ("Connection: close\r\n", "1.1", 1),
        ("", "1.0", 1),
    ],
)
async def test_all_of_it_arrives_and_its_figures_are_found(
    last: str,
    headers: str,
    version: str,
    times: int,
    fake: FakeSGLang,
    log: LogLines,
    ollad: Running,
) -> None:
    whole = b"".join(EVENTS)
    chance = random.Random(last)
    for _ in range(4):
        fake.scripts[CHAT] = in_pieces(*segments(chance, last))
        async with connect(ollad.port) as client:
            for _ in range(times):
                request = post_bytes(CHAT, BODY, headers=headers, version=version)
                got = await asyncio.wait_for(ask(client.reader, client.writer, request), 5)
                assert (got.whole, got.body) == (True, whole)
            if times == 1:
                assert await asyncio.wait_for(client.reader.read(), 5) == b""
        await asyncio.sleep(0.01)
        line = log.requests()[-1]
        figures = [line[name] for name in ("prompt_tokens", "completion_tokens", "cached_tokens")]
        assert (figures, line["response_bytes"]) == ([9, 60, 5], len(whole))


@pytest.mark.parametrize("route", [CHAT, "/generate"])
async def test_garbage_in_the_place_of_a_chunk_cuts_it(
    route: str, fake: FakeSGLang, log: LogLines, ollad: Running
) -> None:
    begun = STREAM_HEAD + chunked(b'data: {"x":1}\n\n')
    fake.scripts[route] = [
        in_pieces(begun + END),
        in_pieces(begun, chunked(b"data: x\n\n"), b"3\r\nabcX\0", chunked(b"data: y\n\n") + END),
    ]
    async with connect(ollad.port) as client:
        request = post_bytes(route, {"text": "Hi.", **BODY})
        await ask(client.reader, client.writer, request)
        client.writer.write(request)
        rest = await asyncio.wait_for(client.reader.read(), 5)
    assert b"data: x" in rest
    assert b"abc" not in rest
    await asyncio.sleep(0.01)
    assert log.requests()[-1]["error"] == "truncated"
