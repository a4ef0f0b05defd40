"""Which paths and methods there are: exactly those of ``ROUTES``, and nothing gets past them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from ollad.handlers import ROUTES
from tests.wire.conftest import PREFIX
from tests.wire.raw import exchange, request

if TYPE_CHECKING:
    from ollad.handlers import Route
    from tests.wire.conftest import Running
    from tests.wire.fake_sglang import FakeSGLang

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

ADMIN = (
    "flush_cache",
    "abort_request",
    "pause_generation",
    "continue_generation",
    "set_internal_state",
    "configure_logging",
    "update_weights_from_disk",
    "update_weights_from_tensor",
    "update_weights_from_distributed",
    "update_weights_from_ipc",
    "begin_weight_update",
    "end_weight_update",
    "update_weight_version",
    "init_weights_update_group",
    "destroy_weights_update_group",
    "init_weights_send_group_for_remote_instance",
    "send_weights_to_remote_instance",
    "remote_instance_transfer_engine_info",
    "get_remote_instance_transfer_engine_info",
    "get_weights_by_name",
    "weights_checker",
    "release_memory_occupation",
    "resume_memory_occupation",
    "load_lora_adapter",
    "load_lora_adapter_from_tensors",
    "unload_lora_adapter",
    "hicache/storage-backend",
    "clear_hicache_storage_backend",
    "get_hicache_l3_cache_layout",
    "start_profile",
    "stop_profile",
    "freeze_gc",
    "dumper/x",
    "slow_down",
    "start_expert_distribution_record",
    "stop_expert_distribution_record",
    "dump_expert_distribution_record",
    "set_trace_level",
    "server_info",
    "get_server_info",
    "get_load",
    "v1/loads",
    "open_session",
    "close_session",
    "v1/realtime",
    "v1/decisions",
    "v1/systemone",
    "api/chat",
    "api/generate",
    "api/tags",
    "api/show",
    "invocations",
    "vertex_generate",
    "ping",
    "ready",
    "health_generate",
    "docs",
    "openapi.json",
    "v1/files",
    "v1/batches",
    "version",
    "",
)

TRICKS = (
    "/flush_cache",
    "//flush_cache",
    "/olla/sglang",
    "/olla//sglang/flush_cache",
    "/olla/sglang//flush_cache",
    "/olla/sglang/./flush_cache",
    "/olla/sglang/../flush_cache",
    "/olla/sglang/%2e%2e/flush_cache",
    "/olla/sglang/%2E%2E/%2e%2e/flush_cache",
    "/olla/sglang/..%2fflush_cache",
    "/olla/sglang/%252e%252e/flush_cache",
    "/olla/sglang/generate/../flush_cache",
    "/olla/sglang/generate/%2e%2e/flush_cache",
    "/olla/sglang/generate/..;/flush_cache",
    "/olla/sglang/generate;/../flush_cache",
    "/olla/sglang/generate;x=1",
    "/olla/sglang/generate%3Fx=1",
    "/olla/sglang/generate%23",
    "/olla/sglang/generate%00",
    "/olla/sglang/generate%0d%0a",
    "/olla/sglang/generate%2F",
    "/olla/sglang/generate/",
    "/olla/sglang//generate",
    "/olla//sglang/generate",
    "//olla/sglang/generate",
    "/olla/sglang%2Fgenerate",
    "/olla%2fsglang/generate",
    "/olla/sglang/Generate",
    "/OLLA/SGLANG/generate",
    "/olla/sglang\\generate",
    "/olla/sglang/v1/responses/../../flush_cache/cancel",
    "/olla/sglang/v1/responses/..%2f..%2fflush_cache/cancel",
    "/olla/sglang/v1/responses/%2e%2e/cancel",
    "http://backend.example/flush_cache",
    "http://backend.example/olla/sglang/flush_cache",
    "http://backend.example/olla/sglang/../flush_cache",
    "*",
)


def path_of(route: Route) -> str:
    """A path that ``route`` matches."""
    return re.sub(r"\{[^:}]*:.*?\+\}|\{[^{}]*\{1,128\}\}", "some_id", route.path)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.methods} {route.path}")
async def test_a_wrong_method_is_405_with_the_right_ones(route: Route, ollad: Running) -> None:
    allowed = route.methods.split()
    if "GET" in allowed:
        allowed.append("HEAD")
    for method in METHODS:
        if method in allowed:
            continue
        async with ollad.session.request(method, path_of(route)) as response:
            assert response.status == 405, method
            assert response.headers["Allow"] == ", ".join(allowed)
            assert "X-Olla-Request-ID" in response.headers
            if method != "HEAD":
                assert (await response.json())["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if "GET" in r.methods], ids=lambda route: str(route.path)
)
async def test_head_is_taken_where_get_is(route: Route, ollad: Running) -> None:
    head = await exchange(ollad.port, request(f"HEAD {path_of(route)}"))
    lines, _, body = head.partition(b"\r\n\r\n")
    assert body == b""
    async with ollad.session.get(path_of(route)) as response:
        assert lines.startswith(f"HTTP/1.1 {response.status} ".encode())
    if b"\r\nContent-Length:" in lines:
        assert b"\r\nContent-Length: 0" not in lines


async def test_head_of_a_backends_own_page_has_no_body(ollad: Running) -> None:
    head = await exchange(ollad.port, request(f"HEAD {PREFIX}/metrics?endpoint=one"))
    lines, _, body = head.partition(b"\r\n\r\n")
    assert lines.startswith(b"HTTP/1.1 200 ")
    assert body == b""


@pytest.mark.parametrize("path", ADMIN)
async def test_what_is_not_on_the_list_is_404_and_reaches_no_backend(
    path: str, fake: FakeSGLang, ollad: Running
) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        async with ollad.session.request(method, f"{PREFIX}/{path}", json={}) as response:
            assert response.status == 404
            assert (await response.json())["error"]["code"] == "route_not_found"
    assert fake.requests == []


@pytest.mark.parametrize("target", TRICKS)
async def test_no_spelling_of_a_path_gets_past_the_list(
    target: str, fake: FakeSGLang, ollad: Running
) -> None:
    for method in ("GET", "POST"):
        data = request(f"{method} {target}", "Content-Type: application/json", body=b"{}")
        answer = await exchange(ollad.port, data)
        assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), target
    assert fake.requests == []


@pytest.mark.parametrize("target", ["*", "ollad.example:443"])
@pytest.mark.parametrize("method", ["OPTIONS", "CONNECT", "GET"])
async def test_a_target_without_a_path_is_no_mistake_of_ollad(
    method: str, target: str, ollad: Running
) -> None:
    answer = await exchange(ollad.port, request(f"{method} {target}"))
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", answer)


async def test_a_path_may_be_written_with_escapes_and_the_backend_gets_the_routes_own(
    fake: FakeSGLang, ollad: Running
) -> None:
    data = request(
        f"POST {PREFIX}/%67enerate?a=%2F", "Content-Type: application/json", body=b'{"text":"x"}'
    )
    await exchange(ollad.port, data)
    assert [one.target for one in fake.requests] == ["/generate?a=%2F"]


async def test_a_request_in_absolute_form_is_routed_by_its_path(ollad: Running) -> None:
    answer = await exchange(ollad.port, request(f"GET http://other.example{PREFIX}/health"))
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_wish_to_upgrade_is_not_granted(fake: FakeSGLang, ollad: Running) -> None:
    async with ollad.session.get(
        f"{PREFIX}/v1/realtime",
        headers={"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
    ) as response:
        assert response.status == 404
    assert fake.requests == []


@pytest.mark.parametrize(
    "query", ["stream=1", "a=%2F%2f&b=+&c=", "a=1&a=2&%61=3", "x=%E9&y=[1]", "a=b=c?d"]
)
async def test_the_query_reaches_the_backend_as_it_is(
    query: str, fake: FakeSGLang, ollad: Running
) -> None:
    await exchange(
        ollad.port,
        request(
            f"POST {PREFIX}/v1/completions?{query}",
            "Content-Type: application/json",
            body=b'{"model":"tiny"}',
        ),
    )
    assert [one.target for one in fake.requests] == [f"/v1/completions?{query}"]
