"""One call, relayed, from its first attempt to the client's finished response."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from aiohttp import web

from ollad.call import Call
from ollad.dispatch import ATTEMPTED
from ollad.errors import BackendError
from ollad.gateway import GATEWAY
from ollad.jsontext import append_members
from ollad.outgoing import SentReply, WholeReply
from ollad.record import RECORD, RequestRecord
from ollad.replies import ClientSink, HoldSink, Reading
from ollad.sglang.annotate import Usage, generate_usage, spoken

if TYPE_CHECKING:
    from ollad.dispatch import Dispatched
    from ollad.gateway import Gateway, Runtime
    from ollad.relay.downstream import Downstream
    from ollad.relay.exchange import Outcome, ReplyHead

__all__ = [
    "Fetched",
    "Members",
    "Relayed",
    "Relaying",
    "concluded",
    "fetch",
    "relay_call",
]

Members = Callable[[Mapping[str, Any], Usage, Call, RequestRecord, int], Mapping[str, bytes]]
"""What to add to a whole JSON reply, given the reply, its figures, the call and its request's
record, and the milliseconds since the request arrived. Members that the backend sent itself are
left as they are."""


class Relaying(NamedTuple):
    """How the requests of a route are relayed that has nothing particular to it but this.

    Attributes:
        target: path on the backend.
        reading: how the replies are read.
        identity: whether replies must come without content encoding.
        members: what is added to whole JSON replies.
        finished: told of every reply that has been relayed.
    """

    target: str
    reading: Reading
    identity: bool = False
    members: Members | None = None
    finished: Callable[[web.Application, Call, Relayed, RequestRecord], None] | None = None


class Relayed:
    """A reply that has been relayed, before the handler returns it.

    Attributes:
        head: the backend's.
        whole: the body to be sent, if it was held.
        downstream: the client's response that has been sent, if it was not.
        document: the whole reply, parsed, when it was held and is a JSON object.
        sink: where the reply went; ``sink.scanner`` saw a stream.
        complete: whether the backend served the request to the end.
    """

    __slots__ = ("complete", "document", "downstream", "head", "sink", "whole")

    def __init__(
        self,
        head: ReplyHead,
        whole: bytes | None,
        downstream: Downstream | None,
        document: Mapping[str, Any] | None,
        sink: ClientSink,
        complete: bool,
    ) -> None:
        self.head = head
        self.whole = whole
        self.downstream = downstream
        self.document = document
        self.sink = sink
        self.complete = complete

    @property
    def response(self) -> web.StreamResponse:
        """The reply for aiohttp; a stream has been sent by now, a whole reply not."""
        if self.downstream is not None:
            return SentReply(self.head.status, keep_alive=self.downstream.keep_alive)
        return WholeReply(self.head, self.whole or b"")

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
    members: Members | None = None,
    *,
    started: Callable[[bytes], None] | None = None,
) -> Relayed:
    """Relay ``call`` and its reply.

    Args:
        request: the client's request.
        runtime: the present configuration.
        call: what to send.
        reading: how the family's replies are read.
        members: what to add to a whole JSON reply.
        started: told the first bytes of a stream of events, before they are sent on.

    Raises:
        GatewayError: there was no reply to relay.
    """
    gateway = request.app[GATEWAY]
    record = request[RECORD]
    sink = ClientSink(request, record, gateway, runtime, reading)
    if started is not None:
        sink = _TellingSink(request, record, gateway, runtime, reading, started)
    before = request.pop(ATTEMPTED, None)
    try:
        done = await gateway.dispatcher.dispatch(runtime, call, sink, record, before)
    finally:
        sink.catch_up()
    relayed = concluded(gateway, runtime, call, record, sink, done, reading, members)
    if relayed.complete and reading.cached:
        _measure(gateway, record, done.outcome)
    return relayed


def concluded(
    gateway: Gateway,
    runtime: Runtime,
    call: Call,
    record: RequestRecord,
    sink: ClientSink,
    done: Dispatched,
    reading: Reading,
    members: Members | None,
) -> Relayed:
    """Read the figures of a reply, count them, learn from them, and add to it what is missing.

    Arguments are those of ``relay_call``, what it makes of them, and how the call was carried out.
    """
    outcome = done.outcome
    head, body, downstream = outcome.head, outcome.body, outcome.response
    if head is None or (body is None and downstream is None):
        raise BackendError("The backend sent no reply.")
    document: Mapping[str, Any] | None = None
    if downstream is not None:
        sink.read_stream()
    elif body is not None and head.status < 400 and reading.usage is not None:
        document = _object(body)
        if document is not None:
            usage = reading.usage(document)
            sink.read(usage)
            if members is not None and runtime.config.annotate.json:
                elapsed = round((gateway.clock() - record.started) * 1000)
                added = members(document, usage, call, record, elapsed)
                if added:
                    missing = {name: text for name, text in added.items() if name not in document}
                    body = append_members(body, missing)
    complete = outcome.fault is None and head.status < 400
    _learn(gateway, done, record.usage, document if complete else None)
    return Relayed(head, body, downstream, document, sink, complete)


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

    def __init__(
        self,
        request: web.Request,
        record: RequestRecord,
        gateway: Gateway,
        runtime: Runtime,
        reading: Reading,
        started: Callable[[bytes], None],
    ) -> None:
        super().__init__(request, record, gateway, runtime, reading)
        self._started = started

    def begin(self, head: ReplyHead, first: bytes) -> Downstream:
        if head.event_stream and head.status < 400:
            self._started(first)
        return super().begin(head, first)


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
