"""The configuration told to people: a dump without secrets, and the reference of every key."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ollad.config.problems import safe_url
from ollad.config.schema import SECRETS, Config, Kind, child_type
from ollad.config.units import format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Entry", "entries", "markdown", "purpose", "redacted", "sections"]

_HIDDEN: Final = "***"
_NESTED: Final = frozenset({Kind.SECTION, Kind.SECTIONS})


@dataclass(frozen=True, slots=True)
class Entry:
    """What the reference says of one key, in Markdown.

    Attributes:
        name: the key.
        takes: what its value may be.
        default: what holds without it, with its unit.
        meaning: one sentence.
    """

    name: str
    takes: str
    default: str
    meaning: str


def redacted(config: Config) -> dict[str, Any]:
    """``config`` as it would be written, for JSON or YAML: units on numbers, no secret.

    Header values and keys become ``***``, credentials and queries in URLs are masked; keys that
    are not set and have no default are left out.
    """
    return _section(config)


def sections(section: type = Config, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Each section of the schema as its path (``endpoints[].models``) and dataclass, root first."""
    yield prefix, section
    for field in dataclasses.fields(section):
        kind = field.metadata["kind"]
        if kind in _NESTED:
            suffix = "[]" if kind is Kind.SECTIONS else ""
            path = f"{prefix}.{field.name}{suffix}" if prefix else f"{field.name}{suffix}"
            yield from sections(child_type(section, field.name), path)


def markdown() -> str:
    """The reference in ``docs/configuration.md``: a table of keys for each section."""
    parts = []
    for path, section in sections():
        rows = [_row(entry) for entry in entries(path, section)]
        if not rows:
            continue
        title = f"### `{path}`\n\n{purpose(section)}" if path else "### Top level"
        parts.append(
            "\n".join(
                [title, "", "| Key | Value | Default | Meaning |", "|---|---|---|---|", *rows]
            )
        )
    return "\n\n".join(parts) + "\n"


def entries(path: str, section: type) -> list[Entry]:
    """The keys of the section at ``path``; of the root, those that are sections are left out."""
    return [_entry(field) for field in dataclasses.fields(section) if _documented(field, path)]


def purpose(section: type) -> str:
    """What a section is for, a sentence."""
    sentence = (section.__doc__ or "").partition(": ")[2].strip()
    return sentence[:1].upper() + sentence[1:]


def _section(section: Any) -> dict[str, Any]:
    return {
        field.name: _dumped(field.metadata["kind"], getattr(section, field.name))
        for field in dataclasses.fields(section)
        if getattr(section, field.name) is not None
    }


def _dumped(kind: Kind, value: Any) -> Any:
    match kind:
        case Kind.SECTION:
            return _section(value)
        case Kind.SECTIONS:
            return [_section(item) for item in value]
        case Kind.HEADERS:
            return dict.fromkeys(value, _HIDDEN)
        case Kind.MAPPING:
            return dict(value)
        case Kind.DURATION | Kind.PERIOD:
            return format_duration(value)
        case Kind.SIZE:
            return format_size(value)
        case Kind.URL:
            return safe_url(value)
        case _ if kind in SECRETS:
            return _HIDDEN
    return list(value) if isinstance(value, tuple) else value


def _documented(field: dataclasses.Field[Any], path: str) -> bool:
    """The root's sections stand under headings of their own; only nested ones need a row."""
    return bool(path) or field.metadata["kind"] not in _NESTED


def _entry(field: dataclasses.Field[Any]) -> Entry:
    kind: Kind = field.metadata["kind"]
    takes = f"one of {', '.join(f'`{c}`' for c in field.metadata['choices'])}"
    takes = takes if kind is Kind.CHOICE else kind.value
    return Entry(field.name, takes, _default(field, kind), field.metadata["doc"])


def _row(entry: Entry) -> str:
    cells = (f"`{entry.name}`", entry.takes, entry.default, entry.meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: dataclasses.Field[Any], kind: Kind) -> str:
    if kind in _NESTED:
        return "see below"
    if field.default is None:
        return "not set"
    if field.default is not dataclasses.MISSING:
        value = _dumped(kind, field.default)
    elif field.default_factory is not dataclasses.MISSING:
        value = _dumped(kind, field.default_factory())
    else:
        return "**mandatory**"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
