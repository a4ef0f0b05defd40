"""Life of the process: build, probe, listen, serve until told to stop, drain, leave."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from ollad import __version__, fastpath
from ollad.allocator import keep_freed_memory
from ollad.backends.backend import Backend
from ollad.backends.pool import Pool
from ollad.control import ControlServer, Verdict, control_path
from ollad.conversations import ConversationStore
from ollad.dispatch import Dispatcher
from ollad.errors import ConfigError, ListenError
from ollad.gateway import Gateway, make_runtime
from ollad.handlers import ADMIN_ROUTES, PUBLIC_ROUTES, ROUTES
from ollad.health.fetch import open_client
from ollad.health.refresh import SharedRefresh
from ollad.health.schedule import HealthMonitor
from ollad.limits import raise_descriptor_limit
from ollad.maintenance import drain, enable
from ollad.metrics import Telemetry
from ollad.placement import Placement
from ollad.relay.forward import Relay
from ollad.relay.pool import ConnectionPools
from ollad.reload import Reloader
from ollad.server import listening, make_application
from ollad.systemd import PROXY, Notifier, inherited_sockets, watchdog_seconds
from ollad.tls import BackendTls, ListenerTls, load_tls
from ollad.unixsocket import GROUP, bind_unix

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from ollad.backends.snapshot import State
    from ollad.config.schema import Config
    from ollad.logs import LineWriter
    from ollad.server import Listener
    from ollad.traffic import Traffic

__all__ = ["Daemon"]

_COLLECT_AFTER: Final = 20_000
"""Containers made, less those given back, between two looks for cycles."""

_CUT_SECONDS: Final = 1.0
"""How long requests that were cut off may take to end."""

_LAST_ARRIVALS: Final = 0.5
"""Seconds in which a connection that was just accepted brings its request."""

_NO_CONTROL: Final = (
    "SIGHUP still reloads. For 'ollad reload' and 'ollad backend', start this daemon with a "
    "runtime directory of its own that it can write to, as in "
    "RUNTIME_DIRECTORY=/run/ollad-2 ollad serve ..."
)
"""What to do about a control socket that cannot be had."""


class Daemon:
    """One ollad, from its configuration to its end.

    Args:
        config: what to serve.
        logger: where everything is logged.
        lines: what the log lines go through, for its count of lost ones.
        load: reads the configuration anew, from a given file or the usual one; None: no reloads.
        config_file: the usual file.
        environ: tells of the service manager, if there is one.

    Attributes:
        port: the port it listens on, once ``start`` has returned.
    """

    def __init__(
        self,
        config: Config,
        logger: FilteringBoundLogger,
        *,
        lines: LineWriter | None = None,
        load: Callable[[str | None], Config] | None = None,
        config_file: str = "",
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._config = config
        self._logger = logger
        self._lines = lines
        self._load = load
        self._config_file = config_file
        self._environ = environ
        self._notifier = Notifier(environ)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reloader: Reloader | None = None
        self._exits = AsyncExitStack()
        self._gateway: Gateway | None = None
        self._listener: Listener | None = None
        self._inherited = False
        self.port = config.server.port

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second signal ends the draining.

        Raises:
            ListenError: the address cannot be listened on.
        """
        stop, hurry = asyncio.Event(), asyncio.Event()

        def on_signal() -> None:
            (hurry if stop.is_set() else stop).set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            if await self._started_before(stop):
                self._keep(self._feed_watchdog(), "watchdog")
                self._notifier.ready(self._status())
                await stop.wait()
                await self.drain(hurry)
        finally:
            await self.close()
        self._logger.info("stopped")

    async def _started_before(self, stop: asyncio.Event) -> bool:
        """Start; False if ``stop`` was set first, which ends the starting."""
        starting = asyncio.create_task(self.start())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
            return starting.done()
        finally:
            await _end(starting, stopping)

    async def start(self) -> None:
        """Probe every backend once, then listen.

        Raises:
            ListenError: the address cannot be listened on; nothing is left running.
        """
        try:
            await self._build()
        except BaseException:
            await self.close()
            raise
        if self._gateway is not None:
            self._gateway.telemetry.started(time.time())
        _spare_the_collector()
        keep_freed_memory()
        self._logger.info(
            "listening",
            host=self._host,
            port=self.port,
            inherited=self._inherited,
            version=__version__,
            compiled=not fastpath.__file__.endswith(".py"),
            endpoints=len(self._config.endpoints),
        )

    async def _build(self) -> None:
        config = self._config
        pool = Pool(Backend(endpoint) for endpoint in config.endpoints)
        telemetry = Telemetry()
        try:
            files = await load_tls(config)
        except ConfigError as error:  # the files were fine when the configuration was read
            raise ListenError(str(error)) from error
        backend_tls = BackendTls(files.clients)
        listener_tls = None if files.server is None else ListenerTls(files.server)
        self._check_descriptors()
        pools = await self._exits.enter_async_context(ConnectionPools(backend_tls))
        probe_client = await self._exits.enter_async_context(open_client(backend_tls))
        placement = Placement(
            config.routing, telemetry, time.monotonic, random.random, wall=time.time
        )
        placement.adopt(config.routing, pool)
        monitor = HealthMonitor(
            pool, config.health, probe_client, observer=_ProbeCounter(telemetry)
        )
        refresh_models = SharedRefresh(monitor.refresh_models)
        relay = Relay(pools)
        self._exits.callback(relay.close)
        gateway = self._gateway = Gateway(
            runtime=make_runtime(config, pool, time.monotonic()),
            dispatcher=Dispatcher(relay, placement, telemetry, time.monotonic),
            telemetry=telemetry,
            conversations=ConversationStore(config.conversations, time.monotonic),
            clock=time.monotonic,
            wall=time.time,
            refresh_models=refresh_models,
        )
        telemetry.bind_pool(lambda: gateway.runtime.pool)
        telemetry.bind_keys(lambda: gateway.runtime.gate.meters)
        telemetry.bind_queue(placement.room.waiting)
        telemetry.bind_books(placement.standings)
        if self._lines is not None:
            lines = self._lines
            telemetry.bind_log(lambda: lines.dropped)
        monitor.start()
        self._exits.push_async_callback(monitor.stop)
        self._exits.push_async_callback(refresh_models.close)
        await monitor.wait_first_round()
        await self._listen(gateway, None if listener_tls is None else listener_tls.context)
        if self._load is not None:
            self._reloader = Reloader(
                gateway,
                monitor,
                self._load,
                self._logger,
                backend_tls=backend_tls,
                listener_tls=listener_tls,
            )
            await self._open_control()

    async def _listen(self, gateway: Gateway, tls: ssl.SSLContext | None) -> None:
        config = self._config
        server, access, admin = config.server, config.logging.access, config.admin
        apart = admin.port is not None or admin.socket is not None
        sockets = inherited_sockets(self._environ, os.getpid(), (PROXY,)).get(PROXY, ())
        routes = PUBLIC_ROUTES if apart else ROUTES
        app = make_application(gateway, self._logger, access=access, routes=routes)
        self._listener = await self._exits.enter_async_context(
            listening(
                app,
                self._logger,
                host=server.host,
                port=server.port,
                access=access,
                sockets=_internet(sockets),
                tls=tls,
            )
        )
        if apart:
            await self._listen_apart(gateway)
        self.port = self._listener.port
        self._inherited = bool(sockets)

    async def _listen_apart(self, gateway: Gateway) -> None:
        """Serve what is for operators on a listener of its own, which takes every connection."""
        admin, access = self._config.admin, self._config.logging.access
        sockets: tuple[socket.socket, ...] = ()
        if admin.socket is not None:
            path = Path(admin.socket)
            try:
                sockets = (await asyncio.to_thread(bind_unix, path, GROUP),)
            except OSError as error:
                raise ListenError(f"{path}: {error.strerror or error}") from error
            self._exits.push_async_callback(asyncio.to_thread, path.unlink, missing_ok=True)
        app = make_application(gateway, self._logger, access=access, routes=ADMIN_ROUTES)
        listener = await self._exits.enter_async_context(
            listening(
                app,
                self._logger,
                host=admin.host,
                port=admin.port or 0,
                access=access,
                sockets=sockets,
                bounded=False,
            )
        )
        self._logger.info("listening for operators", host=listener.host, port=listener.port)

    def _check_descriptors(self) -> None:
        """Have as many descriptors as there may be, and say so if connections could want more."""
        most = self._config.server.max_connections
        limit = raise_descriptor_limit()
        if limit < 2 * most:
            self._logger.warning(
                "fewer descriptors than connections may want, two each",
                descriptors=limit,
                max_connections=most,
            )

    async def _open_control(self) -> None:
        """Take orders at the control socket; without one, SIGHUP is left to reload."""
        path = control_path(self._environ)
        control = ControlServer(path, self, config_file=self._config_file)
        try:
            await control.start()
        except OSError as error:
            self._logger.warning(
                "no control socket", path=str(path), reason=str(error), advice=_NO_CONTROL
            )
            return
        self._exits.push_async_callback(control.close)

    async def reload(self, path: str | None = None) -> Verdict:
        """Take on the configuration anew; see ``Reloader.reload``."""
        if self._reloader is None:
            return Verdict(False, ("this daemon has no file to reload",))
        self._notifier.reloading()
        remark = ""
        try:
            verdict = await self._reloader.reload(path)
            if not verdict.accepted:
                remark = f"; the last reload was refused: {verdict.messages[0]}"
            return verdict
        finally:
            self._notifier.ready(self._status() + remark)

    def drain_backend(self, name: str) -> Verdict:
        """Send no new requests to a backend; see ``maintenance.drain``."""
        return drain(self._require_gateway(), name, self._logger)

    def enable_backend(self, name: str) -> Verdict:
        """Let a backend have requests again; see ``maintenance.enable``."""
        return enable(self._require_gateway(), name, self._logger)

    def _require_gateway(self) -> Gateway:
        if self._gateway is None:
            raise RuntimeError("orders are taken once the daemon has started")
        return self._gateway

    def _on_hangup(self) -> None:
        self._keep(self.reload(), "reload")

    def _keep(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Run ``work`` beside the serving, until it ends or ``close`` ends it."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _feed_watchdog(self) -> None:
        """Tell the service manager, twice as often as it asks for, that the event loop turns."""
        interval = watchdog_seconds(self._environ, os.getpid())
        while interval is not None:
            self._notifier.alive()
            await asyncio.sleep(interval / 2)

    def _status(self) -> str:
        endpoints = len(self._gateway.runtime.pool) if self._gateway else 0
        given = " by systemd's socket" if self._inherited else ""
        return f"listening on {self._host}:{self.port}{given}, {endpoints} endpoint(s)"

    @property
    def _host(self) -> str:
        """As configured, or the address of the socket that was handed over."""
        if self._inherited and self._listener is not None:
            return self._listener.host
        return self._config.server.host

    async def drain(self, hurry: asyncio.Event) -> None:
        """Let requests under way finish, up to ``shutdown_timeout``, and refuse new ones.

        On a socket of the service manager nothing is refused: new connections wait there for the
        next process, and those that are open may bring one more request each.

        What is under way then is cut: an answer that has not begun becomes a 503, one that has
        ends with its connection.

        Args:
            hurry: ends the waiting at once when set.
        """
        gateway = self._gateway
        if gateway is None:
            return
        gateway.draining = True
        gateway.handing_over = self._inherited
        if self._inherited and self._listener is not None:
            self._listener.close()
        patience, traffic = gateway.runtime.config.server.shutdown_timeout, gateway.traffic
        self._notifier.stopping(f"draining {len(traffic)} request(s)", patience + _CUT_SECONDS)
        self._logger.info("draining", under_way=len(traffic), patience_seconds=patience)
        idle = asyncio.create_task(self._idle(traffic))
        hurried = asyncio.create_task(hurry.wait())
        try:
            await asyncio.wait(
                (idle, hurried), timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if len(traffic):
                self._logger.warning("cutting requests off", under_way=len(traffic))
                gateway.handing_over = False
                traffic.cut()
                await asyncio.wait((idle,), timeout=_CUT_SECONDS)
        finally:
            await _end(idle, hurried)

    async def _idle(self, traffic: Traffic) -> None:
        """Wait until nothing is under way, nor about to be."""
        if self._inherited:
            await asyncio.sleep(_LAST_ARRIVALS)
        await traffic.idle()

    async def close(self) -> None:
        """Stop listening and give everything back; what is still under way is cut."""
        await _end(*self._tasks)
        await self._exits.aclose()


def _spare_the_collector() -> None:
    """Keep Python's cycle collector from looking at everything that lives as long as the process.

    Requests leave few cycles behind; their objects go when the last reference does.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


def _internet(sockets: Sequence[socket.socket]) -> Sequence[socket.socket]:
    """The sockets, all of which must be of TCP: clients are known by their addresses.

    Raises:
        ListenError: one is not.
    """
    for one in sockets:
        if one.family not in (socket.AF_INET, socket.AF_INET6):
            raise ListenError("a socket that was handed over is none of TCP; see ListenStream=")
    return sockets


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they are gone, whatever became of them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _ProbeCounter:
    """Counts the rounds of the health task."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def on_probe(self, backend: Backend, result: str, seconds: float) -> None:
        self._telemetry.probe(backend.name, result, seconds)

    def on_transition(self, backend: Backend, old: State, new: State, reason: str) -> None:
        """Logged by the health task itself, shown by the snapshot."""
