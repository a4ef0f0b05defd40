from __future__ import annotations

import io
import json
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from ollad import logs
from ollad.config import schema
from ollad.sglang.annotate import Usage
from tests.unit.builders import make_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WALL = 1795348800.1234


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


class Broken(io.BytesIO):
    def write(self, _data: object) -> int:
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def configured(
    stream: io.BytesIO, *, environ: dict[str, str] | None = None, **config: Any
) -> tuple[structlog.typing.FilteringBoundLogger, logs.LineWriter]:
    writer = logs.configure(
        schema.Logging(**config), stream=stream, environ=environ or {}, wall=lambda: WALL
    )
    return structlog.get_logger(), writer


def one_line(stream: io.BytesIO) -> dict[str, Any]:
    text = stream.getvalue()
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    document = json.loads(text)
    assert isinstance(document, dict)
    return document


def test_off_a_terminal_each_line_is_a_json_object() -> None:
    stream = io.BytesIO()
    logger, _ = configured(stream)
    logger.info("backend is up", backend="sgl-a", weight=0.5)
    assert one_line(stream) == {
        "timestamp": "2026-11-22T12:00:00.123Z",
        "level": "info",
        "event": "backend is up",
        "backend": "sgl-a",
        "weight": 0.5,
    }


def test_on_a_terminal_lines_are_for_people() -> None:
    stream = Terminal()
    logger, _ = configured(stream)
    logger.info("backend is up", backend="sgl-a")
    text = stream.getvalue().decode()
    assert "backend is up" in text
    assert "\x1b[" in text


def test_no_color_is_honoured() -> None:
    stream = Terminal()
    logger, _ = configured(stream, environ={"NO_COLOR": "1"})
    logger.info("backend is up", backend="sgl-a")
    assert b"\x1b[" not in stream.getvalue()


@pytest.mark.parametrize(
    ("format_", "stream", "is_json"),
    [("json", Terminal(), True), ("console", io.BytesIO(), False)],
)
def test_a_configured_format_beats_what_the_stream_is(
    format_: str, stream: io.BytesIO, is_json: bool
) -> None:
    logger, _ = configured(stream, format=format_)
    logger.info("up")
    assert stream.getvalue().startswith(b"{") is is_json


def test_lines_below_the_level_are_left_out() -> None:
    stream = io.BytesIO()
    logger, _ = configured(stream, level="warning")
    logger.info("not this")
    logging.getLogger("aiohttp").info("nor this")
    logger.warning("this")
    assert one_line(stream)["event"] == "this"


@pytest.mark.parametrize("format_", ["json", "console"])
def test_the_journal_gets_priorities_and_no_time(tmp_path: Path, format_: str) -> None:
    path = tmp_path / "journal"
    with path.open("wb") as stream:
        status = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        logs.configure(schema.Logging(format=format_), stream=stream, environ=environ)
        logger = structlog.get_logger()
        logger.info("one")
        logger.warning("two")
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            logger.exception("three")
        logging.getLogger("asyncio").error("four")
    lines = path.read_bytes().splitlines()
    assert [line[:3] for line in lines[:2]] == [b"<6>", b"<4>"]
    assert {line[:3] for line in lines[2:]} == {b"<3>"}
    assert not any(b"timestamp" in line for line in lines)
    if format_ == "json":
        assert [json.loads(line[3:])["event"] for line in lines] == ["one", "two", "three", "four"]


def test_a_stream_that_is_not_the_journal_gets_no_priorities(tmp_path: Path) -> None:
    """The variable is inherited by children whose output goes elsewhere."""
    path = tmp_path / "file"
    with path.open("wb") as stream:
        logs.configure(schema.Logging(), stream=stream, environ={"JOURNAL_STREAM": "1:2"})
        structlog.get_logger().info("one")
    assert path.read_bytes().startswith(b"{")


def test_exceptions_are_one_field_without_local_variables() -> None:
    stream = io.BytesIO()
    logger, _ = configured(stream)
    prompt = "a prompt of a client"
    try:
        _ = len(prompt) / 0
    except ZeroDivisionError:
        logger.exception("unexpected error")
    line = one_line(stream)
    assert line["exception"].endswith("ZeroDivisionError: division by zero")
    assert prompt not in stream.getvalue().decode()


def test_the_standard_librarys_loggers_come_out_alike() -> None:
    stream = io.BytesIO()
    configured(stream)
    logging.getLogger("aiohttp.server").error("Error handling %s", "request")
    line = one_line(stream)
    expected = {"level": "error", "event": "Error handling request", "logger": "aiohttp.server"}
    assert line == {"timestamp": "2026-11-22T12:00:00.123Z", **expected}


def test_a_bad_line_of_another_library_does_not_raise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    stream = io.BytesIO()
    configured(stream)
    arguments = ("request",)
    logging.getLogger("aiohttp.server").error("Error handling %s %s", *arguments)
    assert stream.getvalue() == b""


def test_warnings_are_log_lines_too() -> None:
    stream = io.BytesIO()
    configured(stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    assert "old thing" in one_line(stream)["event"]


@pytest.mark.parametrize(
    "name", ["authorization", "X-API-Key", "api_key", "admin_api_key", "Cookie", "auth_token"]
)
def test_values_under_the_name_of_a_secret_are_hidden(name: str) -> None:
    stream = io.BytesIO()
    logger, _ = configured(stream)
    logger.info("up", **{name: "hunter2"}, headers={name: "hunter2"})
    assert b"hunter2" not in stream.getvalue()
    assert one_line(stream)["headers"] == {name: "[redacted]"}


def test_figures_about_tokens_are_no_secrets() -> None:
    stream = io.BytesIO()
    logger, _ = configured(stream)
    logger.info("up", cached_tokens=3, prompt_tokens=5)
    assert (one_line(stream)["cached_tokens"], one_line(stream)["prompt_tokens"]) == (3, 5)


def test_bound_context_is_part_of_the_line() -> None:
    stream = io.BytesIO()
    logger, _ = configured(stream)
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        logger.info("up")
    assert one_line(stream)["request_id"] == "r1"


@given(model=st.text(), event=st.text())
@pytest.mark.parametrize("format_", ["json", "console"])
def test_no_value_breaks_a_line_or_steers_a_terminal(format_: str, model: str, event: str) -> None:
    stream = io.BytesIO()
    logger, _ = configured(stream, format=format_)
    logger.info(event, model=model)
    text = stream.getvalue().decode()
    assert text[:-1].isprintable()
    assert text[-1] == "\n"


@pytest.mark.parametrize("value", [1 << 70, ["\ud800"], {1: {"a"}}, b"\x00", object()])
def test_no_value_makes_a_line_fail(value: object) -> None:
    stream = io.BytesIO()
    logger, _ = configured(stream)
    logger.info("up", value=value)
    assert one_line(stream)["event"] == "up"


def test_a_line_that_cannot_be_written_is_counted_and_nothing_more() -> None:
    closed = io.BytesIO()
    logger, writer = configured(closed)
    closed.close()
    logger.info("lost")
    assert writer.dropped == 1
    logger, writer = configured(Broken())
    logger.info("lost")
    logger.info("lost")
    assert writer.dropped == 2


def test_the_access_line_says_who_asked_for_what_and_who_answered() -> None:
    record = make_record(
        model="Tiny",
        served_model="tiny-llama",
        endpoint="sgl-a",
        request_bytes=120,
        response_bytes=340,
        first_byte=0.0301,
        streamed=True,
        attempts=2,
        usage=Usage(prompt_tokens=12, completion_tokens=34, cached_tokens=8),
    )
    with structlog.testing.capture_logs() as captured:
        logs.access_line(structlog.get_logger(), record, 1.23456)
    assert captured == [
        {
            "event": "request",
            "log_level": "info",
            "request_id": record.request_id,
            "client": "192.0.2.7",
            "key": "-",
            "method": "POST",
            "path": "/olla/sglang/v1/chat/completions",
            "family": "chat",
            "model": "Tiny",
            "endpoint": "sgl-a",
            "status": 200,
            "request_bytes": 120,
            "response_bytes": 340,
            "first_byte_ms": 30.1,
            "total_ms": 1234.6,
            "streamed": True,
            "attempts": 2,
            "prompt_tokens": 12,
            "completion_tokens": 34,
            "cached_tokens": 8,
        }
    ]


@pytest.mark.parametrize(
    ("status", "error", "level"),
    [
        (200, "client_gone", "info"),
        (200, "idle_timeout", "warning"),
        (404, "route_not_found", "info"),
        (499, "client_gone", "info"),
        (502, "reset", "warning"),
    ],
)
def test_ollads_and_backends_failures_are_warnings(status: int, error: str, level: str) -> None:
    with structlog.testing.capture_logs() as captured:
        logs.access_line(structlog.get_logger(), make_record(status=status, error=error), 0.1)
    assert [(line["log_level"], line["error"]) for line in captured] == [(level, error)]


def test_what_is_not_known_is_left_out_of_the_access_line() -> None:
    with structlog.testing.capture_logs() as captured:
        logs.access_line(structlog.get_logger(), make_record(), 0.1)
    absent = {"model", "endpoint", "first_byte_ms", "cached_tokens", "error"}
    assert not absent & captured[0].keys()
    assert captured[0]["status"] == 200


def test_a_long_model_name_does_not_make_a_long_line() -> None:
    with structlog.testing.capture_logs() as captured:
        logs.access_line(structlog.get_logger(), make_record(model="m" * 100_000), 0.1)
    assert len(captured[0]["model"]) == 200
