"""Keys of clients, end to end."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from ollad.config.schema import ApiKey, Auth, Routing, Server
from ollad.handlers import ROUTES
from tests.wire.byte_client import until
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, reply, serving, sse
from tests.wire.raw import exchange, request

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.loglines import LogLines

ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789abc"
OPEN = {"/internal/health", "/internal/ready", "/version", "/metrics"}
COMPLETION = {"object": "text_completion", "usage": {"prompt_tokens": 30, "completion_tokens": 12}}


def key(name: str, secret: str, **settings: Any) -> ApiKey:
    return ApiKey(name=name, sha256=hashlib.sha256(secret.encode()).hexdigest(), **settings)


def auth(**alice: Any) -> Auth:
    return Auth(keys=(key("alice", ALICE, **alice), key("bob", BOB)))


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def ask(
    ollad: Running, secret: str, path: str = "/v1/completions", **body: Any
) -> tuple[int, dict[str, Any]]:
    response, answer = await ollad.post(path, {"prompt": "x", **body}, headers=bearer(secret))
    return response.status, json.loads(answer)


async def test_without_a_key_only_what_watches_over_the_service_is_open(fake: FakeSGLang) -> None:
    async with running(endpoint(fake), auth=auth()) as ollad:
        for route in ROUTES:
            method, path = route.methods.split()[0], route.path.replace("{id:.+}", "tiny")
            path = path.partition("{")[0]
            async with ollad.session.request(method, path) as response:
                assert (response.status == 401) is (path not in OPEN), path
                if response.status == 401:
                    assert response.headers["WWW-Authenticate"] == "Bearer"
                    assert (await response.json())["error"]["code"] == "missing_api_key"
                    assert "X-Olla-Request-ID" in response.headers
        odd = ("//version", "/version/", "/metrics%2f", "/internal/%2e%2e/internal/status")
        for path in ("/nowhere", f"{PREFIX}/nowhere", *odd):
            answer = await exchange(ollad.port, request(f"GET {path}"))
            assert answer.startswith(b"HTTP/1.1 401 "), path
    assert fake.requests == []


async def test_a_body_is_not_read_before_the_key_is_known(fake: FakeSGLang) -> None:
    async with running(endpoint(fake), auth=auth()) as ollad:
        head = (
            f"POST {PREFIX}/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            "Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", ollad.port)
        writer.write(head.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()


async def test_a_key_lets_in_and_goes_no_further(fake: FakeSGLang, log: LogLines) -> None:
    fake.scripts["/v1/completions"] = reply(COMPLETION)
    async with running(endpoint(fake), auth=auth()) as ollad:
        for headers in (bearer(ALICE), {"X-API-Key": ALICE}):
            response, _ = await ollad.post("/v1/completions", {"prompt": "x"}, headers=headers)
            assert response.status == 200
        response, _ = await ollad.post("/v1/completions", {}, headers={"X-API-Key": "x" * 20})
        assert response.status == 401
        _, metrics = await ollad.get("/metrics")
    assert len(fake.requests) == 2
    for seen in fake.requests:
        assert not [value for _, value in seen.headers if ALICE in value]
    assert [line["key"] for line in log.requests()] == ["alice", "alice", "-", "-"]
    assert 'ollad_key_requests_total{key="alice"} 2.0' in metrics.decode()
    assert 'ollad_key_tokens_total{key="alice",kind="prompt"} 60.0' in metrics.decode()
    assert 'ollad_key_tokens_total{key="bob",kind="completion"} 0.0' in metrics.decode()
    assert ALICE not in metrics.decode() + log.text


async def test_what_is_meant_for_the_backend_reaches_it_and_a_key_does_not(
    fake: FakeSGLang,
) -> None:
    fake.scripts["/v1/completions"] = reply(COMPLETION)
    async with running(endpoint(fake, forward_authorization=True), auth=auth()) as ollad:
        both = {"X-API-Key": ALICE, "Authorization": "Bearer for-the-backend"}
        for headers in (both, bearer(ALICE), {"X-API-Key": ALICE, **bearer(BOB)}):
            await ollad.post("/v1/completions", {"prompt": "x"}, headers=headers)
    seen = [one.header("Authorization") for one in fake.requests]
    assert seen == ["Bearer for-the-backend", None, None]
    assert not any(one.header("X-API-Key") for one in fake.requests)


async def test_a_key_with_models_knows_of_no_others() -> None:
    fake = FakeSGLang(models=("small", "large", "adapter"))
    fake.cards[2]["parent"] = "large"
    fake.scripts["/v1/completions"] = fake.scripts["/generate"] = reply(COMPLETION)
    aliases = Routing(model_aliases={"s": "small", "l": "large"})
    async with (
        serving(fake),
        running(endpoint(fake), auth=auth(models=("small",)), routing=aliases) as ollad,
    ):
        assert (await ask(ollad, ALICE, model="small"))[0] == 200
        assert (await ask(ollad, ALICE, model="s"))[0] == 200
        assert (await ask(ollad, ALICE))[0] == 200  # the only one there is, for it
        assert fake.requests[-1].json.get("model") in (None, "small")
        for other in ("large", "l", "adapter", "large:adapter", "small:adapter", "nowhere"):
            status, document = await ask(ollad, ALICE, model=other)
            assert (status, document["error"]["code"]) == (403, "model_not_allowed"), other
            assert "Known" not in document["error"]["message"]
        for adapter in ("adapter", ["adapter"], [None, "adapter"]):
            body = {"text": "x", "model": "small", "lora_path": adapter}
            assert (await ask(ollad, ALICE, "/generate", **body))[0] == 403
            item = {"text": "x", "model": "small", "lora_path": adapter}
            assert (await ask(ollad, ALICE, "/batch", requests=[item]))[0] == 403
        item = {"text": "x", "model": "large"}
        assert (await ask(ollad, ALICE, "/batch", model="small", requests=[item]))[0] == 403
        _, listed = await ollad.get(f"{PREFIX}/v1/models", headers=bearer(ALICE))
        assert [card["id"] for card in json.loads(listed)["data"]] == ["s", "small"]
        response, _ = await ollad.get(f"{PREFIX}/v1/models/large", headers=bearer(ALICE))
        assert response.status == 403
        _, listed = await ollad.get(f"{PREFIX}/v1/models", headers=bearer(BOB))
        assert len(json.loads(listed)["data"]) == 5
    assert {one.json.get("model") for one in fake.requests} <= {None, "small"}


async def test_limits_answer_429_and_are_each_keys_own(fake: FakeSGLang) -> None:
    fake.scripts["/v1/completions"] = reply(COMPLETION)
    async with running(endpoint(fake), auth=auth(requests_per_minute=2)) as ollad:
        assert [(await ask(ollad, ALICE))[0] for _ in range(2)] == [200, 200]
        response, answer = await ollad.post("/v1/completions", {}, headers=bearer(ALICE))
        assert response.status == 429
        assert 1 <= int(response.headers["Retry-After"]) <= 30
        assert json.loads(answer)["error"]["code"] == "rate_limit_exceeded"
        assert (await ask(ollad, BOB))[0] == 200
        response, _ = await ollad.get(f"{PREFIX}/v1/models", headers=bearer(ALICE))
        assert response.status == 200  # costs nobody anything
    assert len(fake.requests) == 3


async def test_tokens_are_paid_for_by_whole_replies_and_streams(fake: FakeSGLang) -> None:
    event = {"text": "y", "meta_info": {"prompt_tokens": 90, "completion_tokens": 30, "id": "1"}}
    fake.scripts["/generate"] = [reply(event), sse(event), reply(event)]
    async with running(endpoint(fake), auth=auth(tokens_per_minute=200)) as ollad:
        body = {"text": "x"}
        for stream in (False, True):
            response, _ = await ollad.post(
                "/generate", {**body, "stream": stream}, headers=bearer(ALICE)
            )
            assert response.status == 200
        response, answer = await ollad.post("/generate", body, headers=bearer(ALICE))
        assert response.status == 429
        assert b"tokens_per_minute" in answer
        meter = ollad.gateway.runtime.gate.meters["alice"]
        assert (meter.prompt_tokens, meter.completion_tokens) == (180, 60)


async def test_the_items_of_a_batch_count_one_by_one(fake: FakeSGLang) -> None:
    fake.scripts["/generate"] = reply(
        {"text": "y", "meta_info": {"prompt_tokens": 9, "completion_tokens": 3, "id": "1"}}
    )
    async with running(endpoint(fake), auth=auth(requests_per_minute=5)) as ollad:
        items = [{"text": "x"}] * 6
        assert (await ask(ollad, ALICE, "/batch", requests=items))[0] == 200  # a full bucket
        assert (await ask(ollad, ALICE, "/batch", requests=items[:1]))[0] == 429
        meter = ollad.gateway.runtime.gate.meters["alice"]
        assert (meter.prompt_tokens, meter.active) == (54, 0)


async def test_a_place_is_given_back_however_a_request_ends(fake: FakeSGLang) -> None:
    fake.deaf = {"/v1/completions"}
    fake.scripts["/generate"] = reply({}, "500 Internal Server Error")
    async with running(endpoint(fake), auth=auth(max_concurrent=1)) as ollad:
        meter = ollad.gateway.runtime.gate.meters["alice"]
        hanging = asyncio.create_task(ask(ollad, ALICE))
        await until(lambda: len(fake.requests) == 1)
        assert meter.active == 1
        assert (await ask(ollad, ALICE, "/generate", text="x"))[0] == 429
        hanging.cancel()
        await until(lambda: meter.active == 0)
        assert (await ask(ollad, ALICE, "/generate", text="x"))[0] == 500
        assert (await ask(ollad, ALICE, "/generate", text=5, rid=7))[0] == 400
        assert meter.active == 0


async def test_prompts_are_kept_apart_in_caches_where_a_key_asks_for_it(fake: FakeSGLang) -> None:
    for path in ("/v1/completions", "/generate"):
        fake.scripts[path] = reply({"text": "", "meta_info": {"id": "1"}})
    async with running(endpoint(fake), auth=auth(cache_salt=True)) as ollad:
        await ask(ollad, ALICE)
        await ask(ollad, ALICE, cache_salt="own")
        await ask(ollad, ALICE, "/batch", requests=[{"text": "a"}, {"text": "b"}])
        await ask(ollad, ALICE, "/generate", text="begin", rid="c")
        await ask(ollad, ALICE, "/extend", text="more", rid="c")
        await ask(ollad, BOB, cache_salt="own")
        for path in ("/v1/messages", "/v1/embeddings", "/v1/rerank"):
            status, document = await ask(ollad, ALICE, path)
            assert (status, document["error"]["code"]) == (403, "cache_salt_unsupported")
    plain, own, first, second, begun, more, bob = (one.json for one in fake.requests)
    salts = {one["cache_salt"] for one in (plain, first, second, begun, more)}
    assert len(salts) == 1
    assert own["cache_salt"] not in {"own", *salts}
    assert bob["cache_salt"] == "own"
    assert fake.requests[0].body.endswith(b"}")


async def test_conversations_and_responses_belong_to_their_key(fake: FakeSGLang) -> None:
    fake.scripts["/generate"] = reply({"text": "y", "meta_info": {"id": "1"}})
    fake.scripts["/v1/responses"] = reply({"id": "resp_1", "object": "response"})
    fake.scripts["/v1/responses/resp_1"] = reply({"id": "resp_1"})
    async with running(endpoint(fake), auth=auth()) as ollad:
        await ask(ollad, ALICE, "/generate", text="x", rid="c")
        assert (await ask(ollad, BOB, "/extend", text="x", rid="c"))[0] == 404
        assert (await ask(ollad, ALICE, "/extend", text="x", rid="c"))[0] == 200
        await ask(ollad, ALICE, "/v1/responses", input="x")
        for secret, status in ((BOB, 404), (ALICE, 200)):
            path = f"{PREFIX}/v1/responses/resp_1"
            response, _ = await ollad.get(path, headers=bearer(secret))
            assert response.status == status
            body = {"input": "x", "previous_response_id": "resp_1"}
            assert (await ask(ollad, secret, "/v1/responses", **body))[0] == status


@pytest.mark.parametrize("guard", [Auth(), auth()])
async def test_browsers_are_answered_before_a_key_is_asked_for(
    guard: Auth, fake: FakeSGLang
) -> None:
    app = "https://app.example"
    server = Server(cors_origins=(app,))
    fake.scripts["/v1/completions"] = reply(
        COMPLETION, headers={"Access-Control-Allow-Origin": "*", "Vary": "Accept"}
    )
    question = {"Origin": app, "Access-Control-Request-Method": "POST"}
    async with running(endpoint(fake), auth=guard, server=server) as ollad:
        path = f"{PREFIX}/v1/completions"
        async with ollad.session.options(path, headers=question) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == app
        evil = {**question, "Origin": "https://evil.example"}
        async with ollad.session.options(path, headers=evil) as response:
            assert response.status in (401, 405)
            assert "Access-Control-Allow-Origin" not in response.headers
        for headers, status in ((bearer(ALICE), 200), (bearer("x"), 401)):
            response, _ = await ollad.post(
                "/v1/completions", {"prompt": "x"}, headers={"Origin": app, **headers}
            )
            assert response.status == (status if guard.keys else 200)
            assert response.headers.getall("Access-Control-Allow-Origin") == [app]
            assert "Origin" in ", ".join(response.headers.getall("Vary"))
            assert "Access-Control-Allow-Credentials" not in response.headers
