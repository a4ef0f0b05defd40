"""``/v1/chat/completions`` on the wire."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.wire.conftest import PREFIX
from tests.wire.fake_sglang import event_bytes, reply, sse

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
WHOLE = (
    b'{"id": "1", "choices": [{"index": 0}],  "usage": {"prompt_tokens": 10, '
    b'"completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}} '
)


async def test_a_whole_reply_keeps_its_bytes_and_gains_metrics(
    fake: FakeSGLang, ollad: Running
) -> None:
    fake.scripts["/v1/chat/completions"] = reply(WHOLE)
    response, body = await ollad.post("/v1/chat/completions", CHAT)
    assert response.status == 200
    kept = WHOLE.rstrip()[:-1]
    assert body.startswith(kept)
    assert body.endswith(b"} ")
    assert json.loads(body)["metrics"]["radix_cache_hit_rate"] == 0.5
    assert response.headers["X-SGLang-Cache-Hit"] == "true"
    assert response.headers["X-SGLang-Spec-Decode"] == "false"
    assert response.headers["X-Olla-Endpoint"] == "one"


async def test_a_stream_passes_byte_for_byte(fake: FakeSGLang, ollad: Running) -> None:
    events = [event_bytes({"choices": [{"delta": {"content": word}}]}) for word in ["a", "b", "c"]]
    fake.scripts["/v1/chat/completions"] = sse(*events, pause=0.01)
    response, body = await ollad.post("/v1/chat/completions", {**CHAT, "stream": True})
    assert body == b"".join(events) + b"data: [DONE]\n\n"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"


async def test_the_backend_gets_the_clients_bytes(fake: FakeSGLang, ollad: Running) -> None:
    fake.scripts["/v1/chat/completions"] = reply(WHOLE)
    sent = b'{ "messages" : [{"role":"user","content":"\\u00e9 1e5"}] ,"model": "tiny", "x": 1.50}'
    async with ollad.session.post(
        PREFIX + "/v1/chat/completions",
        data=sent,
        headers={"Content-Type": "application/json"},
    ) as response:
        assert response.status == 200
    assert fake.requests[0].body == sent
