"""Stand-ins for ``torchvision`` and ``sgl_kernel``, so that SGLang's CPU engine can be imported.

Test rig only. Nothing in them computes: calling one raises, so that a wrong turn is loud.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = frozenset({"torchvision", "sgl_kernel"})


class Thing:
    """Whatever is imported from a stand-in: a function, a class or a constant."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, key: str) -> Thing:
        if key.startswith("__"):
            raise AttributeError(key)
        return Thing(f"{self._name}.{key}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and callable(args[0]):
            return args[0]  # it was used as a decorator
        raise RuntimeError(f"stand-in called: {self._name}")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (object,)

    def __or__(self, other: Any) -> Thing:
        return self

    __ror__ = __or__

    def __repr__(self) -> str:
        return f"<stand-in {self._name}>"


class StandInModule(types.ModuleType):
    """A module that has every attribute."""

    def __getattr__(self, key: str) -> Thing:
        if key.startswith("__"):
            raise AttributeError(key)
        return Thing(f"{self.__name__}.{key}")


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what no other finder has found, below the names above."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - importlib's signature
        target: types.ModuleType | None = None,  # noqa: ARG002 - the same
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".", maxsplit=1)[0] in NAMES:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = StandInModule(spec.name)
        module.__path__ = []
        module.__dict__["__version__"] = "0.0.0"
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """A stand-in has no code to run."""


sys.meta_path.append(Finder())
