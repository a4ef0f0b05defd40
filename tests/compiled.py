"""Whether ollad is tested as its text or as what was compiled of it."""

from __future__ import annotations

from typing import Final

import pytest

from ollad import fastpath

__all__ = ["COMPILED", "text_only"]

COMPILED: Final = not fastpath.__file__.endswith(".py")

text_only: Final = pytest.mark.skipif(
    COMPILED, reason="replaces parts of ollad, which compiled ones do not know"
)
"""Marks tests that do."""
