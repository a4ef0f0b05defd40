"""Reads request bodies as FastAPI does, and wraps what all generation routes have in common."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import orjson

from ollad.simulator.options import FailMode
from ollad.simulator.refusals import (
    INTERNAL,
    UNSUPPORTED_TYPE,
    Refusal,
    invalid,
    openai_error,
    problem,
)
from ollad.simulator.replies import Responder
from ollad.simulator.requestlog import prompt_ids

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from ollad.simulator.service import Service

    Handler = Callable[[Service, web.Request], Awaitable[web.StreamResponse]]
    Reply = Awaitable[web.StreamResponse]
    GenerationHandler = Callable[[Service, dict[str, Any], Responder], Reply]

__all__ = ["check_json_type", "generation", "read_object"]


_JSON: Final = "application/json"


def check_json_type(request: web.Request) -> None:
    """Refuse a body of ``/v1/*`` that is not declared as JSON.

    Raises:
        Refusal: it is not.
    """
    if _declared(request, "") != _JSON:
        raise Refusal(400, orjson.dumps(UNSUPPORTED_TYPE))


def _declared(request: web.Request, default: str = _JSON) -> str:
    """The media type of a body, without parameters."""
    return request.headers.get("Content-Type", default).partition(";")[0].strip().lower()


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body, which has to be a JSON object.

    Raises:
        Refusal: it is not.
    """
    data = await request.read()
    route, method = request.path, request.method
    if not data:
        raise invalid(route, method, [problem("missing", ("body",), "Field required", None)])
    if not _declared(request).endswith("json"):
        # FastAPI hands on the bytes, which are no request object.
        message = "Input should be a dictionary or an instance of GenerateReqInput"
        raise invalid(route, method, [problem("dataclass_type", ("body",), message, data)])
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        wrong = problem("json_invalid", ("body", error.pos), "JSON decode error", {})
        raise invalid(route, method, [wrong | {"ctx": {"error": error.msg}}]) from None
    if isinstance(body, dict):
        return body
    if route == "/v1/chat/completions":
        raise Refusal(500, INTERNAL.encode(), "text/plain; charset=utf-8")
    message = "Input should be a valid dictionary or object to extract fields from"
    raise invalid(route, method, [problem("model_attributes_type", ("body",), message, body)])


def generation(handler: GenerationHandler, *, json_only: bool) -> Handler:
    """Make a route of a generation handler: faults, the request log, the count for draining.

    Args:
        handler: gets the service, the body, and what to answer with.
        json_only: whether the body has to be declared as JSON.
    """

    async def handle(service: Service, request: web.Request) -> web.StreamResponse:
        fault = service.faults.draw()
        data = await request.read()
        entry = {
            "request_id": request.headers.get("X-Olla-Request-ID"),
            "prompt_ids": prompt_ids(data),
            "path": request.path,
            "server": service.address,
            "fault": None if fault is None else fault.mode.value,
        }
        service.log.write(event="started", time=time.time(), **entry)
        service.handling += 1
        status = 0
        responder = Responder(request, fault)
        try:
            if fault is not None and fault.mode is FailMode.STATUS:
                raise Refusal(500, INTERNAL.encode(), "text/plain; charset=utf-8")  # noqa: TRY301 - answered by the middleware like every refusal
            if fault is not None and fault.mode is FailMode.UNAVAILABLE:
                raise openai_error("The server is unavailable.", kind="503", status=503)
            if json_only:
                check_json_type(request)
            response = await handler(service, await read_object(request), responder)
            status = response.status
        except Refusal as refusal:
            status = refusal.status
            raise
        finally:
            service.handling -= 1
            event = "finished" if status else "dropped"
            service.log.write(event=event, time=time.time(), status=status, **entry)
        return response

    return handle
