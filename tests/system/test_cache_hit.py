"""``X-SGLang-Cache-Hit`` says what the server's own ``cached_tokens`` says."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.curl import post

if TYPE_CHECKING:
    from tests.system.curl import Reply
    from tests.system.daemon import Ollad
    from tests.system.rig import Server


def body_of(family: str, model: str, prompt: str) -> tuple[str, dict[str, Any]]:
    if family == "chat":
        messages = [{"role": "user", "content": prompt}]
        return "/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": 4}
    if family == "completions":
        return "/v1/completions", {"model": model, "prompt": prompt, "max_tokens": 4}
    body = {"text": prompt, "sampling_params": {"max_new_tokens": 4}}
    return "/generate", {**body, "stream": family == "generate-stream"}


def cached_tokens(family: str, reply: Reply) -> int:
    if family == "generate":
        return int(reply.json()["meta_info"]["cached_tokens"])
    if family == "generate-stream":
        return int(json.loads(reply.events()[-2])["meta_info"]["cached_tokens"])
    return int(reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


@pytest.mark.parametrize("family", ["chat", "completions", "generate", "generate-stream"])
def test_the_second_identical_prompt_hits_the_cache(
    ollad: Ollad, generative: tuple[Server, ...], model: str, family: str
) -> None:
    path, body = body_of(family, model, f"{uuid.uuid4()} is the number of the house")
    visited: set[str] = set()
    for _ in range(len(generative) + 1):  # some backend sees the prompt for the second time
        reply = post(ollad.api + path, body)
        assert reply.status == 200, reply.body
        cached = cached_tokens(family, reply)
        assert reply.headers["x-sglang-cache-hit"] == ("true" if cached else "false")
        if reply.headers["x-olla-endpoint"] in visited:
            assert cached > 20
        visited.add(reply.headers["x-olla-endpoint"])
