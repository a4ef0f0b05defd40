"""A relay as simple as can be, over aiohttp's client, to compare the real one with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from ollad.headers import reply_lines
from ollad.relay.cut import cut
from ollad.relay.exchange import Fault, Outcome, Plan, ReplyHead
from ollad.relay.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollad.backends.backend import Backend
    from ollad.config.schema import Proxy
    from ollad.relay.downstream import Downstream
    from ollad.relay.exchange import Sink, UpstreamRequest

__all__ = ["SimpleRelay"]


class SimpleRelay:
    """Does what ``Relay`` does, without timeouts and for the only backend there is."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.outbox = Outbox()
        self._session = session

    async def forward(
        self,
        request: UpstreamRequest,
        backend: Backend,
        sink: Sink,
        proxy: Proxy,  # noqa: ARG002 - of the seam
        *,
        last: bool = True,  # noqa: ARG002 - of the seam
        deadline: float | None = None,  # noqa: ARG002 - of the seam
        first_byte: Callable[[float], None] | None = None,  # noqa: ARG002 - of the seam
    ) -> Outcome:
        """Send ``request`` and its reply to ``sink``."""
        head: ReplyHead | None = None
        reply: Downstream | None = None
        fault: Fault | None = None
        held = b""
        try:
            async with self._session.request(
                request.method,
                URL(backend.endpoint.url + request.target, encoded=True),
                data=request.body or None,
                headers=_pairs(request.header_lines),
                allow_redirects=False,
            ) as upstream:
                head = _head(upstream)
                plan = sink.plan(head)
                async for data in upstream.content.iter_any():
                    if reply is not None:
                        reply.pass_on(data)
                        continue
                    held += data
                    if plan is Plan.STREAM and sink.ready(head, held):
                        reply = sink.begin(head, held)
                        reply.start(held)
            if reply is None and plan is not Plan.HOLD:
                reply = sink.begin(head, held)
                reply.start(held)
            if reply is not None:
                reply.finish()
        except aiohttp.ClientError:
            fault = Fault.TRUNCATED if reply or held else Fault.RESET
            if reply is not None:
                await cut(reply)
        whole = held if reply is None and fault is None else None
        return Outcome(backend.name, head, whole, reply, fault, 0.0, 0.0)


def _pairs(lines: bytes) -> list[tuple[str, str]]:
    pairs = [
        line.partition(": ") for line in lines.decode("utf-8", "surrogateescape").split("\r\n")
    ]
    return [(name, value) for name, _, value in pairs if name]


def _head(upstream: aiohttp.ClientResponse) -> ReplyHead:
    chunked = "Transfer-Encoding" in upstream.headers
    content_type = upstream.headers.get("Content-Type", "").lower()
    lines, believed = reply_lines(upstream.raw_headers)
    return ReplyHead(
        status=upstream.status,
        reason=(upstream.reason or "").encode("utf-8", "surrogateescape"),
        headers=upstream.raw_headers,
        content_type=content_type,
        content_length=None if chunked else upstream.content_length,
        event_stream=content_type.startswith("text/event-stream"),
        lines=lines,
        believed=believed,
    )
