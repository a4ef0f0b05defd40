"""What a round's replies mean, and what is known of a server process because of them.

No I/O here; ``prober`` asks and hands the replies in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ollad.sglang import exposition, load, probes, readings
from ollad.sglang.counters import HitRateWindow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ollad.backends.snapshot import Engine, ModelCard
    from ollad.health.fetch import Reply

__all__ = ["Facts", "Incarnation", "Replies"]

_INFO_INTERVAL: Final = 60.0
"""Seconds between two looks at what a server is; each costs it a scheduler round trip."""


@dataclass(frozen=True, slots=True)
class Replies:
    """The replies of one round; None for what was not asked.

    Attributes:
        lacks: routes that the server answered with 404 or 405.
    """

    models: Reply
    ready: Reply | None
    load: Reply | None
    metrics: Reply | None
    server: Reply | None
    model: Reply | None
    openapi: Reply | None
    lacks: frozenset[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """The replies of one round, parsed.

    Attributes:
        cards: every model listed; None if there was no list.
        server: what the server is; None if it did not say.
        model: its ``/model_info``, likewise.
        page: its metrics, likewise.
        report: how busy it is, by all sources.
        told: whether ``report`` is all that can be known; False when its sources were silent.
        native_metrics: the API page's own series, if it has them.
    """

    cards: tuple[ModelCard, ...] | None
    server: readings.ServerInfo | None
    model: Mapping[str, Any] | None
    page: exposition.Exposition | None
    report: load.LoadReport
    told: bool
    native_metrics: Mapping[str, float] | None


class Incarnation:
    """One server process, from its start to its end: what it is and what it lacks.

    Attributes:
        name: differs from that of every other incarnation; None while nothing has answered.
        cards: the models it listed last; None if it never did.
        window: its hit rate.
        server: what it said it is, if it did.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.cards: tuple[ModelCard, ...] | None = None
        self.window = HitRateWindow()
        self.server: readings.ServerInfo | None = None
        self._model: Mapping[str, Any] | None = None
        self._routes: frozenset[str] | None = None
        self._routes_asked = False
        self._metrics: bool | None = None
        self._infos_due = float("-inf")
        self._lacks: frozenset[str] = frozenset()
        self._version: str | None = None
        self._speculative: bool | None = None
        self._counters: Mapping[str, float] = {}
        self._pids: frozenset[str] = frozenset()

    @property
    def version(self) -> str | None:
        """Its version, by whichever source tells."""
        return (self.server.version if self.server else None) or self._version

    def may_have(self, route: str) -> bool:
        """Whether ``route`` is worth asking for."""
        return route not in self._lacks and probes.may_exist(route, self.version)

    def infos_due(self, now: float) -> bool:
        """Whether to ask again what it is, at monotonic time ``now``."""
        return now >= self._infos_due

    @property
    def routes_due(self) -> bool:
        """Whether its route list is still to be asked for."""
        return not self._routes_asked

    def parse(self, replies: Replies) -> Facts:
        """Read a round's replies."""
        page = None
        if replies.metrics is not None and replies.metrics.ok:
            page = exposition.parse(replies.metrics.body)
        server = readings.server_info(_json(replies.server))
        load_reply = _json(replies.load)
        loads = load.from_loads(load_reply) or load.from_get_load(load_reply)
        own, native_metrics = load.from_page(page) if page else (None, None)
        silent = any(reply and reply.failure for reply in (replies.load, replies.metrics))
        report = load.combined(
            [
                own,
                loads,
                load.from_metrics(page) if page else None,
                load.from_server_info(server or self.server),
            ]
        )
        return Facts(
            cards=readings.model_cards(_json(replies.models)),
            server=server,
            model=readings.model_info(_json(replies.model)),
            page=page,
            report=report,
            told=loads is not None or page is not None or not silent,
            native_metrics=native_metrics,
        )

    def replaced(self, facts: Facts) -> bool:
        """Whether ``facts`` come from another process than this one."""
        if self.name is None:
            return False
        old = self.server.fingerprint if self.server else None
        new = facts.server.fingerprint if facts.server else None
        if old is not None and new is not None and old != new:
            return True
        version = (facts.server and facts.server.version) or facts.report.version
        if version and self.version not in (None, version):
            return True
        pids = facts.page.pids() if facts.page else frozenset()
        if pids and self._pids and pids.isdisjoint(self._pids):
            return True
        counters = facts.report.counters
        return any(value < self._counters.get(name, 0.0) for name, value in counters.items())

    def learn(self, replies: Replies, facts: Facts, *, now: float, wall: float) -> None:
        """Take in a round, at monotonic time ``now`` and Unix time ``wall``."""
        if self.name is None and replies.models.status:
            self.name = f"{wall:.3f}"
        if replies.models.ok:
            # A 404 counts only from a server that is up: a gateway before it may say it of all.
            self._lacks |= replies.lacks
        self.server = facts.server or self.server
        self._model = facts.model or self._model
        known = self.server is not None and self._model is not None
        if self.infos_due(now) and (
            known or (_settled(replies.server) and _settled(replies.model))
        ):
            self._infos_due = now + _INFO_INTERVAL
        if not self._routes_asked and _settled(replies.openapi):
            self._routes_asked = True
            self._routes = readings.native_routes(_json(replies.openapi))
        if replies.metrics is not None and _settled(replies.metrics):
            self._metrics = replies.metrics.ok
        if facts.cards is not None:
            self.cards = facts.cards
        self._version = facts.report.version or self._version
        self._speculative = self._speculative or facts.report.speculative
        self._counters = {**self._counters, **facts.report.counters}
        if facts.page is not None:
            self._pids = facts.page.pids() or self._pids
            self.window = self.window.advanced(now, load.prompt_tokens(facts.page))

    def engine(self) -> Engine:
        """What is known of it."""
        return readings.engine(
            self.server,
            self._model,
            incarnation=self.name,
            version=self._version,
            speculative=self._speculative,
            routes=self._routes,
            metrics=self._metrics,
        )


def _settled(reply: Reply | None) -> bool:
    """Whether asking again would bring nothing new."""
    return reply is None or reply.ok or reply.missing or reply.denied


def _json(reply: Reply | None) -> object:
    return None if reply is None else reply.json()
