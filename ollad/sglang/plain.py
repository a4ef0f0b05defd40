"""Which requests are so plain that nothing in them has to be looked into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ollad.sglang.media import names_media
from ollad.sglang.parameters import IGNORED_PARAMETERS, REFUSED_FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["is_plain"]

_NOTABLE: Final = frozenset(REFUSED_FIELDS) | frozenset(IGNORED_PARAMETERS) | {"rid"}


def is_plain(document: Mapping[str, Any]) -> bool:
    """Whether a request is messages of text, or a text, beside scalars, as most are.

    True is certain, and quickly found: then ``refuse_nesting`` and ``refuse_fields`` have
    nothing to refuse, ``names_media`` is False, ``ignored_parameters`` finds none, and
    ``replace_rid`` has nothing to replace.
    """
    return _NOTABLE.isdisjoint(document) and not names_media(document)
