"""How a request ends: its reply is sent or cut, it is counted and logged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import HttpVersion11

from ollad.announcement import announced_lines
from ollad.logs import access_line
from ollad.relay.cut import reset
from ollad.relay.downstream import send_whole

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from ollad.gateway import Gateway
    from ollad.record import RequestRecord
    from ollad.relay.downstream import Client
    from ollad.relay.exchange import ReplyHead

__all__ = ["close_record", "note_cut", "send_held"]

_CLIENT_GONE: Final = 499
"""nginx's status for a client that did not wait; never sent, only logged and counted."""


def send_held(
    client: Client,
    head: ReplyHead,
    body: bytes,
    gateway: Gateway,
    record: RequestRecord,
    *,
    last: bool,
) -> bool:
    """Send a backend's reply that was held.

    Returns:
        Whether the connection can be used again.

    Raises:
        ConnectionError: the client has gone.
    """
    outbox = gateway.dispatcher.relay.outbox
    elapsed = gateway.clock() - record.started
    lines = head.lines + announced_lines(record, elapsed, head.believed)
    record.status = head.status
    if record.first_byte is None:
        record.first_byte = elapsed
    record.response_bytes = 0 if client.method == "HEAD" else len(body)
    return send_whole(client, head, lines, body, outbox, last=last or gateway.draining)


def note_cut(client: Client, gateway: Gateway, record: RequestRecord) -> None:
    """Note that the answer did not get through, and by whose doing."""
    cut_off = gateway.traffic.cut_off
    record.error = record.error or ("shutdown" if cut_off else "client_gone")
    if record.streamed:
        gateway.telemetry.stream_abort(record.family, "shutdown" if cut_off else "client")
    record.status = record.status or _CLIENT_GONE
    transport = client.transport
    if cut_off and transport is not None and client.version < HttpVersion11:
        # its end would look like the end of the reply
        reset(transport)


def close_record(
    record: RequestRecord,
    gateway: Gateway,
    logger: FilteringBoundLogger,
    *,
    access: bool,
    served: tuple[float, bool] | None = None,
) -> None:
    """Count a request that has ended, and write its access line if there are any.

    Args:
        record: what is known of it.
        gateway: the running daemon.
        logger: where access lines go.
        access: whether there are access lines.
        served: if its only attempt served it, and has not been counted, the seconds that took to
            its first byte, and whether the request is one of those that the page measures.
    """
    seconds = gateway.clock() - record.started
    if served is None:
        gateway.telemetry.request_finished(record, seconds)
    else:
        gateway.telemetry.request_served(record, seconds, *served)
    if access:
        access_line(logger, record, seconds)
