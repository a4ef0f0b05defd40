"""Values out of replies that nobody vouches for: the right type, or None.

Everything here is total: it takes any object JSON or a text format can yield and never raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["boolean", "count", "fraction", "items", "mapping", "number", "text"]

_ROUNDING = 0.01
"""How far a share may lie outside 0..1 through rounding before it is taken for something else."""


_LARGEST: Final = 1e18
"""No figure of a server comes near; sums and products of what is below stay finite."""

_HIGHEST: Final = 10**18
"""The same as a whole number, which no other has to become a float to be compared with."""


def boolean(value: object) -> bool | None:
    """``value`` if it is true or false, else None."""
    return value if isinstance(value, bool) else None


def number(value: object) -> float | None:
    """``value`` as a float of a size that makes sense, else None; booleans are no numbers."""
    if type(value) is float:
        return value if -_LARGEST < value < _LARGEST else None
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, (int, float))):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if -_LARGEST < result < _LARGEST else None


def count(value: object) -> int | None:
    """``value`` as a whole number of 0 or more (``5.0`` is 5), else None."""
    if value is None:  # as most are, and replies are read while their clients wait
        return None
    if type(value) is int:
        return value if 0 <= value < _HIGHEST else None
    result = number(value)
    return int(result) if result is not None and result >= 0 and result.is_integer() else None


def fraction(value: object) -> float | None:
    """``value`` as a share from 0 to 1, rounding errors cut off, else None."""
    result = number(value)
    if result is None or not -_ROUNDING <= result <= 1 + _ROUNDING:
        return None
    return min(1.0, max(0.0, result))


def text(value: object) -> str | None:
    """``value`` if it is a string that is not empty, else None."""
    return value if isinstance(value, str) and value else None


def mapping(value: object) -> Mapping[str, Any]:
    """``value`` if it is an object, else an empty one."""
    if type(value) is dict:
        return value
    return {} if value is None or not isinstance(value, Mapping) else value


def items(value: object) -> list[Mapping[str, Any]]:
    """The objects in ``value`` if it is a list, else none."""
    if not isinstance(value, list):
        return []
    return [item for item in value if type(item) is dict or isinstance(item, Mapping)]
