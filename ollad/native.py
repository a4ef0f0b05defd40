"""Native first: routes of the API page that no released SGLang has, should a backend have them.

A backend's route list says so; where it could not be read, a first try that is not answered with
404 or 405 does, and a lack is remembered until the backend restarts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ollad.record import RECORD
from ollad.serving import relay_call

if TYPE_CHECKING:
    from aiohttp import web

    from ollad.backends.backend import Backend
    from ollad.call import Call
    from ollad.gateway import Runtime
    from ollad.replies import Reading

__all__ = ["relay_native"]

_LACKING: Final = frozenset({404, 405})


async def relay_native(
    request: web.Request, runtime: Runtime, call: Call, route: str, reading: Reading
) -> web.StreamResponse | None:
    """Relay ``call`` to a backend that has ``route`` itself.

    Returns:
        The response, or None when no backend has the route and ollad must serve it.

    Raises:
        GatewayError: the backends that have the route could not answer.
    """
    while True:
        able = {
            backend.name: backend.native(route)
            for backend in runtime.pool.routable()
            if (call.pinned is None or backend.name == call.pinned)
            and (call.model is None or backend.serves(call.model))
        }
        known = any(native is True for native in able.values())
        if not known and not any(native is None for native in able.values()):
            return None

        def suits(backend: Backend, wanted: bool | None = True if known else None) -> bool:
            return backend.native(route) is wanted

        relayed = await relay_call(request, runtime, call._replace(suits=suits), reading)
        response = relayed.response
        if known or response.prepared or response.status not in _LACKING:
            return response
        name = request[RECORD].endpoint
        backend = runtime.pool.get(name or "")
        if backend is None:
            return response
        backend.learn_lack(route)
