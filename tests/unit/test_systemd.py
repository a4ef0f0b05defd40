"""What the service manager hears, over a socket as it opens one."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import structlog

from ollad.errors import ListenError
from ollad.systemd import Notifier, inherited_sockets, watchdog_seconds

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


FIRST = 200
"""In a test, descriptor 3 is taken."""

NAMES = ("proxy", "admin")


def handed_over(*sockets: socket.socket, names: str | None = None) -> dict[str, str]:
    """Copy the sockets to the descriptors from ``FIRST`` on; the environment that says so."""
    for number, one in enumerate(sockets, FIRST):
        os.dup2(one.fileno(), number)
    environ = {"LISTEN_PID": "42", "LISTEN_FDS": str(len(sockets))}
    return environ if names is None else {**environ, "LISTEN_FDNAMES": names}


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    yield made
    for one in made:
        one.close()


def test_sockets_are_told_apart_by_name_whatever_their_order(
    listeners: list[socket.socket],
) -> None:
    environ = handed_over(*listeners, names="proxy:admin:proxy")
    found = inherited_sockets(environ, 42, NAMES, first=FIRST)
    ports = {name: [one.getsockname()[1] for one in some] for name, some in found.items()}
    first, second, third = (one.getsockname()[1] for one in listeners)
    assert ports == {"proxy": [first, third], "admin": [second]}
    for some in found.values():
        for one in some:
            assert not one.get_inheritable()
            one.close()


@pytest.mark.parametrize("names", [None, "", ":", "web", "ollad.socket"])
def test_a_socket_of_another_name_is_not_served_on_by_mistake(
    listeners: list[socket.socket], names: str | None
) -> None:
    with pytest.raises(ListenError, match="FileDescriptorName=admin or proxy"):
        inherited_sockets(handed_over(listeners[0], names=names), 42, NAMES, first=FIRST)
    os.close(FIRST)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "43"},
        {"LISTEN_FDS": "0", "LISTEN_PID": "42"},
        {"LISTEN_FDS": "many", "LISTEN_PID": "42"},
        {"LISTEN_FDS": "-1", "LISTEN_PID": "42"},
    ],
)
def test_what_is_for_another_process_or_nobody_is_left_alone(
    environ: dict[str, str], listeners: list[socket.socket]
) -> None:
    handed_over(listeners[0])
    try:
        assert inherited_sockets(environ, 42, NAMES, first=FIRST) == {}
        os.fstat(FIRST)
    finally:
        os.close(FIRST)


def test_what_cannot_be_listened_on_is_refused_by_name() -> None:
    with (
        socket.socket() as unconnected,
        pytest.raises(ListenError, match=r"'proxy'.*wants ListenStream="),
    ):
        inherited_sockets(handed_over(unconnected, names="proxy"), 42, NAMES, first=FIRST)
    environ = {"LISTEN_PID": "42", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "proxy"}
    with pytest.raises(ListenError, match="is no socket"):
        inherited_sockets(environ, 42, NAMES, first=FIRST)
