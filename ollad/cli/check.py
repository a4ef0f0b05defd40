"""``ollad check``: validate the configuration, and with --live ask every backend."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING

from ollad.backends.backend import Backend
from ollad.backends.pool import Pool
from ollad.cli import EX_CONFIG, EX_FAILED, EX_OK
from ollad.config.describe import redacted
from ollad.config.load import load_file
from ollad.config.schema import DEFAULT_PATH, Logging
from ollad.errors import ConfigError
from ollad.health.fetch import open_client
from ollad.health.schedule import HealthMonitor
from ollad.logs import configure
from ollad.tls import BackendTls, load_tls

if TYPE_CHECKING:
    import argparse

    from ollad.config.schema import Config

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "check",
        help="validate the configuration",
        description="Validate the configuration: every problem, with its place and its fix.",
    )
    parser.add_argument(
        "--config", metavar="PATH", default=DEFAULT_PATH, help="default: %(default)s"
    )
    parser.add_argument(
        "--live", action="store_true", help="also ask every backend, and say what would be missing"
    )
    parser.add_argument(
        "--dump", action="store_true", help="print the configuration in force, secrets hidden"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check, and say what was found."""
    try:
        config = load_file(options.config, os.environ)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EX_CONFIG
    if options.dump:
        sys.stdout.write(json.dumps(redacted(config), indent=2) + "\n")
    else:
        sys.stdout.write(f"{options.config}: fine, {len(config.endpoints)} endpoint(s)\n")
    if not options.live:
        return EX_OK
    # the report says what the health task would log, but for its own faults
    configure(
        Logging(level="error", format="console"), stream=sys.stderr.buffer, environ=os.environ
    )
    return asyncio.run(_live(config))


async def _live(config: Config) -> int:
    """Probe every backend once; fails if one of them would take no requests."""
    pool = Pool(Backend(endpoint) for endpoint in config.endpoints)
    files = await load_tls(config)
    async with open_client(BackendTls(files.clients)) as client:
        monitor = HealthMonitor(pool, config.health, client)
        monitor.start()
        try:
            await monitor.wait_first_round()
        finally:
            await monitor.stop()
    for backend in pool:
        sys.stdout.write("".join(f"{line}\n" for line in _report(backend)))
    return EX_OK if all(backend.routable for backend in pool) else EX_FAILED


def _report(backend: Backend) -> list[str]:
    snapshot = backend.snapshot
    if not backend.routable:
        return [f"{backend.name}: {snapshot.state}: {snapshot.reason}"]
    engine = snapshot.engine
    models = ", ".join(snapshot.model_ids)
    missing = [
        (engine.metrics is False, "--enable-metrics: radix-cache usage and hit rate stay unknown"),
        (
            engine.cache_report is False and engine.generation is not False,
            "--enable-cache-report: X-SGLang-Cache-Hit stays 'unknown' for chats and completions",
        ),
        (
            engine.radix_cache is False,
            "a radix cache (it was started with --disable-radix-cache)",
        ),
    ]
    return [
        (
            f"{backend.name}: {snapshot.state}, SGLang {engine.version or 'of unknown version'}, "
            f"serves {models}"
        ),
        *(f"{backend.name}: without {what}" for absent, what in missing if absent),
    ]
