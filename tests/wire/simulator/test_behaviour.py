"""What the simulator does that cannot be read off one reply."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from ollad.simulator.options import FailMode
from tests.wire.simulator.exchange import address, ask, exchange, request, until

if TYPE_CHECKING:
    from pathlib import Path

    from ollad.simulator.server import SimulatedServer
    from ollad.simulator.service import Service
    from tests.wire.simulator.conftest import Start

CHAT = "/v1/chat/completions"


def chat(text: str = "Hello", **changes: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **changes}


def service_of(server: SimulatedServer) -> Service:
    assert server.service is not None
    return server.service


async def send(server: SimulatedServer, raw: bytes) -> asyncio.StreamWriter:
    """Send a request and do not read the answer."""
    _, writer = await asyncio.open_connection(*address(server).split(":"))
    writer.write(raw)
    await writer.drain()
    return writer


async def test_a_stream_whose_client_goes_is_aborted_at_once(start: Start) -> None:
    service = service_of(server := await start())
    writer = await send(
        server, request("POST", CHAT, chat(max_tokens=4000, ignore_eos=True, stream=True))
    )
    await until(lambda: bool(service.engine.decoding))
    writer.close()
    await until(lambda: service.engine.idle)
    assert service.statistics.aborted == 1
    assert not service.flying


async def test_a_plain_request_whose_client_goes_is_aborted_at_the_next_poll(start: Start) -> None:
    # Four engine seconds: 40 ms here.
    server = await start(time_scale=100.0, engine={"tokens_per_second": 1.0})
    service = service_of(server)
    writer = await send(server, request("POST", CHAT, chat(max_tokens=400, ignore_eos=True)))
    await until(lambda: bool(service.engine.decoding))
    (task,) = service.engine.decoding
    writer.close()
    await until(lambda: service.engine.idle)
    assert task.ended is not None
    assert task.ended - task.arrived > 3
    assert task.generated < 400
    assert service.statistics.aborted == 1


async def test_a_client_that_does_not_read_does_not_slow_the_engine(start: Start) -> None:
    service = service_of(server := await start(engine={"tokens_per_second": 20_000.0}))
    body = chat(max_tokens=8000, ignore_eos=True, stream=True)
    writer = await send(server, request("POST", CHAT, body))
    await until(lambda: service.engine.usage(0).decoded == 8000)
    writer.close()
    await until(lambda: not service.handling)


async def test_an_idle_connection_is_closed_by_the_server(start: Start) -> None:
    server = await start(keep_alive=0.02)
    reader, writer = await asyncio.open_connection(*address(server).split(":"))
    writer.write(request("GET", "/ready"))
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.read() == b""
    writer.close()


async def test_headers_may_be_as_long_as_a_real_server_takes_them(start: Start) -> None:
    raw = request("GET", "/ready", X_Big="a" * 65_000)
    assert (await ask(await start(), raw)).status == "HTTP/1.1 200 OK"


async def test_a_conversation_finds_its_earlier_turns_cached(start: Start) -> None:
    server = await start()
    first = (await ask(server, request("POST", CHAT, chat("Tell me " * 50, max_tokens=40)))).json
    messages = [
        {"role": "user", "content": "Tell me " * 50},
        first["choices"][0]["message"],
        {"role": "user", "content": "And then?"},
    ]
    body = {"model": "m", "messages": messages, "max_tokens": 4}
    second = (await ask(server, request("POST", CHAT, body))).json
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    # All of it but the last token, which was never fed back.
    assert (
        second["usage"]["prompt_tokens_details"]["cached_tokens"]
        >= first["usage"]["total_tokens"] - 1
    )


async def test_uncached_prompts_take_longer_to_their_first_token(start: Start) -> None:
    server = await start(engine={"prefill_rate": 2000.0})
    body = {"text": "word " * 400, "sampling_params": {"max_new_tokens": 1}}
    metas = [
        (await ask(server, request("POST", "/generate", body))).json["meta_info"] for _ in range(2)
    ]
    cold, warm = metas
    assert cold["first_token_latency"] == pytest.approx(cold["prompt_tokens"] / 2000)
    assert warm["cached_tokens"] == warm["prompt_tokens"] - 1
    assert warm["first_token_latency"] == pytest.approx(1 / 2000)


async def test_another_server_with_the_same_seed_says_the_same(start: Start) -> None:
    texts = [
        (await ask(server, request("POST", CHAT, chat(max_tokens=30)))).json["choices"][0]
        for server in (await start(seed=1), await start(seed=1), await start(seed=2))
    ]
    assert texts[0] == texts[1] != texts[2]


async def test_images_count_as_tokens_and_are_cached(start: Start) -> None:
    server = await start(vision=True, engine={"cache_tokens": 20_000})
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 2}
    usages = [(await ask(server, request("POST", CHAT, body))).json["usage"] for _ in range(2)]
    assert usages[0]["prompt_tokens_details"] == {"cached_tokens": 0, "image_tokens": 576}
    assert usages[1]["prompt_tokens_details"]["cached_tokens"] > 576
    info = (await ask(server, request("GET", "/model_info"))).json
    assert info["has_image_understanding"] is True


async def test_health_fails_until_the_server_has_started(start: Start) -> None:
    service = service_of(server := await start(startup_seconds=20.0, time_scale=200.0))
    assert " 503 " in (await ask(server, request("GET", "/ready"))).status
    while " 503 " in (await ask(server, request("GET", "/health"))).status:
        await service.sleep(1)
    assert " 200 " in (await ask(server, request("GET", "/ready"))).status


async def test_health_takes_its_time(start: Start) -> None:
    # It is asked for a whole hour: it cannot have answered by chance.
    server = await start(health_seconds=3600.0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(server, request("GET", "/health")), 0.05)


async def test_the_cache_is_flushed_unless_requests_run(start: Start) -> None:
    service = service_of(server := await start())
    body = {"text": "Hello world", "sampling_params": {"max_new_tokens": 1}}
    await ask(server, request("POST", "/generate", body))
    assert service.engine.cache.size > 0
    assert " 200 " in (await ask(server, request("POST", "/flush_cache"))).status
    assert service.engine.cache.size == 0
    writer = await send(server, request("POST", CHAT, chat(max_tokens=4000, stream=True)))
    await until(lambda: not service.engine.idle)
    assert " 400 " in (await ask(server, request("POST", "/flush_cache"))).status
    writer.close()
    await until(lambda: service.engine.idle)


async def test_the_redirect_keeps_the_query(start: Start) -> None:
    reply = await ask(await start(), request("GET", "/health/?a=b"))
    assert reply.header("location") == "http://x/health?a=b"


@pytest.mark.parametrize("path", ["/v1/loads?include=bogus", "/v1/loads?dp_rank=x"])
async def test_what_v1_loads_does_not_know_it_refuses(start: Start, path: str) -> None:
    status = (await ask(await start(), request("GET", path))).status
    assert (" 500 " if "bogus" in path else " 400 ") in status


async def test_v1_loads_gives_the_sections_asked_for(start: Start) -> None:
    server = await start()
    (rank,) = (await ask(server, request("GET", "/v1/loads?include=core,queues"))).json["loads"]
    assert "queues" in rank
    assert "memory" not in rank
    page = (await ask(server, request("GET", "/v1/loads?format=prometheus"))).body
    assert b'sglang_num_running_reqs{dp_rank="0"} 0\n' in page
    assert (await ask(server, request("GET", "/v1/loads?dp_rank=1"))).json["loads"] == []


async def test_metrics_come_compressed_if_asked_for(start: Start) -> None:
    async with aiohttp.ClientSession() as session:
        url = f"http://{address(await start())}/metrics/anything"
        async with session.get(url, headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            assert "sglang:num_running_reqs" in await response.text()


async def test_tokens_and_text_are_turned_into_each_other(start: Start) -> None:
    server = await start()
    texts = ["Hello world", "Grüße, 世界!"]
    tokens = (await ask(server, request("POST", "/tokenize", {"prompt": texts}))).json["tokens"]
    reply = await ask(server, request("POST", "/detokenize", {"tokens": tokens}))
    assert reply.json["text"] == texts
    assert " 400 " in (await ask(server, request("POST", "/tokenize", {}))).status
    assert " 400 " in (await ask(server, request("POST", "/detokenize", {"tokens": "x"}))).status


async def test_a_share_of_requests_fails_and_the_same_ones_each_time(start: Start) -> None:
    async def statuses() -> list[str]:
        server = await start(fail_rate=0.3, seed=7)
        raw = request("POST", CHAT, chat(max_tokens=1))
        return [(await ask(server, raw)).status for _ in range(40)]

    first = await statuses()
    assert 4 < sum(" 500 " in status for status in first) < 20
    assert first == await statuses()


@pytest.mark.parametrize("mode", [FailMode.RESET, FailMode.TRUNCATE])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failing_reply_breaks_off(start: Start, mode: FailMode, stream: bool) -> None:
    service = service_of(server := await start(fail_rate=1.0, fail_mode=mode))
    raw = request("POST", CHAT, chat(max_tokens=20, ignore_eos=True, stream=stream))
    reader, writer = await asyncio.open_connection(*address(server).split(":"))
    writer.write(raw)
    received = b""
    try:
        while data := await reader.read(65_536):
            received += data
        assert mode is FailMode.TRUNCATE
    except ConnectionResetError:
        assert mode is FailMode.RESET
    writer.close()
    assert not received.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in received
    if mode is FailMode.TRUNCATE and not stream:
        head, _, body = received.partition(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        assert 0 < len(body) < int(length.split()[1])
    await until(lambda: not service.handling)


async def test_a_reply_that_hangs_neither_goes_on_nor_ends(start: Start) -> None:
    service = service_of(server := await start(fail_rate=1.0, fail_mode=FailMode.HANG))
    raw = request("POST", CHAT, chat(max_tokens=20, ignore_eos=True, stream=True))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(exchange(address(server), raw), 0.3)
    await until(lambda: not service.handling)


async def test_every_request_is_logged_when_it_starts_and_when_it_ends(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "requests.jsonl"
    service = service_of(server := await start(log_requests=path))
    body = chat("What is [id:q-17] about? [id:q-18] [id:q-17]", max_tokens=1)
    await ask(server, request("POST", CHAT, body, X_Olla_Request_ID="r-1"))
    await ask(server, request("POST", CHAT, {"messages": []}))
    endless = request(
        "POST", CHAT, chat("[id:gone]", max_tokens=4000, ignore_eos=True, stream=True)
    )
    writer = await send(server, endless)
    await until(lambda: bool(service.engine.decoding))
    writer.close()
    await until(lambda: not service.handling)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line["prompt_ids"], line.get("status")) for line in lines] == [
        ("started", ["q-17", "q-18"], None),
        ("finished", ["q-17", "q-18"], 200),
        ("started", [], None),
        ("finished", [], 400),
        ("started", ["gone"], None),
        ("dropped", ["gone"], 0),
    ]
    assert {line["request_id"] for line in lines} == {"r-1", None}
    assert all(line["server"] == address(server) for line in lines)


async def test_hundreds_of_streams_are_served_at_once(start: Start) -> None:
    server = await start(engine={"max_running": 400, "cache_tokens": 400_000})
    raw = [
        request("POST", CHAT, chat(f"{number}", max_tokens=20, ignore_eos=True, stream=True))
        for number in range(300)
    ]
    replies = await asyncio.gather(*(ask(server, one) for one in raw))
    assert all(reply.events[-1] == "[DONE]" for reply in replies)
    texts = [
        "".join(event["choices"][0]["delta"].get("content", "") for event in reply.events[:-1])
        for reply in replies
    ]
    assert all(len(text.split()) == 20 for text in texts)
