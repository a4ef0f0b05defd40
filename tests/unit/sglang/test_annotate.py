from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollad.sglang.annotate import (
    Usage,
    cache_hit,
    completion_text,
    generate_usage,
    meta_member,
    metrics_member,
    openai_usage,
    spec_decode,
    vision_metrics_member,
)

REPLIES = Path(__file__).parents[2] / "data" / "replies"


def reply(name: str) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads((REPLIES / f"{name}.json").read_bytes())
    return document


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chat_again_cached", Usage(59, 16, 58, finish_reason="length")),
        ("completions", Usage(24, 8, 1, finish_reason="length")),
        ("responses", Usage(16, 3, 15, finish_reason="max_output_tokens")),
        ("messages", Usage(16, 5, 15, finish_reason="max_tokens")),
    ],
)
def test_a_real_servers_openai_style_replies_are_read(name: str, expected: Usage) -> None:
    assert openai_usage(reply(name)) == expected


def test_without_a_cache_report_the_cached_tokens_are_unknown() -> None:
    usage = openai_usage(reply("plain_chat"))
    assert usage.prompt_tokens is not None
    assert usage.cached_tokens is None
    assert cache_hit(usage) == "unknown"


def test_a_real_servers_generate_reply_is_read() -> None:
    usage = generate_usage(reply("generate"))
    assert usage == Usage(
        24,
        8,
        23,
        finish_reason="length",
        e2e_seconds=0.018967534999774216,
        first_token_seconds=0.0054399670293605595,
    )
    assert cache_hit(usage) == "true"
    assert cache_hit(generate_usage(reply("generate_fresh"))) == "false"


def test_cached_tokens_are_the_sum_over_the_levels_of_the_cache() -> None:
    details = {"device": 32, "host": 4, "storage": 8, "storage_backend": "file"}
    document = {
        "usage": {"prompt_tokens": 50, "prompt_tokens_details": None},
        "sglext": {"cached_tokens_details": details},
    }
    assert openai_usage(document).cached_tokens == 44


def test_meta_info_of_a_choice_is_read() -> None:
    info = {
        "cached_tokens": 3,
        "image_tokens": 576,
        "e2e_latency": 0.5,
        "first_token_latency": 0.1,
        "spec_verify_ct": 10,
    }
    document = {"choices": [{"finish_reason": "stop", "meta_info": info}]}
    assert openai_usage(document) == Usage(None, None, 3, 576, True, "stop", 0.5, 0.1)


def test_image_tokens_are_read_from_the_usage() -> None:
    document = {"usage": {"prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 1012}}}
    usage = openai_usage(document)
    assert usage.image_tokens == 1012
    assert orjson.loads(vision_metrics_member(usage)) == {
        "image_processing_time_ms": None,
        "vision_encoding_tokens": 1012,
    }
    assert orjson.loads(vision_metrics_member(Usage())) == {
        "image_processing_time_ms": None,
        "vision_encoding_tokens": None,
    }


def test_a_backend_that_speaks_the_page_is_believed() -> None:
    chat = {
        "metrics": {
            "time_to_first_token_ms": 35,
            "generation_time_ms": 850,
            "radix_cache_hit_rate": 0.92,
        }
    }
    usage = openai_usage(chat)
    assert (usage.first_token_seconds, usage.e2e_seconds) == (0.035, 0.85)
    assert cache_hit(usage) == "true"
    assert cache_hit(openai_usage({"metrics": {"radix_cache_hit_rate": 0}})) == "false"
    meta = {
        "finish_reason": "stop",
        "input_tokens": 12,
        "output_tokens": 28,
        "completion_time_ms": 450,
        "radix_cache_hit": True,
    }
    usage = generate_usage({"text": "x", "meta": meta})
    assert usage == Usage(12, 28, finish_reason="stop", e2e_seconds=0.45, hit=True)
    assert cache_hit(usage) == "true"


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"spec_verify_ct": 7}, True),
        ({"spec_verify_ct": 0}, False),
        ({"spec_draft_token_num": 12}, True),
        ({"spec_num_proposed_drafts": 30, "spec_verify_ct": 10}, True),
        ({}, None),
        ({"spec_verify_ct": None}, None),
    ],
)
def test_speculation_is_told_by_the_verified_drafts(
    info: dict[str, Any], expected: bool | None
) -> None:
    assert generate_usage({"meta_info": info}).spec_used is expected
    assert openai_usage({"sglext": {"spec_tokens_details": info}}).spec_used is expected
    assert openai_usage({"sglext": {"spec_tokens_details": [info]}}).spec_used is expected


@pytest.mark.parametrize(
    ("usage", "server", "expected"),
    [
        (Usage(spec_used=True), False, "true"),
        (Usage(spec_used=False, completion_tokens=9), True, "false"),
        (Usage(completion_tokens=9), False, "false"),
        (None, False, "false"),
        (Usage(completion_tokens=2), True, "true"),
        (Usage(completion_tokens=1), True, "unknown"),
        (Usage(), True, "unknown"),
        (None, True, "unknown"),
        (Usage(completion_tokens=9), None, "unknown"),
    ],
)
def test_the_replys_own_figures_decide_over_what_the_server_can_do(
    usage: Usage | None, server: bool | None, expected: str
) -> None:
    assert spec_decode(usage, server) == expected


def test_metrics_give_the_servers_times_when_it_tells_them() -> None:
    usage = Usage(59, 16, 58, e2e_seconds=0.4506, first_token_seconds=0.0214)
    assert orjson.loads(metrics_member(usage, 999)) == {
        "time_to_first_token_ms": 21,
        "generation_time_ms": 451,
        "radix_cache_hit_rate": 0.9831,
    }


def test_metrics_never_guess() -> None:
    expected = {
        "time_to_first_token_ms": None,
        "generation_time_ms": 999,
        "radix_cache_hit_rate": None,
    }
    for usage in (Usage(), Usage(prompt_tokens=0, cached_tokens=0), Usage(prompt_tokens=5)):
        assert orjson.loads(metrics_member(usage, 999)) == expected


def test_meta_of_a_generation_has_the_pages_members() -> None:
    usage = Usage(12, 28, 8, finish_reason="stop", e2e_seconds=0.45)
    meta = orjson.loads(meta_member(usage, request_id="r1", rid="conversation-789", total_ms=9))
    assert meta == {
        "id": "r1",
        "rid": "conversation-789",
        "finish_reason": "stop",
        "input_tokens": 12,
        "output_tokens": 28,
        "completion_time_ms": 450,
        "radix_cache_hit": True,
    }


def test_meta_without_figures_is_null_but_for_the_measured_time() -> None:
    assert orjson.loads(meta_member(Usage(), request_id="r1", total_ms=9)) == {
        "id": "r1",
        "finish_reason": None,
        "input_tokens": None,
        "output_tokens": None,
        "completion_time_ms": 9,
        "radix_cache_hit": None,
    }


def test_meta_of_an_extension_counts_the_new_part_and_the_whole() -> None:
    usage = Usage(48, 82, 40)
    meta = orjson.loads(
        meta_member(usage, request_id="r", rid="c", new_tokens=8, context_length=130)
    )
    assert (meta["input_tokens"], meta["context_length"]) == (8, 130)
    meta = orjson.loads(
        meta_member(usage, request_id="r", rid="c", new_tokens=None, context_length=None)
    )
    assert (meta["input_tokens"], meta["context_length"]) == (None, None)


NAMES = (
    *("usage", "choices", "meta_info", "meta", "metrics", "sglext", "prompt_tokens"),
    *("prompt_tokens_details", "cached_tokens", "cached_tokens_details", "device"),
    *("finish_reason", "type", "spec_tokens_details", "spec_verify_ct", "object"),
    *("radix_cache_hit_rate", "generation_time_ms", "e2e_latency", "status"),
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["usage", "choices", "meta_info", "meta", "sglext"]), JUNK))
def test_any_reply_can_be_read(document: dict[str, Any]) -> None:
    for usage in (openai_usage(document), generate_usage(document)):
        orjson.loads(metrics_member(usage, 1))
        orjson.loads(meta_member(usage, request_id="r"))
        assert cache_hit(usage) in ("true", "false", "unknown")


def test_times_no_server_could_mean_are_unknown() -> None:
    usage = generate_usage({"meta_info": {"e2e_latency": 9e17, "first_token_latency": -1}})
    assert (usage.e2e_seconds, usage.first_token_seconds) == (None, None)
    assert orjson.loads(meta_member(usage, request_id="r"))["completion_time_ms"] is None


@pytest.mark.parametrize(
    ("reply", "completion"),
    [
        ({"text": " b"}, " b"),
        ({"text": "a b"}, "a b"),
        ({"text": "a b", "meta": {}}, " b"),
        ({"text": " b", "meta": {}}, " b"),
        ({"text": "a b", "meta": None}, "a b"),
        ({"text": None}, None),
        ({"text": ["a"]}, None),
        ({}, None),
    ],
)
def test_the_completion_is_known_whether_or_not_the_prompt_comes_with_it(
    reply: dict[str, Any], completion: str | None
) -> None:
    assert completion_text(reply, "a") == completion
    assert completion_text(reply, [1]) == reply.get("text") or completion is None
