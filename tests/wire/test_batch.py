"""``/batch`` on the wire: served by ollad over ``/generate``."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from ollad.config.schema import Batch, Proxy, Routing, Server
from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, reply, serving
from tests.wire.generations import Gate, echo, generation
from tests.wire.raw import until

if TYPE_CHECKING:
    from ollad.config.schema import Endpoint
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange, Script

GENERATE = "/generate"


def items(*prompts: str) -> dict[str, Any]:
    return {"requests": [{"text": prompt} for prompt in prompts]}


async def answered(ollad: Running, body: Any, **options: Any) -> Any:
    response, data = await ollad.post("/batch", body, **options)
    assert response.status == 200, data
    return json.loads(data)


async def test_a_batch_has_the_pages_shape(fake: FakeSGLang, ollad: Running) -> None:
    async def script(exchange: Exchange) -> None:
        cached = 5 if "French" in exchange.json["text"] else 0
        await reply(generation("\n\nBonjour", cached_tokens=cached))(exchange)

    fake.scripts[GENERATE] = script
    prompts = ("Translate to French: Hello", "Translate to Spanish: Hello")
    body = {
        "requests": [{"text": text, "sampling_params": {"temperature": 0.1}} for text in prompts]
    }
    response, data = await ollad.post("/batch", body)
    answer = json.loads(data)
    assert [item["text"] for item in answer["responses"]] == [f"{p}\n\nBonjour" for p in prompts]
    request_id = response.headers["X-Olla-Request-ID"]
    for index, item in enumerate(answer["responses"]):
        assert item["meta"] == {
            "id": f"{request_id}-{index}",
            "finish_reason": "stop",
            "input_tokens": 10,
            "output_tokens": 1,
            "completion_time_ms": 250,
            "radix_cache_hit": index == 0,
        }
        assert item["meta_info"]["prompt_tokens"] == 10
    total = answer["batch_meta"].pop("total_time_ms")
    assert isinstance(total, int)
    assert answer["batch_meta"] == {
        "total_requests": 2,
        "successful": 2,
        "avg_radix_cache_hit_rate": 0.25,
    }
    assert response.headers["X-SGLang-Cache-Hit"] == "true"
    assert response.headers["X-SGLang-Spec-Decode"] == "false"
    assert response.headers["X-Olla-Endpoint"] == "one"
    assert response.headers["X-Olla-Model"] == "tiny"
    sent = [exchange.json for exchange in fake.requests]
    assert {"text": prompts[0], "sampling_params": {"temperature": 0.1}} in sent


async def test_the_reply_to_an_item_is_parsed_once(
    fake: FakeSGLang, ollad: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.scripts[GENERATE] = reply(generation("unmistakable"))
    usual, parsed = orjson.loads, []

    def counting(data: bytes | str) -> Any:
        parsed.append(bytes(data) if not isinstance(data, str) else data.encode())
        return usual(data)

    monkeypatch.setattr(orjson, "loads", counting)
    answer = await answered(ollad, items("a"))
    assert answer["responses"][0]["text"] == "aunmistakable"
    assert sum(b"unmistakable" in data for data in parsed) == 1


async def test_order_is_kept_and_concurrency_is_bounded(fake: FakeSGLang) -> None:
    gate = Gate()
    fake.scripts[GENERATE] = gate
    prompts = [f"number {n}" for n in range(20)]
    async with running(endpoint(fake), batch=Batch(concurrency=4)) as ollad:
        task = asyncio.create_task(answered(ollad, items(*prompts)))
        await until(lambda: gate.waiting == 4)
        await asyncio.sleep(0.05)
        assert gate.waiting == 4
        gate.open()
        answer = await task
    assert gate.most == 4
    assert len(gate.prompts) == 20
    assert [item["text"] for item in answer["responses"]] == [
        f"number {n} [{n}]" for n in range(20)
    ]


ERRORS: dict[str, tuple[Script, str]] = {
    "flat": (
        reply(
            {"object": "error", "message": "too long", "type": "BadRequestError", "code": 400},
            "400 Bad Request",
        ),
        "too long",
    ),
    "nested": (reply({"error": {"message": "not empty"}}, "400 Bad Request"), "not empty"),
    "text": (reply({"error": "top_q is unknown"}, "400 Bad Request"), "top_q is unknown"),
    "anthropic": (
        reply({"type": "error", "error": {"type": "x", "message": "odd"}}, "422 Unprocessable"),
        "odd",
    ),
    "detail": (reply({"detail": "Not Found"}, "404 Not Found"), "Not Found"),
    "no JSON": (
        reply(b"Internal Server Error", "500 Internal Server Error", None, "text/plain"),
        "The backend answered 500.",
    ),
    "a list": (reply([1]), "The backend's reply is no JSON object."),
}


@pytest.mark.parametrize("shape", ERRORS)
async def test_a_failed_item_has_its_error_in_its_place(
    fake: FakeSGLang, ollad: Running, shape: str
) -> None:
    failure, message = ERRORS[shape]

    async def script(exchange: Exchange) -> None:
        await (failure if exchange.json["text"] == "bad" else echo)(exchange)

    fake.scripts[GENERATE] = script
    answer = await answered(ollad, items("a", "bad", "c"))
    first, failed, last = answer["responses"]
    assert (first["text"], last["text"]) == ("a [a]", "c [c]")
    assert set(failed) == {"error"}
    assert failed["error"]["message"] == message
    assert set(failed["error"]) == {"message", "type", "param", "code"}
    assert answer["batch_meta"]["successful"] == 2
    assert answer["batch_meta"]["total_requests"] == 3


async def test_an_item_whose_backend_breaks_does_not_fail_the_others(
    fake: FakeSGLang, ollad: Running
) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.json["text"] == "bad":
            exchange.reset()
        else:
            await echo(exchange)

    fake.scripts[GENERATE] = script
    answer = await answered(ollad, items("bad", "good"))
    assert answer["responses"][0]["error"]["type"] == "api_error"
    assert str(fake.port) not in json.dumps(answer)
    assert answer["responses"][1]["text"] == "good [good]"


async def test_a_batch_of_nothing_but_failures_is_still_answered(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts[GENERATE] = ERRORS["nested"][0]
    response, data = await ollad.post("/batch", items("a", "b"))
    assert response.status == 200
    meta = json.loads(data)["batch_meta"]
    assert (meta["successful"], meta["avg_radix_cache_hit_rate"]) == (0, None)
    assert response.headers["X-SGLang-Cache-Hit"] == "unknown"


GOOD = {"text": "x"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "requests"),
        ({"requests": None}, "requests"),
        ({"requests": {"0": GOOD}}, "requests"),
        ({"requests": "x"}, "requests"),
        ({"requests": []}, "requests"),
        ({"requests": [GOOD, "x"]}, "requests[1]"),
        ({"requests": [GOOD, None]}, "requests[1]"),
        ({"requests": [{}]}, "requests[0]"),
        ({"requests": [GOOD, GOOD, {"text": ""}]}, "requests[2]"),
        ({"requests": [{"sampling_params": {}}]}, "requests[0]"),
        ({"requests": [GOOD], "stream": True}, "stream"),
        ({"requests": [GOOD, {"text": "x", "stream": True}]}, "requests[1].stream"),
        ({"requests": [{"text": ["a", "b"]}]}, "requests[0].text"),
        ({"requests": [{"text": 5}]}, "requests[0].text"),
        ({"requests": [{"text": "a", "rid": 5}]}, "requests[0].rid"),
        ({"requests": [{"text": "a", "model": []}]}, "requests[0].model"),
        ({"requests": [GOOD, {"text": "a", "model": {}}]}, "requests[1].model"),
        (
            {"requests": [{"text": "a", "sampling_params": {"n": 2}}]},
            "requests[0].sampling_params.n",
        ),
        ({"requests": [{"text": "a", "bootstrap_host": "h"}]}, "requests[0].bootstrap_host"),
    ],
)
async def test_what_is_wrong_with_an_item_is_said_by_index(
    fake: FakeSGLang, ollad: Running, body: Any, param: str
) -> None:
    fake.scripts[GENERATE] = echo
    response, data = await ollad.post("/batch", body)
    error = json.loads(data)["error"]
    assert response.status == 400, error
    assert error["param"] == param
    assert param.partition(".")[0] in error["message"]
    assert not fake.requests


async def test_media_of_items_are_guarded(fake: FakeSGLang, ollad: Running) -> None:
    response, data = await ollad.post(
        "/batch", {"requests": [GOOD, {"text": "a", "image_data": "file:///etc/passwd"}]}
    )
    assert response.status == 400
    assert "image_data" in json.loads(data)["error"]["param"]
    assert not fake.requests


async def test_more_items_than_allowed_are_refused(fake: FakeSGLang) -> None:
    fake.scripts[GENERATE] = echo
    async with running(endpoint(fake), batch=Batch(max_items=2)) as ollad:
        response, data = await ollad.post("/batch", items("a", "b", "c"))
        assert response.status == 413
        assert "batch.max_items" in json.loads(data)["error"]["message"]
        assert not fake.requests
        await answered(ollad, items("a", "b"))


async def test_replies_too_large_together_are_errors_in_their_place(fake: FakeSGLang) -> None:
    fake.scripts[GENERATE] = reply(generation("x" * 600))
    server = Server(max_body_size=2000)
    async with running(endpoint(fake), server=server, batch=Batch(concurrency=1)) as ollad:
        answer = await answered(ollad, items("a", "b", "c", "d"))
    assert "error" not in answer["responses"][0]
    for failed in answer["responses"][2:]:
        assert "max_body_size" in failed["error"]["message"]
    assert len(fake.requests) < 4, "what cannot be told need not be generated"


async def test_a_client_that_goes_away_ends_all_items(fake: FakeSGLang) -> None:
    gate = Gate()
    fake.scripts[GENERATE] = gate
    prompts = [f"{n}" for n in range(10)]
    async with running(endpoint(fake), batch=Batch(concurrency=6)) as ollad:
        before = {task for task in asyncio.all_tasks() if "_item" in repr(task)}
        request = asyncio.create_task(ollad.post("/batch", items(*prompts)))
        await until(lambda: gate.waiting == 6)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await until(lambda: not gate.waiting)
        assert gate.gone == 6
        assert len(gate.prompts) == 6, "none that had not begun was begun"
        (backend,) = ollad.gateway.runtime.pool
        assert backend.in_flight == 0
        left = {task for task in asyncio.all_tasks() if "_item" in repr(task)} - before
        assert not left


async def test_the_first_of_those_that_begin_alike_goes_ahead(fake: FakeSGLang) -> None:
    gate = Gate()
    fake.scripts[GENERATE] = gate
    common = "once upon a time " * 20
    prompts = [common + "a", "other", common + "b", common + "c"]
    async with running(endpoint(fake), batch=Batch(concurrency=8)) as ollad:
        task = asyncio.create_task(answered(ollad, items(*prompts)))
        await until(lambda: gate.waiting == 2)
        await asyncio.sleep(0.05)
        assert sorted(gate.prompts) == sorted(prompts[:2])
        gate.open()
        answer = await task
    assert gate.prompts.index(prompts[0]) < gate.prompts.index(prompts[2])
    assert [item["text"].split()[-1] for item in answer["responses"]] == [
        "[a]",
        "[other]",
        "[b]",
        "[c]",
    ]


async def test_the_head_start_begins_when_the_first_is_sent(
    fake: FakeSGLang, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("ollad.handlers.batch")
    monkeypatch.setattr(module, "_HEAD_START_SECONDS", 0.05)
    gates = {"blocker": Gate(), "leader": Gate()}
    arrived: list[str] = []

    async def script(exchange: Exchange) -> None:
        name = exchange.json["text"].split()[-1]
        arrived.append(name)
        await gates.get(name, echo)(exchange)

    fake.scripts[GENERATE] = script
    common = "x" * 300
    prompts = ["blocker", f"{common} leader", f"{common} follower"]
    async with running(endpoint(fake), batch=Batch(concurrency=1)) as ollad:
        task = asyncio.create_task(answered(ollad, items(*prompts)))
        await until(lambda: bool(arrived))
        await asyncio.sleep(0.1)  # longer than the head start
        gates["blocker"].open()
        await until(lambda: len(arrived) == 2)
        gates["leader"].open()
        await task
    assert arrived == ["blocker", "leader", "follower"]


async def test_rids_of_items_are_replaced_and_given_back(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[GENERATE] = echo
    body = {"requests": [{"text": "a", "rid": "mine"}, {"text": "b"}], "rid": "batch"}
    answer = await answered(ollad, body)
    sent = {exchange.json["text"]: exchange.json.get("rid") for exchange in fake.requests}
    assert re.fullmatch("[0-9a-f]{32}", sent["a"])
    assert sent["b"] is None
    assert answer["responses"][0]["meta"]["rid"] == "mine"
    assert "rid" not in answer["responses"][1]["meta"]


async def test_the_page_lists_what_items_ask_for_in_vain(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts[GENERATE] = echo
    body = {"requests": [{"text": "a", "max_tree_depth": 3}], "radix_cache_enable": True}
    response, _ = await ollad.post("/batch", body)
    assert response.headers["X-Olla-Ignored-Params"] == "radix_cache_enable,max_tree_depth"


class Models:
    """Two backends, one for each model."""

    def __init__(self) -> None:
        self.big, self.small = FakeSGLang(("big",)), FakeSGLang(("small",))
        for fake in (self.big, self.small):
            fake.scripts[GENERATE] = echo

    @property
    def endpoints(self) -> tuple[Endpoint, Endpoint]:
        return endpoint(self.big, "big"), endpoint(self.small, "small")

    def asked(self) -> tuple[list[str], list[str]]:
        return (
            [exchange.json["text"] for exchange in self.big.requests],
            [exchange.json["text"] for exchange in self.small.requests],
        )


async def test_the_batchs_model_is_that_of_its_items(fake: FakeSGLang) -> None:
    del fake
    models = Models()
    async with serving(models.big, models.small), running(*models.endpoints) as ollad:
        response, _ = await ollad.post("/batch", {**items("a", "b"), "model": "small"})
        assert response.headers["X-Olla-Model"] == "small"
        assert response.headers["X-Olla-Endpoint"] == "small"
    assert sorted(models.asked()[1]) == ["a", "b"]


async def test_an_items_own_model_goes_before_the_batchs() -> None:
    models = Models()
    routing = Routing(model_aliases={"gpt": "big"})
    async with (
        serving(models.big, models.small),
        running(*models.endpoints, routing=routing) as ollad,
    ):
        body = {
            "model": "small",
            "requests": [
                {"text": "a", "model": "gpt"},
                {"text": "b"},
                {"text": "c", "model": None},
            ],
        }
        response, _ = await ollad.post("/batch", body)
        assert response.headers["X-Olla-Model"] == "gpt,small"
        assert response.headers["X-Olla-Endpoint"] == "big,small"
    asked_big, asked_small = models.asked()
    assert (asked_big, sorted(asked_small)) == (["a"], ["b", "c"])
    assert models.big.requests[0].json["model"] == "big"


async def test_items_may_all_name_their_models_themselves() -> None:
    models = Models()
    async with serving(models.big, models.small), running(*models.endpoints) as ollad:
        named = [{"text": "a", "model": "big"}, {"text": "b", "model": "small"}]
        answer = await answered(ollad, {"requests": named})
        assert answer["batch_meta"]["successful"] == 2
        unserved = {"text": "c", "model": "no"}
        for requests, index, status in (
            ([*named, {"text": "c"}], 2, 400),
            ([*named, unserved], 2, 404),
            ([{"text": "c"}, unserved, *named], 1, 404),
        ):
            response, data = await ollad.post("/batch", {"requests": requests})
            error = json.loads(data)["error"]
            assert (response.status, error["param"]) == (status, f"requests[{index}].model")
            assert error["message"].startswith(f"requests[{index}]: ")
    assert models.asked() == (["a"], ["b"])


async def test_an_item_goes_to_another_backend_when_one_is_gone(fake: FakeSGLang) -> None:
    other = FakeSGLang()
    other.scripts[GENERATE] = echo
    fake.scripts[GENERATE] = reply({"error": {"message": "full"}}, "503 Service Unavailable")
    async with serving(other):
        endpoints = endpoint(fake), endpoint(other, "two")
        async with running(*endpoints, proxy=Proxy(attempts=2)) as ollad:
            answer = await answered(ollad, items(*"abcdef"))
    assert answer["batch_meta"]["successful"] == 6


async def test_a_get_is_refused(ollad: Running) -> None:
    response, _ = await ollad.get(PREFIX + "/batch")
    assert (response.status, response.headers["Allow"]) == (405, "POST")
