"""A new server process behind the same address is noticed, and learned anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ollad.backends.snapshot import State
from tests.wire.health import fake
from tests.wire.health.watch import endpoint, watching

if TYPE_CHECKING:
    from ollad.backends.snapshot import Snapshot
    from tests.wire.health.watch import Watch


async def renewed(watch: Watch, before: Snapshot) -> Snapshot:
    """The first snapshot of the next incarnation."""
    return await watch.until(
        lambda s: s.engine.incarnation not in (None, before.engine.incarnation)
    )


async def test_an_incarnation_lasts_while_the_server_does() -> None:
    async with (
        fake.serving(fake.sglang_0_5_23()) as server,
        watching(endpoint(server.url)) as watch,
    ):
        await watch.monitor.wait_first_round()
        before = watch.snapshot().engine.incarnation
        await watch.rounds(4)
        assert before is not None
        assert watch.snapshot().engine.incarnation == before


async def test_a_server_that_refused_in_between_is_another() -> None:
    async with (
        fake.serving(fake.sglang_0_5_23()) as server,
        watching(endpoint(server.url)) as watch,
    ):
        await watch.monitor.wait_first_round()
        before = watch.snapshot()
        await server.stop()
        await watch.until(lambda s: s.state is State.DOWN)
        server.routes = fake.sglang_0_5_9()
        await server.start()
        after = await renewed(watch, before)
        assert after.engine.version == "0.5.9"
        await watch.until(lambda s: s.state is State.HEALTHY)


async def test_another_version_in_the_loads_is_another_server() -> None:
    async with (
        fake.serving(fake.sglang_0_5_23()) as server,
        watching(endpoint(server.url)) as watch,
    ):
        await watch.monitor.wait_first_round()
        before = watch.snapshot()
        server.routes |= {
            "/v1/loads": fake.loads(version="0.5.24"),
            "/server_info": fake.server_info("0.5.24", seed=2),
        }
        after = await renewed(watch, before)
        assert after.engine.version == "0.5.24"
        assert after.state is State.HEALTHY


async def test_a_counter_that_fell_is_another_server_whose_routes_are_tried_anew() -> None:
    routes = fake.sglang_0_5_23()
    metrics = routes.pop("/metrics")
    routes["/v1/loads"] = prefilled(100)
    async with fake.serving(routes) as server, watching(endpoint(server.url)) as watch:
        await watch.rounds(2)
        before = watch.snapshot()
        assert before.load.hit_rate is None
        server.routes |= {"/metrics": metrics, "/v1/loads": prefilled(3)}
        after = await renewed(watch, before)
        assert after.load.hit_rate == 0.75


async def test_another_process_id_in_the_metrics_is_another_server() -> None:
    routes = fake.sglang_0_5_23() | {"/metrics": fake.raw('sglang:num_retracted_reqs{pid="1"} 0\n')}
    async with fake.serving(routes) as server, watching(endpoint(server.url)) as watch:
        await watch.monitor.wait_first_round()
        before = watch.snapshot()
        server.routes["/metrics"] = fake.raw('sglang:num_retracted_reqs{pid="2"} 0\n')
        await renewed(watch, before)


async def test_accepted_tokens_go_on_where_they_were_after_a_restart() -> None:
    routes = fake.sglang_0_5_23() | {
        "/server_info": fake.server_info("0.5.23", speculative_algorithm="EAGLE"),
        "/metrics": speculative(100),
    }
    async with fake.serving(routes) as server, watching(endpoint(server.url)) as watch:
        await watch.until(lambda s: s.load.spec_accepted_tokens == 69)
        assert watch.snapshot().engine.speculative is True
        server.routes["/metrics"] = speculative(40)
        await watch.until(lambda s: s.load.spec_accepted_tokens == 78)


def speculative(generated: int) -> fake.Answer:
    return fake.raw(
        f"sglang:generation_tokens_total {generated}\nsglang:spec_verify_calls_total 30\n"
        "sglang:num_requests_total 1\n"
    )


def prefilled(tokens: int) -> fake.Answer:
    rank: dict[str, Any] = {"num_running_reqs": 0, "total_prefill_uncached_tokens": tokens}
    return fake.document({"version": "0.5.23", "loads": [rank]})
