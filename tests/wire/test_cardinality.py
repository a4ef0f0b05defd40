"""Nothing that a client sends becomes the value of a label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.wire.fake_sglang import reply
from tests.wire.raw import exchange, request

if TYPE_CHECKING:
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang

ROUNDS = 60
MARK = "mark"


async def series(ollad: Running) -> int:
    """How many samples both pages have; none of them may bear the mark."""
    count = 0
    for page in ("/metrics", "/olla/sglang/metrics"):
        _, body = await ollad.get(page)
        assert MARK not in body.decode()
        for family in text_string_to_metric_families(body.decode()):
            count += len(family.samples)
    return count


async def flood(ollad: Running, name: str) -> None:
    """Say ``name`` wherever a client can say something."""
    prefix = "/olla/sglang"
    headers = {"X-Olla-Model": name, "X-Olla-Request-ID": name, "User-Agent": name}
    headers |= {"Authorization": f"Bearer {name}", "X-API-Key": name, "X-Forwarded-For": name}
    body = {"model": name, "rid": name, "text": name, "user": name, "lora_path": name}
    for path in ("/v1/chat/completions", "/generate", "/v1/embeddings", "/tokenize", "/extend"):
        await ollad.post(path, body, headers=headers)
        await ollad.post(f"{path}?{name}={name}", {**body, "model": "tiny"}, headers=headers)
    await ollad.post(f"/{name}", body, headers=headers)
    for path in (f"/v1/models/{name}", f"/v1/responses/{name}", f"/health?endpoint={name}"):
        await ollad.get(prefix + path, headers=headers)
    await exchange(ollad.port, request(f"{name.upper()} {prefix}/generate"))
    await exchange(ollad.port, request(f"GET /{name}", f"Host: {name}", "Connection: x"))


@pytest.mark.usefixtures("log")
async def test_a_flood_of_names_makes_no_series(fake: FakeSGLang, ollad: Running) -> None:
    for path in ("/generate", "/tokenize", "/v1/embeddings", "/v1/chat/completions"):
        fake.scripts[path] = reply({"text": "x", "meta_info": {}})
    await flood(ollad, f"{MARK}-first")
    await series(ollad)  # which is counted too
    before = await series(ollad)
    for number in range(ROUNDS):
        await flood(ollad, f"{MARK}-{number}")
    assert await series(ollad) == before
