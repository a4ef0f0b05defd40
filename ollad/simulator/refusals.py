"""The shapes in which SGLang says no (0.5.23).

Five of them: the OpenAI routes' flat object, ``/generate``'s ``{"error": {"message"}}`` and
``{"error": "text"}``, the unknown model's OpenAI envelope, and Starlette's ``{"detail"}``; where a
handler raises, a plain text 500.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "INTERNAL",
    "UNSUPPORTED_TYPE",
    "Refusal",
    "detail",
    "flat",
    "invalid",
    "native",
    "openai_error",
    "problem",
    "text_error",
    "unknown_model",
]

_FILE: Final = "/opt/sglang/lib/python3.11/site-packages/sglang/srt/entrypoints/http_server.py"
_PLACES: Final = {
    "/v1/chat/completions": (1870, "openai_v1_chat_completions"),
    "/v1/completions": (1860, "openai_v1_completions"),
    "/v1/embeddings": (1882, "openai_v1_embeddings"),
    "/generate": (928, "generate_request"),
}


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure of the program
    """A request is answered with an error.

    Attributes:
        status: HTTP status.
        body: of the reply.
        content_type: likewise.
    """

    def __init__(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.content_type = content_type


def flat(message: str, *, kind: str = "BadRequestError", code: int = 400) -> dict[str, Any]:
    """The OpenAI routes' error (``ErrorResponse`` in protocol.py)."""
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


def openai_error(message: str, *, kind: str = "BadRequestError", status: int = 400) -> Refusal:
    """Refuse on an OpenAI route."""
    return Refusal(status, orjson.dumps(flat(message, kind=kind, code=status)))


def native(message: str) -> Refusal:
    """Refuse on ``/generate``."""
    return Refusal(400, orjson.dumps({"error": {"message": message}}))


def text_error(message: str, status: int = 400) -> Refusal:
    """Refuse an unknown sampling parameter, or a client without a key."""
    return Refusal(status, orjson.dumps({"error": message}))


def detail(status: int, message: str) -> Refusal:
    """Refuse a path or a method."""
    return Refusal(status, orjson.dumps({"detail": message}))


def unknown_model(model: str) -> Refusal:
    """Refuse ``/v1/models/{model}``."""
    error = {
        "message": f"The model '{model}' does not exist",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    return Refusal(404, orjson.dumps({"error": error}))


def problem(kind: str, place: tuple[str | int, ...], message: str, value: Any) -> dict[str, Any]:
    """One thing that pydantic finds wrong.

    Args:
        kind: pydantic's name for it.
        place: where it is, from ``body`` down.
        message: what is wrong.
        value: what stands there.
    """
    return {"type": kind, "loc": place, "msg": message, "input": value}


def invalid(route: str, method: str, problems: Sequence[dict[str, Any]]) -> Refusal:
    """Refuse a body that does not validate, with FastAPI's words and the file they leak."""
    count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''}"
    listed = "\n".join(f"  {problem}" for problem in problems)
    line, name = _PLACES.get(route, (1900, "handler"))
    where = f'  File "{_FILE}", line {line}, in {name}\n    {method} {route}'
    return openai_error(f"{count}:\n{listed}\n\n{where} {list(problems)}", kind="Bad Request")


_HEADER_PROBLEM: Final = {
    "loc": ["header", "content-type"],
    "msg": "Unsupported Media Type: Only 'application/json' is allowed",
    "type": "value_error",
}
UNSUPPORTED_TYPE: Final = flat(
    f"1 validation error:\n  {_HEADER_PROBLEM} [{_HEADER_PROBLEM}]", kind="Bad Request"
)
"""The error for a body that is not declared as JSON."""

INTERNAL: Final = "Internal Server Error"
"""The body of a 500."""
