"""The text of one YAML scalar to the value its key takes.

The kind of the key decides, never YAML's own guess: ``010``, ``12:30`` and ``yes`` are errors
where a number, a duration or a boolean is due. Quotes make no difference, except around text that
YAML would take for something else: that must be quoted, so that every reader of the file agrees.
"""

from __future__ import annotations

import difflib
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import yaml

from ollad.config.addresses import (
    parse_file,
    parse_host,
    parse_network,
    parse_origin,
    parse_path,
    parse_url,
)
from ollad.config.problems import InvalidValueError
from ollad.config.schema import Kind
from ollad.config.units import parse_duration, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["check_unquoted", "convert", "nearest"]

_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_FACTOR: Final = re.compile(r"[1-9][0-9]{0,5}(?:\.[0-9]{1,6})?")
_FRACTION: Final = re.compile(r"0(?:\.[0-9]{1,6})?|1(?:\.0{1,6})?")
_PERCENT: Final = re.compile(r"(?:100|[1-9]?[0-9])%")
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]*")
_TRUE: Final = frozenset({"yes", "on", "y", "true", "1", "enabled"})
_FALSE: Final = frozenset({"no", "off", "n", "false", "0", "disabled"})
_HIGHEST_COUNT: Final = 1_000_000_000
_YAML_NAMES: Final = MappingProxyType(
    {
        "bool": "a boolean",
        "float": "another number",
        "int": "another number",
        "null": "no value",
        "timestamp": "a date",
    }
)


def convert(kind: Kind, text: str, choices: tuple[str, ...] = ()) -> Any:
    """The value that ``text`` stands for where ``kind`` is due.

    Raises:
        InvalidValueError: it is nothing of that kind.
    """
    if not text:
        raise InvalidValueError("it is empty")
    if kind is Kind.CHOICE:
        return _choice(text, choices)
    return _CONVERTERS[kind](text)


def check_unquoted(text: str) -> None:
    """Accept unquoted text that YAML reads as the same text, or as the same plain number.

    Raises:
        InvalidValueError: YAML 1.1 reads it as a boolean, a date, another number or nothing.
    """
    resolver: Any = yaml.resolver.Resolver()
    tag: str = resolver.resolve(yaml.ScalarNode, text, (True, False))
    name = _YAML_NAMES.get(tag.rpartition(":")[2])
    if name is None or _INTEGER.fullmatch(text):
        return
    if name == "another number" and _same_fraction(text):
        return
    raise InvalidValueError(f"YAML reads it as {name} unless quoted", f'write "{text}"')


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of ``words`` that was probably meant by ``word``, or None."""
    folded = {w.casefold().replace("_", "").replace("-", ""): w for w in words}
    wanted = word[:100].casefold().replace("_", "").replace("-", "")
    close = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.7)
    return folded[close[0]] if close else None


def _choice(text: str, choices: tuple[str, ...]) -> str:
    if text in choices:
        return text
    near = nearest(text, choices)
    raise InvalidValueError("no such choice", f"did you mean '{near}'?" if near else "")


def _boolean(text: str) -> bool:
    if text in {"true", "false"}:
        return text == "true"
    word = text.lower()
    fix = "write true" if word in _TRUE else "write false" if word in _FALSE else ""
    raise InvalidValueError("only these two words are booleans", fix)


def _whole_number(text: str, highest: int) -> int:
    if text.isascii() and text.isdigit():
        if text != "0" and text.startswith("0"):
            fix = f"write {text.lstrip('0') or '0'}" if len(text) <= 20 else ""
            raise InvalidValueError("leading zeros make it octal in YAML", fix)
        if len(text) <= 20 and int(text) <= highest:
            return int(text)
        raise InvalidValueError(f"at most {highest}")
    if ":" in text:
        raise InvalidValueError("a colon makes it a base 60 number in YAML")
    raise InvalidValueError("decimal digits only")


def _port(text: str) -> int:
    return _whole_number(text, 65535)


def _positive(text: str) -> int:
    number = _whole_number(text, _HIGHEST_COUNT)
    if number < 1:
        raise InvalidValueError("must be at least 1")
    return number


def _count(text: str) -> int:
    return _whole_number(text, _HIGHEST_COUNT)


def _allowed_origin(text: str) -> str:
    return text if text == "*" else parse_origin(text)


def _fraction(text: str) -> float:
    if not _FRACTION.fullmatch(text):
        fix = f"write {float(text[:-1]) / 100:g}" if _PERCENT.fullmatch(text) else ""
        raise InvalidValueError("at most 1, with at most six decimals", fix)
    return float(text)


def _factor(text: str) -> float:
    if not _FACTOR.fullmatch(text):
        raise InvalidValueError("at least 1, with at most six decimals")
    return float(text)


def _period(text: str) -> float:
    seconds = parse_duration(text)
    if not seconds:
        raise InvalidValueError("must be above 0")
    return seconds


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise InvalidValueError("other characters are not taken")
    return text


def _string(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise InvalidValueError("it has a line break or control character, or a space at an end")
    return text


def _allowed_host(text: str) -> str:
    return text if text == "*" else parse_host(text)


def _same_fraction(text: str) -> bool:
    try:
        return len(text) <= 20 and repr(float(text)) == text
    except ValueError:
        return False


_CONVERTERS: Final[Mapping[Kind, Callable[[str], Any]]] = MappingProxyType(
    {
        Kind.STRING: _string,
        Kind.HOST: parse_host,
        Kind.PORT: _port,
        Kind.URL: parse_url,
        Kind.PATH: parse_path,
        Kind.NAME: _name,
        Kind.BOOLEAN: _boolean,
        Kind.FILE: parse_file,
        Kind.POSITIVE: _positive,
        Kind.COUNT: _count,
        Kind.FRACTION: _fraction,
        Kind.FACTOR: _factor,
        Kind.DURATION: parse_duration,
        Kind.PERIOD: _period,
        Kind.SIZE: parse_size,
        Kind.STRINGS: _string,
        Kind.HOSTS: _allowed_host,
        Kind.NETWORKS: parse_network,
        Kind.ORIGINS: _allowed_origin,
        Kind.MAPPING: _string,
    }
)
