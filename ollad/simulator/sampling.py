"""Reads sampling parameters, and refuses with SGLang's words (sampling/sampling_params.py)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from ollad.simulator.completion import Sampling

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KNOWN", "SamplingError", "UnknownParameterError", "native_sampling", "openai_sampling"]

KNOWN: Final = (
    *("max_new_tokens", "stop", "stop_token_ids", "stop_regex", "temperature", "top_p", "top_k"),
    *("min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "min_new_tokens"),
    *("n", "json_schema", "regex", "ebnf", "structural_tag", "ignore_eos", "skip_special_tokens"),
    *("spaces_between_special_tokens", "no_stop_trim", "stream_interval", "logit_bias"),
    *("sampling_seed", "custom_params", "beam_width", "watermark", "choice"),
)
"""What ``sampling_params`` may hold."""

_NATIVE_MAX: Final = 128
_PENALTY: Final = 2.0


class SamplingError(Exception):
    """A value cannot be; the message is SGLang's."""


class UnknownParameterError(Exception):
    """A key of ``sampling_params`` that does not exist; the message is SGLang's."""


def native_sampling(parameters: Mapping[str, Any]) -> tuple[Sampling, int]:
    """Read the ``sampling_params`` of ``/generate``.

    Returns:
        How to sample, and how many choices.

    Raises:
        SamplingError: a value cannot be.
        UnknownParameterError: there is a key that does not exist.
    """
    for key in parameters:
        if key not in KNOWN:
            known = ", ".join(f"`{name}`" for name in KNOWN)
            raise UnknownParameterError(f"unknown field `{key}`, expected one of {known}")
    return _sampling(parameters, _NATIVE_MAX), _integer(parameters, "n", 1)


def openai_sampling(body: Mapping[str, Any], default_max: int) -> tuple[Sampling, int]:
    """Read the parameters of an OpenAI request.

    Args:
        body: the request.
        default_max: tokens to generate at most where it does not tell.

    Returns:
        How to sample, and how many choices.

    Raises:
        SamplingError: a value cannot be.
    """
    limit = body.get("max_completion_tokens")
    parameters = {
        "max_new_tokens": body.get("max_tokens") if limit is None else limit,
        "min_new_tokens": body.get("min_tokens"),
        "sampling_seed": body.get("seed"),
        **{key: body[key] for key in KNOWN if key in body and key != "n"},
    }
    for key in ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty"):
        if isinstance(parameters.get(key), int):
            parameters[key] = float(parameters[key])
    count = _integer(body, "n", 1)
    if count < 1:
        raise SamplingError("range() arg 3 must not be zero")
    return _sampling(parameters, default_max), count


def _sampling(parameters: Mapping[str, Any], default_max: int) -> Sampling:
    temperature = _number(parameters, "temperature", 1.0)
    if not math.isfinite(temperature) or temperature < 0:
        raise SamplingError(f"temperature must be a non-negative finite number, got {temperature}.")
    top_p = _number(parameters, "top_p", 1.0)
    if not 0 < top_p <= 1:
        raise SamplingError(f"top_p must be in (0, 1], got {top_p}.")
    min_p = _number(parameters, "min_p", 0.0)
    if not 0 <= min_p <= 1:
        raise SamplingError(f"min_p must be in [0, 1], got {min_p}.")
    for key in ("frequency_penalty", "presence_penalty"):
        penalty = _number(parameters, key, 0.0)
        if not -_PENALTY <= penalty <= _PENALTY:
            raise SamplingError(f"{key} must be in [-2, 2], got {penalty}.")
    maximum = _integer(parameters, "max_new_tokens", default_max)
    if maximum < 0:
        raise SamplingError(f"max_new_tokens must be at least 0, got {maximum}.")
    minimum = _integer(parameters, "min_new_tokens", 0)
    if not 0 <= minimum <= maximum:
        raise SamplingError(f"min_new_tokens must be in [0, max_new_tokens], got {minimum}.")
    seed = parameters.get("sampling_seed")
    return Sampling(
        max_tokens=maximum,
        min_tokens=minimum,
        temperature=temperature,
        seed=seed if isinstance(seed, int) else None,
        stop=_texts(parameters.get("stop")),
        stop_tokens=frozenset(
            token for token in parameters.get("stop_token_ids") or () if isinstance(token, int)
        ),
        ignore_end=bool(parameters.get("ignore_eos")),
        keep_stop=bool(parameters.get("no_stop_trim")),
    )


def _texts(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value or ()
    return tuple(text for text in values if isinstance(text, str))


def _number(parameters: Mapping[str, Any], key: str, default: float) -> float:
    value = parameters.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SamplingError(f"{key} must be a number, got {value!r}.")
    return value


def _integer(parameters: Mapping[str, Any], key: str, default: int) -> int:
    value = parameters.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise SamplingError(f"{key} must be an integer, got {value!r}.")
    return value
