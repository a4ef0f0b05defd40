"""Loading a configuration file."""

from __future__ import annotations

import json
import re
from typing import Final

from ollad.config.describe import redacted
from ollad.config.diff import compare
from ollad.config.load import load_text
from ollad.errors import ConfigError

__all__ = ["check_configuration"]

SECRET: Final = "hunter2-of-the-environment"
_PROBLEM: Final = re.compile(r"fuzz\.yaml:([1-9]\d*):([1-9]\d*): \S[^\n\r]*")


def check_configuration(data: bytes) -> None:
    """A file is taken, or every problem names its place; no secret is told."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return
    environ = {"SECRET": SECRET, "PORT": "8080", "EMPTY": ""}
    try:
        config = load_text(text, "fuzz.yaml", environ)
    except ConfigError as error:
        _judge_problems(error.problems, text)
        return
    assert config.endpoints
    change = compare(config, config)
    assert not change.describe()
    shown = redacted(config)
    json.dumps(shown)
    for endpoint in shown["endpoints"]:
        assert SECRET not in json.dumps(endpoint["headers"])


def _judge_problems(problems: tuple[str, ...], text: str) -> None:
    assert problems
    lines = len(re.split(r"\r\n|[\r\n\x85\u2028\u2029]", text))
    for problem in problems:
        told = _PROBLEM.fullmatch(problem)
        assert told is not None, problem
        assert int(told[1]) <= lines + 1
        assert SECRET not in problem or SECRET in text
