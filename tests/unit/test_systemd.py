"""What the service manager hears, over a socket as it opens one."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import structlog

from ollad.systemd import Notifier, watchdog_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        yield listener


@pytest.fixture
def notifier(tmp_path: Path, manager: socket.socket) -> Notifier:
    assert manager.fileno() > 0
    return Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})


def heard(manager: socket.socket) -> dict[str, str]:
    """The fields of one datagram."""
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().split("\n"))


def test_ready_says_so_with_a_status(manager: socket.socket, notifier: Notifier) -> None:
    notifier.ready("listening on 127.0.0.1:40114")
    assert heard(manager) == {"READY": "1", "STATUS": "listening on 127.0.0.1:40114"}


def test_a_status_of_several_lines_says_nothing_else(
    manager: socket.socket, notifier: Notifier
) -> None:
    notifier.ready("refused: line 3\nWATCHDOG=trigger")
    assert heard(manager) == {"READY": "1", "STATUS": "refused: line 3 WATCHDOG=trigger"}


def test_reloading_tells_the_time_in_the_same_datagram(
    manager: socket.socket, notifier: Notifier
) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    told = heard(manager)
    assert told["RELOADING"] == "1"
    assert before <= int(told["MONOTONIC_USEC"]) <= after


def test_stopping_asks_for_the_time_it_needs(manager: socket.socket, notifier: Notifier) -> None:
    notifier.stopping("draining", 31.5)
    assert heard(manager) == {
        "STOPPING": "1",
        "STATUS": "draining",
        "EXTEND_TIMEOUT_USEC": "31500000",
    }


def test_a_sign_of_life_feeds_the_watchdog(manager: socket.socket, notifier: Notifier) -> None:
    notifier.alive()
    assert heard(manager) == {"WATCHDOG": "1"}


def test_an_at_sign_stands_for_the_abstract_namespace() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")  # Linux then chooses an abstract address
        listener.setblocking(False)
        name = listener.getsockname()
        Notifier({"NOTIFY_SOCKET": "@" + name[1:].decode()}).alive()
        assert heard(listener) == {"WATCHDOG": "1"}


def test_without_a_service_manager_nothing_is_said_and_nothing_fails() -> None:
    notifier = Notifier({})
    notifier.ready("listening")
    notifier.reloading()
    notifier.alive()
    notifier.stopping("draining", 1)


def test_a_manager_that_is_gone_is_logged_and_no_more(
    manager: socket.socket, notifier: Notifier
) -> None:
    manager.close()
    with structlog.testing.capture_logs() as logged:
        notifier.alive()
    assert [(line["log_level"], line["field"]) for line in logged] == [("warning", "WATCHDOG=1")]


def test_a_manager_that_does_not_listen_blocks_nobody(
    tmp_path: Path, manager: socket.socket, notifier: Notifier
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.setblocking(False)
        channel.connect(str(tmp_path / "notify"))
        with suppress(BlockingIOError):
            while channel.send(b"X=1"):
                """until the manager's queue is full"""
    with structlog.testing.capture_logs() as logged:
        notifier.alive()
    assert [line["event"] for line in logged] == ["service manager not told"]
    assert heard(manager) == {"X": "1"}


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
    ],
)
def test_the_watchdogs_time_is_for_the_process_it_names(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_seconds(environ, 42) == seconds
