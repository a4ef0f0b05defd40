"""One round of probes against one backend.

A round asks everything cheap at once, each call bounded by ``check_timeout``. The real
``/health`` generates a token and takes a second or more, so it is a deep probe: a task of its
own, rare, with its own timeout, whose verdict counts in the round that finds it finished. Only a
backend that is out of service and has no ``/ready`` is waited for with it, as nothing else says
there that the warm-up is over.

What was learned about a server process (routes it lacks, what it is) holds until it restarts.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ollad.backends.snapshot import Engine
from ollad.health.deep import DeepProbe
from ollad.health.fetch import fetch
from ollad.health.knowledge import Incarnation, Replies
from ollad.health.verdict import Outcome, Result
from ollad.sglang import load, probes, readings
from ollad.sglang.counters import MonotonicCount

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ollad.backends.snapshot import Load, ModelCard, State
    from ollad.config.schema import Endpoint
    from ollad.health.fetch import ProbeClient, Reply
    from ollad.health.knowledge import Facts

__all__ = ["Prober", "Round"]


@dataclass(frozen=True, slots=True)
class Round:
    """What one round found; the fields are those of ``Snapshot``.

    ``load`` is None if nothing told it; the rest is what is known by now.
    """

    outcome: Outcome
    engine: Engine = field(default_factory=Engine)
    load: Load | None = None
    models: tuple[ModelCard, ...] = ()
    native_health: Mapping[str, Any] | None = None
    native_metrics: Mapping[str, float] | None = None


class Prober:
    """Probes one backend; one round at a time.

    Args:
        endpoint: the backend.
        client: the control plane's; it is not closed here.
        deep_interval: time between two probes of ``/health``, seconds.
        clock: monotonic time, seconds.
        wall: Unix time, seconds.
        random: a number from 0 to 1.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        client: ProbeClient,
        *,
        deep_interval: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._endpoint = endpoint
        self._client = client
        self._clock = clock
        self._wall = wall
        self._accepted = MonotonicCount()
        self._incarnation = Incarnation()
        self._newer: list[Reply] = []
        self._last = Round(Outcome(Result.UNDECIDED))
        self._own_readiness = endpoint.health_check_url != probes.HEALTH
        self._deep = DeepProbe(endpoint, client, interval=deep_interval, clock=clock, random=random)

    def schedule_deep(self, interval: float) -> None:
        """Probe ``/health`` every ``interval`` seconds, from the next time on."""
        self._deep.interval = interval

    async def round(self, state: State) -> Round:
        """Ask the backend once.

        Args:
            state: its state before this round.
        """
        replies = await self._ask()
        readiness = self._readiness(replies)
        if readiness.result is Result.REFUSED:
            await self._forget()
            return replace(self._last, outcome=readiness, load=None, native_metrics=None)
        facts = self._incarnation.parse(replies)
        if self._incarnation.replaced(facts):
            await self._forget()
            replies = await self._ask()
            readiness = self._readiness(replies)
            facts = self._incarnation.parse(replies)
        self._incarnation.learn(replies, facts, now=self._clock(), wall=self._wall())
        outcome = self._judge_models(readiness, replies)
        if outcome.result is Result.OK and not self._own_readiness:
            has_ready = replies.ready is not None and not replies.ready.missing
            outcome = await self._deep.judge(state, has_ready=has_ready)
        self._last = self._assemble(outcome, facts)
        return self._last

    async def models(self) -> tuple[ModelCard, ...]:
        """What it offers now, asked for alone; nothing if it does not list any model."""
        incarnation, newer = self._incarnation, self._newer
        reply = await self._get(self._endpoint.model_url)
        cards = readings.model_cards(reply.json())
        if not cards:
            return ()
        incarnation.cards = cards
        newer[:] = [reply]
        return readings.offered(cards, self._endpoint.models)

    async def close(self) -> None:
        """End the deep probe that may be under way."""
        await self._deep.close()

    async def _ask(self) -> Replies:
        """Ask everything cheap that this server may have, at once."""
        endpoint, known = self._endpoint, self._incarnation
        newer: list[Reply] = []
        self._newer = newer
        infos = known.infos_due(self._clock())
        lacks: set[str] = set()
        async with asyncio.TaskGroup() as group:

            def ask(*routes: str, due: bool = True) -> asyncio.Task[Reply | None]:
                return group.create_task(self._first_answer(routes if due else (), lacks))

            models = group.create_task(self._get(endpoint.model_url))
            own = (
                group.create_task(self._get(endpoint.health_check_url))
                if self._own_readiness
                else None
            )
            ready = ask(probes.READY, due=not self._own_readiness)
            figures = ask(probes.LOADS, probes.GET_LOAD)
            metrics = ask(probes.METRICS)
            server = ask(probes.SERVER_INFO, probes.GET_SERVER_INFO, due=infos)
            model = ask(probes.MODEL_INFO, probes.GET_MODEL_INFO, due=infos)
            openapi = ask(probes.OPENAPI, due=known.routes_due)
        listed = models.result()
        if listed.ok and newer:  # asked for alone since, and answered before the rest was
            listed = newer[0]
        return Replies(
            models=listed,
            ready=own.result() if own else ready.result(),
            load=figures.result(),
            metrics=metrics.result(),
            server=server.result(),
            model=model.result(),
            openapi=openapi.result(),
            lacks=frozenset(lacks),
        )

    async def _first_answer(self, routes: tuple[str, ...], lacks: set[str]) -> Reply | None:
        """Ask the routes in turn until one answers 200 or one does not answer at all."""
        reply: Reply | None = None
        for route in routes:
            if not self._incarnation.may_have(route):
                continue
            reply = await self._get(route)
            if reply.ok or reply.failure:
                break
            if reply.missing:
                lacks.add(route)
        return reply

    async def _get(self, route: str) -> Reply:
        return await fetch(
            self._client,
            self._endpoint,
            route,
            seconds=self._endpoint.check_timeout,
            accept="text/plain" if route == probes.METRICS else "application/json",
        )

    def _readiness(self, replies: Replies) -> Outcome:
        """What the readiness probe says; without one, what the model list says."""
        ready = replies.ready
        if ready is None or (ready.missing and not self._own_readiness):
            ready = replies.models
        if ready.refused or replies.models.refused:
            return Outcome(Result.REFUSED, "connection refused")
        if ready.ok:
            return Outcome(Result.OK)
        unready = ready.status == 503 and ready is not replies.models
        return Outcome(Result.NOT_READY if unready else Result.FAILED, ready.problem)

    def _judge_models(self, readiness: Outcome, replies: Replies) -> Outcome:
        """A backend that is ready but has no model, or rejects ollad, serves nobody."""
        if readiness.result is not Result.OK:
            return readiness
        if replies.models.denied:
            return Outcome(Result.FAILED, replies.models.problem)
        cards = self._incarnation.cards
        if cards:
            return readiness
        if not replies.models.ok:
            return Outcome(Result.FAILED, replies.models.problem)
        what = "is no model list" if cards is None else "lists no model"
        return Outcome(Result.FAILED, f"{self._endpoint.model_url} {what}")

    async def _forget(self) -> None:
        """Begin anew with a server process of which nothing is known."""
        self._incarnation = Incarnation()
        self._accepted = self._accepted.restarted()
        await self._deep.reset()

    def _assemble(self, outcome: Outcome, facts: Facts) -> Round:
        known, document = self._incarnation, self._deep.document
        engine = known.engine()
        report = load.combined([load.from_page_health(document), facts.report])
        accepted = report.accepted_tokens
        if accepted is None and engine.speculative and facts.page is not None:
            accepted = load.accepted_tokens(facts.page)
        self._accepted = self._accepted.advanced(accepted)
        figures = load.to_load(
            report,
            hit_rate=known.window.rate,
            accepted=self._accepted.value,
            kv_copies=known.server.kv_copies if known.server else 1,
        )
        return Round(
            outcome=outcome,
            engine=engine,
            load=figures if facts.told or document is not None else None,
            models=readings.offered(known.cards or (), self._endpoint.models),
            native_health=document,
            native_metrics=facts.native_metrics,
        )
