"""Whatever a client may send, to a running ollad."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.fuzz.answers import read_answers
from tests.fuzz.serving import open_rig
from tests.wire.fake_sglang import reply, sse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.fuzz.answers import Answer
    from tests.fuzz.serving import Rig
    from tests.wire.fake_sglang import Exchange

__all__ = ["SECRET", "open_requests"]

SECRET: Final = b"hunter2-of-a-client"
_CREDENTIAL: Final = re.compile(rb"(?im)^(?:authorization|x-api-key|cookie)[ \t]*:[^\r\n]*$")
_ALIVE: Final = b"GET /internal/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
_EVERY: Final = 50


@contextmanager
def open_requests() -> Iterator[Callable[[bytes], None]]:
    """A target whose first byte says where the rest, sent to ollad, is split in two."""
    with open_rig() as rig:
        rig.fake.scripts |= {
            "/tokenize": reply({"tokens": [1]}),
            "/v1/chat/completions": sse({"choices": []}),
            "/generate": reply({"text": "x", "meta_info": {"prompt_tokens": 1}}),
        }
        count = 0

        def check(data: bytes) -> None:
            nonlocal count
            count += 1
            rig.run(_judge(rig, data, look=count % _EVERY == 0))

        yield check


async def _judge(rig: Rig, data: bytes, *, look: bool) -> None:
    rig.clear()
    at, sent = (data[0], data[1:]) if data else (0, b"")
    pieces = (sent[:at], sent[at:]) if 0 < at < len(sent) else (sent,)
    received, closed = await rig.exchange(*pieces)
    answers = read_answers(received, closed=closed, bodiless=b"HEAD " in sent)
    for answer in answers:
        _judge_answer(answer, sent)
    assert "malformed_http" not in {answer.code for answer in answers[:-1]}
    # an item of a batch is an object, and a request of its own
    assert len(rig.fake.requests) <= sent.count(b"HTTP/1.") + sent.count(b"{")
    assert len(answers) <= sent.count(b"\n") + 1
    for exchange in rig.fake.requests:
        _judge_upstream(exchange, sent)
    _judge_log(rig.log.getvalue(), sent)
    assert rig.fake.connections < 100
    if look:
        alive, ended = await rig.exchange(_ALIVE)
        assert alive.startswith(b"HTTP/1.1 200 ")
        assert ended


def _judge_answer(answer: Answer, sent: bytes) -> None:
    assert answer.status < 500, (answer, sent)
    assert SECRET not in answer.body or not _only_in_credentials(sent)
    assert answer.headers.get("server") in ("ollad", "uvicorn")
    assert "x-olla-request-id" in answer.headers


def _judge_upstream(exchange: Exchange, sent: bytes) -> None:
    """The backend got one well-formed request, made of bytes that the client sent."""
    names = [name.lower() for name, _ in exchange.headers]
    assert names.count("host") == 1
    bodiless = exchange.method in ("GET", "HEAD") and not exchange.body
    assert names.count("content-length") == (not bodiless)
    assert not {"transfer-encoding", "connection", "authorization", "cookie", "te"} & set(names)
    for name, value in exchange.headers:
        assert re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name)
        assert not re.search(r"[\r\n\0]", value)
        assert SECRET.decode() not in value or not _only_in_credentials(sent)
    assert re.fullmatch(r"/[\x21-\x7e]*", exchange.target)
    if b"rid" not in sent and b"\\u" not in sent and b"hunked" not in sent.lower():
        assert exchange.body in sent


def _judge_log(log: bytes, sent: bytes) -> None:
    assert b"Traceback" not in log, log
    assert b"unexpected" not in log or b"unexpected" in sent, log
    assert SECRET not in log or not _only_in_credentials(sent), log


def _only_in_credentials(sent: bytes) -> bool:
    """Whether the secret stands nowhere but in headers that hold one."""
    return SECRET not in _CREDENTIAL.sub(b"", sent.replace(b"\r", b"\n"))
