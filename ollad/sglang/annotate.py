"""A backend's figures about one reply, and what ollad adds to the reply because of them.

Figures come from ``meta_info`` (``/generate``), ``usage`` and ``sglext`` (OpenAI's routes),
Anthropic's and the Responses API's ``usage``, or, where a backend speaks the page itself, from
its own ``meta`` and ``metrics``. What a reply does not say is None, never a guess.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import orjson

from ollad.sglang.values import boolean, count, items, mapping, number, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import EllipsisType

__all__ = [
    "Usage",
    "cache_hit",
    "completion_text",
    "generate_usage",
    "meta_member",
    "metrics_member",
    "openai_usage",
    "spec_decode",
    "spoken",
    "vision_metrics_member",
]

_T = TypeVar("_T")

_SPECULATION: Final = ("spec_verify_ct", "spec_num_proposed_drafts", "spec_draft_token_num")
"""Counts that are above 0 when drafts were used; the last one up to 0.5.9."""

_CACHE_LEVELS: Final = ("device", "host", "storage")

_LONGEST_SECONDS: Final = 1e9
"""Thirty years; a longer time is none."""

_EXACT: Final = 2**53
"""Whole numbers below are the same as floats."""


class Usage(NamedTuple):
    """What a reply says about itself; None where it says nothing.

    Attributes:
        prompt_tokens: all tokens of the prompt, cached ones included.
        completion_tokens: tokens generated.
        cached_tokens: those of the prompt that the radix cache had.
        image_tokens: those of the prompt that stand for images.
        spec_used: whether drafts of a speculative decoder were verified.
        finish_reason: its type, such as ``stop`` or ``length``.
        e2e_seconds: from the request's arrival at the server to the end, by the server's clock.
        first_token_seconds: from its arrival to the first token, by the server's clock.
        hit: a cache hit stated without a count, by a backend that speaks the page.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    image_tokens: int | None = None
    spec_used: bool | None = None
    finish_reason: str | None = None
    e2e_seconds: float | None = None
    first_token_seconds: float | None = None
    hit: bool | None = None


def openai_usage(reply: Mapping[str, Any]) -> Usage:
    """Read chat and text completions, embeddings, responses and Anthropic messages.

    Takes whole replies and single stream events alike.
    """
    choice = _first_choice(reply)
    prompt = completion = cached = images = None
    usage = mapping(reply.get("usage"))
    if usage:
        prompt = count(usage.get("prompt_tokens"))
        if prompt is None or "input_tokens" in usage:
            prompt = _prompt_tokens(usage, prompt)
        completion = count(usage.get("completion_tokens"))
        if completion is None:
            completion = count(usage.get("output_tokens"))
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
        if details is not None:
            details = mapping(details)
            cached = count(details.get("cached_tokens"))
            images = count(details.get("image_tokens"))
        if cached is None:
            cached = count(usage.get("cache_read_input_tokens"))
    reason = choice.get("finish_reason")
    if type(reason) is not str or not reason:
        reason = _finish_reason(reply, choice)
    spec = e2e = first_token = hit = None
    if "sglext" in reply or "meta_info" in choice:
        sglext, meta = mapping(reply.get("sglext")), mapping(choice.get("meta_info"))
        # what SGLang says beyond OpenAI's API when it is asked to
        cached = _first(
            cached, _cached(sglext.get("cached_tokens_details")), count(meta.get("cached_tokens"))
        )
        images = _first(images, count(meta.get("image_tokens")))
        spec = _speculation([meta, *_details(sglext.get("spec_tokens_details"))])
        e2e = _seconds(meta.get("e2e_latency"))
        first_token = _seconds(meta.get("first_token_latency"))
    if "metrics" in reply:
        e2e, first_token, hit = _page_figures(mapping(reply["metrics"]), e2e, first_token)
    return Usage(prompt, completion, cached, images, spec, reason, e2e, first_token, hit)


def _first_choice(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first object among the choices; an empty one without any."""
    choices = reply.get("choices")
    if type(choices) is list and choices and type(choices[0]) is dict:
        return choices[0]
    return next(iter(items(choices)), {})


def _page_figures(
    own: Mapping[str, Any], e2e: float | None, first_token: float | None
) -> tuple[float | None, float | None, bool | None]:
    """What the ``metrics`` of a backend that speaks the page add: both times, and the hit."""
    if e2e is None:
        e2e = _seconds(own.get("generation_time_ms"), 1000)
    if first_token is None:
        first_token = _seconds(own.get("time_to_first_token_ms"), 1000)
    rate = number(own.get("radix_cache_hit_rate"))
    return e2e, first_token, None if rate is None else rate > 0


def generate_usage(reply: Mapping[str, Any]) -> Usage:
    """Read one object of ``/generate``, whole or of a stream."""
    info = mapping(reply.get("meta_info"))
    prompt = count(info.get("prompt_tokens"))
    completion = count(info.get("completion_tokens"))
    reason = _reason_type(info.get("finish_reason"))
    e2e = _seconds(info.get("e2e_latency"))
    hit = None
    if "meta" in reply:
        own = mapping(reply["meta"])
        prompt = _first(prompt, count(own.get("input_tokens")))
        completion = _first(completion, count(own.get("output_tokens")))
        reason = reason or text(own.get("finish_reason"))
        e2e = _first(e2e, _seconds(own.get("completion_time_ms"), 1000))
        hit = boolean(own.get("radix_cache_hit"))
    return Usage(
        prompt,
        completion,
        count(info.get("cached_tokens")),
        count(info.get("image_tokens")),
        _speculation((info,)),
        reason,
        e2e,
        _seconds(info.get("first_token_latency")),
        hit,
    )


def completion_text(reply: Mapping[str, Any], prompt: object) -> str | None:
    """What a whole reply of ``/generate`` adds to ``prompt``; None if it has no single text.

    SGLang's ``text`` is the completion alone; a backend that speaks the page itself, which its
    ``meta`` shows, repeats the prompt before it.
    """
    whole = reply.get("text")
    if not isinstance(whole, str):
        return None
    if isinstance(prompt, str) and isinstance(reply.get("meta"), dict):
        return whole.removeprefix(prompt)
    return whole


def spoken(reply: Mapping[str, Any]) -> Mapping[str, Any] | str | None:
    """What a whole reply adds to its prompt: the message of a chat, or a text; None if neither."""
    text = reply.get("text")
    if isinstance(text, str):
        return text
    choice = _first_choice(reply)
    message = choice.get("message")
    if isinstance(message, dict):
        return message
    text = choice.get("text")
    return text if isinstance(text, str) else None


def cache_hit(usage: Usage) -> str:
    """The value of ``X-SGLang-Cache-Hit``."""
    cached = usage.cached_tokens
    if cached is None:
        return _word(usage.hit)
    return "true" if cached > 0 else "false"


def spec_decode(usage: Usage | None, server_speculative: bool | None) -> str:
    """The value of ``X-SGLang-Spec-Decode``.

    The reply's own figures decide. Without them a server without speculative decoding has not
    used it, and one with it has, once there was a second token to draft.

    Args:
        usage: the reply's figures, or None.
        server_speculative: whether speculative decoding is on at the server; None: not known.
    """
    if usage is not None and usage.spec_used is not None:
        return _word(usage.spec_used)
    if server_speculative is False:
        return "false"
    drafted = usage is not None and (usage.completion_tokens or 0) >= 2
    return "true" if server_speculative and drafted else "unknown"


def metrics_member(usage: Usage, total_ms: int) -> bytes:
    """The page's ``metrics`` object of a whole reply, as JSON text.

    Args:
        usage: the reply's figures.
        total_ms: ollad's own measurement of the whole exchange, for servers that send none.
            When the first token came cannot be seen from outside of a whole reply, so only the
            server's own figure is given for it.
    """
    rate = None
    if usage.cached_tokens is not None and usage.prompt_tokens:
        rate = round(min(1.0, usage.cached_tokens / usage.prompt_tokens), 4)
    first_token, e2e = usage.first_token_seconds, usage.e2e_seconds
    return orjson.dumps(
        {
            "time_to_first_token_ms": None if first_token is None else round(first_token * 1000),
            "generation_time_ms": total_ms if e2e is None else round(e2e * 1000),
            "radix_cache_hit_rate": rate,
        }
    )


def meta_member(
    usage: Usage,
    *,
    request_id: str,
    rid: str | None = None,
    total_ms: int | None = None,
    new_tokens: int | EllipsisType | None = ...,
    context_length: int | EllipsisType | None = ...,
) -> bytes:
    """The page's ``meta`` object of ``/generate``, ``/batch`` and ``/extend``, as JSON text.

    Args:
        usage: the reply's figures.
        request_id: ollad's id of the request.
        rid: the client's id of the conversation; None leaves the member out.
        total_ms: ollad's own measurement of the exchange, for servers that send none.
        new_tokens: of an extension, tokens of the part that was added; None: not known.
        context_length: of an extension, tokens of the whole conversation; None: not known.
    """
    meta: dict[str, Any] = {"id": request_id}
    if rid is not None:
        meta["rid"] = rid
    meta["finish_reason"] = usage.finish_reason
    meta["input_tokens"] = usage.prompt_tokens if new_tokens is ... else new_tokens
    meta["output_tokens"] = usage.completion_tokens
    meta["completion_time_ms"] = _first(_milliseconds(usage.e2e_seconds), total_ms)
    meta["radix_cache_hit"] = _hit(usage)
    if context_length is not ...:
        meta["context_length"] = context_length
    return orjson.dumps(meta)


def vision_metrics_member(usage: Usage) -> bytes:
    """The page's ``vision_metrics`` object, as JSON text; no server tells its image time."""
    return orjson.dumps(
        {"image_processing_time_ms": None, "vision_encoding_tokens": usage.image_tokens}
    )


def _hit(usage: Usage) -> bool | None:
    return usage.hit if usage.cached_tokens is None else usage.cached_tokens > 0


def _word(value: bool | None) -> str:
    return "unknown" if value is None else "true" if value else "false"


def _first(*values: _T | None) -> _T | None:
    for value in values:
        if value is not None:
            return value
    return None


def _seconds(value: object, per_second: int = 1) -> float | None:
    if value is None:
        return None
    amount: float | None
    if type(value) is float or (type(value) is int and 0 <= value < _EXACT):
        amount = value
    elif (amount := number(value)) is None:
        return None
    seconds = amount / per_second
    return seconds if 0 <= seconds <= _LONGEST_SECONDS else None


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _prompt_tokens(usage: Mapping[str, Any], prompt: int | None) -> int | None:
    """All prompt tokens; Anthropic's ``input_tokens`` are those the cache did not have."""
    if prompt is None:
        prompt = count(usage.get("input_tokens"))
    if prompt is None or "input_tokens" not in usage:
        return prompt
    cached = count(usage.get("cache_read_input_tokens")) or 0
    return prompt + cached + (count(usage.get("cache_creation_input_tokens")) or 0)


def _cached(details: object) -> int | None:
    """Sum of ``cached_tokens_details`` over the levels of the cache, None if there is none."""
    levels = mapping(details)
    found = [n for level in _CACHE_LEVELS if (n := count(levels.get(level))) is not None]
    return sum(found) if found else None


def _details(value: object) -> list[Mapping[str, Any]]:
    """``spec_tokens_details``: one object, or a list with one for each choice."""
    return items(value) if isinstance(value, list) else [mapping(value)]


def _speculation(sources: Iterable[Mapping[str, Any]]) -> bool | None:
    found = None
    for source in sources:
        for name in _SPECULATION:
            value = source.get(name)
            if value is not None and (n := count(value)) is not None:
                found = found or n > 0
    return found


def _reason_type(reason: object) -> str | None:
    """The type of SGLang's finish reason, which is an object in ``meta_info``."""
    return text(reason) or text(mapping(reason).get("type"))


def _finish_reason(reply: Mapping[str, Any], choice: Mapping[str, Any]) -> str | None:
    """Why generation ended, in the words of whichever API this is."""
    reason = text(choice.get("finish_reason")) or text(reply.get("stop_reason"))
    if reason is not None or reply.get("object") != "response":
        return reason
    incomplete = text(mapping(reply.get("incomplete_details")).get("reason"))
    status = text(reply.get("status"))
    return incomplete or (status if status != "in_progress" else None)
