from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ollad.cli import EX_CONFIG, EX_OK, main

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """\
endpoints:
  - url: http://127.0.0.1:30000
    name: one
    headers:
      X-API-Key: ${KEY_OF_THE_TEST}
      Authorization: Bearer written-secret
"""
BAD = """\
endpoints:
  - url: http://127.0.0.1:30000
    name: one
    priorty: 90
    headers:
      X-API-Key: ${KEY_OF_THE_TEST}
      Authorization: [written-secret]
  - url: ftp://user:written-secret@host
    name: one
sever: {}
"""
SECRETS = ("sesame-of-the-test", "written-secret")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_THE_TEST", "sesame-of-the-test")


def written(folder: Path, text: str) -> str:
    file = folder / "ollad.yaml"
    file.write_text(text)
    return str(file)


def test_a_good_file_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, GOOD)
    assert main(["check", "--config", path]) == EX_OK
    assert capsys.readouterr().out == f"{path}: fine, 1 endpoint(s)\n"


def test_every_problem_is_told_at_once_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, BAD)
    assert main(["check", "--config", path]) == EX_CONFIG
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    for place, word in ((4, "priority"), (7, "Authorization"), (8, "url"), (10, "server")):
        assert any(line.startswith(f"{path}:{place}:") and word in line for line in lines), word
    assert "name" in told.err
    for secret in SECRETS:
        assert secret not in told.err


def test_an_absent_file_is_answered_with_an_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "none.yaml")
    assert main(["check", "--config", path]) == EX_CONFIG
    told = capsys.readouterr().err
    assert f"{path}: no such file" in told
    assert "endpoints:\n  - url:" in told


def test_the_example_is_itself_a_good_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["check", "--config", str(tmp_path / "none.yaml")])
    example = capsys.readouterr().err.partition("\n\n")[2]
    assert main(["check", "--config", written(tmp_path, example)]) == EX_OK


def test_the_dump_is_the_configuration_in_force_without_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--dump", "--config", written(tmp_path, GOOD)]) == EX_OK
    text = capsys.readouterr().out
    dump = json.loads(text)
    assert dump["endpoints"][0]["name"] == "one"
    assert dump["server"]["port"] == 40114
    assert "X-API-Key" in dump["endpoints"][0]["headers"]
    for secret in SECRETS:
        assert secret not in text
