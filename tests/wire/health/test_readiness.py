"""When a backend is taken out of service and put back, over real sockets."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from ollad.backends.snapshot import State
from tests.wire.health import fake
from tests.wire.health.watch import endpoint, watching


@pytest.mark.parametrize("routes", [fake.sglang_0_5_23(), fake.sglang_0_5_9()])
async def test_a_health_slower_than_check_timeout_does_not_flap(
    routes: dict[str, fake.Answer],
) -> None:
    routes = routes | {"/health": fake.slow(0.5, fake.status(200))}
    async with (
        fake.serving(routes) as server,
        watching(endpoint(server.url, check_timeout=0.25), deep_interval=0.1, fall=1) as watch,
    ):
        await watch.monitor.wait_first_round()
        assert watch.snapshot().state is State.HEALTHY
        while server.asked["/health"] < 3:
            await watch.rounds(1)
        assert set(watch.log.results()) == {"ok"}


async def test_without_ready_the_first_round_waits_for_a_slow_health() -> None:
    routes = fake.sglang_0_5_9() | {"/health": fake.slow(0.2, fake.status(200))}
    async with (
        fake.serving(routes) as server,
        watching(endpoint(server.url, check_timeout=0.1)) as watch,
    ):
        await watch.monitor.wait_first_round()
        assert watch.snapshot().state is State.HEALTHY


async def test_a_server_that_warms_up_is_starting_until_it_is_ready() -> None:
    routes = fake.sglang_0_5_23() | {"/ready": fake.status(503)}
    async with fake.serving(routes) as server, watching(endpoint(server.url), rise=2) as watch:
        await watch.monitor.wait_first_round()
        assert watch.snapshot().state is State.STARTING
        assert watch.snapshot().reason == "503 on /ready"
        server.routes["/ready"] = fake.status(200)
        await watch.until(lambda s: s.state is State.HEALTHY)
        assert [new for _, _, new in watch.log.transitions] == [
            State.STARTING,
            State.RECOVERING,
            State.HEALTHY,
        ]


async def test_without_ready_the_deep_probe_tells_that_a_server_warms_up() -> None:
    routes = fake.sglang_0_5_9() | {"/health": fake.status(503)}
    async with fake.serving(routes) as server, watching(endpoint(server.url)) as watch:
        await watch.rounds(2)
        assert watch.snapshot().state is State.STARTING
        server.routes["/health"] = fake.status(200)
        await watch.until(lambda s: s.state is State.HEALTHY)


async def test_a_server_that_drains_is_out_after_fall_rounds() -> None:
    async with (
        fake.serving(fake.sglang_0_5_23()) as server,
        watching(endpoint(server.url)) as watch,
    ):
        await watch.monitor.wait_first_round()
        server.routes["/ready"] = fake.status(503)
        await watch.until(lambda s: s.state is State.STARTING)
        assert watch.log.results().count("not_ready") >= 3


async def test_a_failing_deep_probe_takes_a_backend_out_though_the_cheap_ones_answer() -> None:
    async with (
        fake.serving(fake.sglang_0_5_23()) as server,
        watching(endpoint(server.url), deep_interval=0.05) as watch,
    ):
        await watch.monitor.wait_first_round()
        server.routes["/health"] = fake.slow(0.12, fake.status(500))
        down = await watch.until(lambda s: s.state is State.DOWN)
        assert down.reason == "500 on /health"
        assert "undecided" in watch.log.results()
        server.routes["/health"] = fake.status(200)
        await watch.until(lambda s: s.state is State.HEALTHY)


async def test_a_backend_that_hangs_is_out_after_fall_rounds_and_its_figures_are_gone() -> None:
    routes = fake.sglang_0_5_23()
    async with (
        fake.serving(routes) as server,
        watching(endpoint(server.url, check_timeout=0.2)) as watch,
    ):
        up = await watch.until(lambda s: s.load.running == 1)
        server.routes = dict.fromkeys(routes, fake.hang)
        shaky = await watch.until(lambda s: s.failures == 1)
        assert shaky.state is State.HEALTHY
        assert shaky.load == up.load
        down = await watch.until(lambda s: s.state is State.DOWN)
        assert down.reason == "no answer within 0.2 s on /ready"
        assert down.load.running is None
        assert down.weight == 0.0
        assert down.model_ids == ("tiny-llama",)


async def test_refused_connections_take_a_backend_out_at_once() -> None:
    async with (
        fake.serving(fake.sglang_0_5_23()) as server,
        watching(endpoint(server.url)) as watch,
    ):
        await watch.monitor.wait_first_round()
        await server.stop()
        down = await watch.until(lambda s: s.state is State.DOWN)
        assert "refused" in watch.log.results()
        await watch.until(lambda s: s.reason == "connection refused")
        assert down.engine.version == "0.5.23"


async def test_a_wrong_key_is_named_as_such_and_not_shown() -> None:
    routes = fake.sglang_0_5_23() | {"/v1/models": fake.status(401), "/v1/loads": fake.status(401)}
    headers = {"Authorization": "Bearer WRONG"}
    async with (
        fake.serving(routes) as server,
        watching(endpoint(server.url, headers=headers)) as watch,
    ):
        await watch.monitor.wait_first_round()
        assert watch.snapshot().state is State.DOWN
        assert watch.snapshot().reason.startswith("401 on /v1/models: the key")
        assert "WRONG" not in watch.snapshot().reason


async def test_a_readiness_route_of_one_s_own_is_asked_each_round_in_place_of_health() -> None:
    routes = fake.sglang_0_5_23() | {"/healthz": fake.status(200)}
    async with (
        fake.serving(routes) as server,
        watching(endpoint(server.url, health_check_url="/healthz")) as watch,
    ):
        await watch.rounds(3)
        assert server.asked["/healthz"] >= 3
        assert server.asked["/health"] == server.asked["/ready"] == 0
        server.routes["/healthz"] = fake.status(500)
        down = await watch.until(lambda s: s.state is State.DOWN)
        assert down.reason == "500 on /healthz"


async def test_a_redirect_is_not_followed() -> None:
    routes = fake.sglang_0_5_23() | {"/ready": fake.status(307)}
    async with fake.serving(routes) as server, watching(endpoint(server.url)) as watch:
        await watch.monitor.wait_first_round()
        assert watch.snapshot().reason == "307 on /ready"


async def test_a_slow_backend_does_not_delay_another() -> None:
    stuck = dict.fromkeys(fake.sglang_0_5_23(), fake.hang)
    async with (
        fake.serving(stuck) as slow,
        fake.serving(fake.sglang_0_5_23()) as quick,
        watching(
            endpoint(slow.url, "slow", check_timeout=30.0, check_interval=30.0),
            endpoint(quick.url, "quick"),
        ) as watch,
    ):
        await watch.rounds(4, "quick")
        assert watch.log.results("slow") == []
        assert watch.snapshot("quick").state is State.HEALTHY


async def test_many_backends_that_hang_leave_connections_for_the_others() -> None:
    stuck = dict.fromkeys(fake.sglang_0_5_23(), fake.hang)
    async with (
        fake.serving(stuck) as slow,
        fake.serving(fake.sglang_0_5_23()) as quick,
    ):
        hanging = [
            endpoint(slow.url, f"slow{number}", check_timeout=30.0, check_interval=30.0)
            for number in range(25)
        ]
        async with watching(*hanging, endpoint(quick.url, "quick")) as watch:
            await watch.rounds(2, "quick")
            assert watch.snapshot("quick").state is State.HEALTHY


async def test_ready_waits_for_the_first_round_of_every_backend() -> None:
    late = fake.sglang_0_5_23() | {"/ready": fake.slow(0.1, fake.status(200))}
    async with (
        fake.serving(late) as one,
        fake.serving(fake.sglang_0_5_23()) as two,
        watching(endpoint(one.url, "late"), endpoint(two.url, "soon")) as watch,
    ):
        await watch.monitor.wait_first_round()
        assert [backend.snapshot.state for backend in watch.pool] == [State.HEALTHY] * 2


async def test_weights_follow_priority_and_usage() -> None:
    full = fake.sglang_0_5_23() | {"/v1/loads": fake.loads(usage=0.95)}
    async with (
        fake.serving(full) as one,
        fake.serving(fake.sglang_0_5_23()) as two,
        watching(endpoint(one.url, "a", priority=50), endpoint(two.url, "b")) as watch,
    ):
        await watch.monitor.wait_first_round()
        assert watch.snapshot("a").weight == pytest.approx(0.5 / 1.4)
        assert watch.snapshot("b").weight == 1.0


async def test_failure_and_recovery_are_logged_once_each() -> None:
    routes = fake.sglang_0_5_23()
    async with fake.serving(routes) as server, watching(endpoint(server.url), fall=50) as watch:
        await watch.rounds(1)
        with capture_logs() as logs:
            server.routes["/ready"] = fake.status(500)
            await watch.rounds(3)
            server.routes["/ready"] = fake.status(200)
            await watch.rounds(3)
        assert [(entry["log_level"], entry["event"]) for entry in logs] == [
            ("warning", "health check failed"),
            ("info", "health check passes again"),
        ]


async def test_a_fault_of_ollad_s_own_counts_as_a_failed_round_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        fake.serving(fake.sglang_0_5_23()) as server,
        watching(endpoint(server.url)) as watch,
    ):
        await watch.rounds(1)
        with capture_logs() as logs, monkeypatch.context() as patch:
            patch.setattr("ollad.sglang.exposition.parse", lambda _: 1 // 0)
            down = await watch.until(lambda s: s.state is State.DOWN)
        assert down.reason == "internal error (ZeroDivisionError)"
        assert down.model_ids == ("tiny-llama",)
        assert any(entry["event"] == "health check crashed" for entry in logs)
        await watch.until(lambda s: s.state is State.HEALTHY)


async def test_stopping_leaves_no_task_behind() -> None:
    routes = dict.fromkeys(fake.sglang_0_5_23(), fake.hang) | {
        "/ready": fake.status(200),
        "/v1/models": fake.document(fake.MODELS),
    }
    others = asyncio.all_tasks()
    async with (
        fake.serving(routes) as server,
        watching(endpoint(server.url, check_timeout=0.2)) as watch,
    ):
        await watch.rounds(2)
        await watch.monitor.stop()
        mine = {
            t for t in asyncio.all_tasks() - others if t.get_name().startswith(("health", "deep"))
        }
        assert mine == set()
