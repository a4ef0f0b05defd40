"""Whatever a backend may answer, to a running ollad."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ollad.errors import OUR_MISTAKE
from tests.fuzz.answers import read_answers
from tests.fuzz.serving import open_rig
from tests.fuzz.targets.headers import NEVER_RETURNED
from tests.wire.fake_sglang import reply
from tests.wire.relay.replies import OPAQUE, post

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fuzz.serving import Rig
    from tests.wire.fake_sglang import Exchange, Script

__all__ = ["open_replies"]

_PATHS: Final = (OPAQUE, "/v1/chat/completions", "/generate")
_GOOD: Final = b'{"tokens":[1]}'
_CLOSE: Final = "Connection: close\r\n"


@contextmanager
def open_replies() -> Iterator[Callable[[bytes], None]]:
    """A target of two bytes that say how, and those that a backend answers."""
    with open_rig() as rig:
        yield lambda data: rig.run(_judge(rig, data))


async def _judge(rig: Rig, data: bytes) -> None:
    rig.clear()
    how, at, raw = (*data[:2], data[2:]) if len(data) > 1 else (0, 0, b"")
    path = _PATHS[how % len(_PATHS)]
    rig.fake.scripts[path] = [_sending(raw, at, close=how >= 128), reply(_GOOD)]
    body = b'{"model":"tiny","stream":true}' if how & 64 else b'{"model":"tiny"}'
    received, closed = await rig.exchange(post(path, body=body))
    for answer in read_answers(received, closed=closed):
        # a backend's own 500 goes on as any other reply
        assert OUR_MISTAKE.encode() not in answer.body, answer
        own = {"transfer-encoding", "connection", "x-request-id", "trailer"}
        assert not NEVER_RETURNED - own & set(answer.headers)
        assert answer.whole or raw
    begun = bool(received)
    log = rig.log.getvalue()
    assert b"Traceback" not in log, log
    assert b"unexpected" not in log, log
    first = rig.fake.requests[0].writer
    again, _ = await rig.exchange(post(path, body=b'{"model":"tiny"}', headers=_CLOSE))
    (answer,) = read_answers(again, closed=True)
    if answer.status != 503:  # which a backend that said it is busy may earn
        assert answer.status == 200, answer
        assert b'"tokens":[1]' in answer.body
    if not begun:
        assert all(one.writer is not first for one in rig.fake.requests[1:])


def _sending(raw: bytes, at: int, *, close: bool) -> Script:
    async def script(exchange: Exchange) -> None:
        pieces = (raw[:at], raw[at:]) if 0 < at < len(raw) else (raw,)
        for piece in pieces:
            await exchange.send(piece)
            await asyncio.sleep(0)
        if close:
            exchange.writer.close()

    return script
