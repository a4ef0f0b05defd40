"""An outbox that does not wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    import asyncio

    from ollad.relay.outbox import Outbox

__all__ = ["DIRECT"]


class _Direct:
    """Writes at once."""

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        transport.write(data)


DIRECT: Final = cast("Outbox", _Direct())
