"""Taking on a new configuration while requests are under way.

The new file is checked whole before anything changes. Backends whose configuration is the same go
on as they are; new ones are probed before the first request can reach them; requests under way
keep the configuration that they began with.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ollad.backends.backend import Backend
from ollad.backends.pool import Pool
from ollad.config.diff import compare
from ollad.control import Verdict
from ollad.errors import ConfigError
from ollad.gateway import make_runtime
from ollad.maintenance import carry_over
from ollad.tls import load_tls

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from ollad.config.schema import Config
    from ollad.gateway import Gateway
    from ollad.health.schedule import HealthMonitor
    from ollad.tls import BackendTls, ListenerTls, TlsFiles

__all__ = ["Reloader"]


class Reloader:
    """Swaps the configuration of a running daemon, one reload at a time.

    Args:
        gateway: what the handlers see; its ``runtime`` is replaced.
        monitor: probes the backends.
        load: reads a configuration file, the one the daemon was started with for None.
        logger: where the verdict goes as well.
        backend_tls: secures connections to backends.
        listener_tls: secures those of clients, if any.
    """

    def __init__(
        self,
        gateway: Gateway,
        monitor: HealthMonitor,
        load: Callable[[str | None], Config],
        logger: FilteringBoundLogger,
        *,
        backend_tls: BackendTls,
        listener_tls: ListenerTls | None,
    ) -> None:
        self._gateway = gateway
        self._monitor = monitor
        self._load = load
        self._logger = logger
        self._backend_tls = backend_tls
        self._listener_tls = listener_tls
        self._turn = asyncio.Lock()

    async def reload(self, path: str | None = None) -> Verdict:
        """Take on the configuration in ``path``, or leave everything as it is.

        Returns:
            Whether it was taken on, and what changed or what is wrong with it.
        """
        async with self._turn:
            try:
                config = await asyncio.to_thread(self._load, path)
                files = await load_tls(config)
            except ConfigError as error:
                self._logger.error("reload refused", problems=error.problems)  # noqa: TRY400 - they say it all
                self._gateway.telemetry.reloaded(False, self._gateway.wall())
                return Verdict(False, error.problems)
            messages = await self._take_on(config, files)
            self._logger.info("reloaded", changes=messages)
            self._gateway.telemetry.reloaded(True, self._gateway.wall())
            return Verdict(True, messages)

    async def _take_on(self, config: Config, files: TlsFiles) -> tuple[str, ...]:
        gateway = self._gateway
        before = gateway.runtime
        change = compare(before.config, config)
        config = change.config
        fresh = {*change.added, *change.changed}
        pool = Pool(
            Backend(endpoint) if endpoint.name in fresh else before.pool.named(endpoint.name)
            for endpoint in config.endpoints
        )
        self._backend_tls.renew(files.clients)
        self._monitor.adopt(pool, config.health)
        try:
            await self._monitor.wait_first_round()
        except BaseException:
            pool.retire()  # as it takes no place, its backends need not keep it
            raise
        carry_over(gateway.runtime.pool, pool)
        gateway.dispatcher.placement.adopt(config.routing, pool)
        gateway.runtime = make_runtime(config, pool, gateway.clock(), gateway.runtime)
        before.pool.retire()
        gateway.bodies.resize(config.server.max_buffered_bytes)
        if self._listener_tls is not None and files.server is not None:
            self._listener_tls.renew(files.server)
        gateway.conversations.resize(config.conversations)
        await self._monitor.retire(pool)
        for name in change.removed:
            gateway.telemetry.forget_backend(name)
        return change.describe() or ("nothing changed",)
