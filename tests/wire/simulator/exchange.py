"""Raw HTTP replies, taken apart: status, headers, chunks, body; and the shape of what they say."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ollad.simulator.server import SimulatedServer

DATA = Path(__file__).parents[2] / "data" / "transcripts"


@dataclass(frozen=True, slots=True)
class Reply:
    """A response; ``chunks`` is None where it was not chunked."""

    status: str
    headers: tuple[tuple[str, str], ...]
    chunks: tuple[bytes, ...] | None
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of an event stream: parsed, or as it is where that is no JSON."""
        found = [part.removeprefix(b"data: ") for part in self.body.split(b"\n\n") if part]
        return [
            json.loads(part) if part[:1] in b"{[" and part[:2] != b"[D" else part.decode()
            for part in found
        ]


def parse(raw: bytes) -> Reply:
    """Take a whole response apart."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = tuple((name, value) for name, _, value in (line.partition(": ") for line in lines))
    if ("Transfer-Encoding", "chunked") not in headers:
        return Reply(status, headers, None, rest)
    chunks = tuple(_chunks(rest))
    return Reply(status, headers, chunks, b"".join(chunks))


def _chunks(data: bytes) -> Iterator[bytes]:
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            assert data == b"\r\n"
            return
        yield data[:length]
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]
    raise AssertionError("the last chunk is missing")


def address(server: SimulatedServer) -> str:
    """Where a server listens."""
    assert server.service is not None
    return server.service.address


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that will be."""
    while not condition():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0.002)


async def ask(server: SimulatedServer, raw: bytes) -> Reply:
    """Send a request and take its response apart."""
    return parse(await exchange(address(server), raw))


async def exchange(where: str, request: bytes) -> bytes:
    """Send a request as it is and return the response, as it is."""
    reader, writer = await asyncio.open_connection(*where.split(":"))
    try:
        writer.write(request)
        raw = head = await reader.readuntil(b"\r\n\r\n")
        if re.search(rb"transfer-encoding: chunked", head, re.IGNORECASE):
            while not raw.endswith(b"\r\n0\r\n\r\n"):
                raw += await reader.readuntil(b"\r\n")
        elif request.startswith(b"HEAD "):
            pass
        elif length := re.search(rb"content-length: (\d+)", head):
            raw += await reader.readexactly(int(length[1]))
        else:
            raw += await reader.read()
        return raw
    finally:
        writer.close()
        await writer.wait_closed()


def request(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """A request as the recordings have them."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    data = b"" if body is None else json.dumps(body).encode()
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, "", ""]).encode() + data


VOLATILE = frozenset(
    {
        *("id", "created", "content", "text", "tokens", "count", "timestamp", "embedding"),
        *("prompt_tokens", "total_tokens", "completion_tokens", "cached_tokens", "device"),
        *("output_ids", "end", "length", "prefill_finished_time", "forward_entry_time"),
        *("queue_time", "e2e_latency", "request_received_ts", "first_token_latency"),
        *("api_server_dispatch_finish_ts", "request_finished_ts", "decode_throughput"),
        *("response_sent_to_client_ts", "total_prefill_uncached_tokens", "num_used_tokens"),
        *("total_prefill_busy_us", "decode_moments", "weight_gb", "kv_cache_gb", "kvcache"),
        *("num_total_tokens", "num_active_tokens", "token_usage", "gen_throughput", "weight"),
        *("num_waiting_uncached_tokens", "model_path", "tokenizer_path", "load_weight"),
        *("tokenizer_e2e", "launch_command", "mem_fraction_static", "random_seed", "port"),
        *("host", "summary", "capture_batch_sizes", "max_req_input_len", "cache_hit_rate"),
    }
)
"""Members whose values depend on model, machine and moment: only their type is compared."""

_NUMBER = re.compile(r"\d+(\.\d+)?")
_FILE = re.compile(r'File "[^"]*", line \d+')
_DETAIL = re.compile(r"'input': .*", re.DOTALL)


def shape(value: Any, key: str = "") -> Any:
    """What two replies have in common where they say the same: keys, types, settled values."""
    if isinstance(value, dict):
        return {name: shape(item, name) for name, item in value.items()}
    if isinstance(value, list):
        shapes = [shape(item, key) for item in value]
        if any(isinstance(item, dict) for item in value):
            return shapes
        return [one for place, one in enumerate(shapes) if one not in shapes[:place]]
    if key in VOLATILE:
        return type(value).__name__
    if key in {"message", "error"} and isinstance(value, str):
        return _NUMBER.sub("N", _FILE.sub("File", value))
    return value


def without_inputs(message: str) -> str:
    """A validation message without what it quotes of the request."""
    return _DETAIL.sub("…", message)


def sequence(events: list[Any]) -> list[Any]:
    """The shapes of a stream's events, choice by choice, without repetitions in a row."""
    shapes = [shape(event) for event in events]
    places = [_place(event) for event in events]
    last = len(events)
    ordered = sorted(range(last), key=lambda number: (places[number], number))
    result: list[Any] = []
    for number in ordered:
        if not result or result[-1] != shapes[number]:
            result.append(shapes[number])
    return result


def _place(event: Any) -> int:
    if not isinstance(event, dict):
        return 1000
    choices = event.get("choices")
    if choices == []:
        return 999
    return int(choices[0]["index"] if choices else event.get("index", 0))
