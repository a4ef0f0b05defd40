"""All backends of one configuration, looked up by name, by model, by state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollad.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ollad.backends.backend import Backend

__all__ = ["Pool"]


class Pool:
    """An ordered, immutable collection of backends.

    Attributes:
        limited: whether some backend takes no more than so many requests at once.
    """

    __slots__ = (
        "_backends",
        "_by_model",
        "_by_name",
        "_retired",
        "_routable",
        "limited",
    )

    def __init__(self, backends: Iterable[Backend]) -> None:
        self._backends = tuple(backends)
        self._by_name = {backend.name: backend for backend in self._backends}
        self.limited = any(backend.endpoint.max_concurrent for backend in self._backends)
        self._retired = False
        self._routable: tuple[Backend, ...] | None = None
        self._by_model: dict[str, tuple[Backend, ...]] = {}
        for backend in self._backends:
            backend.watch(self)

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._backends)

    def __len__(self) -> int:
        return len(self._backends)

    def __repr__(self) -> str:
        return f"<Pool {list(self._backends)}>"

    def get(self, name: str) -> Backend | None:
        """The backend called ``name``, or None."""
        return self._by_name.get(name)

    def named(self, name: str) -> Backend:
        """The backend called ``name``, as a client asks for it.

        Raises:
            NotFoundError: there is none.
        """
        backend = self._by_name.get(name)
        if backend is None:
            raise NotFoundError(
                f"There is no endpoint '{name:.100}'. Known endpoints: {', '.join(self._by_name)}.",
                param="endpoint",
                code="endpoint_not_found",
            )
        return backend

    def backend_changed(self) -> None:
        """Work out anew, when asked next, who takes requests."""
        self._routable = None
        self._by_model.clear()

    def retire(self) -> None:
        """Be told of no more changes, and work out everything anew each time.

        To be called once another pool has taken its place; requests that began with it may go on.
        """
        for backend in self._backends:
            backend.unwatch(self)
        self._retired = True
        self.backend_changed()

    def routable(self) -> tuple[Backend, ...]:
        """The backends that take requests now."""
        routable = self._routable
        if routable is None:
            routable = tuple([backend for backend in self._backends if backend.routable])
            if not self._retired:
                self._routable = routable
        return routable

    def serving(self, model: str) -> tuple[Backend, ...]:
        """The routable backends that serve ``model``."""
        serving = self._by_model.get(model)
        if serving is None:
            serving = tuple([backend for backend in self.routable() if backend.serves(model)])
            if serving and not self._retired:  # names that clients make up are not kept
                self._by_model[model] = serving
        return serving

    def models(self) -> tuple[str, ...]:
        """Every model some routable backend serves, sorted."""
        return tuple(sorted({m for b in self.routable() for m in b.snapshot.model_ids}))
