"""From settings to facts: start everything, let it suffer under load, count."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.backends import Backend
from tests.chaos.daemon import Daemon
from tests.chaos.injector import inject
from tests.chaos.judge import judge
from tests.chaos.load import Load
from tests.chaos.network import Loopback, Namespaces
from tests.chaos.plan import make_plan
from tests.chaos.prompts import expected
from tests.chaos.records import read_works
from tests.chaos.report import Facts, left_behind, write_evidence
from tests.chaos.settings import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.daemon import Census
    from tests.chaos.network import Network
    from tests.chaos.settings import Settings

__all__ = ["chaos"]

_WARM_UP: Final = 0.1
"""Share of the load's time that is spent on load without trouble, before the first census."""
_LOOKS: Final = 5
_LOOK_SECONDS: Final = 0.2
_SETTLE_SECONDS: Final = 12.0
"""How long the daemon may take to give back what it held: connections that idle, above all."""
_FIGURES: Final = (
    "ollad_retries_total",
    "ollad_retries_exhausted_total",
    "ollad_stream_aborts_total",
    "ollad_health_checks_total",
)


async def chaos(settings: Settings) -> Facts:
    """Make a run.

    Raises:
        CommandError: the network cannot be made.
    """
    shutil.rmtree(settings.folder, ignore_errors=True)
    settings.folder.mkdir(parents=True)
    network: Network = (Namespaces if settings.namespaces else Loopback)(len(BACKENDS))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(network.close)
        await network.open()
        backends = [
            Backend(number, name, network, settings.folder) for number, name in enumerate(BACKENDS)
        ]
        for backend in backends:
            stack.push_async_callback(backend.close)
        await asyncio.gather(*(backend.start() for backend in backends))
        daemon = Daemon({backend.name: backend.url for backend in backends}, settings)
        stack.push_async_callback(daemon.close)
        await daemon.start()
        return await _suffer(settings, network, backends, daemon)


async def _suffer(
    settings: Settings, network: Network, backends: Sequence[Backend], daemon: Daemon
) -> Facts:
    plan = make_plan(
        settings.seed,
        settings.seconds,
        len(backends),
        pace=settings.pace,
        recovery=settings.recovery,
        black_holes=network.drops_packets,
        least_up=settings.least_up,
    )
    load = Load(daemon.port, settings.seed, settings.patience)
    idle = await _at_rest(daemon)
    _say("warming up")
    await load.run(settings.seconds * _WARM_UP, settings.rate)
    # Memory is that of a daemon that has worked, everything else that of one that has not.
    before = replace(await daemon.census(), tasks=idle.tasks, descriptors=idle.descriptors)
    _say(f"{len(plan.acts)} troubles and {len(plan.reloads)} reloads in {settings.seconds:g} s")
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run(settings.seconds, settings.rate))
        group.create_task(inject(plan, backends, daemon))
    _say("settling")
    problems = await _recovery(daemon, settings)
    after = await _settled(daemon, before)
    metrics = await _metrics(daemon)
    in_flight = int(sum(await _in_flight(daemon)))
    code = await daemon.stop()
    if code != 0:
        problems.append(f"exit code {code} after SIGTERM")
    if load.unasked:
        problems.append(f"{load.unasked} connections on which something came unasked")
    problems += daemon.problems
    problems += [f"logged: {entry}" for entry in daemon.errors()]
    windows = [*daemon.windows, *(window for one in backends for window in one.windows)]
    prompts = {prompt.id: prompt for prompt in load.prompts}
    works = [work for one in backends for work in read_works(one.name, one.log)]
    verdict = judge(
        prompts,
        load.replies,
        works,
        windows,
        backends=[backend.name for backend in backends],
        expected=lambda name: expected(prompts[name]),
        recovery=settings.recovery,
    )
    facts = Facts(
        settings=settings,
        verdict=verdict,
        replies=load.replies,
        left=left_behind(before, after, in_flight),
        censuses=(before, after),
        troubles=windows,
        reloads=(daemon.accepted, daemon.refused),
        problems=problems,
        metrics=metrics,
        rate=load.rate,
        late=load.late,
        drops_packets=network.drops_packets,
    )
    write_evidence(settings.folder, facts)
    return facts


async def _at_rest(daemon: Daemon) -> Census:
    """The least that the daemon holds while it does nothing but probe."""
    censuses = []
    for _ in range(_LOOKS):
        await asyncio.sleep(_LOOK_SECONDS)
        censuses.append(await daemon.census())
    return min(censuses, key=lambda census: (census.descriptors, census.tasks))


async def _settled(daemon: Daemon, before: Census) -> Census:
    """What the daemon holds once it has given back what it only held for a while."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        now = await daemon.census()
        if now.descriptors <= before.descriptors and now.tasks <= before.tasks:
            return now
        if time.monotonic() > deadline:
            return now
        await asyncio.sleep(_LOOK_SECONDS)


async def _recovery(daemon: Daemon, settings: Settings) -> list[str]:
    """Wait until every backend is healthy again; what is wrong with it if that takes too long."""
    deadline = time.monotonic() + settings.recovery + _SETTLE_SECONDS
    while True:
        states = {
            entry["name"]: f"{entry['state']} ({entry['reason']})"
            for entry in (await _get(daemon, "/internal/status"))["endpoints"]
        }
        ill = {name: state for name, state in states.items() if not state.startswith("healthy")}
        if not ill and len(states) == len(BACKENDS):
            return []
        if time.monotonic() > deadline:
            return [f"not healthy again: {ill or states}"]
        await asyncio.sleep(0.2)


async def _get(daemon: Daemon, path: str) -> Any:
    url = f"http://127.0.0.1:{daemon.port}{path}"
    timeout = aiohttp.ClientTimeout(10)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
        kind = response.content_type
        return await (response.json() if kind == "application/json" else response.text())


async def _in_flight(daemon: Daemon) -> list[float]:
    """What the daemon's own counts of requests under way say, but for the one that asks."""
    names = {"ollad_requests_in_flight", "ollad_backend_requests_in_flight"}
    page = await _get(daemon, "/metrics")
    families = text_string_to_metric_families(page)
    return [
        sample.value
        for family in families
        if family.name in names
        for sample in family.samples
        if sample.labels.get("family") != "internal"
    ]


async def _metrics(daemon: Daemon) -> dict[str, float]:
    """Figures for the report."""
    figures: dict[str, float] = {}
    for family in text_string_to_metric_families(await _get(daemon, "/metrics")):
        for sample in family.samples:
            if sample.name in _FIGURES and sample.value:
                told = {name: value for name, value in sample.labels.items() if name != "family"}
                name = f"{sample.name} {', '.join(told.values())}".strip()
                figures[name] = figures.get(name, 0) + sample.value
    return figures


def _say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()
