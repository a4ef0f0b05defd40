"""What clients, backends and operators are told (13 to 20)."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from tests.wire.black_box.scripts import CHAT, ROUTE, STREAM
from tests.wire.conftest import PREFIX
from tests.wire.fake_sglang import reply, sse
from tests.wire.process import configuration, launched
from tests.wire.raw import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang

GOOD = reply({"choices": []})
MODELS = f"{PREFIX}/v1/models"


async def model_list(ollad: Running) -> bytes:
    response, body = await ollad.get(MODELS)
    assert response.status == 200
    return body


async def summed(ollad: Running, name: str, **labels: str) -> float:
    """All samples of one of ollad's metrics that have these labels, together."""
    _, body = await ollad.get("/metrics")
    return sum(
        sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def test_13_models_keep_their_cards_order_and_creation_time(
    fake: FakeSGLang, ollad: Running
) -> None:
    [card] = json.loads(await model_list(ollad))["data"]
    assert (card["max_model_len"], card["owned_by"]) == (8192, "sglang")
    fake.cards += [{**fake.cards[0], "id": name} for name in ("zeta", "alpha")]
    await until(lambda: bool(ollad.gateway.runtime.pool.serving("zeta")))
    first = await model_list(ollad)
    cards = json.loads(first)["data"]
    assert [card["id"] for card in cards] == ["alpha", "tiny", "zeta"]
    fake.cards.reverse()
    for each in fake.cards:
        each["created"] += 60
    probed = fake.probes["/v1/models"]
    await until(lambda: fake.probes["/v1/models"] > probed + 1)
    again = json.loads(await model_list(ollad))["data"]
    assert [(card["id"], card["created"]) for card in again] == [
        (card["id"], card["created"]) for card in cards
    ]


async def test_14_a_model_that_is_served_no_more_is_listed_no_more(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.cards.append({**fake.cards[0], "id": "passing"})
    await until(lambda: bool(ollad.gateway.runtime.pool.serving("passing")))
    assert b"passing" in await model_list(ollad)
    del fake.cards[-1]
    await until(lambda: not ollad.gateway.runtime.pool.serving("passing"))
    assert b"passing" not in await model_list(ollad)


async def test_15_the_backend_gets_the_request_id_that_the_client_gets(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[ROUTE] = GOOD
    response, _ = await ollad.post(ROUTE, CHAT)
    assert fake.requests[0].header("X-Olla-Request-ID") == response.headers["X-Olla-Request-ID"]


async def test_16_a_client_cannot_say_that_it_is_another(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[ROUTE] = GOOD
    await ollad.post(ROUTE, CHAT, headers={"X-Forwarded-For": "1.2.3.4"})
    forwarded = fake.requests[0].header("X-Forwarded-For")
    assert forwarded is not None
    assert forwarded.split(", ")[-1] == "127.0.0.1"


async def test_17_nobody_flushes_the_cache_from_outside(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts["/flush_cache"] = reply(b"flushed")
    response, _ = await ollad.post("/flush_cache", {})
    assert response.status in (403, 404)
    assert fake.requests == []


async def test_18_one_request_is_counted_once(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[ROUTE] = GOOD
    await ollad.post(ROUTE, CHAT)
    assert await summed(ollad, "ollad_requests_total", family="chat") == 1
    assert await summed(ollad, "ollad_upstream_attempts_total") == 1


async def test_19_the_tokens_of_a_stream_are_counted(fake: FakeSGLang, ollad: Running) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    fake.scripts[ROUTE] = sse({"choices": []}, {"choices": [], "usage": usage})
    await ollad.post(ROUTE, {**STREAM, "stream_options": {"include_usage": True}})
    assert await summed(ollad, "ollad_tokens_total") == 14


async def test_20_a_misspelt_key_keeps_the_daemon_from_starting_and_is_named(
    fake: FakeSGLang, tmp_path: Path
) -> None:
    config = configuration(tmp_path, fake.url, proxy={"idle_timout": "2s"})
    async with launched(config) as ollad:
        assert await ollad.process.wait() == 78
        complaint = await asyncio.to_thread(ollad.log.read_text)
    assert f"{config}:" in complaint
    assert "proxy.idle_timout: unknown key, did you mean 'idle_timeout'?" in complaint
