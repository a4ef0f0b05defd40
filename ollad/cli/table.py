"""The table of ``ollad top``: a status document in, lines out; no terminal, no clock.

Whatever the document holds, no line is wider than asked for, and nothing in it can steer the
terminal: a backend chooses its model names and its error texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from unicodedata import east_asian_width

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["age", "clip", "display_width", "render"]

_GAP: Final = "  "
_UNKNOWN: Final = "-"
_TAKES_REQUESTS: Final = ("healthy", "recovering")

_BOLD: Final = "1"
_ALARM: Final = "1;31"
_COLOURS: Final = {"healthy": "32", "down": "31"}
_OTHER_COLOUR: Final = "33"

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Column:
    """One column.

    Attributes:
        title: its heading.
        cell: its text for an entry of the status, given the time of the status.
        keep: columns with the lowest go first where there is no room.
        least: columns of the terminal to which it may shrink; 0: it does not.
        right: whether it is aligned to the right.
    """

    title: str
    cell: Callable[[Entry, float | None], str]
    keep: int
    least: int = 0
    right: bool = False


@dataclass(frozen=True, slots=True)
class _Placed:
    """A column and the width it got."""

    column: _Column
    width: int

    def text(self, text: str) -> str:
        """``text`` in exactly this width."""
        clipped = clip(text, self.width)
        room = " " * (self.width - display_width(clipped))
        return room + clipped if self.column.right else clipped + room


def render(
    status: Mapping[str, Any] | None,
    width: int,
    height: int | None = None,
    *,
    colour: bool = False,
    note: str | None = None,
) -> list[str]:
    """The screen.

    Args:
        status: the data of a ``status`` event, or None before the first.
        width: columns of the terminal; no line is wider.
        height: rows of the terminal; there are no more lines. None: as many as it takes.
        colour: whether to use ANSI colours.
        note: what the user must know about the feed itself.
    """
    status = status or {}
    entries = [entry for entry in _list(status.get("endpoints")) if isinstance(entry, dict)]
    lines = [_paint(_title(status, entries, width), _BOLD, colour)]
    if note is not None:
        lines.append(_paint(clip(_clean(note), width), _ALARM, colour))
    if entries:
        room = None if height is None else max(0, height - len(lines) - 1)
        lines += _table(entries, _moment(status.get("time")), width, room, colour=colour)
    return lines[:height]


def _title(status: Mapping[str, Any], entries: Sequence[Entry], width: int) -> str:
    uptime = _number(status.get("uptime_seconds"))
    under_way = status.get("requests_under_way")
    ready = sum(map(_takes_requests, entries))
    parts = [
        f"ollad {_text(status.get('version'))}",
        *(["draining"] if status.get("draining") is True else []),
        f"up {_UNKNOWN if uptime is None else age(uptime)}",
        f"{ready}/{len(entries)} endpoints take requests",
        f"{_text(under_way)} {'request' if under_way == 1 else 'requests'} under way",
    ]
    while len(parts) > 1 and display_width(", ".join(parts)) > width:
        parts.pop()
    return clip(", ".join(parts), width)


def _table(
    entries: Sequence[Entry], now: float | None, width: int, room: int | None, *, colour: bool
) -> list[str]:
    """Heading and rows; where rows are left out, those that take no requests come first."""
    shown = list(entries)
    if room is not None and len(shown) > room:
        shown.sort(key=_takes_requests)
        shown = shown[: max(min(room, 1), room - 1)]
    cells = {column: [column.cell(entry, now) for entry in shown] for column in _COLUMNS}
    placed = _place(cells, width)
    lines = [_paint(_line([one.text(one.column.title) for one in placed]), _BOLD, colour)]
    for index, entry in enumerate(shown):
        row = [
            _paint(one.text(cells[one.column][index]), _state_colour(entry), colour)
            if one.column is _STATE
            else one.text(cells[one.column][index])
            for one in placed
        ]
        lines.append(_line(row))
    if len(shown) < len(entries):
        lines.append(clip(f"and {len(entries) - len(shown)} more", width))
    return lines


def _line(cells: Sequence[str]) -> str:
    return _GAP.join(cells).rstrip()


def _place(cells: Mapping[_Column, Sequence[str]], width: int) -> list[_Placed]:
    """Which columns there is room for, and how wide each may be."""
    natural = {
        column: max(display_width(text) for text in (column.title, *texts))
        for column, texts in cells.items()
    }
    least = {
        column: min(column.least, natural[column]) if column.least else natural[column]
        for column in natural
    }
    columns = list(natural)
    while len(columns) > 1 and _total([least[column] for column in columns]) > width:
        columns.remove(min(columns, key=lambda column: column.keep))
    widths = {column: natural[column] for column in columns}
    for column in sorted(columns, key=lambda column: column.keep):
        excess = _total(list(widths.values())) - width
        widths[column] -= min(max(0, excess), natural[column] - least[column])
    if len(columns) == 1:
        widths = {column: min(wide, max(0, width)) for column, wide in widths.items()}
    return [_Placed(column, wide) for column, wide in widths.items()]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def display_width(text: str) -> int:
    """Columns of the terminal that ``text`` takes at most; it holds printable characters only."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in text)


def clip(text: str, width: int) -> str:
    """``text`` cut to ``width`` columns, with an ellipsis where something is missing."""
    if display_width(text) <= width:
        return text
    taken, room = [], width - 1
    for char in text:
        room -= display_width(char)
        if room < 0:
            break
        taken.append(char)
    return "".join(taken) + "…" if width > 0 else ""


def age(seconds: float) -> str:
    """A duration in its two leading units, such as ``3h12m``; negative ones are 0."""
    whole = int(min(max(seconds, 0.0), 1e9))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if whole < 60:
        return f"{whole}s"
    if hours < 1:
        return f"{minutes}m"
    return f"{hours}h{minutes % 60:02}m" if days < 1 else f"{days}d{hours % 24}h"


def _paint(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour and text else text


def _state_colour(entry: Entry) -> str:
    return _COLOURS.get(_state(entry, None), _OTHER_COLOUR)


def _takes_requests(entry: Entry) -> bool:
    return entry.get("state") in _TAKES_REQUESTS and _ejection(entry) is None


def _state(entry: Entry, _now: float | None) -> str:
    """A backend that fails requests or sheds load is still called healthy by its probes."""
    if entry.get("state") in _TAKES_REQUESTS:
        ejection = _ejection(entry)
        if ejection is not None:
            return "on trial" if ejection.get("on_trial") is True else "ejected"
        if entry.get("overloaded") is True:
            return "overloaded"
    return _text(entry.get("state"))


def _ejection(entry: Entry) -> Entry | None:
    """What keeps requests away from a backend that passes its probes."""
    ejection = entry.get("ejected")
    return ejection if isinstance(ejection, dict) else None


def _weight(entry: Entry, _now: float | None) -> str:
    weight = _number(entry.get("weight"))
    return _UNKNOWN if weight is None else f"{weight:.2f}"


def _models(entry: Entry, _now: float | None) -> str:
    return ", ".join(_text(model) for model in _list(entry.get("models"))) or _UNKNOWN


def _since(entry: Entry, now: float | None) -> str:
    ejection = _ejection(entry) if entry.get("state") in _TAKES_REQUESTS else None
    told = entry if ejection is None else ejection
    since, reason = _moment(told.get("since")), told.get("reason")
    lasting = _UNKNOWN if since is None or now is None else age(now - since)
    text = f"{lasting} {_text(reason)}" if reason else lasting
    until = _moment(ejection.get("until")) if ejection else None
    if until is None or now is None or until <= now:
        return text
    return f"{text}, for {age(until - now)} more"


def _field(name: str) -> Callable[[Entry, float | None], str]:
    return lambda entry, _now: _text(entry.get(name))


def _load(name: str) -> Callable[[Entry, float | None], str]:
    return lambda entry, _now: _text(_load_of(entry).get(name))


def _share(name: str) -> Callable[[Entry, float | None], str]:
    def cell(entry: Entry, _now: float | None) -> str:
        share = _number(_load_of(entry).get(name))
        return _UNKNOWN if share is None else f"{share:.0%}"

    return cell


def _load_of(entry: Entry) -> Entry:
    load = entry.get("load")
    return load if isinstance(load, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: object) -> float | None:
    """``value`` if it is a number that a table can show."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e12 else None


def _moment(value: object) -> float | None:
    """Unix seconds of an ISO 8601 time."""
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def _text(value: object) -> str:
    return _UNKNOWN if value is None or value == "" else _clean(str(value))


def _clean(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


_STATE: Final = _Column("STATE", _state, keep=9)
_COLUMNS: Final = (
    _Column("NAME", _field("name"), keep=10, least=8),
    _STATE,
    _Column("WEIGHT", _weight, keep=7, right=True),
    _Column("FLIGHT", _field("in_flight"), keep=6, right=True),
    _Column("RUN", _load("running"), keep=4, right=True),
    _Column("WAIT", _load("waiting"), keep=8, right=True),
    _Column("KV", _share("token_usage"), keep=3, right=True),
    _Column("HIT", _share("radix_cache_hit_rate"), keep=2, right=True),
    _Column("MODELS", _models, keep=1, least=10),
    _Column("SINCE", _since, keep=5, least=7),
)
