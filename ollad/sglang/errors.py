"""The five shapes in which SGLang reports errors, read as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["error_message"]


def error_message(reply: Mapping[str, Any] | None) -> str | None:
    """The message of an error body, or None if it has none that is known.

    Shapes (SGLang 0.5.23): ``{"object": "error", "message"}``, ``{"error": {"message"}}``,
    ``{"error": "text"}``, ``{"type": "error", "error": {"message"}}``, ``{"detail": "text"}``.
    """
    if reply is None:
        return None
    error = reply.get("error")
    nested = error.get("message") if isinstance(error, dict) else error
    for message in (nested, reply.get("message"), reply.get("detail")):
        if isinstance(message, str):
            return message
    return None
