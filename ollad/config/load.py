"""A configuration file to a ``Config``, or to every problem in it at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ollad.config.checks import check
from ollad.config.problems import Problems
from ollad.config.read import ENDPOINTS_EXAMPLE, Reader
from ollad.config.schema import Config, Kind, child_type
from ollad.config.source import Sequence, parse
from ollad.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["EXAMPLE", "load_file", "load_text"]

EXAMPLE: Final = """\
endpoints:
  - url: "http://127.0.0.1:30000"  # your SGLang server
    name: sglang-0
server:
  port: 40114
"""
"""The shortest file worth having, shown to those who have none."""

_LARGEST_FILE: Final = 4 * 1024 * 1024

_SectionT = TypeVar("_SectionT")


def load_file(path: str, environ: Mapping[str, str]) -> Config:
    """The configuration in the file at ``path``.

    Args:
        path: of the YAML file.
        environ: where ``${VAR}`` is looked up.

    Raises:
        ConfigError: every problem, one line each; for an absent file, the one problem is followed
            by an example of what to write, on lines of its own.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        message = f"{path}: no such file; write it, for example:\n\n{EXAMPLE}"
        raise ConfigError((message,)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise ConfigError((f"{path}: cannot read it: {reason}",)) from error
    if len(content) > _LARGEST_FILE:
        raise ConfigError((f"{path}: more than 4 MiB; this is not a configuration file",))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        column = len(before) - before.rfind(b"\n")
        problem = f"{path}:{line}:{column}: not UTF-8 text; save the file as UTF-8"
        raise ConfigError((problem,)) from None
    return load_text(text, path, environ)


def load_text(text: str, path: str, environ: Mapping[str, str]) -> Config:
    """The configuration in ``text``.

    Args:
        text: YAML.
        path: what problems call the file.
        environ: where ``${VAR}`` is looked up.

    Raises:
        ConfigError: every problem, as ``FILE:LINE:COLUMN: KEY: MESSAGE``.
    """
    problems = Problems(path)
    root = parse(text, problems)
    if root is None:
        raise ConfigError(problems.lines())
    if isinstance(root, Sequence):
        problems.add(
            "", f"expected a mapping, got a list; write for example: {ENDPOINTS_EXAMPLE}", root.mark
        )
        raise ConfigError(problems.lines())
    tree = Reader(problems, environ).section(Config, root)
    check(tree, problems)
    if problems:
        raise ConfigError(problems.lines())
    return _build(Config, tree)


def _build(section: Callable[..., _SectionT], tree: dict[str, Any]) -> _SectionT:
    """The dataclass of a tree that has every key."""
    values = dict(tree)
    for field in dataclasses.fields(section):  # type: ignore[arg-type]  # always a dataclass
        name, kind = field.name, field.metadata["kind"]
        if kind is Kind.SECTION:
            values[name] = _build(child_type(section, name), tree[name])
        elif kind is Kind.SECTIONS:
            child = child_type(section, name)
            values[name] = tuple(_build(child, item) for item in tree[name])
        elif kind in {Kind.HEADERS, Kind.MAPPING}:
            values[name] = MappingProxyType(dict(tree[name]))
    return section(**values)
