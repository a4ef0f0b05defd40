"""What no single key can be wrong about: rules across keys and across endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ollad.config.problems import joined
from ollad.config.units import format_duration, format_size

if TYPE_CHECKING:
    from ollad.config.problems import Problems

__all__ = ["check"]

_LEAST_INTERVAL: Final = 0.1
"""Seconds; more than ten rounds of probes a second are load, not health checks."""

_SHORTEST_BLOCK: Final = 16
"""Bytes; shorter blocks cost more to compare than they tell."""
_LONGEST_BLOCK: Final = 4096
"""Bytes; most prompts are shorter than a few of these, and would be as good as unknown."""


def check(tree: dict[str, Any], problems: Problems) -> None:
    """Record impossible combinations in what the reader could read of a file.

    Args:
        tree: sections and keys by name; keys whose value was refused are absent.
        problems: where to record.
    """
    endpoints: list[dict[str, Any]] = tree.get("endpoints", [])
    for index, endpoint in enumerate(endpoints):
        _check_endpoint(endpoint, f"endpoints[{index}]", problems)
    _check_names(endpoints, problems)
    _check_aliases(tree.get("routing", {}).get("model_aliases", {}), problems)
    _check_blocks(tree.get("routing", {}).get("prefix", {}), problems)
    _check_conversations(tree.get("conversations", {}), problems)


def _check_endpoint(endpoint: dict[str, Any], path: str, problems: Problems) -> None:
    interval, timeout = endpoint.get("check_interval"), endpoint.get("check_timeout")
    if interval is not None and interval < _LEAST_INTERVAL:
        written = problems.written(f"{path}.check_interval", format_duration(interval))
        problems.add(
            f"{path}.check_interval",
            f"{written} is too short; write {format_duration(_LEAST_INTERVAL)} or more",
        )
    elif interval is not None and timeout is not None and timeout > interval:
        longest = problems.written(f"{path}.check_interval", format_duration(interval))
        given = problems.written(f"{path}.check_timeout", format_duration(timeout))
        problems.add(
            f"{path}.check_timeout",
            f"a timeout of {given} is longer than check_interval; make it at most {longest}",
        )
    has_authorization = any(n.lower() == "authorization" for n in endpoint.get("headers", ()))
    if endpoint.get("forward_authorization") and has_authorization:
        problems.add(
            f"{path}.forward_authorization",
            "the client's Authorization cannot be forwarded while headers sets one; keep one of "
            "the two",
        )


def _check_names(endpoints: list[dict[str, Any]], problems: Problems) -> None:
    first: dict[str, int] = {}
    for index, endpoint in enumerate(endpoints):
        name = endpoint.get("name")
        if name is not None and first.setdefault(name, index) != index:
            path = f"endpoints[{index}].name"
            problems.add(
                path,
                f"{problems.written(path, name)} is already the name of endpoints[{first[name]}]; "
                "give each endpoint its own",
            )


def _check_aliases(aliases: dict[str, str], problems: Problems) -> None:
    for alias, target in aliases.items():
        path = joined("routing.model_aliases", alias)
        if target == alias:
            problems.add(path, "an alias of itself; name the model that it stands for")
        elif target in aliases:
            given = problems.written(path, target)
            model = problems.written(joined("routing.model_aliases", target), aliases[target])
            problems.add(path, f"{given} is itself an alias; write its model, {model}")


def _check_blocks(prefix: dict[str, Any], problems: Problems) -> None:
    block_bytes = prefix.get("block_bytes")
    if block_bytes is not None and not _SHORTEST_BLOCK <= block_bytes <= _LONGEST_BLOCK:
        path = "routing.prefix.block_bytes"
        written = problems.written(path, str(block_bytes))
        problems.add(
            path, f"{written} is not from {_SHORTEST_BLOCK} to {_LONGEST_BLOCK}; write 128"
        )


def _check_conversations(conversations: dict[str, Any], problems: Problems) -> None:
    total, longest = conversations.get("max_bytes"), conversations.get("max_conversation_bytes")
    if total is not None and longest is not None and longest > total:
        path = "conversations.max_conversation_bytes"
        given = problems.written(path, format_size(longest))
        limit = problems.written("conversations.max_bytes", format_size(total))
        problems.add(path, f"{given} is more than max_bytes; make it at most {limit}")
