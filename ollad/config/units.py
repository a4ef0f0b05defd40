"""Durations and sizes: text with a unit to numbers, and back."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from ollad.config.problems import InvalidValueError

__all__ = ["format_duration", "format_size", "parse_duration", "parse_size"]

_MILLISECONDS: Final = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_LONGEST: Final = 366 * 24 * _MILLISECONDS["h"]
_DURATION: Final = re.compile(
    r"(?=\d)(?:(?P<h>\d{1,9})h)?(?:(?P<m>\d{1,9})m)?(?:(?P<s>\d{1,9})s)?(?:(?P<ms>\d{1,12})ms)?",
    re.ASCII,
)
_BYTES: Final = {
    "GiB": 2**30,
    "GB": 10**9,
    "MiB": 2**20,
    "MB": 10**6,
    "KiB": 2**10,
    "kB": 10**3,
}
_LARGEST: Final = 2**50
_SIZE: Final = re.compile(r"(?P<number>\d{1,16})(?P<unit>GiB|GB|MiB|MB|KiB|kB)?", re.ASCII)
_LOOSE: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([A-Za-z]*)", re.ASCII)
_DURATION_WORDS: Final = {
    "ms": ("millisecond", "milliseconds", "msec"),
    "s": ("sec", "secs", "second", "seconds"),
    "m": ("min", "mins", "minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
}


def parse_duration(text: str) -> float:
    """Seconds of a duration such as ``250ms``, ``1h30m`` or ``0``; exact to the millisecond.

    Raises:
        InvalidValueError: it is not a duration, or longer than 366 days.
    """
    if text == "0":
        return 0.0
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise InvalidValueError("a number alone has no unit", f"write {int(text)}s")
    if re.fullmatch(r"\d+(:\d+)+", text, re.ASCII):
        raise InvalidValueError("clock times are not durations", "write it like 12m30s")
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidValueError("units are ms, s, m and h, largest first", _duration_fix(text))
    milliseconds = sum(int(match[u] or 0) * ms for u, ms in _MILLISECONDS.items())
    if milliseconds > _LONGEST:
        raise InvalidValueError("longer than 366 days")
    return milliseconds / 1000


def format_duration(seconds: float) -> str:
    """The shortest text that ``parse_duration`` reads as ``seconds``, such as ``1h30m``."""
    rest = round(seconds * 1000)
    text = ""
    for unit, milliseconds in _MILLISECONDS.items():
        count, rest = divmod(rest, milliseconds)
        text += f"{count}{unit}" if count else ""
    return text or "0"


def parse_size(text: str) -> int:
    """Bytes of a size such as ``64KiB``, ``10MB`` or ``512``.

    Raises:
        InvalidValueError: it is not a size, is 0, or more than 1 PiB.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidValueError("units are KiB, MiB, GiB, kB, MB and GB", _size_fix(text))
    size = int(match["number"]) * _BYTES.get(match["unit"] or "", 1)
    if not 0 < size <= _LARGEST:
        raise InvalidValueError("must be above 0 and at most 1 PiB")
    return size


def format_size(size: int) -> str:
    """The text that ``parse_size`` reads as ``size`` bytes, in binary units where they fit."""
    for unit, factor in _BYTES.items():
        if unit.endswith("iB") and size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def _duration_fix(text: str) -> str:
    match = _LOOSE.fullmatch(text.strip())
    if match is None:
        return ""
    number, word = match[1], match[2].lower()
    if word in {"d", "day", "days"}:
        return f"write {format_duration(float(number) * 86400)}"
    for unit, words in _DURATION_WORDS.items():
        if word == unit or word in words:
            milliseconds = Fraction(number) * _MILLISECONDS[unit]
            if milliseconds.denominator == 1:
                return f"write {format_duration(int(milliseconds) / 1000)}"
    return ""


def _size_fix(text: str) -> str:
    match = _LOOSE.fullmatch(text.strip())
    if match is None or not match[2]:
        return ""
    word = match[2].lower()
    for unit, factor in _BYTES.items():
        if word in {unit.lower(), unit[0].lower()} and (unit.endswith("iB") or word != unit[0]):
            size = Fraction(match[1]) * factor
            if size.denominator == 1:
                return f"write {_size_in(int(size), unit)}"
    return f"write {match[1]}" if word in {"b", "byte", "bytes"} else ""


def _size_in(size: int, unit: str) -> str:
    return format_size(size) if unit.endswith("iB") else f"{size // 10**3}kB"
