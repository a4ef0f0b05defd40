"""A model nobody is known to serve: backends are asked once more before it is called unknown."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.wire.conftest import endpoint, running
from tests.wire.fake_sglang import FakeSGLang, serving
from tests.wire.raw import until
from tests.wire.test_model_choice import CHAT, adapter, answering, send

SELDOM: dict[str, Any] = {"check_interval": 600.0}
LISTS = "/v1/models"


def naming(model: str) -> bytes:
    return json.dumps({"model": model, "messages": []}).encode()


async def test_an_adapter_that_was_loaded_a_moment_ago_is_found_at_once() -> None:
    fake = answering("a/one")
    async with serving(fake), running(endpoint(fake, **SELDOM)) as ollad:
        fake.cards.append(adapter("poet", "a/one"))
        for name in ("poet", "a/one:poet"):
            response, _ = await send(ollad, naming(name))
            assert response.status == 200, name
        response, _ = await ollad.get("/olla/sglang/v1/models")
        assert "poet" in await response.text()
    assert fake.probes[LISTS] == 2


async def test_every_item_of_a_batch_finds_such_a_model() -> None:
    fake = answering("a/one")
    async with serving(fake), running(endpoint(fake, **SELDOM)) as ollad:
        fake.cards.append(adapter("poet", "a/one"))
        body = {"requests": [{"text": "x", "model": "a/one"}, {"text": "y", "model": "poet"}]}
        response, _ = await ollad.post("/batch", body)
        assert response.status == 200


async def test_all_who_ask_at_once_share_one_look() -> None:
    one, two = answering("a/one"), answering("b/two")
    async with (
        serving(one, two),
        running(endpoint(one, **SELDOM), endpoint(two, "two", **SELDOM)) as ollad,
    ):
        replies = await asyncio.gather(*(send(ollad, naming(f"x{n}")) for n in range(40)))
        assert {response.status for response, _ in replies} == {404}
        assert all("a/one, b/two" in document["error"]["message"] for _, document in replies)
        assert (one.probes[LISTS], two.probes[LISTS]) == (2, 2)
        # nor is there another look right afterwards
        response, _ = await send(ollad, naming("x"))
        assert response.status == 404
        assert (one.probes[LISTS], two.probes[LISTS]) == (2, 2)
    assert one.requests == two.requests == []


async def test_a_backend_that_does_not_say_delays_the_answer_no_longer_than_a_probe() -> None:
    mute, other = answering("a/one"), answering("b/two")
    async with (
        serving(mute, other),
        running(
            endpoint(mute, **SELDOM, check_timeout=0.2), endpoint(other, "two", **SELDOM)
        ) as ollad,
    ):
        mute.deaf.add(LISTS)
        other.cards.append(adapter("poet", "b/two"))
        response, _ = await send(ollad, naming("poet"))
        assert response.status == 200
        response, document = await send(ollad, naming("x"))
        assert response.status == 404
        # what was not said is not taken for gone
        assert "a/one" in document["error"]["message"]
        assert ollad.gateway.runtime.pool.named("one").snapshot.failures == 0


async def test_a_round_that_had_asked_before_does_not_take_back_what_was_found_since() -> None:
    fake = answering("a/one")
    async with serving(fake), running(endpoint(fake, check_interval=0.2)) as ollad:
        held, hold = asyncio.Event(), asyncio.Event()
        figures = fake.probe_reply("/metrics")
        assert figures is not None

        async def late(exchange: Any) -> None:
            held.set()
            await hold.wait()
            await figures(exchange)

        fake.probes.clear()
        fake.scripts["/metrics"] = late
        await held.wait()
        await until(lambda: fake.probes[LISTS] > 0)
        fake.cards.append(adapter("poet", "a/one"))
        response, _ = await send(ollad, naming("poet"))
        assert response.status == 200
        backend = ollad.gateway.runtime.pool.named("one")
        checked = backend.snapshot.checked
        hold.set()
        await until(lambda: backend.snapshot.checked != checked)
        assert backend.serves("poet")


async def test_a_client_that_leaves_does_not_end_the_look_for_others() -> None:
    fake = answering("a/one")
    async with serving(fake), running(endpoint(fake, **SELDOM)) as ollad:
        hold = asyncio.Event()
        said = fake.probe_reply(LISTS)
        assert said is not None

        async def late(exchange: Any) -> None:
            await hold.wait()
            fake.cards.append(adapter("poet", "a/one"))
            again = fake.probe_reply(LISTS)
            assert again is not None
            await again(exchange)

        fake.scripts[LISTS] = late
        first = asyncio.create_task(send(ollad, naming("poet")))
        second = asyncio.create_task(send(ollad, naming("poet")))
        await until(lambda: bool(fake.requests))
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        hold.set()
        response, _ = await second
        assert response.status == 200
        assert len([one for one in fake.requests if one.path == LISTS]) == 1
        assert fake.requests[-1].path == CHAT


async def test_a_daemon_that_ends_does_not_wait_for_a_look() -> None:
    fake = FakeSGLang(("a/one",))
    async with serving(fake):
        async with running(endpoint(fake, **SELDOM, check_timeout=60.0)) as ollad:
            fake.deaf.add(LISTS)
            asking = asyncio.create_task(send(ollad, naming("x")))
            await until(lambda: bool(fake.requests))
        await asyncio.wait((asking,), timeout=10)
        assert asking.done()
        asking.exception()
