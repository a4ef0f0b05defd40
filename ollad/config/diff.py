"""What changes when one configuration takes the place of another."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ollad.config.schema import Config

__all__ = ["Change", "compare"]

_FIXED: Final = (
    ("server", "host"),
    ("server", "port"),
    ("admin", "host"),
    ("admin", "port"),
    ("admin", "socket"),
    ("logging", "level"),
    ("logging", "format"),
    ("logging", "access"),
)
"""Keys that are read once, at the start."""


@dataclass(frozen=True, slots=True)
class Change:
    """From one configuration to the next.

    Attributes:
        config: the new one, with those keys that need a restart as they were.
        added: names of endpoints that were not there.
        removed: names of endpoints that are gone.
        changed: names of endpoints that are configured differently.
        sections: names of the other sections that differ.
        restart: keys whose new value waits for a restart, such as ``server.port``.
    """

    config: Config
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    sections: tuple[str, ...]
    restart: tuple[str, ...]

    def describe(self) -> tuple[str, ...]:
        """A line for each kind of change; none if nothing changed."""
        told = (
            ("endpoints added", self.added),
            ("endpoints removed", self.removed),
            ("endpoints changed", self.changed),
            ("sections changed", self.sections),
            ("needs a restart to take effect", self.restart),
        )
        return tuple(f"{what}: {', '.join(names)}" for what, names in told if names)


def compare(old: Config, new: Config) -> Change:
    """Find what changes from ``old`` to ``new``."""
    before = {endpoint.name: endpoint for endpoint in old.endpoints}
    after = {endpoint.name: endpoint for endpoint in new.endpoints}
    restart: list[str] = []
    for section, name in _FIXED:
        was, wanted = getattr(getattr(old, section), name), getattr(getattr(new, section), name)
        if was != wanted:
            restart.append(f"{section}.{name}")
            kept = replace(getattr(new, section), **{name: was})
            new = replace(new, **{section: kept})
    if (old.server.tls.cert_file is None) != (new.server.tls.cert_file is None):
        restart.append("server.tls")
        new = replace(new, server=replace(new.server, tls=old.server.tls))
    return Change(
        config=new,
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(name for name in after if name in before and before[name] != after[name]),
        sections=_sections(old, new),
        restart=tuple(restart),
    )


def _sections(old: Any, new: Any) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in fields(old)
        if field.name != "endpoints" and getattr(old, field.name) != getattr(new, field.name)
    )
