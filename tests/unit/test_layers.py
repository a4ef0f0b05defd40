"""Imports point only downwards.

``LAYERS`` is the order: what stands in a row may import from rows below it, and from its own
package, nothing else. Imports for annotations alone (under ``TYPE_CHECKING``) keep to the same
order, but for those of ``CARRIERS``: modules of values that carry what stands beneath and above
alike, so that what is handed one of them has to name its type.
"""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ollad

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYERS = (
    ("__main__",),
    ("cli",),
    ("daemon",),
    ("allocator", "reload", "systemd"),
    ("maintenance",),
    ("control",),
    ("server",),
    ("fastpath", "middleware"),
    ("ordinary",),
    ("familiar",),
    ("connection",),
    ("malformed",),
    ("handlers",),
    ("generation", "native"),
    ("serving",),
    ("closing", "intake", "outgoing", "replies"),
    ("entrance", "model_choice"),
    ("affinity", "gateway"),
    ("dispatch",),
    ("placement",),
    ("conduct",),
    ("health", "relay", "waiting"),
    ("metrics",),
    ("routing",),
    ("conversations", "logs"),
    ("announcement",),
    ("call", "excerpt", "record"),
    ("sglang",),
    ("bodies",),
    (
        "auth",
        "cors",
        "framing",
        "headers",
        "jsontext",
        "limits",
        "multipart",
        "responses",
        "tls",
        "traffic",
        "unixsocket",
    ),
    ("backends",),
    ("config",),
    ("errors",),
    ("simulator",),  # stands in for another program and knows nothing of this one
    ("__init__",),
)
CARRIERS = {"gateway"}

ROOT = Path(ollad.__file__).parent
RANKS = {part: rank for rank, row in enumerate(reversed(LAYERS)) for part in row}


@dataclass(frozen=True)
class Import:
    """``importer`` imports ``imported``, both as modules below ``ollad``."""

    importer: str
    imported: str
    annotations_only: bool

    @property
    def parts(self) -> tuple[str, str]:
        """What stands in ``LAYERS`` for each."""
        return self.importer.partition(".")[0], self.imported.partition(".")[0]

    @property
    def fine(self) -> bool:
        importer, imported = self.parts
        if importer == imported:
            return True
        if self.annotations_only and imported in CARRIERS:
            return True
        return RANKS[imported] < RANKS[importer]


@functools.cache
def modules() -> dict[str, Path]:
    """Every module by its name below ``ollad``; packages are called as such."""
    found = {}
    for path in ROOT.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imports_of(importer: str, path: Path) -> Iterator[Import]:
    def walk(node: ast.AST, annotations_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            guarded = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            for name in imported_by(child):
                yield Import(importer, name, annotations_only)
            yield from walk(child, annotations_only or guarded)

    return walk(ast.parse(path.read_text()), False)


def imported_by(node: ast.AST) -> Iterator[str]:
    """The modules below ``ollad`` that a statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return
    known = modules()
    for name in names:
        package, _, below = name.partition(".")
        if package != "ollad":
            continue
        while below and below not in known:
            below = below.rpartition(".")[0]
        yield below or "__init__"


IMPORTS = [edge for name, path in modules().items() for edge in imports_of(name, path)]


def test_every_module_has_its_place() -> None:
    assert {name.partition(".")[0] for name in modules()} <= set(RANKS)


@pytest.mark.parametrize("part", [part for row in LAYERS for part in row])
def test_imports_point_only_downwards(part: str) -> None:
    upwards = [edge for edge in IMPORTS if edge.parts[0] == part and not edge.fine]
    assert upwards == []


def test_no_module_imports_itself_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for edge in IMPORTS:
        if not edge.annotations_only:
            graph.setdefault(edge.importer, set()).add(edge.imported)
    TopologicalSorter(graph).prepare()


def test_the_facts_of_the_engine_know_neither_sockets_nor_time() -> None:
    """What chooses and what reads decides synchronously; clocks and dice are handed in."""
    pure = ("auth", "sglang", "routing", "cors", "headers", "jsontext", "multipart")
    banned = {"aiohttp", "asyncio", "socket", "time", "random"}
    for name, path in modules().items():
        if name.partition(".")[0] not in pure:
            continue
        tree = ast.parse(path.read_text())
        imported = {
            alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {
            (node.module or "").partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
        }
        assert not imported & banned, name
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)], name
