"""Request parameters: those refused, those no server has, and ``rid``, which is always replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from ollad.errors import BadRequestError
from ollad.jsontext import replace_members

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "IGNORED_PARAMETERS",
    "REFUSED_FIELDS",
    "ignored_parameters",
    "refuse_fields",
    "refuse_several",
    "replace_rid",
]

REFUSED_FIELDS: Final[Mapping[str, str]] = {
    "bootstrap_host": "it would make the server connect to a host of the client's choice",
    "bootstrap_port": "it would make the server connect to a host of the client's choice",
    "bootstrap_room": "it steers requests between prefill and decode servers",
    "bootstrap_pair_key": "it steers requests between prefill and decode servers",
    "disagg_prefill_dp_rank": "it steers requests between prefill and decode servers",
    "http_worker_ipc": "it is an internal address of the server",
    "mm_hashes": "it would let one client's media pass for another's in the cache",
    "mm_content_hashes": "it would let one client's media pass for another's in the cache",
    "custom_logit_processor": "it is code that the server would run",
    "routed_dp_rank": "it steers requests past the load balancing",
    "data_parallel_rank": "it steers requests past the load balancing",
    "session_id": "sessions are state of one server; use /extend",
    "session_params": "sessions are state of one server; use /extend",
    "return_hidden_states": "its reply is out of all proportion",
    "return_routed_experts": "its reply is out of all proportion",
}
"""Fields a client may not send, and why.

SGLang reads them at the top level of a request only (``GenerateReqInput`` in
managers/io_struct.py, ``PDRoutingFields`` and the requests of entrypoints/openai/protocol.py).
"""

IGNORED_PARAMETERS: Final = (
    "radix_cache_enable",
    "radix_cache_size",
    "max_tree_depth",
    "speculative_draft_length",
    "spec_decode_acceptance_threshold",
    "max_image_resolution",
    "image_aspect_ratio",
    "vision_feature_select_strategy",
)
"""Documented parameters that are server flags, or nothing at all, in every SGLang."""

_REFUSED: Final = frozenset(REFUSED_FIELDS)
_IGNORED: Final = frozenset(IGNORED_PARAMETERS)

_SWITCHES: Final = frozenset({"return_hidden_states", "return_routed_experts"})


def refuse_fields(document: Mapping[str, Any]) -> None:
    """Refuse a request that asks for what clients may not have.

    A field that is null, or a switch that is false, asks for nothing: clients that fill in
    every field send these.

    Raises:
        BadRequestError: naming the field.
    """
    if _REFUSED.isdisjoint(document):
        return
    for field, reason in REFUSED_FIELDS.items():
        value = document.get(field)
        if value is None or (value is False and field in _SWITCHES):
            continue
        raise BadRequestError(
            f"'{field}' is not accepted here: {reason}.", param=field, code="field_not_allowed"
        )


def refuse_several(document: Mapping[str, Any], where: str = "") -> None:
    """Refuse a ``/generate`` request that would be answered with more than one completion.

    Args:
        document: the request.
        where: what its field names are prefixed with in messages, such as ``requests[2].``.

    Raises:
        BadRequestError: naming the field.
    """
    sampling = document.get("sampling_params")
    asked = sampling.get("n") if isinstance(sampling, dict) else None
    if asked is not None and asked != 1:
        field = f"{where}sampling_params.n"
        raise BadRequestError(
            f"'{field}' must be 1: here each request has one completion.", param=field
        )


def ignored_parameters(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The documented parameters in ``document`` that no server acts upon, in its order."""
    if _IGNORED.isdisjoint(document):
        return ()
    return tuple(name for name in document if name in IGNORED_PARAMETERS)


def replace_rid(
    body: bytes, document: Mapping[str, Any], fresh: Callable[[], str]
) -> tuple[bytes, str | None]:
    """Give a request ids of ollad's own.

    SGLang aborts every request whose id *begins* with the one it is told to abort, so ids of
    the clients' choice would let one end another's generation. Requests without a ``rid`` stay
    as they are: the server makes a unique one.

    Args:
        body: the request's text.
        document: the same, parsed.
        fresh: makes a new id of 32 hexadecimal digits.

    Returns:
        The text with the ids replaced, and the client's own id if it is one string.

    Raises:
        BadRequestError: ``rid`` is neither a string nor a list of strings.
    """
    rid = document.get("rid")
    if rid is None:
        return body, None
    if isinstance(rid, str):
        return replace_members(body, {"rid": orjson.dumps(fresh())}), rid
    if isinstance(rid, list) and all(isinstance(item, str) for item in rid):
        return replace_members(body, {"rid": orjson.dumps([fresh() for _ in rid])}), None
    raise BadRequestError("'rid' must be a string or a list of strings.", param="rid")
