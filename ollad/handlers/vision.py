"""``POST /v1/chat/completions/vision``: a chat for models that see.

SGLang has no such route: unless a backend does, the chat goes to ``/v1/chat/completions`` of a
backend whose model information says that it understands images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.errors import BadRequestError, UnavailableError
from ollad.gateway import GATEWAY
from ollad.generation import OPENAI
from ollad.intake import read_call
from ollad.native import relay_native
from ollad.serving import relay_call
from ollad.sglang.annotate import vision_metrics_member

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from aiohttp import web

    from ollad.backends.backend import Backend
    from ollad.call import Call
    from ollad.record import RequestRecord
    from ollad.sglang.annotate import Usage

__all__ = ["vision"]

_ROUTE: Final = "/v1/chat/completions/vision"
_CHAT: Final = "/v1/chat/completions"


async def vision(request: web.Request) -> web.StreamResponse:
    """Relay a chat with images; a whole reply gets the page's ``vision_metrics``."""
    runtime = request.app[GATEWAY].runtime
    call = await read_call(request, runtime, _ROUTE, identity=True)
    response = await relay_native(request, runtime, call, _ROUTE, OPENAI)
    if response is not None:
        return response
    able = [b for b in runtime.pool if _sees(b) and b.serves(call.model or "")]
    if able and not any(backend.routable for backend in able):
        raise UnavailableError(
            f"The backends of the model '{call.model}' that understand images are out. "
            "Try again shortly.",
            code="no_backend",
        )
    if not able:
        raise BadRequestError(
            f"No backend that serves the model '{call.model}' understands images.",
            param="model",
            code="model_without_vision",
        )
    target = _CHAT + call.target.removeprefix(_ROUTE)
    relayed = await relay_call(
        request, runtime, call._replace(target=target, suits=_sees), OPENAI, _members
    )
    return relayed.response


def _sees(backend: Backend) -> bool:
    return backend.snapshot.engine.image_understanding is True


def _members(
    _reply: Mapping[str, Any], usage: Usage, _call: Call, _record: RequestRecord, _elapsed: int
) -> Mapping[str, bytes]:
    return {"vision_metrics": vision_metrics_member(usage)}
