"""``POST /batch``: many native generations in one request.

SGLang has no such route. Unless a backend does, ollad sends each item as a ``/generate`` of its
own: in order, a bounded number at once, the first of a group with a common beginning ahead of the
rest, so that the others find it in the radix cache. A failed item has its error in its place.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import orjson

from ollad.entrance import check_adapters
from ollad.errors import BackendError, BadRequestError, GatewayError, PayloadTooLargeError
from ollad.gateway import GATEWAY
from ollad.generation import GENERATE
from ollad.intake import fresh_rid, read_call
from ollad.model_choice import find_model
from ollad.native import relay_native
from ollad.record import RECORD, RequestRecord
from ollad.responses import json_response
from ollad.serving import fetch
from ollad.sglang.annotate import (
    cache_hit,
    completion_text,
    generate_usage,
    meta_member,
    spec_decode,
)
from ollad.sglang.errors import error_message
from ollad.sglang.parameters import ignored_parameters, refuse_fields, refuse_several

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from aiohttp import web

    from ollad.auth import Key
    from ollad.call import Call
    from ollad.gateway import Gateway, Runtime
    from ollad.serving import Fetched
    from ollad.sglang.annotate import Usage

__all__ = ["batch", "groups"]

_ROUTE: Final = "/batch"
_PROMPTS: Final = ("text", "input_ids", "input_embeds")

_COMMON_CHARACTERS: Final = 256
"""Items that begin with the same this many characters are a group."""

_HEAD_START_SECONDS: Final = 1.0
"""How long a group waits for its first item, whose prefill fills the cache for the others."""


async def batch(request: web.Request) -> web.StreamResponse:
    """Run every item and answer with all results in order."""
    gateway = request.app[GATEWAY]
    runtime = gateway.runtime
    call = await _read(request, runtime)
    response = await relay_native(request, runtime, call, _ROUTE, GENERATE)
    if response is not None:
        return response
    items = _items(call.document or {}, runtime.config.batch.max_items)
    lease = request[RECORD].lease
    if lease is not None:
        lease.more(len(items) - 1, gateway.clock())
    calls = await _item_calls(request, runtime, call, items)
    run = _Run(request, gateway, runtime, calls)
    await run.all(items)
    return json_response(run.result())


async def _read(request: web.Request, runtime: Runtime) -> Call:
    """Read the batch; without a model of its own it is for the first that an item names.

    The items themselves are looked at later.
    """
    where = ""

    def first_model(document: Mapping[str, Any]) -> str | None:
        nonlocal where
        items = document.get("requests")
        for index, item in enumerate(items if isinstance(items, list) else ()):
            name = item.get("model") if isinstance(item, dict) else None
            if name and isinstance(name, str):
                where = f"requests[{index}]"
                return name
        return None

    try:
        return await read_call(request, runtime, _ROUTE, identity=True, usual_model=first_model)
    except GatewayError as error:
        if where and error.param == "model":
            _place(error, where)
        raise


def _items(document: Mapping[str, Any], most: int) -> Sequence[Mapping[str, Any]]:
    """The batch's items, each known to be a request that ``/generate`` can take."""
    items = document.get("requests")
    if not isinstance(items, list) or not items:
        raise BadRequestError("'requests' must be a list of requests, not empty.", param="requests")
    if len(items) > most:
        raise PayloadTooLargeError(
            f"A batch takes at most {most} requests (batch.max_items), not {len(items)}.",
            param="requests",
        )
    if document.get("stream"):
        raise BadRequestError("A batch cannot be streamed; leave 'stream' out.", param="stream")
    for index, item in enumerate(items):
        _check_item(item, f"requests[{index}]")
    return items


def _check_item(item: Any, where: str) -> None:
    if not isinstance(item, dict):
        raise BadRequestError(f"'{where}' must be an object.", param=where)
    with _at(where):
        refuse_fields(item)
    if item.get("stream"):
        raise BadRequestError(
            f"'{where}.stream': items of a batch cannot be streamed.", param=f"{where}.stream"
        )
    if not any(item.get(name) for name in _PROMPTS):
        raise BadRequestError(
            f"'{where}' has no prompt: give it a 'text' or 'input_ids'.", param=where
        )
    if not isinstance(item.get("text") or "", str):
        raise BadRequestError(
            f"'{where}.text' must be one string; make a request of each.", param=f"{where}.text"
        )
    for name in ("rid", "model"):
        if not isinstance(item.get(name), str | None):
            raise BadRequestError(f"'{where}.{name}' must be a string.", param=f"{where}.{name}")
    refuse_several(item, f"{where}.")


async def _item_calls(
    request: web.Request, runtime: Runtime, call: Call, items: Sequence[Mapping[str, Any]]
) -> Sequence[Call]:
    """What to send for each item; an item's own ``model`` goes before the batch's."""
    record = request[RECORD]
    common = (call.document or {}).get("model")
    found: dict[str | None, tuple[str, str]] = {}
    calls = []
    for index, item in enumerate(items):
        named = item.get("model") or common
        if named not in found:
            with _at(f"requests[{index}]"):
                model, _ = await find_model(request, runtime, {"model": named})
            found[named] = model, record.model or model
        with _at(f"requests[{index}]"):
            calls.append(_item_call(call, item, found[named][0], record.key))
    record.model = ",".join(dict.fromkeys(spelling for _, spelling in found.values()))
    models = {model for model, _ in found.values()}
    record.served_model = models.pop() if len(models) == 1 else None
    inner = (name for item in items for name in ignored_parameters(item))
    record.ignored_parameters = tuple(dict.fromkeys((*record.ignored_parameters, *inner)))
    return calls


def _item_call(call: Call, item: Mapping[str, Any], model: str, key: Key | None) -> Call:
    document = dict(item)
    if key is not None:
        check_adapters(document, key)
        if key.salted:
            document["cache_salt"] = key.cache_salt(document.get("cache_salt"))
    if item.get("model"):
        document["model"] = model
    if item.get("rid") is not None:
        document["rid"] = fresh_rid()
    return call._replace(
        method="POST", target="/generate", body=orjson.dumps(document), model=model
    )


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Say which item an error is about."""
    try:
        yield
    except GatewayError as error:
        _place(error, where)
        raise


def _place(error: GatewayError, where: str) -> None:
    error.message = f"{where}: {error.message}"
    error.param = f"{where}.{error.param}" if error.param else where


class _Run:
    """One batch under way."""

    def __init__(
        self, request: web.Request, gateway: Gateway, runtime: Runtime, calls: Sequence[Call]
    ) -> None:
        self._gateway = gateway
        self._runtime = runtime
        self._record = request[RECORD]
        self._calls = calls
        self._slots = asyncio.Semaphore(runtime.config.batch.concurrency)
        self._replies: list[Mapping[str, Any]] = [{} for _ in calls]
        self._hit_rates: list[float] = []
        self._hits: set[str] = set()
        self._drafts: set[str] = set()
        self._endpoints: set[str] = set()
        self._bytes_left = runtime.config.server.max_body_size

    async def all(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Run all items; none is left running when this ends, however it ends."""
        async with asyncio.TaskGroup() as tasks:
            for group in groups(items):
                tasks.create_task(self._group(items, group))

    async def _group(self, items: Sequence[Mapping[str, Any]], group: Sequence[int]) -> None:
        first, *rest = group
        begun = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            leader = tasks.create_task(self._item(first, items[first], begun))
            if rest:
                await begun.wait()
                await asyncio.wait((leader,), timeout=_HEAD_START_SECONDS)
            for index in rest:
                tasks.create_task(self._item(index, items[index], asyncio.Event()))

    async def _item(self, index: int, item: Mapping[str, Any], begun: asyncio.Event) -> None:
        async with self._slots:
            begun.set()
            call = self._calls[index]
            record = _item_record(self._record, index, call, self._gateway.clock())
            try:
                self._spend(0)
                fetched = await fetch(self._gateway, self._runtime, call, record)
                self._replies[index] = self._reply(item, record, fetched)
            except GatewayError as error:
                self._replies[index] = error.envelope()  # the others go on
            self._record.attempts += record.attempts
            if record.endpoint is not None:
                self._endpoints.add(record.endpoint)

    def _spend(self, size: int) -> None:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise PayloadTooLargeError(
                "The replies of this batch are larger than server.max_body_size together."
            )

    def _reply(
        self, item: Mapping[str, Any], record: RequestRecord, fetched: Fetched
    ) -> Mapping[str, Any]:
        self._spend(fetched.size)
        reply = fetched.document
        if fetched.status >= 400 or reply is None:
            raise _failed(fetched.status, reply)
        usage = generate_usage(reply)
        self._count(record, usage)
        prompt = item.get("text") or ""
        meta = meta_member(
            usage,
            request_id=record.request_id,
            rid=item.get("rid"),
            total_ms=round((self._gateway.clock() - record.started) * 1000),
        )
        return {
            "text": prompt + (completion_text(reply, prompt) or ""),
            "meta": orjson.Fragment(meta),
            "meta_info": reply.get("meta_info"),
        }

    def _count(self, record: RequestRecord, usage: Usage) -> None:
        lease = self._record.lease
        if lease is not None:
            lease.charge(usage.prompt_tokens, usage.completion_tokens, self._gateway.clock())
        backend = self._runtime.pool.get(record.endpoint or "")
        speculative = None
        if backend is not None:
            self._gateway.telemetry.tokens(backend.name, usage)
            speculative = backend.snapshot.engine.speculative
        self._hits.add(cache_hit(usage))
        self._drafts.add(spec_decode(usage, speculative))
        if usage.prompt_tokens and usage.cached_tokens is not None:
            self._hit_rates.append(usage.cached_tokens / usage.prompt_tokens)

    def result(self) -> Mapping[str, Any]:
        """The page's reply."""
        record = self._record
        record.endpoint = ",".join(sorted(self._endpoints)) or None
        record.cache_hit, record.spec_decode = _any_of(self._hits), _any_of(self._drafts)
        rates = self._hit_rates
        total = round((self._gateway.clock() - record.started) * 1000)
        return {
            "responses": self._replies,
            "batch_meta": {
                "total_requests": len(self._replies),
                "successful": sum("error" not in reply for reply in self._replies),
                "total_time_ms": total,
                "avg_radix_cache_hit_rate": round(sum(rates) / len(rates), 4) if rates else None,
            },
        }


def _any_of(words: set[str]) -> str:
    """The batch's ``true``, ``false`` or ``unknown``, given those of its items."""
    if "true" in words:
        return "true"
    return "false" if words == {"false"} else "unknown"


def groups(items: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[int]]:
    """Indices of the items, those that begin alike together, in order of first appearance."""
    beginnings = [_beginning(item, index) for index, item in enumerate(items)]
    first_seen = {beginning: index for index, beginning in reversed([*enumerate(beginnings)])}
    order = sorted(range(len(items)), key=lambda index: first_seen[beginnings[index]])
    return [tuple(group) for _, group in groupby(order, key=lambda index: beginnings[index])]


def _beginning(item: Mapping[str, Any], index: int) -> str | int:
    text = item.get("text")
    if isinstance(text, str) and len(text) >= _COMMON_CHARACTERS:
        return text[:_COMMON_CHARACTERS]
    return index


def _item_record(
    batch_record: RequestRecord, index: int, call: Call, started: float
) -> RequestRecord:
    record = RequestRecord(
        request_id=f"{batch_record.request_id}-{index}",
        started=started,
        client=batch_record.client,
        method=batch_record.method,
        path=batch_record.path,
        family=batch_record.family,
    )
    record.served_model = call.model
    return record


def _failed(status: int, reply: Mapping[str, Any] | None) -> GatewayError:
    """A backend's own refusal of an item, in the envelope of the other errors."""
    if status < 400:
        return BackendError("The backend's reply is no JSON object.")
    error = GatewayError(error_message(reply) or f"The backend answered {status}.")
    error.code = "backend_refused"
    error.kind = "invalid_request_error" if status < 500 else "api_error"
    return error
