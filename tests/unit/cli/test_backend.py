from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from ollad.cli import EX_FAILED, EX_OK, EX_UNAVAILABLE, backend, main


class Orders:
    """A daemon whose verdicts come one after another, the last one for ever."""

    def __init__(self, *verdicts: dict[str, Any]) -> None:
        self.verdicts = list(verdicts)
        self.given: list[tuple[str, str, dict[str, Any]]] = []

    async def __call__(self, control: str, command: str, order: dict[str, Any]) -> dict[str, Any]:
        self.given.append((control, command, order))
        return self.verdicts.pop(0) if len(self.verdicts) > 1 else self.verdicts[0]


def verdict(under_way: int = 0, *, accepted: bool = True) -> dict[str, Any]:
    return {"accepted": accepted, "messages": [f"{under_way} under way"], "under_way": under_way}


def given(monkeypatch: pytest.MonkeyPatch, *verdicts: dict[str, Any]) -> Orders:
    orders = Orders(*verdicts)
    monkeypatch.setattr(backend, "give_order", orders)
    monkeypatch.setattr(backend, "_LOOK_SECONDS", 0.001)
    return orders


@pytest.mark.parametrize("action", ["drain", "enable"])
def test_the_order_is_given_and_the_verdict_told(
    action: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = given(monkeypatch, verdict(2))
    assert main(["backend", action, "gpu-a", "--control", "/run/x"]) == EX_OK
    assert orders.given == [("/run/x", action, {"name": "gpu-a"})]
    assert capsys.readouterr().out == "2 under way\n"


def test_waiting_ends_when_nothing_is_under_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = given(monkeypatch, verdict(2), verdict(1), verdict(0))
    assert main(["backend", "drain", "gpu-a", "--wait", "30"]) == EX_OK
    assert len(orders.given) == 3
    assert capsys.readouterr().out == "0 under way\n"


def test_waiting_in_vain_fails_and_says_that_it_stays_drained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, verdict(2))
    assert main(["backend", "drain", "gpu-a", "--wait", "0.01"]) == EX_FAILED
    assert "0.01 s were not enough; gpu-a stays drained" in capsys.readouterr().err


def test_a_refusal_fails_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = given(monkeypatch, verdict(2, accepted=False))
    assert main(["backend", "drain", "gpu-a", "--wait", "30"]) == EX_FAILED
    assert len(orders.given) == 1
    assert capsys.readouterr().err == "ollad backend: 2 under way\n"


def test_without_a_daemon_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(*_: object) -> None:
        raise aiohttp.ClientError("no")

    monkeypatch.setattr(backend, "give_order", fail)
    assert main(["backend", "enable", "gpu-a"]) == EX_UNAVAILABLE
    assert "ollad backend: no daemon answers at" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["-1", "soon", "inf", "nan"])
def test_a_time_that_is_none_is_a_usage_error(seconds: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["backend", "drain", "gpu-a", f"--wait={seconds}"])
    assert ended.value.code == 2
