"""Who gets a request, by what is said in the configuration and by what it was sent before."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import structlog

from ollad.config.schema import Config, Proxy, Routing, Server
from ollad.daemon import Daemon
from tests.wire.conftest import Running, endpoint, running
from tests.wire.fake_sglang import STREAM_HEAD, FakeSGLang, chunked, reply, serving, sse
from tests.wire.generations import Gate, generation
from tests.wire.raw import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.wire.fake_sglang import Exchange

CHAT, GENERATE = "/v1/chat/completions", "/generate"
SELDOM: dict[str, Any] = {"check_interval": 600.0, "check_timeout": 5.0}
ANSWER = "As you wish: " + "all of it, told in one long sentence, " * 30
USAGE = {"prompt_tokens": 500, "completion_tokens": 300, "total_tokens": 800}
WHOLE = {
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}}],
    "usage": USAGE,
}
EVENTS = (
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ANSWER}}]},
    {"choices": [], "usage": USAGE},
)


async def answer(exchange: Exchange) -> None:
    """Answer a chat as it asks to be answered."""
    script = sse(*EVENTS) if exchange.json.get("stream") else reply(WHOLE)
    await script(exchange)


def story(number: int) -> str:
    """A text that has nothing in common with that of another number, not even its beginning."""
    return " ".join(f"{number}:{word}" for word in range(400))


def said(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}


async def served(ollad: Running, body: dict[str, Any], route: str = CHAT) -> str:
    """The backend that answered ``body``."""
    response, _ = await ollad.post(route, body)
    assert response.status == 200
    return response.headers["X-Olla-Endpoint"]


async def books(ollad: Running) -> dict[str, dict[str, Any] | None]:
    """What the status says of the books of each backend."""
    _, body = await ollad.get("/internal/status")
    return {entry["name"]: entry["routing"] for entry in json.loads(body)["endpoints"]}


async def blocks(ollad: Running) -> int:
    return sum(book["index_blocks"] for book in (await books(ollad)).values() if book)


async def idle(ollad: Running) -> None:
    """Nothing is counted any more."""
    pool = ollad.gateway.runtime.pool
    await until(lambda: all(backend.in_flight == 0 for backend in pool))
    for name, book in (await books(ollad)).items():
        assert book is None or book["pending_tokens"] == 0, name
    assert ollad.gateway.dispatcher.placement.room.waiting() == {}


@asynccontextmanager
async def fleet(
    count: int = 2, *, changes: dict[str, Any] | None = None, **sections: Any
) -> AsyncIterator[tuple[Running, list[FakeSGLang]]]:
    """An ollad in front of backends a, b, …, of which nothing is left counted at the end."""
    fakes = [FakeSGLang() for _ in range(count)]
    for fake in fakes:
        fake.scripts[CHAT] = answer
    async with serving(*fakes):
        endpoints = [
            endpoint(fake, name, **{**SELDOM, **(changes or {})})
            for fake, name in zip(fakes, "abcdef", strict=False)
        ]
        async with running(*endpoints, **sections) as ollad:
            yield ollad, fakes
            await idle(ollad)


# --- prefixes


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_conversation_stays_where_it_began(stream: bool) -> None:
    async with fleet(3) as (ollad, _):
        homes = Counter[str]()
        for number in range(12):
            body = said(story(number), stream=stream)
            home = await served(ollad, body)
            homes[home] += 1
            for turn in range(3):
                body["messages"] += [
                    {"role": "assistant", "content": ANSWER},
                    {"role": "user", "content": f"{turn} and then?"},
                ]
                assert await served(ollad, body) == home
        # and not all of them at the same backend
        assert len(homes) > 1


async def test_conversations_stay_where_they_began_while_others_are_under_way() -> None:
    async with fleet(2) as (ollad, _):

        async def talk(number: int) -> set[str]:
            body, found = said(story(number), stream=number % 2 == 0), set()
            for turn in range(4):
                found.add(await served(ollad, body))
                body["messages"].append({"role": "user", "content": f"{turn}?"})
            return found

        for found in await asyncio.gather(*(talk(number) for number in range(8))):
            assert len(found) == 1


async def test_a_whole_answer_is_expected_in_the_cache_and_a_streamed_one_is_not() -> None:
    async with fleet(1) as (ollad, _):
        await served(ollad, said(story(0), stream=True))
        streamed = await blocks(ollad)
        await served(ollad, said(story(1)))
        assert await blocks(ollad) - streamed >= streamed + len(ANSWER) // 128 - 1


async def test_a_generation_that_goes_on_from_a_whole_answer_goes_where_that_was_made() -> None:
    async with fleet(3) as (ollad, fakes):
        for fake in fakes:
            fake.scripts[GENERATE] = reply(generation(ANSWER, prompt_tokens=500))
        for number in range(4):
            # too short to be known again by itself
            home = await served(ollad, {"model": "tiny", "text": f"{number}"}, GENERATE)
            for _ in range(3):
                text = f"{number}{ANSWER} Go on."
                assert await served(ollad, {"model": "tiny", "text": text}, GENERATE) == home


async def test_a_restarted_backend_has_nothing_cached() -> None:
    async with fleet(2, changes={"check_interval": 0.1}) as (ollad, fakes):
        home = await served(ollad, said(story(0)))
        restarted = fakes["ab".index(home)]
        book = (await books(ollad))[home]
        assert book is not None
        assert book["index_blocks"] > 0
        backend = ollad.gateway.runtime.pool.named(home)
        before = backend.snapshot.engine.incarnation
        await restarted.stop()
        await until(lambda: not backend.routable)
        restarted.server_info["startup_time"] = 2.0
        await restarted.start(restarted.port)
        await until(lambda: backend.routable)
        assert backend.snapshot.engine.incarnation != before
        await served(ollad, said(story(1)))
        book = (await books(ollad))[home]
        other = (await books(ollad))["b" if home == "a" else "a"]
        assert book is not None
        assert other is not None
        # story 0 is in no index any more
        assert min(book["index_blocks"], other["index_blocks"]) == 0


async def test_two_models_share_no_prefix() -> None:
    fakes = [FakeSGLang(("tiny", "big")) for _ in range(2)]
    for fake in fakes:
        fake.scripts[CHAT] = answer
    async with (
        serving(*fakes),
        running(*(endpoint(fake, name) for fake, name in zip(fakes, "ab", strict=True))) as ollad,
    ):
        await served(ollad, said(story(0), stream=True))
        one = await blocks(ollad)
        await served(ollad, {**said(story(0), stream=True), "model": "big"})
        assert await blocks(ollad) == 2 * one


async def test_a_disproved_belief_is_shown() -> None:
    async with fleet(1) as (ollad, fakes):
        usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 0}}
        fakes[0].scripts[CHAT] = reply({**WHOLE, "usage": usage})
        for _ in range(2):
            await served(ollad, said(story(0)))
        book = (await books(ollad))["a"]
        assert book is not None
        assert book["index_confidence"] == 0.9


# --- nothing stays counted


async def refuse(exchange: Exchange) -> None:
    await reply(b"full", "503 Busy")(exchange)


async def cut_off(exchange: Exchange) -> None:
    exchange.reset()


async def cut_in_a_stream(exchange: Exchange) -> None:
    await exchange.send(STREAM_HEAD + chunked(b'data: {"choices": []}\n\n'))
    exchange.reset()


async def cut_in_a_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{")
    exchange.writer.close()


async def nonsense(exchange: Exchange) -> None:
    await reply(b"[1, 2", content_type="application/json")(exchange)


async def strange(exchange: Exchange) -> None:
    usage = {"prompt_tokens": "many", "prompt_tokens_details": [1], "completion_tokens": 1e99}
    await reply({"choices": {"0": 1}, "usage": usage})(exchange)


async def silent(exchange: Exchange) -> None:
    await exchange.client_gone.wait()


@pytest.mark.parametrize(
    "script", [refuse, cut_off, cut_in_a_stream, cut_in_a_body, nonsense, strange, silent]
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_nothing_stays_pending_however_a_request_ends(stream: bool, script: Any) -> None:
    async with fleet(2, proxy=Proxy(first_byte_timeout=0.1)) as (ollad, fakes):
        fakes[0].scripts[CHAT] = script
        for number in range(4):
            try:
                await ollad.post(CHAT, said(story(number), stream=stream))
            except aiohttp.ClientPayloadError:
                assert script in (cut_in_a_stream, cut_in_a_body)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_nothing_stays_pending_for_clients_that_go(stream: bool) -> None:
    async with fleet(1) as (ollad, fakes):
        fakes[0].scripts[CHAT] = silent
        posts = [
            asyncio.create_task(ollad.post(CHAT, said(story(number), stream=stream)))
            for number in range(3)
        ]
        await until(lambda: len(fakes[0].requests) == 3)
        book = (await books(ollad))["a"]
        assert book is not None
        assert book["pending_tokens"] > 1000
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)


async def test_a_streams_first_event_ends_its_prefill() -> None:
    async with fleet(1) as (ollad, fakes):
        release = asyncio.Event()

        async def begun(exchange: Exchange) -> None:
            await exchange.send(STREAM_HEAD + chunked(b'data: {"choices": []}\n\n'))
            await release.wait()
            await exchange.send(chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")

        fakes[0].scripts[CHAT] = begun
        post = asyncio.create_task(ollad.post(CHAT, said(story(0), stream=True)))
        backend = ollad.gateway.runtime.pool.named("a")
        placement = ollad.gateway.dispatcher.placement
        await until(lambda: len(fakes[0].requests) == 1)
        await until(lambda: placement.standings()["a"].pending_tokens == 0)
        assert backend.in_flight == 1
        release.set()
        await post


async def test_nothing_stays_pending_of_a_queue() -> None:
    async with fleet(2, changes={"max_concurrent": 1}) as (ollad, fakes):
        gate = Gate()
        for fake in fakes:
            fake.scripts[GENERATE] = gate
        posts = [
            asyncio.create_task(ollad.post(GENERATE, {"model": "tiny", "text": story(number)}))
            for number in range(9)
        ]
        room = ollad.gateway.dispatcher.placement.room
        await until(lambda: gate.waiting == 2 and room.count == 7)
        for post in posts[::2]:
            post.cancel()
        await until(lambda: gate.waiting == 2 and room.count == 2)
        gate.open()
        found = await asyncio.gather(*posts, return_exceptions=True)
        assert sum(isinstance(each, asyncio.CancelledError) for each in found) == 5
        assert {each[0].status for each in found if isinstance(each, tuple)} == {200}


# --- other policies


async def test_round_robin_takes_turns_whatever_is_asked() -> None:
    async with fleet(3, routing=Routing(policy="round-robin")) as (ollad, fakes):
        for _ in range(9):
            await served(ollad, said(story(0)))
        assert [len(fake.requests) for fake in fakes] == [3, 3, 3]
        assert await books(ollad) == {"a": None, "b": None, "c": None}


async def test_least_connections_goes_where_fewest_are() -> None:
    async with fleet(3, routing=Routing(policy="least-connections")) as (ollad, fakes):
        gate = Gate()
        for fake in fakes:
            fake.scripts[GENERATE] = gate
        posts = []
        for number in range(6):
            body = {"model": "tiny", "text": story(0)}
            posts.append(asyncio.create_task(ollad.post(GENERATE, body)))
            await until(lambda number=number: gate.waiting == number + 1)  # type: ignore[misc]
        assert [len(fake.requests) for fake in fakes] == [2, 2, 2]
        gate.open()
        await asyncio.gather(*posts)


async def test_a_lower_priority_is_for_what_the_higher_cannot_take() -> None:
    high, low = FakeSGLang(), FakeSGLang()
    gate = Gate()
    high.scripts[GENERATE] = low.scripts[GENERATE] = gate
    high.load["num_waiting_reqs"] = low.load["num_waiting_reqs"] = 0
    async with (
        serving(high, low),
        running(
            endpoint(high, "high", priority=200, max_concurrent=2, **SELDOM),
            endpoint(low, "low", priority=100, **SELDOM),
            routing=Routing(policy="priority"),
        ) as ollad,
    ):
        posts = []
        for number in range(5):
            body = {"model": "tiny", "text": story(number)}
            posts.append(asyncio.create_task(ollad.post(GENERATE, body)))
            await until(lambda number=number: gate.waiting == number + 1)  # type: ignore[misc]
        assert (len(high.requests), len(low.requests)) == (2, 3)
        gate.open()
        await asyncio.gather(*posts)
        await idle(ollad)


# --- reloads


@dataclass
class Reloadable:
    """An ollad, and what it finds when it reads its configuration."""

    config: Config
    ollad: Running = field(init=False)

    def load(self, _path: str | None) -> Config:
        return self.config

    async def reload(self, **changes: Any) -> None:
        self.config = replace(self.config, **changes)
        assert (await self.ollad.daemon.reload()).accepted


@asynccontextmanager
async def reloadable(*fakes: FakeSGLang) -> AsyncIterator[Reloadable]:
    """An ollad in front of backends a, b, …, of which nothing is left counted at the end."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving(*fakes))
        endpoints = tuple(
            endpoint(fake, name, **SELDOM) for fake, name in zip(fakes, "abcdef", strict=False)
        )
        file = Reloadable(Config(endpoints=endpoints, server=Server(port=0)))
        daemon = Daemon(file.config, structlog.get_logger(), load=file.load)
        await daemon.start()
        stack.push_async_callback(daemon.close)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(f"http://127.0.0.1:{daemon.port}")
        )
        file.ollad = Running(daemon, session, daemon.port)
        yield file
        await idle(file.ollad)


async def test_a_reload_switches_the_policy_and_back_with_requests_under_way() -> None:
    fakes = [FakeSGLang() for _ in range(3)]
    gate = Gate()
    for fake in fakes:
        fake.scripts[CHAT], fake.scripts[GENERATE] = answer, gate
    async with reloadable(*fakes) as file:
        ollad = file.ollad
        await served(ollad, said(story(0)))
        held = asyncio.create_task(ollad.post(GENERATE, {"model": "tiny", "text": story(1)}))
        await until(lambda: gate.waiting == 1)

        await file.reload(routing=Routing(policy="round-robin"))
        found = [await served(ollad, said(story(0))) for _ in range(6)]
        assert Counter(found) == {"a": 2, "b": 2, "c": 2}
        _, body = await ollad.get("/internal/status")
        assert json.loads(body)["routing"] == {"policy": "round-robin"}

        await file.reload(routing=Routing())
        home = await served(ollad, said(story(0)))
        assert {await served(ollad, said(story(0))) for _ in range(4)} == {home}

        gate.open()
        response, _ = await held
        assert response.status == 200


async def test_a_removed_backend_is_forgotten_and_one_that_returns_begins_anew() -> None:
    fakes = [FakeSGLang() for _ in range(2)]
    for fake in fakes:
        fake.scripts[CHAT] = answer
    async with reloadable(*fakes) as file:
        both = file.config.endpoints
        home = await served(file.ollad, said(story(0)))
        await file.reload(endpoints=tuple(each for each in both if each.name != home))
        await file.reload(endpoints=both)
        assert (await books(file.ollad)).get(home) is None
