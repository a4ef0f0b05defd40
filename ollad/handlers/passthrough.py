"""Further data-plane routes of SGLang, relayed under their own path as they are.

The path sent to the backend is the route's, never the client's spelling of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.call import Call
from ollad.gateway import GATEWAY
from ollad.generation import relay
from ollad.intake import inbound_of, read_upload
from ollad.record import RECORD
from ollad.replies import Reading
from ollad.serving import Relaying, relay_call
from ollad.sglang.annotate import openai_usage

if TYPE_CHECKING:
    from aiohttp import web

    from ollad.backends.backend import Backend

__all__ = ["document", "relay_backend_metrics", "relay_document", "relay_upload"]

_PREFIX: Final = "/olla/sglang"

_OPAQUE: Final = Reading("openai", None, cached=False)

_MESSAGES: Final = "/v1/messages"
"""Anthropic's route generates; its replies are read for their figures but not added to."""


def document(target: str) -> Relaying:
    """How the JSON requests of a further route are relayed.

    Args:
        target: the route, below the prefix.
    """
    if target == _MESSAGES:
        return Relaying(target, Reading("messages", openai_usage), identity=True)
    return Relaying(target, _OPAQUE)


async def relay_document(request: web.Request) -> web.StreamResponse:
    """Relay a JSON request."""
    return await relay(request, document(_target(request)))


async def relay_upload(request: web.Request) -> web.StreamResponse:
    """Relay a form with a file; the form's ``model`` field says which model it is for."""
    runtime = request.app[GATEWAY].runtime
    call = await read_upload(request, runtime, _target(request))
    relayed = await relay_call(request, runtime, call, _OPAQUE)
    return relayed.response


async def relay_backend_metrics(request: web.Request, backend: Backend) -> web.StreamResponse:
    """Relay one backend's own ``/metrics`` page, untouched."""
    runtime = request.app[GATEWAY].runtime
    call = Call(
        family=request[RECORD].family,
        method="GET",
        target="/metrics",
        body=b"",
        inbound=inbound_of(request, runtime),
        pinned=backend.name,
    )
    relayed = await relay_call(request, runtime, call, _OPAQUE)
    return relayed.response


def _target(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical.removeprefix(_PREFIX)
