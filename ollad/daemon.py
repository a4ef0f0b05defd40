"""Life of the process: build, probe, listen, serve until told to stop, drain, leave."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ollad import __version__
from ollad.backends.backend import Backend
from ollad.backends.pool import Pool
from ollad.conversations import ConversationStore
from ollad.dispatch import Dispatcher
from ollad.gateway import Gateway, Runtime
from ollad.headers import TrustedProxies
from ollad.health.fetch import open_session as open_probe_session
from ollad.health.schedule import HealthMonitor
from ollad.metrics import Telemetry
from ollad.relay.client import Relay, open_session
from ollad.routing.policies import LeastConnections
from ollad.server import make_application

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from ollad.backends.snapshot import State
    from ollad.config.schema import Config
    from ollad.logs import LineWriter

__all__ = ["Daemon"]

_CUT_SECONDS: Final = 1.0
"""How long handlers that were cut off may take to clean up."""


class Daemon:
    """One ollad, from its configuration to its end.

    Attributes:
        port: the port it listens on, once ``start`` has returned.
    """

    def __init__(
        self, config: Config, logger: FilteringBoundLogger, lines: LineWriter | None = None
    ) -> None:
        self._config = config
        self._logger = logger
        self._lines = lines
        self._exits = AsyncExitStack()
        self._gateway: Gateway | None = None
        self.port = config.server.port

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second signal ends the draining.

        Raises:
            OSError: the address cannot be listened on.
        """
        stop, hurry = asyncio.Event(), asyncio.Event()

        def on_signal() -> None:
            (hurry if stop.is_set() else stop).set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        await self.start()
        try:
            await stop.wait()
            await self.drain(hurry)
        finally:
            await self.close()

    async def start(self) -> None:
        """Probe every backend once, then listen.

        Raises:
            OSError: the address cannot be listened on; nothing is left running.
        """
        try:
            await self._build()
        except BaseException:
            await self.close()
            raise
        self._logger.info(
            "listening",
            host=self._config.server.host,
            port=self.port,
            version=__version__,
            endpoints=len(self._config.endpoints),
        )

    async def _build(self) -> None:
        config = self._config
        pool = Pool(Backend(endpoint) for endpoint in config.endpoints)
        telemetry = Telemetry()
        data_session = await self._exits.enter_async_context(open_session())
        probe_session = await self._exits.enter_async_context(open_probe_session())
        gateway = self._gateway = Gateway(
            runtime=Runtime(config, pool, TrustedProxies(config.server.trusted_proxies)),
            dispatcher=Dispatcher(
                Relay(data_session), LeastConnections(random.random), telemetry, time.monotonic
            ),
            telemetry=telemetry,
            conversations=ConversationStore(config.conversations, time.monotonic),
            clock=time.monotonic,
            wall=time.time,
        )
        telemetry.bind_pool(lambda: gateway.runtime.pool)
        if self._lines is not None:
            lines = self._lines
            telemetry.bind_log(lambda: lines.dropped)
        monitor = HealthMonitor(
            pool, config.health, probe_session, observer=_ProbeCounter(telemetry)
        )
        monitor.start()
        self._exits.push_async_callback(monitor.stop)
        await monitor.wait_first_round()
        await self._listen(gateway)

    async def _listen(self, gateway: Gateway) -> None:
        server = self._config.server
        app = make_application(gateway, self._logger, access=self._config.logging.access)
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_CUT_SECONDS,
            auto_decompress=False,
        )
        await runner.setup()
        self._exits.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, server.host, server.port).start()
        self.port = runner.addresses[0][1]

    async def drain(self, hurry: asyncio.Event) -> None:
        """Refuse new requests and let those under way finish, up to ``shutdown_timeout``.

        Args:
            hurry: ends the waiting at once when set.
        """
        gateway = self._gateway
        if gateway is None:
            return
        gateway.draining = True
        patience, traffic = self._config.server.shutdown_timeout, gateway.traffic
        self._logger.info("draining", under_way=traffic.count, patience_seconds=patience)
        ends = [asyncio.create_task(event.wait()) for event in (traffic.idle, hurry)]
        try:
            await asyncio.wait(ends, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        if traffic.count:
            self._logger.warning("cutting requests off", under_way=traffic.count)

    async def close(self) -> None:
        """Stop listening and give everything back; what is still under way is cut."""
        await self._exits.aclose()
        self._logger.info("stopped")


class _ProbeCounter:
    """Counts the rounds of the health task."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def on_probe(self, backend: Backend, result: str, seconds: float) -> None:
        self._telemetry.probe(backend.name, result, seconds)

    def on_transition(self, backend: Backend, old: State, new: State, reason: str) -> None:
        """Logged by the health task itself, shown by the snapshot."""
