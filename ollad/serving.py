"""One call, relayed, from its first attempt to the client's finished response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ollad.errors import BackendError
from ollad.gateway import GATEWAY
from ollad.jsontext import append_members
from ollad.record import RECORD
from ollad.relay.downstream import WholeReply
from ollad.replies import ClientSink, HoldSink
from ollad.sglang.annotate import generate_usage, spoken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiohttp import web

    from ollad.call import Call
    from ollad.dispatch import Dispatched
    from ollad.gateway import Gateway, Runtime
    from ollad.record import RequestRecord
    from ollad.relay.downstream import DownstreamReply
    from ollad.relay.exchange import Outcome, ReplyHead
    from ollad.replies import Reading
    from ollad.sglang.annotate import Usage

__all__ = ["Fetched", "Relayed", "fetch", "relay_call"]


class Relayed:
    """A reply that has been relayed, before the handler returns it.

    Attributes:
        response: the client's response; a stream has been sent by now, a whole reply not.
        document: the whole reply, parsed, when it was held and is a JSON object.
        sink: where the reply went; ``sink.scanner`` saw a stream.
        complete: whether the backend served the request to the end.
    """

    __slots__ = ("complete", "document", "response", "sink")

    def __init__(
        self,
        response: web.StreamResponse,
        document: Mapping[str, Any] | None,
        sink: ClientSink,
        complete: bool,
    ) -> None:
        self.response = response
        self.document = document
        self.sink = sink
        self.complete = complete

    @property
    def final(self) -> Mapping[str, Any] | None:
        """The whole reply, or the last event of a stream, parsed; None for anything else."""
        scanner = self.sink.scanner
        if self.document is not None or scanner is None:
            return self.document
        return scanner.last_document()


async def relay_call(
    request: web.Request,
    runtime: Runtime,
    call: Call,
    reading: Reading,
    members: Callable[[Mapping[str, Any], Usage], Mapping[str, bytes]] | None = None,
    *,
    started: Callable[[bytes], None] | None = None,
) -> Relayed:
    """Relay ``call`` and its reply.

    Args:
        request: the client's request.
        runtime: the present configuration.
        call: what to send.
        reading: how the family's replies are read.
        members: what to add to a whole JSON reply, given the reply and its figures; members the
            backend sent itself are left as they are.
        started: told the first bytes of a stream of events, before they are sent on.

    Raises:
        GatewayError: there was no reply to relay.
    """
    gateway = request.app[GATEWAY]
    record = request[RECORD]
    sink = ClientSink(request, gateway, runtime, reading)
    if started is not None:
        sink = _TellingSink(request, gateway, runtime, reading, started)
    done = await gateway.dispatcher.dispatch(runtime, call, sink, record)
    outcome = done.outcome
    document: Mapping[str, Any] | None = None
    response: web.StreamResponse
    if outcome.response is not None:
        response = outcome.response
        sink.read_stream()
    else:
        if members is not None and not runtime.config.annotate.json:
            members = None
        response, document = _whole(outcome, sink, reading, members)
    complete = outcome.fault is None and outcome.head is not None and outcome.head.status < 400
    _learn(gateway, done, record.usage, document if complete else None)
    if complete and reading.cached:
        _measure(gateway, record, outcome)
    return Relayed(response, document, sink, complete)


class Fetched(NamedTuple):
    """The reply to a call of ollad's own.

    Attributes:
        status: status code.
        size: of its body, in bytes.
        document: the body, parsed; None if it is no JSON object.
    """

    status: int
    size: int
    document: Mapping[str, Any] | None


async def fetch(gateway: Gateway, runtime: Runtime, call: Call, record: RequestRecord) -> Fetched:
    """Carry out a call of ollad's own.

    Raises:
        GatewayError: there was no reply, or one too long to hold.
    """
    done = await gateway.dispatcher.dispatch(runtime, call, HoldSink(), record)
    outcome = done.outcome
    if outcome.head is None or outcome.body is None:
        raise BackendError("The backend sent no reply.")
    document = _object(outcome.body)
    good = document if outcome.head.status < 400 else None
    _learn(gateway, done, None if good is None else generate_usage(good), good)
    if good is not None:
        _measure(gateway, record, outcome)
    return Fetched(outcome.head.status, len(outcome.body), document)


class _TellingSink(ClientSink):
    """Tells how a stream of events begins."""

    __slots__ = ("_started",)

    def __init__(
        self,
        request: web.Request,
        gateway: Gateway,
        runtime: Runtime,
        reading: Reading,
        started: Callable[[bytes], None],
    ) -> None:
        super().__init__(request, gateway, runtime, reading)
        self._started = started

    def begin(self, head: ReplyHead, first: bytes) -> DownstreamReply:
        if head.event_stream and head.status < 400:
            self._started(first)
        return super().begin(head, first)


def _whole(
    outcome: Outcome,
    sink: ClientSink,
    reading: Reading,
    members: Callable[[Mapping[str, Any], Usage], Mapping[str, bytes]] | None,
) -> tuple[WholeReply, Mapping[str, Any] | None]:
    """The response for a held reply, and the reply parsed if it is a JSON object worth reading."""
    head, body = outcome.head, outcome.body
    if head is None or body is None:
        raise BackendError("The backend sent no reply.")
    document: Mapping[str, Any] | None = None
    if head.status < 400 and reading.usage is not None:
        document = _object(body)
        if document is not None:
            usage = reading.usage(document)
            sink.read(usage)
            added = {} if members is None else members(document, usage)
            missing = {name: text for name, text in added.items() if name not in document}
            body = append_members(body, missing) if missing else body
    return WholeReply(head, body), document


def _object(body: bytes) -> Mapping[str, Any] | None:
    """The JSON object in ``body``; None for anything else, which is passed on as it is."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _learn(
    gateway: Gateway, done: Dispatched, usage: Usage | None, document: Mapping[str, Any] | None
) -> None:
    """Tell the policy how the request went, and what is cached at its backend now.

    Args:
        gateway: the running daemon.
        done: the request.
        usage: the figures of its reply, as far as there are any.
        document: the whole reply, if it was held and is a good one.
    """
    answer: tuple[int, ...] = ()
    if document is not None:
        said = spoken(document)
        answer = () if said is None else done.prompt.answer(said)
    done.place.ticket.end(
        gateway.clock(),
        prompt_tokens=None if usage is None else usage.prompt_tokens,
        cached_tokens=None if usage is None else usage.cached_tokens,
        answer=answer,
    )


def _measure(gateway: Gateway, record: RequestRecord, outcome: Outcome) -> None:
    """Ollad's own measurements behind the page's histograms."""
    page = gateway.telemetry.page(record.served_model or "", outcome.backend)
    page.duration.observe(gateway.clock() - record.started)
    if record.streamed and record.first_byte is not None:
        page.first_token.observe(record.first_byte)
