"""What no single key can be wrong about: rules across keys and across endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ollad.config.certificates import client_context, server_context
from ollad.config.problems import InvalidValueError, joined
from ollad.config.schema import Admin, EndpointTls
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


_WAYS: Final = ("key", "key_file", "sha256")
"""Where the secret of a client's key can come from."""

_NOBODY: Final = "-"
_LOOPBACK: Final = Admin().host


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
    _check_server(tree.get("server", {}), problems)
    _check_admin(tree.get("admin", {}), problems)
    _check_keys(tree.get("auth", {}).get("keys", []), problems)


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
    _check_backend_tls(endpoint, path, problems)


def _check_backend_tls(endpoint: dict[str, Any], path: str, problems: Problems) -> None:
    tls = endpoint.get("tls", {})
    if not any(tls.values()):
        return
    path = f"{path}.tls"
    if endpoint.get("url", "https:").startswith("http:"):
        problems.add(path, "the url begins with http://, so there is no TLS; write https://")
    elif len(tls) == len(EndpointTls.__dataclass_fields__) and _paired(tls, path, problems):
        try:
            client_context(EndpointTls(**tls))
        except InvalidValueError as error:
            problems.add(path, error.reason)


def _paired(tls: dict[str, Any], path: str, problems: Problems) -> bool:
    """Whether certificate and key are both given, or neither; one alone is a problem."""
    for given, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if tls.get(given) and other in tls and tls[other] is None:
            problems.add(f"{path}.{given}", f"it needs a {other} beside it")
            return False
    return True


def _check_server(server: dict[str, Any], problems: Problems) -> None:
    tls = server.get("tls", {})
    complete = _paired(tls, "server.tls", problems) and tls.get("cert_file") and tls.get("key_file")
    if complete:
        try:
            server_context(tls["cert_file"], tls["key_file"])
        except InvalidValueError as error:
            problems.add("server.tls", error.reason)
    one, all_bodies = server.get("max_body_size"), server.get("max_buffered_bytes")
    if one is not None and all_bodies is not None and all_bodies < one:
        path = "server.max_buffered_bytes"
        given = problems.written(path, format_size(all_bodies))
        least = problems.written("server.max_body_size", format_size(one))
        problems.add(path, f"{given} is less than max_body_size; make it at least {least}")
    origins = server.get("cors_origins", ())
    if "*" in origins and len(origins) > 1:
        problems.add("server.cors_origins", "'*' is every origin; name no others beside it")


def _check_admin(admin: dict[str, Any], problems: Problems) -> None:
    if admin.get("port") is not None and admin.get("socket"):
        problems.add("admin.socket", "there is a port already; keep one of the two")
    elif admin.get("host", _LOOPBACK) != _LOOPBACK and "port" in admin and admin["port"] is None:
        problems.add("admin.host", "an address needs a port; give admin a port as well")


def _check_keys(keys: list[dict[str, Any]], problems: Problems) -> None:
    names: dict[str, int] = {}
    digests: dict[str, int] = {}
    for index, key in enumerate(keys):
        path = f"auth.keys[{index}]"
        name = key.get("name")
        if name == _NOBODY:
            problems.add(f"{path}.name", "'-' stands for requests without a key; choose a name")
        elif name is not None and names.setdefault(name, index) != index:
            written = problems.written(f"{path}.name", name)
            first = f"auth.keys[{names[name]}]"
            problems.add(f"{path}.name", f"{written} is already the name of {first}")
        if any(way not in key for way in _WAYS):
            continue  # one that was refused is a problem already
        given = [key[way] for way in _WAYS if key[way] is not None]
        if len(given) != 1:
            what = "no secret" if not given else "more than one secret"
            problems.add(path, f"{what}; give one of {', '.join(_WAYS)}")
        elif digests.setdefault(given[0], index) != index:
            first = f"auth.keys[{digests[given[0]]}]"
            problems.add(path, f"the same secret as {first}; give each client its own")


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
