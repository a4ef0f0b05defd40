"""The access line: one for each request, all that an operator needs, nothing that is secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import structlog

from ollad.config.schema import Logging, Server
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import reply, sse
from tests.wire.loglines import logging_to_memory

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, FakeSGLang
    from tests.wire.loglines import LogLines

CHAT_PATH = "/v1/chat/completions"
PROMPT = "the-prompt-of-the-test"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}]}
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 4,
    "prompt_tokens_details": {"cached_tokens": 5},
}
ANSWER = "the-answer-of-the-test"
WHOLE = {"choices": [{"message": {"content": ANSWER}}], "usage": USAGE}


async def test_a_whole_reply_has_a_line_with_everything(
    fake: FakeSGLang, log: LogLines, ollad: Running
) -> None:
    fake.scripts[CHAT_PATH] = reply(WHOLE)
    response, body = await ollad.post(CHAT_PATH, CHAT)
    (line,) = log.requests()
    assert isinstance(line.pop("timestamp"), str)
    first_byte, total = line.pop("first_byte_ms"), line.pop("total_ms")
    assert 0 <= first_byte <= total
    assert line == {
        "level": "info",
        "event": "request",
        "request_id": response.headers["X-Olla-Request-ID"],
        "client": "127.0.0.1",
        "key": "-",
        "method": "POST",
        "path": PREFIX + CHAT_PATH,
        "family": "chat",
        "model": "tiny",
        "endpoint": "one",
        "status": 200,
        "request_bytes": len(json.dumps(CHAT)),
        "response_bytes": len(body),
        "streamed": False,
        "attempts": 1,
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "cached_tokens": 5,
    }


async def test_a_stream_has_its_line_at_its_end_with_its_figures(
    fake: FakeSGLang, log: LogLines, ollad: Running
) -> None:
    event = {"choices": [{"delta": {"content": ANSWER}}]}
    fake.scripts[CHAT_PATH] = sse(event, event, {"choices": [], "usage": USAGE}, pause=0.02)
    _, body = await ollad.post(CHAT_PATH, {**CHAT, "stream": True})
    (line,) = log.requests()
    assert (line["streamed"], line["status"]) == (True, 200)
    assert line["response_bytes"] == len(body)
    assert (line["prompt_tokens"], line["completion_tokens"], line["cached_tokens"]) == (10, 4, 5)
    assert line["first_byte_ms"] < line["total_ms"]


async def test_each_request_has_exactly_one_line(
    fake: FakeSGLang, log: LogLines, ollad: Running
) -> None:
    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    fake.scripts[CHAT_PATH] = [reply(WHOLE), reply({"no": 1}, "400 Bad Request"), reset]
    fake.scripts["/generate"] = reply({"text": "x", "meta_info": {"id": "1"}})
    ids = [
        (await ollad.post(CHAT_PATH, CHAT))[0],
        (await ollad.post(CHAT_PATH, CHAT))[0],
        (await ollad.post(CHAT_PATH, CHAT))[0],
        (await ollad.post(CHAT_PATH, []))[0],
        (await ollad.post("/generate", {"text": "a"}))[0],
        (await ollad.post("/batch", {"requests": [{"text": "a"}, {"text": "b"}]}))[0],
        (await ollad.get(f"{PREFIX}/health"))[0],
        (await ollad.get("/nothing"))[0],
        (await ollad.get("/metrics"))[0],
        (await ollad.get(PREFIX + CHAT_PATH))[0],
    ]
    logged = [(line["request_id"], line["status"]) for line in log.requests()]
    assert logged == [(r.headers["X-Olla-Request-ID"], r.status) for r in ids]


async def test_errors_say_which_and_faults_of_the_server_side_are_warnings(
    fake: FakeSGLang, log: LogLines, ollad: Running
) -> None:
    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    fake.scripts[CHAT_PATH] = reset
    await ollad.post(CHAT_PATH, CHAT)
    await ollad.post(CHAT_PATH, {**CHAT, "model": "none"})
    broken, unknown = log.requests()
    assert (broken["level"], broken["status"], broken["endpoint"]) == ("warning", 502, "one")
    assert broken["error"]
    assert (unknown["level"], unknown["status"]) == ("info", 404)
    assert unknown["error"] == "model_not_found"
    assert "endpoint" not in unknown


async def test_no_prompt_answer_query_or_secret_is_logged(fake: FakeSGLang) -> None:
    secrets = {
        "Authorization": "Bearer secret-of-client",
        "X-API-Key": "secret-of-client",
        "Cookie": "secret-of-client",
        "X-Anything": "secret-of-client",
    }
    one = endpoint(fake, headers={"Authorization": "Bearer secret-of-endpoint"})
    with logging_to_memory("debug") as log:
        async with running(one) as ollad:
            fake.scripts[CHAT_PATH] = [
                reply(WHOLE, headers={"Set-Cookie": "secret-of-backend"}),
                sse({"choices": [{"delta": {"content": ANSWER}}]}),
                reply({"message": PROMPT}, "400 Bad Request"),
                reply(b"secret-of-backend", "500 Internal Server Error"),
            ]
            for _ in range(4):
                await ollad.post(f"{CHAT_PATH}?q=secret-of-query", CHAT, headers=secrets)
            await ollad.post(f"{CHAT_PATH}?q=secret-of-query", {**CHAT, "stream": 7, "rid": []})
            await ollad.post("/generate", {"text": PROMPT, "image_data": "file:///" + PROMPT})
            await ollad.post("/batch", {"requests": [{"text": PROMPT}]}, headers=secrets)
            await ollad.get(f"{PREFIX}/health?endpoint=secret-of-query", headers=secrets)
    assert len(log.requests()) == 8
    for word in (PROMPT, ANSWER, "secret-of", "backend-secret-key"):
        assert word not in log.text


async def test_a_path_cannot_forge_a_line(log: LogLines, ollad: Running) -> None:
    await ollad.get("/a%0A%7B%22event%22:%22forged%22%7D%1b[31m%E2%80%AE")
    assert {entry["event"] for entry in log.entries()} == {
        "backend changed state",
        "listening",
        "request",
    }
    assert "\x1b" not in log.text


async def test_the_client_is_the_one_trusted_proxies_tell_of(
    fake: FakeSGLang, log: LogLines
) -> None:
    async with running(endpoint(fake), server=Server(trusted_proxies=("127.0.0.1",))) as ollad:
        hops = [("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-For", "203.0.113.9")]
        await ollad.get("/internal/health", headers=hops)
    async with running(endpoint(fake)) as ollad:
        await ollad.get("/internal/health", headers=hops)
    assert [line["client"] for line in log.requests()] == ["203.0.113.9", "127.0.0.1"]


async def test_without_access_lines_the_rest_is_still_logged(
    fake: FakeSGLang, log: LogLines
) -> None:
    async with running(endpoint(fake), logging=Logging(access=False)) as ollad:
        await ollad.get("/internal/health")
        await ollad.get("/nothing")
    assert log.requests() == []
    assert log.entries("listening")


async def test_the_level_hides_lines_below_it(fake: FakeSGLang) -> None:
    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    fake.scripts[CHAT_PATH] = [reply(WHOLE), reset]
    with logging_to_memory("warning") as log:
        async with running(endpoint(fake)) as ollad:
            await ollad.post(CHAT_PATH, CHAT)
            await ollad.post(CHAT_PATH, CHAT)
    assert [line["status"] for line in log.requests()] == [502]
    assert not structlog.is_configured()
