"""Each route of the API page, by a request equal to the page's curl line.

Embeddings and vision have files of their own: the tiny generative model can show neither.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from tests.system import page
from tests.system.curl import curl, post

if TYPE_CHECKING:
    from tests.system.daemon import Ollad
    from tests.system.rig import Server


def test_health_tells_the_state_of_the_radix_cache(
    ollad: Ollad, generative: tuple[Server, ...]
) -> None:
    reply = page.request("health", ollad.url)
    assert reply.status == 200
    page.assert_shape(page.HEALTH, reply.json())
    page.assert_headers(reply)
    endpoints = reply.json()["endpoints"]
    assert {one["name"] for one in endpoints} == {server.name for server in generative}
    page.assert_shape([page.HEALTH], endpoints)


def test_models_are_listed_with_the_members_of_the_page(ollad: Ollad, model: str) -> None:
    reply = page.request("models", ollad.url)
    assert reply.status == 200
    page.assert_shape(page.MODELS, reply.json())
    page.assert_headers(reply)
    assert [card["id"] for card in reply.json()["data"]] == [model]


def test_a_chat_is_answered_with_metrics(ollad: Ollad, model: str) -> None:
    reply = page.request("chat", ollad.url, model)
    assert reply.status == 200, reply.body
    page.assert_shape(page.CHAT, reply.json())
    page.assert_headers(reply, model)


def test_a_chat_is_streamed(ollad: Ollad, model: str) -> None:
    reply = page.request("chat", ollad.url, model, **{'"stream": false': '"stream": true'})
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"].startswith("text/event-stream")
    page.assert_headers(reply, model)
    *chunks, done = reply.events()
    assert done == b"[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert {chunk["object"] for chunk in parsed} == {"chat.completion.chunk"}
    assert parsed[0]["choices"][0]["delta"]["role"] == "assistant"
    assert parsed[-1]["choices"][0]["finish_reason"] in {"stop", "length"}


def test_a_completion_is_answered_with_metrics(ollad: Ollad, model: str) -> None:
    reply = page.request("completions", ollad.url, model)
    assert reply.status == 200, reply.body
    page.assert_shape(page.COMPLETION, reply.json())
    page.assert_headers(reply, model)


def test_generate_is_answered_with_meta_beside_meta_info(ollad: Ollad, model: str) -> None:
    reply = page.request("generate", ollad.url)
    assert reply.status == 200, reply.body
    answer = reply.json()
    page.assert_shape(page.GENERATE, answer)
    page.assert_headers(reply, model)
    assert answer["meta"]["finish_reason"] == answer["meta_info"]["finish_reason"]["type"]
    assert answer["meta"]["input_tokens"] == answer["meta_info"]["prompt_tokens"]
    assert answer["meta"]["id"] == reply.headers["x-olla-request-id"]


def test_generate_is_answered_to_put_too(ollad: Ollad, model: str) -> None:
    reply = page.request("generate", ollad.url, **{"-X POST": "-X PUT"})
    assert reply.status == 200, reply.body
    page.assert_shape(page.GENERATE, reply.json())
    page.assert_headers(reply, model)


def test_a_batch_is_answered_in_order(ollad: Ollad) -> None:
    reply = page.request("batch", ollad.url)
    assert reply.status == 200, reply.body
    page.assert_shape(page.BATCH, reply.json())
    page.assert_headers(reply)
    assert reply.json()["batch_meta"]["total_requests"] == 3
    assert reply.json()["batch_meta"]["successful"] == 3
    prompts = [f"Translate to {name}: Hello world" for name in ("French", "Spanish", "German")]
    for prompt, response in zip(prompts, reply.json()["responses"], strict=True):
        assert response["text"].startswith(prompt)


def test_a_conversation_is_extended(ollad: Ollad, model: str) -> None:
    first = post(
        f"{ollad.api}/generate",
        {
            "rid": "conversation-789",
            "text": "def fibonacci(n):\n    if n <= 1:\n        return n",
            "sampling_params": {"temperature": 0.2, "max_new_tokens": 20, "top_p": 0.9},
        },
    ).json()
    assert first["meta"]["rid"] == "conversation-789"
    reply = page.request("extend", ollad.url)
    assert reply.status == 200, reply.body
    answer = reply.json()
    page.assert_shape(page.EXTEND, answer)
    page.assert_headers(reply, model)
    assert answer["meta"]["rid"] == "conversation-789"
    assert answer["text"].startswith("\n\n# Now create a memoized version:")
    before = first["meta"]["input_tokens"] + first["meta"]["output_tokens"]
    assert answer["meta"]["context_length"] > before


def test_metrics_carry_the_names_of_the_page(
    ollad: Ollad, generative: tuple[Server, ...], model: str
) -> None:
    for _ in generative:  # one generation at least, so that there is something to measure
        assert page.request("generate", ollad.url).status == 200
    reply = page.request("metrics", ollad.url)
    assert reply.status == 200
    page.assert_headers(reply)
    families = {
        family.name: family for family in text_string_to_metric_families(reply.body.decode())
    }
    for name, kind in page.METRICS.items():
        assert families[name].type == kind
        assert families[name].documentation
        for sample in families[name].samples:
            assert sample.labels["model"] == model
    running = families["sglang_num_requests_running"].samples
    assert {sample.labels["endpoint"] for sample in running} == {s.name for s in generative}
    measured = families["sglang_request_duration_seconds"].samples
    assert sum(sample.value for sample in measured if sample.name.endswith("_count")) >= 1


def test_one_endpoint_shows_its_own_metrics_page(
    ollad: Ollad, generative: tuple[Server, ...]
) -> None:
    reply = curl(f"{ollad.api}/metrics?endpoint={generative[0].name}")
    assert reply.status == 200
    assert b"sglang:num_running_reqs{" in reply.body


def test_every_route_is_found_by_head_and_refused_by_a_wrong_method(ollad: Ollad) -> None:
    for path in ("health", "v1/models", "metrics"):
        assert curl("--head", f"{ollad.api}/{path}").status == 200
        reply = curl("-X", "DELETE", f"{ollad.api}/{path}")
        assert reply.status == 405
        assert "GET" in reply.headers["allow"]
        page.assert_headers(reply)
