from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from ollad.cli import EX_CONFIG, EX_FAILED, EX_OK, main, serve
from ollad.errors import ListenError

if TYPE_CHECKING:
    from pathlib import Path

    from ollad.config.schema import Config

FILE = """\
endpoints:
  - url: http://127.0.0.1:1
    name: one
server:
  host: 127.0.0.2
  port: 4711
"""


@dataclass
class Started:
    """Daemons that were started instead of real ones."""

    configs: list[Config] = field(default_factory=list)
    fault: Exception | None = None


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    seen = Started()

    class Daemon:
        def __init__(self, config: Config, *_: Any, **__: Any) -> None:
            seen.configs.append(config)

        async def run(self) -> None:
            if seen.fault is not None:
                raise seen.fault

    monkeypatch.setattr(serve, "Daemon", Daemon)
    monkeypatch.setattr(serve, "configure", lambda *_, **__: None)
    return seen


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "ollad.yaml"
    file.write_text(FILE)
    return str(file)


def test_the_address_is_that_of_the_file(started: Started, config: str) -> None:
    assert main(["serve", "--config", config]) == EX_OK
    (used,) = started.configs
    assert (used.server.host, used.server.port) == ("127.0.0.2", 4711)


def test_the_command_line_beats_the_file(started: Started, config: str) -> None:
    assert main(["serve", "--config", config, "--host", "::1", "--port", "0"]) == EX_OK
    (used,) = started.configs
    assert (used.server.host, used.server.port) == ("::1", 0)


@pytest.mark.parametrize("port", ["65536", "-1", "http", "", "1.5", "٣", "99999999999"])
def test_a_port_that_is_none_is_a_usage_error(
    started: Started, config: str, port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--config", config, f"--port={port}"])
    assert ended.value.code == 2
    assert "is no port number from 0 to 65535" in capsys.readouterr().err
    assert started.configs == []


def test_an_empty_host_does_not_mean_every_address(started: Started, config: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--config", config, "--host", ""])
    assert ended.value.code == 2
    assert started.configs == []


def test_a_bad_file_is_not_served(
    started: Started, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("endpoints: 7\n")
    assert main(["serve", "--config", str(file)]) == EX_CONFIG
    assert main(["serve", "--config", str(tmp_path / "none.yaml")]) == EX_CONFIG
    told = capsys.readouterr().err
    assert f"{file}:1:" in told
    assert "no such file" in told
    assert started.configs == []


def test_an_address_that_cannot_be_listened_on_fails(started: Started, config: str) -> None:
    started.fault = ListenError("Address already in use")
    assert main(["serve", "--config", config]) == EX_FAILED


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EADDRINUSE, "choose another port with --port"),
        (errno.EADDRNOTAVAIL, "one of its own with --host"),
        (errno.EACCES, "docs/install.md"),
        (errno.EINVAL, "--host or server.host"),
    ],
)
def test_it_is_said_what_to_do_about_an_address_that_cannot_be_listened_on(
    started: Started, config: str, number: int, advice: str
) -> None:
    started.fault = ListenError("no")
    started.fault.__cause__ = OSError(number, "no")
    with structlog.testing.capture_logs() as logged:
        assert main(["serve", "--config", config]) == EX_FAILED
    (line,) = logged
    assert advice in line["advice"]
