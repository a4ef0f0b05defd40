"""Values that many tests start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ollad.backends.backend import Backend
from ollad.backends.snapshot import ModelCard, Snapshot, State
from ollad.config.schema import Endpoint
from ollad.record import RequestRecord
from ollad.routing.policy import Standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ollad.routing.demand import Demand
    from ollad.routing.policy import Candidate


def make_backend(
    name: str = "sgl-a",
    *,
    models: tuple[str | ModelCard, ...] = ("tiny-llama",),
    endpoint: dict[str, Any] | None = None,
    **snapshot: Any,
) -> Backend:
    """A backend that is up with weight 1 unless told otherwise."""
    backend = Backend(
        Endpoint(**{"url": f"http://{name}.example:30000", "name": name, **(endpoint or {})})
    )
    fields: dict[str, Any] = {
        "state": State.HEALTHY,
        "reason": "ready",
        "weight": 1.0,
        "models": tuple(model if isinstance(model, ModelCard) else card(model) for model in models),
        **snapshot,
    }
    backend.snapshot = Snapshot(**fields)
    return backend


def card(model: str, *, parent: str | None = None, **raw: Any) -> ModelCard:
    """A model card as SGLang 0.5.23 writes it."""
    document = {
        "id": model,
        "object": "model",
        "created": 1705334400,
        "owned_by": "sglang",
        "root": model,
        "parent": parent,
        "max_model_len": 8192,
        **raw,
    }
    return ModelCard(id=model, raw=document, parent=parent)


def header_pairs(lines: bytes) -> list[tuple[str, str]]:
    """The header fields that stand in ``lines``, each of which has to end as HTTP says."""
    assert not lines or lines.endswith(b"\r\n")
    pairs = [line.partition(": ") for line in lines.decode("latin-1").split("\r\n")[:-1]]
    assert all(separator for _, separator, _ in pairs)
    return [(name, value) for name, _, value in pairs]


def raw(pairs: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Header fields as they come off the wire."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


def make_record(**fields: Any) -> RequestRecord:
    """A chat request that was answered with 200."""
    record = RequestRecord(
        request_id="0192f0c1-0000-7000-8000-000000000000",
        started=100.0,
        client="192.0.2.7",
        method="POST",
        path="/olla/sglang/v1/chat/completions",
        family="chat",
    )
    for name, value in {"status": 200, **fields}.items():
        setattr(record, name, value)
    return record


class Noted:
    """A ticket that notes what it is told.

    Attributes:
        first_bytes: when one was reported.
        ends: what each end came with.
    """

    def __init__(self, backend: str, demand: Demand) -> None:
        self.backend = backend
        self.demand = demand
        self.first_bytes: list[float] = []
        self.ends: list[dict[str, Any]] = []

    def first_byte(self, now: float) -> None:
        self.first_bytes.append(now)

    def end(self, now: float, **figures: Any) -> None:
        self.ends.append({"now": now, **figures})


class InOrder:
    """A policy that picks the first candidate, and notes what it is asked and told.

    Attributes:
        asked: names of the candidates, for each choice.
        tickets: of all requests that were sent, in order.
        forgotten: names of backends that left.
    """

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.tickets: list[Noted] = []
        self.forgotten: list[str] = []

    def pick(self, candidates: Sequence[Candidate], demand: Demand, now: float) -> Candidate:  # noqa: ARG002 - whatever is asked
        self.asked.append([backend.name for backend in candidates])
        return candidates[0]

    def begin(self, backend: Candidate, demand: Demand, now: float) -> Noted:  # noqa: ARG002 - whenever
        ticket = Noted(backend.name, demand)
        self.tickets.append(ticket)
        return ticket

    def forget(self, name: str) -> None:
        self.forgotten.append(name)

    def standings(self) -> Mapping[str, Standing]:
        open_ = [ticket.backend for ticket in self.tickets if not ticket.ends]
        return {name: Standing(pending_tokens=float(open_.count(name))) for name in open_}
