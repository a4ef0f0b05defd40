"""Log lines: structlog for ollad's own, with the standard library's loggers routed in.

On a terminal for people, otherwise one JSON object a line; under journald with the priority in
front and without the time, both of which the journal keeps itself.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import orjson
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

    from ollad.config import schema
    from ollad.record import RequestRecord

__all__ = ["LineWriter", "access_line", "configure"]

_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""sd-daemon(3): levels of syslog(3)."""

_SECRET_KEY: Final = re.compile(
    r"(^|_)(authorization|cookie|api_?key|passw(or)?d|secret|credentials?|private_key)(_|$)"
    r"|(^|_)(access|auth|bearer|client|refresh)_token$|^token$"
)
_REDACTED: Final = "[redacted]"
_LONGEST_NAME: Final = 200


class LineWriter:
    """Writes lines to a stream and never raises: a request must not fail for its log line.

    Attributes:
        dropped: lines that could not be written.
    """

    __slots__ = ("_stream", "dropped")

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.dropped = 0

    def write(self, line: bytes) -> None:
        """Write one line."""
        try:
            self._stream.write(line + b"\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            self.dropped += 1

    debug = info = warning = error = critical = write


class _ForeignHandler(logging.Handler):
    """Takes the lines of the standard library's loggers to the writer."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - logging's own rule for handlers
            self.handleError(record)
        else:
            self._writer.write(line.encode("utf-8", "backslashreplace"))


def configure(
    config: schema.Logging,
    *,
    stream: BinaryIO,
    environ: Mapping[str, str],
    wall: Callable[[], float] = time.time,
) -> LineWriter:
    """Set up logging for the process.

    Args:
        config: level and format.
        stream: where lines go, such as ``sys.stderr.buffer``; whether it is a terminal or the
            journal decides about the format.
        environ: the environment (``JOURNAL_STREAM``, ``NO_COLOR``).
        wall: Unix seconds.

    Returns:
        The writer that all lines go through.
    """
    writer = LineWriter(stream)
    level = logging.getLevelNamesMapping()[config.level.upper()]
    processors = _processors(config, stream, environ, wall)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )
    handler = _ForeignHandler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *processors,
                _decode,
            ],
        )
    )
    logging.basicConfig(force=True, level=level, handlers=[handler])
    logging.captureWarnings(capture=True)
    return writer


def access_line(logger: FilteringBoundLogger, record: RequestRecord, seconds: float) -> None:
    """Log one request: who asked for what, who answered, how long it took.

    Nothing of its body, query or headers. What is not known is left out.

    Args:
        logger: where to.
        record: what is known of the request.
        seconds: from its arrival to the end of its answer.
    """
    usage = record.usage
    fields = {
        "request_id": record.request_id,
        "client": record.client,
        "key": record.tenant or "-",
        "method": record.method,
        "path": record.path,
        "family": record.family,
        "model": record.model and record.model[:_LONGEST_NAME],
        "endpoint": record.endpoint,
        "status": record.status,
        "request_bytes": record.request_bytes,
        "response_bytes": record.response_bytes,
        "first_byte_ms": _milliseconds(record.first_byte),
        "total_ms": _milliseconds(seconds),
        "streamed": record.streamed,
        "attempts": record.attempts,
        "prompt_tokens": usage and usage.prompt_tokens,
        "completion_tokens": usage and usage.completion_tokens,
        "cached_tokens": usage and usage.cached_tokens,
        "error": record.error,
    }
    # an error after a good status: the reply broke off
    broken_off = record.status < 400 and record.error not in (None, "client_gone")
    log = logger.warning if record.status >= 500 or broken_off else logger.info
    log("request", **{name: value for name, value in fields.items() if value is not None})


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def _processors(
    config: schema.Logging, stream: BinaryIO, environ: Mapping[str, str], wall: Callable[[], float]
) -> list[Processor]:
    terminal = stream.isatty()
    journal = _is_journal(stream, environ)
    chain: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _redact,
        _escape,
    ]
    if not journal:
        chain.append(functools.partial(_stamp, wall=wall))
    renderer: Processor
    if config.format == "console" or (config.format == "auto" and terminal):
        renderer = structlog.dev.ConsoleRenderer(
            colors=terminal and "NO_COLOR" not in environ,
            exception_formatter=structlog.dev.plain_traceback,  # rich would show local variables
        )
    else:
        chain.append(structlog.processors.format_exc_info)
        renderer = _to_json
    return [*chain, functools.partial(_render, renderer=renderer, journal=journal)]


def _is_journal(stream: BinaryIO, environ: Mapping[str, str]) -> bool:
    """Whether ``stream`` is connected to the journal (systemd.exec(5), ``JOURNAL_STREAM``).

    The variable is inherited, so it must name the stream's own device and inode.
    """
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _stamp(
    _logger: WrappedLogger, _method: str, event_dict: EventDict, *, wall: Callable[[], float]
) -> EventDict:
    moment = datetime.fromtimestamp(wall(), UTC).isoformat(timespec="milliseconds")
    event_dict["timestamp"] = moment.replace("+00:00", "Z")
    return event_dict


def _redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Hide what stands under the name of a secret, should any ever get this far."""
    for name, value in event_dict.items():
        if _names_secret(name):
            event_dict[name] = _REDACTED
        elif isinstance(value, dict):
            event_dict[name] = _redact(None, "", dict(value))
    return event_dict


@functools.lru_cache(maxsize=1024)
def _names_secret(name: object) -> bool:
    return _SECRET_KEY.search(str(name).lower().replace("-", "_")) is not None


def _escape(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Escape what could break a line or steer a terminal; some values are the client's."""
    for name, value in event_dict.items():
        if isinstance(value, str) and not value.isprintable():
            event_dict[name] = "".join(
                c if c.isprintable() else c.encode("unicode_escape").decode() for c in value
            )
    return event_dict


def _to_json(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> bytes:
    ordered = {
        name: event_dict.pop(name) for name in ("timestamp", "level", "event") if name in event_dict
    }
    ordered.update(event_dict)
    try:
        return orjson.dumps(ordered, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # lone surrogates or integers of more than 64 bits, somewhere inside
        return json.dumps(ordered, default=str, skipkeys=True).encode()


def _render(
    logger: WrappedLogger,
    method: str,
    event_dict: EventDict,
    *,
    renderer: Processor,
    journal: bool,
) -> bytes:
    priority = _PRIORITIES.get(event_dict.get("level", ""), 6)
    rendered: Any = renderer(logger, method, event_dict)
    line = rendered if isinstance(rendered, bytes) else rendered.encode("utf-8", "backslashreplace")
    if not journal:
        return line
    prefix = b"<%d>" % priority
    return prefix + line.replace(b"\n", b"\n" + prefix)


def _decode(_logger: WrappedLogger, _method: str, line: Any) -> str:
    return str(line, "utf-8")
