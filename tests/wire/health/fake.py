"""A scripted SGLang server that only has the routes of the control plane."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from multidict import CIMultiDictProxy

Answer = Callable[[web.Request], Awaitable[web.Response]]

MODELS = {"object": "list", "data": [{"id": "tiny-llama", "object": "model", "parent": None}]}
MODEL_INFO = {"model_path": "m", "is_generation": True, "has_image_understanding": False}


def status(code: int) -> Answer:
    """An empty reply."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=code)

    return answer


def document(value: Any) -> Answer:
    """A JSON reply."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=json.dumps(value), content_type="application/json")

    return answer


def raw(body: str) -> Answer:
    """A text reply."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body)

    return answer


def slow(seconds: float, then: Answer) -> Answer:
    """A reply that takes its time."""

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(seconds)
        return await then(request)

    return answer


async def hang(_: web.Request) -> web.Response:
    """No reply at all."""
    await asyncio.Event().wait()
    raise AssertionError


def loads(running: int = 1, *, version: str = "0.5.23", usage: float = 0.5) -> Answer:
    """``/v1/loads`` with one replica."""
    rank = {
        "dp_rank": 0,
        "num_running_reqs": running,
        "num_waiting_reqs": 2,
        "max_total_num_tokens": 1000,
        "token_usage": usage,
        "memory": {"kv_cache_gb": 1.0},
    }
    return document({"version": version, "loads": [rank]})


def server_info(version: str, seed: int = 1, **more: Any) -> Answer:
    """``/server_info`` of a start that drew this seed."""
    facts = {
        "version": version,
        "random_seed": seed,
        "disable_radix_cache": False,
        "speculative_algorithm": None,
        "enable_cache_report": True,
        "api_key": "SECRET-KEY",
        "tp_size": 2,
    }
    return document(facts | more)


def sglang_0_4_6() -> dict[str, Answer]:
    """What 0.4.6 has, with ``--enable-metrics``."""
    return {
        "/health": status(200),
        "/v1/models": document(MODELS),
        "/get_server_info": server_info("0.4.6.post5"),
        "/get_model_info": document({"model_path": "m", "is_generation": True}),
        "/openapi.json": document({"paths": {"/generate": {"post": {}}}}),
        "/metrics": raw(
            "sglang:num_running_reqs 3.0\nsglang:num_queue_reqs 1.0\nsglang:token_usage 0.25\n"
        ),
    }


def sglang_0_5_9() -> dict[str, Answer]:
    """What 0.5.9 has, without ``--enable-metrics``."""
    return {
        "/health": status(200),
        "/v1/models": document(MODELS),
        "/server_info": server_info("0.5.9"),
        "/get_server_info": server_info("0.5.9"),
        "/model_info": document(MODEL_INFO),
        "/get_model_info": document(MODEL_INFO),
        "/v1/loads": loads(version="0.5.9"),
        "/get_load": document([{"num_reqs": 9, "num_waiting_reqs": 4}]),
        "/openapi.json": document({"paths": {}}),
    }


def sglang_0_5_23() -> dict[str, Answer]:
    """What 0.5.23 has, with ``--enable-metrics``."""
    return {
        "/ready": status(200),
        "/health": status(200),
        "/v1/models": document(MODELS),
        "/server_info": server_info("0.5.23"),
        "/get_server_info": server_info("0.5.23"),
        "/model_info": document(MODEL_INFO),
        "/get_model_info": document(MODEL_INFO),
        "/v1/loads": loads(),
        "/openapi.json": document({"paths": {"/generate": {"post": {}}}}),
        "/metrics": raw(
            "sglang:max_total_num_tokens 1000\nsglang:kv_used_tokens 500\n"
            "sglang:kv_evictable_tokens 300\nsglang:prompt_tokens_total 100\n"
            "sglang:cached_tokens_total 75\n"
        ),
    }


class Fake:
    """A server whose routes a test may change at any time.

    Attributes:
        routes: path to answer; what is missing is 404.
        asked: how often each path was asked for.
        headers: headers of the last request to each path.
        port: where it listens.
    """

    def __init__(self, routes: Mapping[str, Answer]) -> None:
        self.routes = dict(routes)
        self.asked: Counter[str] = Counter()
        self.headers: dict[str, CIMultiDictProxy[str]] = {}
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen; after ``stop`` on the same port as before."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Refuse connections."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked[request.path] += 1
        self.headers[request.path] = request.headers
        answer = self.routes.get(request.path, status(404))
        return await answer(request)


@asynccontextmanager
async def serving(routes: Mapping[str, Answer]) -> AsyncIterator[Fake]:
    """A fake that listens for the length of the block."""
    fake = Fake(routes)
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()
