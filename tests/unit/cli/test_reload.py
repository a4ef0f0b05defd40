from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import pytest

from ollad.cli import EX_CONFIG, EX_FAILED, EX_OK, EX_UNAVAILABLE, main

if TYPE_CHECKING:
    from pathlib import Path


def test_without_a_daemon_it_is_said_where_one_was_sought_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    socket = tmp_path / "none.sock"
    assert main(["reload", "--control", str(socket)]) == EX_UNAVAILABLE
    assert capsys.readouterr().err == (
        f"ollad reload: no daemon answers at {socket}: No such file or directory. "
        "Start one with 'ollad serve', or say where it listens with --control.\n"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "gave no verdict in 50 s"),
        (PermissionError(errno.EACCES, "Permission denied"), "own user and root alone"),
        (aiohttp.ClientResponseError(cast("Any", None), (), status=500), "made a mistake"),
        (aiohttp.ClientResponseError(cast("Any", None), (), status=404), "of another version"),
    ],
)
def test_a_daemon_that_is_there_is_not_said_to_be_missing(
    error: Exception,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("ollad.cli.reload.give_order", fail)
    assert main(["reload", "--control", "/run/x.sock"]) == EX_FAILED
    assert said in capsys.readouterr().err


VERDICT = {"config": "/etc/o.yaml", "version": "1.2", "pid": 42}


@pytest.mark.parametrize(
    ("verdict", "code", "out", "err"),
    [
        (
            {**VERDICT, "accepted": True, "messages": ["endpoints added: a"]},
            EX_OK,
            "/etc/o.yaml: taken on by ollad 1.2, process 42, at /run/x.sock\nendpoints added: a\n",
            "",
        ),
        (
            {**VERDICT, "accepted": False, "messages": ["/etc/o.yaml:1:1: no"]},
            EX_CONFIG,
            "",
            (
                "/etc/o.yaml:1:1: no\n"
                "ollad reload: /etc/o.yaml: refused by ollad 1.2, process 42, at /run/x.sock; "
                "it goes on with the configuration that it has\n"
            ),
        ),
    ],
)
def test_the_verdict_names_the_file_and_the_daemon(
    verdict: dict[str, Any],
    code: int,
    out: str,
    err: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def give(*_: object) -> dict[str, Any]:
        return verdict

    monkeypatch.setattr("ollad.cli.reload.give_order", give)
    assert main(["reload", "--control", "/run/x.sock"]) == code
    assert tuple(capsys.readouterr()) == (out, err)
