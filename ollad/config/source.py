"""YAML text into a small tree of nodes that know their place in the file.

Built from PyYAML's events rather than its composed nodes, because events still show explicit tags
and can be bounded: depth and expanded size are limited, so neither deep nesting nor aliases of
aliases cost more than a moment. Values stay text; what they mean is decided by the key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import yaml

from ollad.config.problems import Mark, shown

if TYPE_CHECKING:
    from ollad.config.problems import Problems

__all__ = ["MAX_NODES", "Mapping", "Node", "Scalar", "Sequence", "parse"]

MAX_NODES: Final = 250_000
"""Nodes in a file after aliases are expanded; some 10 000 endpoints."""
_MAX_DEPTH: Final = 32
_TOO_DEEP: Final = "maximum nesting depth"
"""What some versions of libyaml complain about, when they have read far ahead."""
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE: Final = "<<"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value as text; ``plain`` when written without quotes."""

    mark: Mark
    text: str
    plain: bool

    @property
    def is_null(self) -> bool:
        """Whether YAML takes it for no value at all."""
        return self.plain and self.text in {"", "~", "null", "Null", "NULL"}


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    mark: Mark
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping as written: pairs in order, duplicates kept, merge keys (``<<``) resolved."""

    mark: Mark
    pairs: tuple[tuple[Node, Node], ...]


Node: TypeAlias = Scalar | Sequence | Mapping


def parse(text: str, problems: Problems) -> Node | None:
    """Parse the one document in ``text``.

    Returns:
        Its root, or None after a problem that makes the rest unreadable; smaller problems are
        only recorded.
    """
    builder = _Builder(problems)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.feed(event)
    except _UnusableError as error:
        problems.add("", error.message, error.mark)
        return None
    except yaml.MarkedYAMLError as error:
        problems.add("", *_syntax_problem(error, text))
        return None
    except (yaml.YAMLError, UnicodeEncodeError):
        problems.add("", "not valid YAML: it contains a character that YAML forbids", _bad(text))
        return None
    root = builder.root
    if root is None or (isinstance(root, Scalar) and root.is_null and not root.text):
        problems.add("", "the file is empty; it needs at least 'endpoints:'")
        return None
    return root


class _UnusableError(Exception):
    def __init__(self, message: str, mark: Mark) -> None:
        super().__init__(message)
        self.message = message
        self.mark = mark


class _Anchored(NamedTuple):
    node: Node
    size: int


class _Open(NamedTuple):
    """A collection whose end has not come yet."""

    event: yaml.CollectionStartEvent
    children: list[Node]
    size_before: int


class _Builder:
    """Turns events into nodes; iterative, so depth costs no stack."""

    def __init__(self, problems: Problems) -> None:
        self.root: Node | None = None
        self._problems = problems
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored] = {}
        self._size = 0

    def feed(self, event: yaml.Event) -> None:
        """Take the next event.

        Raises:
            _UnusableError: the rest of the file cannot be read.
        """
        mark = _mark(event.start_mark)
        if isinstance(event, yaml.ScalarEvent):
            self._check_tag(event, mark)
            self._grow(1, mark)
            scalar = Scalar(mark, event.value, not event.style)
            self._finish(scalar, event.anchor, 1)
        elif isinstance(event, yaml.AliasEvent):
            self._finish(self._aliased(event.anchor or "", mark), None, 0)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._check_tag(event, mark)
            if len(self._open) >= _MAX_DEPTH:
                raise _UnusableError(_nested(), mark)
            self._open.append(_Open(event, [], self._size))
            self._grow(1, mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()
        elif isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise _UnusableError(
                "a second document starts here; keep one and remove the '---' line", mark
            )

    def _close(self) -> None:
        event, children, size_before = self._open.pop()
        mark = _mark(event.start_mark)
        node: Node
        if isinstance(event, yaml.SequenceStartEvent):
            node = Sequence(mark, tuple(children))
        else:
            pairs = list(zip(children[::2], children[1::2], strict=True))
            node = Mapping(mark, self._merged(pairs))
        self._finish(node, event.anchor, self._size - size_before)

    def _finish(self, node: Node, anchor: str | None, size: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = _Anchored(node, size)
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node

    def _aliased(self, anchor: str, mark: Mark) -> Node:
        found = self._anchors.get(anchor)
        if found is None:
            message = f"alias {shown('*' + anchor)} has no anchor {shown('&' + anchor)} before it"
            raise _UnusableError(message, mark)
        self._grow(found.size, mark)
        return found.node

    def _grow(self, size: int, mark: Mark) -> None:
        self._size += size
        if self._size > MAX_NODES:
            raise _UnusableError(f"more than {MAX_NODES} values, aliases expanded", mark)

    def _check_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, mark: Mark) -> None:
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            message = (
                f"YAML tags are not taken here; remove {shown(tag)}, and quote text if need be"
            )
            self._problems.add("", message, mark)

    def _merged(self, pairs: list[tuple[Node, Node]]) -> tuple[tuple[Node, Node], ...]:
        own = [pair for pair in pairs if not _is_merge(pair[0])]
        if len(own) == len(pairs):
            return tuple(pairs)
        names = {key.text for key, _ in own if isinstance(key, Scalar)}
        for base in [value for key, value in pairs if _is_merge(key)]:
            for mapping in base.items if isinstance(base, Sequence) else (base,):
                if not isinstance(mapping, Mapping):
                    self._problems.add("", "'<<' merges mappings only", mapping.mark)
                    continue
                for key, value in mapping.pairs:
                    if isinstance(key, Scalar) and key.text not in names:
                        names.add(key.text)
                        own.append((key, value))
        return tuple(own)


def _is_merge(key: Node) -> bool:
    return isinstance(key, Scalar) and key.plain and key.text == _MERGE


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _syntax_problem(error: yaml.MarkedYAMLError, text: str) -> tuple[str, Mark]:
    """What libyaml says, which quotes nothing of the file, and where."""
    message = ": ".join(filter(None, ("not valid YAML", error.context, error.problem)))
    if _TOO_DEEP in (error.problem or ""):
        message = _nested()
    mark = error.problem_mark or error.context_mark
    place = _mark(mark) if mark else Mark(1, 1)
    if "${" in "".join(text.splitlines()[place.line - 1 : place.line]):
        message += '; between braces or brackets, ${VAR} needs quotes: "${VAR}"'
    return message, place


def _nested() -> str:
    return f"nested deeper than {_MAX_DEPTH} levels"


def _bad(text: str) -> Mark:
    """Where the first character stands that YAML does not allow."""
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    before = text[: found.start()] if found else ""
    return Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))
