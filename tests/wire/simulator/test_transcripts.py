"""Every exchange the simulator claims to speak, held against what a real SGLang 0.5.23 said.

The same status line, the same headers in the same order and case, the same framing, and the same
JSON field by field: keys, types, and values wherever they do not depend on model and moment.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.simulator.exchange import (
    DATA,
    Reply,
    address,
    ask,
    parse,
    request,
    sequence,
    shape,
    until,
    without_inputs,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ollad.simulator.server import SimulatedServer
    from tests.wire.simulator.conftest import Start

NOT_CLAIMED = {
    "get_list_external_corpora, classify, encode, embedding_encode, rerank, score, "
    "configure_logging": (
        "routes of other kinds of models and of operators, which no proxy forwards"
    ),
    "get_api_tags, ollama_chat": "Ollama's API",
    "messages, messages_stream, apikey_xapikey_messages": "Anthropic's API",
    "responses, responses_stream": "the Responses API",
    "session_*": "sessions: /open_session, /close_session, session_params",
    "chat_logprobs, chat_stream_logprobs, completions_echo_logprobs, generate_logprob": (
        "there are no probabilities behind word salad"
    ),
    "chat_json_schema, chat_tools_*, tools_*": "no grammar, so no tool calls and no JSON by schema",
    "plain_chat, plain_chat_again, plain_chat_stream_usage, plain_tools*": "a reasoning parser",
    "plain_generate_stream_incremental": "--incremental-streaming-output",
    "bad_http_garbage, bad_http_no_host": "aiohttp's words for what is not HTTP",
    "kill_*, embedding_chat_kills_it": "what a dying process sends: see --fail-mode",
    "huge_header, cut_*, after_cut_*, disconnect_*, queue_0 to queue_2": (
        "nothing to compare in one reply: behaviour, which test_behaviour.py has"
    ),
    "sigterm_stream, sigterm_nonstream": "likewise",
    "accept_gzip_metrics, get_metrics_, metrics_end, chat_stream_big, get_get_server_info, "
    "generate_after_flush, dup_rid_first, apikey_nokey_metrics, queue_full_metrics, "
    "metrics_after_aborts": ("the same as others that are compared"),
}
"""Exchanges that were recorded and are not compared, and why."""

HTTP_1_0 = {"http10_models", "http10_chat_stream"}
"""Here aiohttp's status line says HTTP/1.0 where uvicorn's says HTTP/1.1."""

OTHER_WORDS = {
    "err_bad_role",
    "err_invalid_json_generate",
    "err_generate_text_number",
    "generate_text_plain",
}
"""Errors of parsers of whose wording only the beginning is the same."""

ENDS_BY_CHANCE = {
    "chat_default_max_tokens",
    "chat_stop",
    "chat_stop_eos",
    "generate_no_params",
    "generate_input_ids",
}
"""Replies whose end depends on what the model happens to say."""

WITH_REQUEST = sorted(path.stem for path in DATA.glob("*.req"))


def recorded(name: str) -> Reply:
    return parse((DATA / f"{name}.raw").read_bytes())


def compare(real: Reply, ours: Reply, name: str = "") -> None:
    """Assert that two replies say the same."""
    if name not in HTTP_1_0:
        assert ours.status == real.status
    assert [key for key, _ in ours.headers] == [key for key, _ in real.headers]
    settled = {"date", "content-length", "location"}
    assert [item for item in ours.headers if item[0] not in settled] == [
        item for item in real.headers if item[0] not in settled
    ]
    assert (ours.chunks is None) == (real.chunks is None)
    kind = real.header("content-type") or ""
    if kind.startswith("text/event-stream"):
        for chunk in ours.chunks or ():
            assert chunk.startswith(b"data: ")
            assert chunk.count(b"\n\n") == 1
            assert chunk.endswith(b"\n\n")
        compare_events(sequence(ours.events), sequence(real.events))
    elif kind == "application/json" and real.body:
        compare_json(real.json, ours.json, name)
    elif "version=" not in kind:
        assert ours.body == real.body


def compare_events(ours: list[Any], real: list[Any]) -> None:
    """The same, but for events amid those of ``/generate``: how many share one is chance."""
    if len(ours) < len(real):
        native = [isinstance(event, dict) and "meta_info" in event for event in real]
        places = [event.get("index") if isinstance(event, dict) else None for event in real]
        between = {
            number
            for number in range(1, len(real) - 1)
            if all(native[number - 1 : number + 2])
            and places[number - 1] == places[number] == places[number + 1]
        }
        real = [event for number, event in enumerate(real) if number not in between]
        ours = [event for event in ours if event in real]
    assert ours == real


def compare_json(real: Any, ours: Any, name: str) -> None:
    one, other = shape(real), shape(ours)
    if name in OTHER_WORDS:
        for side in (one, other):
            side["message"] = side["message"].partition("\n")[0].lstrip("N ")
            side["message"] = side["message"].replace("errors", "error")
    elif isinstance(one, dict) and isinstance(one.get("message"), str):
        one["message"], other["message"] = map(without_inputs, (one["message"], other["message"]))
    if name in ENDS_BY_CHANCE:
        one, other = keys(real), keys(ours)
    assert other == one


def keys(value: Any) -> Any:
    """Only the keys of a reply."""
    by_chance = {"finish_reason", "decode_throughput"}
    if isinstance(value, dict):
        return {name: keys(item) for name, item in value.items() if name not in by_chance}
    if isinstance(value, list):
        return [keys(item) for item in value if isinstance(item, dict)]
    return None


@pytest.mark.parametrize("name", WITH_REQUEST)
async def test_the_simulator_says_what_the_real_server_said(start: Start, name: str) -> None:
    raw = (DATA / f"{name}.req").read_bytes()
    real = recorded(name)
    server = await start(context_length=64 if "too_long" in name else 8192)
    if re.search(rb'"cached_tokens":[1-9]', real.body):
        await ask(server, raw)  # as in the recording, somebody asked before
    compare(real, await ask(server, raw), name)


def test_every_recording_is_compared() -> None:
    source = Path(__file__).read_text()
    alone = {path.stem for path in DATA.iterdir()} - {*WITH_REQUEST, "README"}
    assert {name for name in alone if f'"{name}' not in source} == set()


async def test_metrics_have_the_names_types_and_labels_of_the_real_ones(start: Start) -> None:
    server = await start()
    chat = {"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]}
    for stream in (False, True, True):
        body = {**chat, "stream": stream}
        await ask(server, request("POST", "/v1/chat/completions", body))
    await ask(server, request("GET", "/v1/models"))
    assert server.service is not None
    server.service.statistics.aborted = 1
    for name, accept in (
        ("get_metrics", "*/*"),
        ("metrics_openmetrics", "application/openmetrics-text; version=1.0.0"),
    ):
        real = recorded(name)
        ours = await ask(server, request("GET", "/metrics", Accept=accept))
        compare(real, ours)
        assert len(ours.chunks or ()) == 1
        missing = series(real.body) ^ series(ours.body)
        if name == "metrics_openmetrics":  # nothing had been aborted when it was recorded
            missing = {line for line in missing if "aborted" not in line}
        assert not missing


def series(page: bytes) -> set[str]:
    """The lines of a page without values; of the engine's own routes only one, of buckets all."""
    lines = set()
    for line in page.decode().splitlines():
        text = line if line.startswith("#") else line.rpartition(" ")[0]
        if 'endpoint="' not in text or '"/v1/models",method="GET"' in text:
            lines.add(text)
    return lines


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("apikey_badkey_models", request("GET", "/v1/models", Authorization="Bearer no")),
        ("apikey_key_models", request("GET", "/v1/models", Authorization="Bearer secret")),
        ("apikey_nokey_models", request("GET", "/v1/models")),
        ("apikey_nokey_health", request("GET", "/health")),
        ("apikey_nokey_options", request("OPTIONS", "/v1/models")),
        ("apikey_nokey_server_info", request("GET", "/server_info")),
        ("apikey_nokey_unknown", request("GET", "/nothing")),
        ("apikey_nokey_chat", request("POST", "/v1/chat/completions", {"messages": []})),
        ("apikey_nokey_chat_stream", request("POST", "/v1/chat/completions", {"stream": True})),
        (
            "apikey_key_chat",
            request(
                "POST",
                "/v1/chat/completions",
                {
                    "model": "tiny-llama",
                    "max_tokens": 2,
                    "messages": [{"role": "user", "content": "Hi"}],
                },
                Authorization="Bearer secret",
            ),
        ),
    ],
)
async def test_a_server_with_a_key_says_what_the_real_one_said(
    start: Start, name: str, raw: bytes
) -> None:
    compare(recorded(name), await ask(await start(api_key="secret"), raw))


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("embedding_embeddings", {"input": "Hello world"}),
        ("embedding_embeddings_list", {"input": ["Hello world", "The apple is"]}),
        ("embedding_embeddings_base64", {"input": "Hello", "encoding_format": "base64"}),
        ("embedding_health", "/health"),
        ("embedding_model_info", "/model_info"),
        ("embedding_models", "/v1/models"),
    ],
)
async def test_an_embedding_server_says_what_the_real_one_said(
    start: Start, name: str, raw: str | dict[str, Any]
) -> None:
    server = await start(embedding=True, engine={"caching": False})
    asked = (
        request("GET", raw)
        if isinstance(raw, str)
        else request("POST", "/v1/embeddings", {"model": "tiny-llama", **raw})
    )
    real, ours = recorded(name), await ask(server, asked)
    if "embeddings" in name:
        # The path of the model is what the real one calls the model here.
        real = Reply(real.status, real.headers, None, real.body.replace(b"/srv/sglang1/", b""))
    compare(real, ours)


async def test_a_plain_server_says_what_the_real_one_said(start: Start) -> None:
    server = await start(metrics=False, cache_report=False)
    body = {"text": "Hello", "sampling_params": {"max_new_tokens": 5, "temperature": 0}}
    await ask(server, request("POST", "/generate", {**body, "text": "Hello world"}))
    again = await ask(server, request("POST", "/generate", {**body, "text": "Hello world"}))
    compare(recorded("plain_generate_again"), again)
    compare(recorded("plain_metrics"), await ask(server, request("GET", "/metrics")))
    compare(recorded("plain_loads"), await ask(server, request("GET", "/v1/loads")))


LONG = {"text": "Hello", "sampling_params": {"max_new_tokens": 4000, "ignore_eos": True}}
LONG_CHAT = {
    "model": "tiny-llama",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 4000,
    "ignore_eos": True,
}


async def under_way(
    server: SimulatedServer, raw: bytes, during: Callable[[], Awaitable[None]], tokens: int = 0
) -> Reply:
    """Do something while a request is answered that would take long."""
    service = server.service
    assert service is not None
    known = len(service.flying)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ask(server, raw))
        await until(lambda: len(service.flying) > known)
        flying = tuple(service.flying.values())[-1]
        await until(lambda: service.engine.generated(flying, service.driver.now()) >= tokens)
        await during()
    return task.result()


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("queue_full_chat", request("POST", "/v1/chat/completions", LONG_CHAT)),
        (
            "queue_full_chat_stream",
            request("POST", "/v1/chat/completions", {**LONG_CHAT, "stream": True}),
        ),
        ("queue_full_generate", request("POST", "/generate", LONG)),
        ("queue_full_generate_stream", request("POST", "/generate", {**LONG, "stream": True})),
        ("queue_full_health", request("GET", "/health")),
        ("queue_full_loads", request("GET", "/v1/loads")),
    ],
)
async def test_a_full_server_says_what_the_real_one_said(
    start: Start, name: str, raw: bytes
) -> None:
    server = await start(engine={"max_running": 1, "max_queued": 1})
    service = server.service
    assert service is not None

    async def when_full() -> None:
        async def ask_and_free() -> None:
            compare(recorded(name), await ask(server, raw))
            service.abort("")

        await under_way(server, request("POST", "/generate", LONG), ask_and_free)

    await under_way(server, request("POST", "/generate", LONG), when_full, tokens=1)


async def test_an_rid_that_is_under_way_is_refused_as_the_real_server_did(start: Start) -> None:
    server = await start()
    raw = request("POST", "/generate", {**LONG, "rid": "same"})

    async def again() -> None:
        compare(recorded("dup_rid_inflight"), await ask(server, raw))
        await ask(server, request("POST", "/abort_request", {"rid": "same"}))

    await under_way(server, raw, again)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        (
            "abort_generate_stream",
            request("POST", "/generate", {**LONG, "rid": "to-abort", "stream": True}),
        ),
        (
            "abort_chat_stream",
            request("POST", "/v1/chat/completions", {**LONG_CHAT, "rid": "to-a", "stream": True}),
        ),
        (
            "abort_chat_nonstream",
            request("POST", "/v1/chat/completions", {**LONG_CHAT, "rid": "to-abort-3"}),
        ),
    ],
)
async def test_an_aborted_request_ends_as_with_the_real_server(
    start: Start, name: str, raw: bytes
) -> None:
    server = await start()
    body = LONG_CHAT if "chat" in name else LONG
    path = "/v1/chat/completions" if "chat" in name else "/generate"
    short = {"max_tokens": 1, "sampling_params": {"max_new_tokens": 1}}
    if name == "abort_chat_nonstream":  # as in the recording, somebody asked before
        await ask(server, request("POST", path, {**body, **short}))

    async def abort() -> None:
        # By a prefix of the rid.
        reply = await ask(server, request("POST", "/abort_request", {"rid": "to-"}))
        compare(recorded("abort_call"), reply)

    ours = await under_way(server, raw, abort, tokens=5)
    if name == "abort_chat_nonstream":
        compare(recorded(name), ours)
        return
    tail = (DATA / f"{name}.tail").read_bytes().partition(b"\n\n")[0]
    assert shape(ours.events[-2]) == shape(json.loads(tail.removeprefix(b"data: ")))
    assert ours.events[-1] == "[DONE]"


async def test_a_starting_server_says_what_the_real_one_said(start: Start) -> None:
    server = await start(startup_seconds=3600)
    compare(recorded("startup_health_503"), await ask(server, request("GET", "/health")))
    compare(recorded("sigterm_models_after"), await ask(server, request("GET", "/v1/models")))


async def test_a_draining_server_says_what_the_real_one_said(start: Start) -> None:
    server = await start()
    assert server.service is not None
    server.service.drain()
    compare(recorded("sigterm_health_after"), await ask(server, request("GET", "/health")))
    compare(recorded("sigterm_models_after"), await ask(server, request("GET", "/v1/models")))
    chat = request("POST", "/v1/chat/completions", {**LONG_CHAT, "max_tokens": 2})
    compare(recorded("sigterm_new_chat_after"), await ask(server, chat))


async def test_pipelined_requests_are_answered_one_after_the_other(start: Start) -> None:
    pipelined = (DATA / "pipelined.raw").read_bytes()
    first = pipelined[: pipelined.index(b"HTTP/1.1", 9)]
    server = await start()
    reader, writer = await asyncio.open_connection(*address(server).split(":"))
    writer.write(request("GET", "/v1/models") * 2)
    for _ in range(2):
        ours = await reader.readexactly(len(first))
        compare(parse(first), parse(ours))
    writer.close()
    await writer.wait_closed()
