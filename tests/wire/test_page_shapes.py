"""Each of the ten routes of the API page, by its own example, answers in the page's shape."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.wire.conftest import PREFIX, endpoint, running
from tests.wire.fake_sglang import FakeSGLang, reply, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import Exchange

LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct"
USAGE = {
    "prompt_tokens": 42,
    "completion_tokens": 128,
    "total_tokens": 170,
    "prompt_tokens_details": {"cached_tokens": 21},
}
META = {"id", "rid", "finish_reason", "input_tokens", "output_tokens", "completion_time_ms"}


async def chat(exchange: Exchange) -> None:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "It"},
        "finish_reason": "stop",
    }
    document = {"id": "a" * 32, "object": "chat.completion", "model": LLAMA, "usage": USAGE}
    await reply({**document, "choices": [choice]})(exchange)


async def completion(exchange: Exchange) -> None:
    choice = {"index": 0, "text": "It", "finish_reason": "stop"}
    await reply({"object": "text_completion", "usage": USAGE, "choices": [choice]})(exchange)


async def generation(exchange: Exchange) -> None:
    meta = {
        "id": "b" * 32,
        "finish_reason": {"type": "stop", "matched": 128009},
        "prompt_tokens": 12,
        "completion_tokens": 28,
        "cached_tokens": 8,
        "e2e_latency": 0.45,
    }
    await reply({"text": " Bonjour", "output_ids": [1], "meta_info": meta})(exchange)


@pytest.fixture
async def page() -> AsyncIterator[Running]:
    """An ollad in front of a server that has everything but what no SGLang has."""
    fake = FakeSGLang((LLAMA,))
    fake.model_info["has_image_understanding"] = True
    fake.scripts = {
        "/v1/chat/completions": chat,
        "/v1/completions": completion,
        "/v1/embeddings": reply({"object": "list", "data": [], "model": LLAMA}),
        "/generate": generation,
    }
    async with serving(fake), running(endpoint(fake, "sglang-server")) as ollad:
        yield ollad


async def posted(page: Running, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response, answer = await page.post(path, body)
    assert response.status == 200
    assert response.headers["X-Olla-Endpoint"] == "sglang-server"
    assert response.headers["X-Olla-Model"] == LLAMA
    assert response.headers["X-Olla-Backend-Type"] == "sglang"
    assert response.headers["X-Olla-Response-Time"].endswith("ms")
    assert response.headers["X-SGLang-Cache-Hit"] in ("true", "false", "unknown")
    assert response.headers["X-SGLang-Spec-Decode"] in ("true", "false", "unknown")
    return dict(json.loads(answer))


async def test_health(page: Running) -> None:
    response, body = await page.get(PREFIX + "/health")
    document = json.loads(body)
    assert response.status == 200
    assert document["status"] == "healthy"
    for field in ("model_loaded", "radix_cache_ready", "speculative_decoding_enabled"):
        assert type(document[field]) is bool
    for field in ("num_requests_running", "num_requests_waiting"):
        assert type(document[field]) is int
    assert 0 <= document["radix_cache_usage_perc"] <= 1


async def test_models(page: Running) -> None:
    _, body = await page.get(PREFIX + "/v1/models")
    card = json.loads(body)["data"][0]
    assert set(card) == {
        "id",
        "object",
        "created",
        "owned_by",
        "root",
        "parent",
        "max_model_len",
        "permission",
        "radix_cache_size",
        "speculative_decoding",
    }


async def test_chat(page: Running) -> None:
    messages = [
        {"role": "system", "content": "You are a helpful AI assistant."},
        {"role": "user", "content": "Explain the benefits of RadixAttention in SGLang"},
    ]
    body = {"model": LLAMA, "messages": messages, "temperature": 0.7, "stream": False}
    document = await posted(page, "/v1/chat/completions", body)
    assert document["usage"] == USAGE
    assert document["metrics"]["radix_cache_hit_rate"] == 0.5
    assert type(document["metrics"]["generation_time_ms"]) is int
    assert "time_to_first_token_ms" in document["metrics"]


async def test_completions(page: Running) -> None:
    body = {"model": LLAMA, "prompt": "The advantages", "max_tokens": 200, "top_p": 0.95}
    document = await posted(page, "/v1/completions", body)
    assert document["metrics"]["radix_cache_hit_rate"] == 0.5


async def test_embeddings(page: Running) -> None:
    body = {"model": LLAMA, "input": "SGLang provides", "encoding_format": "float"}
    assert await posted(page, "/v1/embeddings", body) == {
        "object": "list",
        "data": [],
        "model": LLAMA,
    }


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_generate(method: str, page: Running) -> None:
    body = {"text": "def fibonacci(n):", "sampling_params": {"max_new_tokens": 150}, "rid": "c-7"}
    async with page.session.request(method, PREFIX + "/generate", json=body) as response:
        document = await response.json()
    assert document["text"] == " Bonjour"
    assert document["meta"] == {
        "id": response.headers["X-Olla-Request-ID"],
        "rid": "c-7",
        "finish_reason": "stop",
        "input_tokens": 12,
        "output_tokens": 28,
        "completion_time_ms": 450,
        "radix_cache_hit": True,
    }


async def test_batch(page: Running) -> None:
    texts = [f"Translate to {language}: Hello" for language in ("French", "Spanish", "German")]
    body = {"requests": [{"text": text, "sampling_params": {}} for text in texts]}
    response, answer = await page.post("/batch", body)
    document = json.loads(answer)
    assert response.status == 200
    assert [one["text"] for one in document["responses"]] == [text + " Bonjour" for text in texts]
    assert all(set(one["meta"]) >= META - {"rid"} for one in document["responses"])
    assert document["batch_meta"]["total_requests"] == 3
    assert document["batch_meta"]["successful"] == 3
    assert document["batch_meta"]["avg_radix_cache_hit_rate"] == pytest.approx(0.67, abs=0.005)
    assert type(document["batch_meta"]["total_time_ms"]) is int


async def test_extend(page: Running) -> None:
    await page.post("/generate", {"text": "def fibonacci(n):", "rid": "conversation-789"})
    body = {"rid": "conversation-789", "text": "\n\n# Now", "sampling_params": {"temperature": 0.3}}
    document = await posted(page, "/extend", body)
    assert document["text"] == "\n\n# Now Bonjour"
    assert set(document["meta"]) >= {*META, "radix_cache_hit", "context_length"}
    assert document["meta"]["rid"] == "conversation-789"
    assert document["meta"]["context_length"] == 40


async def test_vision(page: Running) -> None:
    image = "data:image/png;base64,iVBORw0KGgo="
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": image}}]
    body = {"model": LLAMA, "messages": [{"role": "user", "content": parts}]}
    document = await posted(page, "/v1/chat/completions/vision", body)
    assert set(document["vision_metrics"]) == {
        "image_processing_time_ms",
        "vision_encoding_tokens",
    }


async def test_metrics(page: Running) -> None:
    await page.post("/v1/completions", {"prompt": "x"})
    response, body = await page.get(PREFIX + "/metrics")
    assert response.headers["Content-Type"].startswith("text/plain")
    for line in (
        'sglang_request_duration_seconds_bucket{endpoint="sglang-server",le="0.1",model="',
        'sglang_num_requests_running{endpoint="sglang-server",model="',
        'sglang_radix_cache_usage_perc{endpoint="sglang-server",model="',
        "# TYPE sglang_time_to_first_token_seconds histogram",
        "# TYPE sglang_radix_cache_hit_rate gauge",
        "# TYPE sglang_spec_decode_num_accepted_tokens_total counter",
    ):
        assert f"\n{line}" in body.decode(), line
