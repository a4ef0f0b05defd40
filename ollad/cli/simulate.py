"""``ollad simulate``: a stand-in SGLang server, for trying ollad with no GPU and for tests."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

from ollad.cli import EX_FAILED, EX_OK
from ollad.simulator.engine import EngineConfig
from ollad.simulator.options import FailMode, Options
from ollad.simulator.server import SimulatedServer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["add_parser", "run"]

_ENGINE: Final = EngineConfig()
_OPTIONS: Final = Options()
_SHOWN: Final = " (default: %(default)s)"
_HIGHEST_PORT: Final = 65535


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "simulate",
        help="run a stand-in SGLang server",
        description=(
            "Run a stand-in SGLang server: the routes, shapes and quirks of a real one, in front "
            "of a model of its engine with a radix cache. It prints its address."
        ),
    )
    _add_server(parser)
    _add_engine(parser)
    _add_trouble(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop."""
    server = SimulatedServer(_options(options))

    def announce(url: str) -> None:
        sys.stdout.write(f"simulated SGLang listening on {url}\n")
        sys.stdout.flush()

    try:
        uvloop.run(server.run(announce))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"ollad simulate: {_reason(error, options)}\n")
        return EX_FAILED
    return EX_OK


def _reason(error: OSError | ValueError, given: argparse.Namespace) -> str:
    if not isinstance(error, OSError):
        return str(error)
    number = error.errno or 0  # negative: of getaddrinfo
    reason = os.strerror(number) if number > 0 else error.strerror
    if error.filename is not None:
        return f"{error.filename}: {reason}"
    return f"cannot listen on {given.host}:{given.port}: {reason}; see --host and --port"


def _add_server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", default=_OPTIONS.host, help="address to listen on" + _SHOWN)
    add("--port", type=_port, default=30000, help="port, 0 for one that is free" + _SHOWN)
    add("--model", metavar="ID", default=_OPTIONS.model, help="name of the model" + _SHOWN)
    add("--is-embedding", action="store_true", help="embed instead of generating")
    add("--vision", action="store_true", help="understand images")
    add("--api-key", metavar="KEY", help="what clients have to show")
    add("--no-cache-report", action="store_true", help="do not tell of cached tokens in usage")
    add("--no-metrics", action="store_true", help="no /metrics")
    add(
        "--log-requests",
        metavar="PATH",
        type=Path,
        help="append JSON lines about every generation request",
    )
    add("--seed", type=int, default=_OPTIONS.seed, help="of everything that is random" + _SHOWN)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--tokens-per-second",
        type=_number(above=0),
        default=_ENGINE.tokens_per_second,
        metavar="N",
        help="speed of each generation" + _SHOWN,
    )
    add(
        "--prefill-rate",
        type=_number(above=0),
        default=_ENGINE.prefill_rate,
        metavar="N",
        help="uncached prompt tokens a second" + _SHOWN,
    )
    add(
        "--cache-tokens",
        type=_count(1),
        default=_ENGINE.cache_tokens,
        metavar="N",
        help="KV memory, tokens" + _SHOWN,
    )
    add(
        "--page-size",
        type=_count(1),
        default=_ENGINE.page_size,
        metavar="N",
        help="tokens a page of it" + _SHOWN,
    )
    add(
        "--context-length",
        type=_count(1),
        default=_OPTIONS.context_length,
        metavar="N",
        help="tokens of prompt and answer" + _SHOWN,
    )
    add(
        "--max-running-requests",
        type=_count(1),
        default=_ENGINE.max_running,
        metavar="N",
        help="requests served at a time" + _SHOWN,
    )
    add(
        "--max-queued-requests",
        type=_count(0),
        metavar="N",
        help="requests that may wait, each one does at first (default: any number)",
    )
    add(
        "--time-scale",
        type=_number(above=0),
        default=_OPTIONS.time_scale,
        metavar="N",
        help="everything so many times faster" + _SHOWN,
    )


def _add_trouble(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--health-seconds",
        type=_number(least=0),
        default=_OPTIONS.health_seconds,
        metavar="S",
        help="how long /health takes" + _SHOWN,
    )
    add(
        "--startup-seconds",
        type=_number(least=0),
        default=_OPTIONS.startup_seconds,
        metavar="S",
        help="how long it is not ready at first" + _SHOWN,
    )
    add(
        "--fail-rate",
        type=_number(least=0, most=1),
        default=_OPTIONS.fail_rate,
        metavar="P",
        help="share of generation requests that fail, 0 to 1" + _SHOWN,
    )
    add(
        "--fail-mode",
        choices=[mode.value for mode in FailMode],
        default=_OPTIONS.fail_mode.value,
        help="how they fail, see docs/simulator.md" + _SHOWN,
    )


def _options(given: argparse.Namespace) -> Options:
    return Options(
        model=given.model,
        host=given.host,
        port=given.port,
        engine=EngineConfig(
            cache_tokens=given.cache_tokens,
            page_size=given.page_size,
            prefill_rate=given.prefill_rate,
            tokens_per_second=given.tokens_per_second,
            max_running=given.max_running_requests,
            max_queued=given.max_queued_requests,
            caching=not given.is_embedding,
        ),
        context_length=given.context_length,
        health_seconds=given.health_seconds,
        startup_seconds=given.startup_seconds,
        time_scale=given.time_scale,
        embedding=given.is_embedding,
        vision=given.vision,
        api_key=given.api_key,
        cache_report=not given.no_cache_report,
        metrics=not given.no_metrics,
        fail_rate=given.fail_rate,
        fail_mode=FailMode(given.fail_mode),
        log_requests=given.log_requests,
        seed=given.seed,
    )


def _port(text: str) -> int:
    # a greater one would be cut down to 16 bits, and another port taken without a word
    if not (text.isascii() and text.isdigit() and int(text) <= _HIGHEST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is no port number from 0 to {_HIGHEST_PORT}")
    return int(text)


def _number(
    *, above: float | None = None, least: float | None = None, most: float | None = None
) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        fits = (above is None or value > above) and (least is None or value >= least)
        if not fits or (most is not None and value > most) or not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text} is out of range")
        return value

    return number


def _count(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    return count
