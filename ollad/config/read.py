"""The tree of YAML nodes against the schema, every problem recorded and none fatal.

The result is a plain tree of dicts with defaults filled in; keys whose value was refused are
absent from it, so that the checks across keys judge only what could be read.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any, Final

from ollad.config.addresses import check_header_name, check_header_value
from ollad.config.problems import InvalidValueError, joined, safe_url, shown
from ollad.config.schema import Config, Kind, child_type
from ollad.config.secretfile import key_digest, read_secret, sha256_digest
from ollad.config.source import Mapping, Scalar, Sequence
from ollad.config.substitute import substitute
from ollad.config.values import check_unquoted, convert, nearest

if typing.TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Mapping as MappingABC

    from ollad.config.problems import Mark, Problems
    from ollad.config.source import Node

__all__ = ["ENDPOINTS_EXAMPLE", "Reader"]

ENDPOINTS_EXAMPLE: Final = 'endpoints: [{url: "http://127.0.0.1:30000", name: sglang-0}]'
_LISTS: Final = frozenset({Kind.STRINGS, Kind.HOSTS, Kind.NETWORKS, Kind.ORIGINS})
_KEYS: Final = frozenset({Kind.KEY, Kind.KEY_FILE, Kind.DIGEST})
_ITEMS: Final[MappingABC[Kind, str]] = {
    Kind.STRINGS: Kind.STRING.value,
    Kind.MAPPING: Kind.STRING.value,
    Kind.HOSTS: "a host name or '*'",
    Kind.NETWORKS: "an IP address or network",
    Kind.ORIGINS: "an origin such as https://app.example, or '*'",
}
_TEXTS: Final = frozenset({Kind.STRING, Kind.NAME, Kind.STRINGS, Kind.MAPPING})
_MANDATORY_EXAMPLES: Final[MappingABC[str, str]] = {
    "endpoints": ENDPOINTS_EXAMPLE,
    "url": 'url: "http://127.0.0.1:30000"',
    "name": "name: sglang-0",
}
_SECTIONS_EXAMPLES: Final[MappingABC[str, str]] = {
    "endpoints": ENDPOINTS_EXAMPLE,
    "auth.keys": 'keys: [{name: alice, key: "${ALICE_KEY}"}]',
}

Field: typing.TypeAlias = dataclasses.Field[Any]


@functools.cache
def _homes() -> MappingABC[str, tuple[str, ...]]:
    """For each key, the top-level sections that have it."""
    homes: dict[str, tuple[str, ...]] = {}
    for section in dataclasses.fields(Config):
        for field in dataclasses.fields(child_type(Config, section.name)):
            homes[field.name] = (*homes.get(field.name, ()), section.name)
    return homes


class Reader:
    """Reads nodes of one file; what it cannot read goes to ``problems``."""

    def __init__(self, problems: Problems, environ: MappingABC[str, str]) -> None:
        self._problems = problems
        self._environ = environ

    def section(self, section: type, node: Node, path: str = "") -> dict[str, Any]:
        """The keys of ``section`` in ``node``, with defaults; without those that were refused."""
        fields = {field.name: field for field in dataclasses.fields(section)}
        values: dict[str, Any] = {}
        given: set[str] = set()
        for name, value, mark in self._pairs(node, path, Kind.SECTION.value):
            if name not in fields:
                self._problems.add(joined(path, name), _unknown(name, path, fields), mark)
                continue
            given.add(name)
            read = self._value(section, fields[name], value, joined(path, name))
            if read is not None:
                values[name] = read
        # A node that is no mapping is one problem, not one more for each key it lacks.
        if isinstance(node, Mapping):
            for name in fields.keys() - given:
                self._fill(section, fields[name], path, values)
        return values

    def _fill(self, section: type, field: Field, path: str, values: dict[str, Any]) -> None:
        if field.metadata["kind"] is Kind.SECTION:
            values[field.name] = self._defaults(child_type(section, field.name))
        elif field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
        else:
            example = _MANDATORY_EXAMPLES[field.name]
            self._problems.add(path, f"'{field.name}' is missing; write for example: {example}")

    def _defaults(self, section: type) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for field in dataclasses.fields(section):
            self._fill(section, field, "", values)
        return values

    def _value(self, section: type, field: Field, node: Node, path: str) -> Any:
        kind: Kind = field.metadata["kind"]
        if kind is Kind.SECTION:
            return self.section(child_type(section, field.name), node, path)
        if kind is Kind.SECTIONS:
            optional = field.default is not dataclasses.MISSING
            return self._sections(child_type(section, field.name), node, path, optional=optional)
        if kind is Kind.HEADERS:
            return self._headers(node, path)
        if kind is Kind.MAPPING:
            return self._mapping(node, path)
        if kind in _LISTS:
            return self._list(kind, node, path)
        if kind in _KEYS:
            return self._key(kind, node, path)
        return self._scalar(kind, node, path, field.metadata["choices"])

    def _sections(
        self, section: type, node: Node, path: str, *, optional: bool
    ) -> list[dict[str, Any]] | None:
        if not isinstance(node, Sequence) or not (node.items or optional):
            got = "an empty list" if isinstance(node, Sequence) else _what(node)
            example = _SECTIONS_EXAMPLES[path]
            self._problems.add(
                path, f"expected {Kind.SECTIONS.value}, got {got}; write for example: {example}"
            )
            return None
        values = []
        for index, item in enumerate(node.items):
            item_path = f"{path}[{index}]"
            self._problems.place(item_path, item.mark)
            values.append(self.section(section, item, item_path))
        return values

    def _list(self, kind: Kind, node: Node, path: str) -> tuple[Any, ...] | None:
        if not isinstance(node, Sequence):
            fix = ""
            if isinstance(node, Scalar) and not node.is_null:
                fix = f"; put brackets around it: [{shown(node.text)}]"
            self._problems.add(path, f"expected {kind.value}, got {_what(node)}{fix}")
            return None
        values = []
        for index, item in enumerate(node.items):
            item_path = f"{path}[{index}]"
            self._problems.place(item_path, item.mark)
            value = self._scalar(kind, item, item_path)
            if value is not None:
                values.append(value)
        return tuple(values)

    def _key(self, kind: Kind, node: Node, path: str) -> str | None:
        """The SHA-256 of a client's key; messages never contain what was read."""
        if not isinstance(node, Scalar) or node.is_null:
            self._problems.add(path, f"expected {kind.value}, got {_what(node)}")
            return None
        try:
            if kind is Kind.KEY_FILE:
                where = self._scalar(Kind.FILE, node, path)
                return None if where is None else key_digest(read_secret(where))
            if node.plain:
                check_unquoted(node.text)
            text = substitute(node.text, self._environ)
            return sha256_digest(text) if kind is Kind.DIGEST else key_digest(text)
        except InvalidValueError as error:
            shown_path = f"{shown(node.text)}: " if kind is Kind.KEY_FILE else ""
            self._problems.add(path, shown_path + error.reason)
            return None

    def _mapping(self, node: Node, path: str) -> dict[str, str]:
        values: dict[str, str] = {}
        for name, item, _ in self._pairs(node, path, Kind.MAPPING.value, free=True):
            value = self._scalar(Kind.MAPPING, item, joined(path, name))
            if value is not None:
                values[name] = value
        return values

    def _headers(self, node: Node, path: str) -> dict[str, str]:
        values: dict[str, str] = {}
        seen: dict[str, str] = {}
        for name, item, _ in self._pairs(node, path, Kind.HEADERS.value):
            item_path = joined(path, name)
            try:
                check_header_name(name)
                if seen.setdefault(name.lower(), name) != name:
                    reason = f"the same header as '{seen[name.lower()]}'; keep one"
                    raise InvalidValueError(reason)  # noqa: TRY301 - one place tells all of them
                value = self._header_value(item, item_path)
                if value is not None:
                    check_header_value(value)
                    values[name] = value
            except InvalidValueError as error:
                self._problems.add(item_path, error.reason)
        return values

    def _header_value(self, node: Node, path: str) -> str | None:
        """Text, or the content of ``{file: PATH}``; messages never contain the value."""
        if isinstance(node, Scalar) and not node.is_null:
            if node.plain:
                check_unquoted(node.text)
            return substitute(node.text, self._environ)
        if not isinstance(node, Mapping):
            got = _what(node)
            raise InvalidValueError(f"expected text or {{file: /path/of/the/secret}}, got {got}")
        pairs = {name: item for name, item, _ in self._pairs(node, path, Kind.SECTION.value)}
        if pairs.keys() != {"file"}:
            raise InvalidValueError("a value from a file is written {file: /path/of/the/secret}")
        file_path = joined(path, "file")
        where = self._scalar(Kind.STRING, pairs["file"], file_path)
        if where is None:
            return None
        try:
            return read_secret(where)
        except InvalidValueError as error:
            raw = typing.cast("Scalar", pairs["file"]).text
            self._problems.add(file_path, f"{shown(raw)}: {error.reason}")
            return None

    def _scalar(self, kind: Kind, node: Node, path: str, choices: tuple[str, ...] = ()) -> Any:
        """The value of a scalar, or None after a problem."""
        expected = f"one of {', '.join(choices)}" if choices else _ITEMS.get(kind, kind.value)
        if not isinstance(node, Scalar) or node.is_null:
            fix = "; give it a value or remove it" if isinstance(node, Scalar) else ""
            self._problems.add(path, f"expected {expected}, got {_what(node)}{fix}")
            return None
        try:
            text = substitute(node.text, self._environ)
        except InvalidValueError as error:
            self._problems.add(path, error.reason)
            return None
        try:
            value = convert(kind, text, choices)
            if node.plain and kind in _TEXTS and text == node.text:
                check_unquoted(text)
        except InvalidValueError as error:
            raw = safe_url(node.text) if kind is Kind.URL else node.text
            message = f"expected {expected}, got {shown(raw)}"
            if text != node.text:  # what the environment put there may be a secret
                self._problems.add(path, f"{message}, substituted text not shown: {error.reason}")
            else:
                fix = f"; {error.fix}" if error.fix else ""
                self._problems.add(path, f"{message}: {error.reason}{fix}")
            return None
        return value

    def _pairs(
        self, node: Node, path: str, expected: str, *, free: bool = False
    ) -> Iterator[tuple[str, Node, Mark]]:
        """The pairs of a mapping and where each key stands; each key once, each value's place kept.

        Args:
            node: what should be a mapping; anything else is a problem and gives no pairs.
            path: its key path.
            expected: what to call it in the problem.
            free: whether keys are the operator's own words rather than names of the schema.
        """
        if not isinstance(node, Mapping):
            fix = "; give it keys or remove it" if isinstance(node, Scalar) and node.is_null else ""
            self._problems.add(path, f"expected {expected}, got {_what(node)}{fix}")
            return
        first: dict[str, int] = {}
        for key, value in node.pairs:
            if not isinstance(key, Scalar):
                self._problems.add(path, f"a key must be text, not {_what(key)}", key.mark)
                continue
            name, item_path = key.text, joined(path, key.text)
            if name in first:
                message = f"given twice, first in line {first[name]}; keep one"
                self._problems.add(item_path, message, key.mark)
                continue
            first[name] = key.mark.line
            # An absent value has no place of its own.
            absent = isinstance(value, Scalar) and value.is_null
            text = value.text if isinstance(value, Scalar) else ""
            self._problems.place(item_path, key.mark if absent else value.mark, text)
            if not free or self._free_key(key, item_path):
                yield name, value, key.mark

    def _free_key(self, key: Scalar, path: str) -> bool:
        try:
            convert(Kind.STRING, key.text)
            if key.plain:
                check_unquoted(key.text)
        except InvalidValueError as error:
            fix = f"; {error.fix}" if error.fix else ""
            self._problems.add(path, f"not usable as a key: {error.reason}{fix}", key.mark)
            return False
        if "${" in key.text:
            self._problems.add(path, "${…} works in values, not in keys", key.mark)
            return False
        return True


def _what(node: Node) -> str:
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    return "no value" if node.is_null else "text"


def _unknown(name: str, path: str, fields: MappingABC[str, Field]) -> str:
    near = nearest(name, fields)
    if near:
        return f"unknown key, did you mean '{near}'?"
    homes = [home for home in _homes().get(name, ()) if home != path]
    if homes:
        return f"unknown key here; it belongs in '{homes[0]}'"
    return f"unknown key; the keys here are {', '.join(fields)}"
