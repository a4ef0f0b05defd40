"""Which images, videos and sounds a request may name.

A real SGLang fetches every ``http:`` and ``https:`` URL it is given and opens ``file:`` URLs and
bare paths on its own disk (``load_image``, ``load_audio`` and ``_normalize_video_input`` in
utils/common.py). So only what is inline, or on a host the operator named, is let through.
"""

from __future__ import annotations

import binascii
import re
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final

from ollad.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ollad.config.schema import Media

__all__ = ["check_media", "names_media"]

_Path = tuple[Any, ...]  # (parent path, key), () at the top: joined only for a message

_FIELDS: Final[Mapping[str, str]] = {
    "image_url": "image",
    "image_data": "image",
    "video_url": "video",
    "video_data": "video",
    "audio_url": "audio",
    "audio_data": "audio",
    "input_audio": "inline audio",
    "file_url": "file",
}
_EMBEDDING_FIELDS: Final = {"image": "image", "video": "video"}
"""Members of ``/v1/embeddings`` inputs (``MultimodalEmbeddingInput`` in protocol.py)."""
_MEMBERS: Final = ("url", "data")
"""Where a medium given as an object has its URL or its base64."""
_SCHEMAS: Final = frozenset(
    {"tools", "functions", "response_format", "text", "output_format", "output_config"}
)
"""Top-level members with JSON schemas, whose property names mean nothing to the server."""
_SOURCES: Final = frozenset({"image", "document"})
"""Anthropic content blocks with a ``source``."""
_PARTS_WITH_FILES: Final = frozenset({"input_image", "input_file", "image", "document"})

_NAMES: Final = frozenset(_FIELDS)
_TEXT_MEMBERS: Final = frozenset({"role", "content", "name"})
"""Members of a message that is nothing but text."""

_CONTAINERS: Final = frozenset({dict, list})
_OBJECTS: Final = {dict}
_STRINGS: Final = {str}
_TWO: Final = {2}
_CONTENT: Final = methodcaller("get", "content")
_ROLE: Final = methodcaller("get", "role")
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_HEAD: Final = 64  # characters of base64 that are decoded to recognise a format
_LONGEST_DATA_HEADER: Final = 1024  # "data:" to the comma
_UNSAFE: Final = re.compile(r"[^\x21-\x7e]|\\")
_HOST: Final = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
)
_ADDRESS: Final = re.compile(r"\[[0-9a-f:.]+\]")
_LONGEST_HOST: Final = 253  # RFC 1035 §2.3.4, as text
_SHOWN: Final = 60  # characters of a value in a message
_LONGEST_PATH: Final = 200  # characters of a path in a message; clients choose keys and depth


def names_media(document: Mapping[str, Any]) -> bool:
    """Whether a request may name a medium; False is certain, and quickly found.

    It is False of messages with a role and a text each, beside members that hold no others.
    """
    if not _NAMES.isdisjoint(document):
        return True
    kinds = [*map(type, document.values())]
    if dict in kinds:
        return True
    if list not in kinds:
        return False
    messages = document.get("messages")
    if type(messages) is not list or kinds.count(list) > 1:
        return True
    return not _only_text(messages)


def _only_text(messages: list[Any]) -> bool:
    """Whether messages are nothing but text."""
    if {*map(type, messages)} != _OBJECTS:
        return not messages
    if {*map(len, messages)} == _TWO and {
        *map(type, map(_CONTENT, messages)),
        *map(type, map(_ROLE, messages)),
    } == _STRINGS:
        return True  # as most are
    return all(
        name in _TEXT_MEMBERS and type(member) not in _CONTAINERS
        for message in messages
        for name, member in message.items()
    )


def check_media(document: Mapping[str, Any], media: Media) -> int:
    """Check every medium that a request names, at any depth.

    Args:
        document: the parsed request; see ``names_media`` for when there is no need.
        media: what is allowed.

    Returns:
        How many media there are.

    Raises:
        BadRequestError: one is neither inline (``media.allow_data``) nor at an ``https:`` URL
            of a host in ``media.allow_hosts``; ``param`` is its path, such as
            ``messages[0].content[1].image_url.url``.
    """
    hosts = frozenset(host.lower() for host in media.allow_hosts)
    count = 0
    for value, path, family in _media(document):
        problem = _problem(value, family, media.allow_data, hosts)
        if problem is not None:
            raise _refusal(value, path, problem)
        count += 1
    return count


def _media(document: Mapping[str, Any]) -> Iterator[tuple[object, _Path, str]]:
    """Yield what stands for a medium, where, and its family.

    Breadth first and without recursion. The queue holds containers, and values of media fields
    with their family.
    """
    queue: list[tuple[Any, _Path, str]] = []
    for key, value in document.items():
        if key not in _SCHEMAS:
            _enqueue(queue, key, value, ())
    queue += _embedding_inputs(document.get("input"))
    for node, path, family in queue:  # grows while it is read
        if family:
            if isinstance(node, list):
                queue += [(item, (path, at), family) for at, item in enumerate(node)]
            elif isinstance(node, dict):
                yield from _of_object(queue, node, path, family)
            elif node is not None:
                yield node, path, family
        elif isinstance(node, list):
            if not _CONTAINERS.isdisjoint(map(type, node)):  # token ids are passed over quickly
                queue += [
                    (item, (path, at), "")
                    for at, item in enumerate(node)
                    if type(item) in _CONTAINERS
                ]
        else:
            yield from _of_part(queue, node, path)


def _enqueue(queue: list[tuple[Any, _Path, str]], key: str, value: Any, path: _Path) -> None:
    family = _FIELDS.get(key, "")
    if family or type(value) in _CONTAINERS:
        queue.append((value, (path, key), family))


def _embedding_inputs(inputs: object) -> Iterator[tuple[Any, _Path, str]]:
    if isinstance(inputs, list):
        for at, item in enumerate(inputs):
            if type(item) is dict:
                for key, family in _EMBEDDING_FIELDS.items():
                    if item.get(key) is not None:
                        yield item[key], ((((), "input"), at), key), family


def _of_object(
    queue: list[tuple[Any, _Path, str]], node: dict[str, Any], path: _Path, family: str
) -> Iterator[tuple[object, _Path, str]]:
    """A medium written as ``{"url": …}`` or ``{"data": …, "format": …}``."""
    named = False
    for key, value in node.items():
        if key not in _MEMBERS:
            _enqueue(queue, key, value, path)
        elif value is not None:
            named = True
            yield value, (path, key), family
    if not named:
        yield node, path, family


def _of_part(
    queue: list[tuple[Any, _Path, str]], node: dict[str, Any], path: _Path
) -> Iterator[tuple[object, _Path, str]]:
    """A container that is no medium: its members, and the media of Anthropic's and OpenAI's."""
    kind = node.get("type")
    kind = kind if isinstance(kind, str) else ""
    # Arguments of tool calls are data for a tool: their names mean nothing to the server.
    skipped = "input" if kind == "tool_use" else "tool_calls"
    for key, value in node.items():
        if key == "source" and kind in _SOURCES and isinstance(value, dict):
            yield from _of_source(queue, value, (path, key))
        elif key == "file_id" and kind in _PARTS_WITH_FILES and value is not None:
            yield value, (path, key), "file id"
        elif key != skipped:
            _enqueue(queue, key, value, path)


def _of_source(
    queue: list[tuple[Any, _Path, str]], source: dict[str, Any], path: _Path
) -> Iterator[tuple[object, _Path, str]]:
    """The ``source`` of an Anthropic block (entrypoints/anthropic/serving.py).

    SGLang makes a ``data:`` URL of base64 and takes ``url`` as it is whatever the type says.
    """
    kind = source.get("type")
    if source.get("url") is not None:
        yield source["url"], (path, "url"), "image"
    if kind == "base64":
        yield source.get("data"), (path, "data"), "source"
    if source.get("file_id") is not None:
        yield source["file_id"], (path, "file_id"), "file id"
    if isinstance(source.get("content"), list):
        queue.append((source["content"], (path, "content"), ""))


def _problem(value: object, family: str, allow_data: bool, hosts: frozenset[str]) -> str | None:
    """What is wrong with a medium, or None."""
    if family == "file id":
        return "SGLang servers keep no files; send the content itself"
    if not isinstance(value, str):
        return "a string with a URL or base64 data is wanted"
    if value.startswith("https://"):
        return _https_problem(value, hosts)
    if value.startswith("data:"):
        if "," not in value[:_LONGEST_DATA_HEADER]:
            return "a data: URL has a comma before its data"
    elif not (_is_base64(value) if family == "source" else _is_inline(value, family)):
        return (
            "only data: URLs and inline base64 (media.allow_data), and https: URLs of the hosts "
            "in media.allow_hosts, are passed on"
        )
    return None if allow_data else "inline data is not allowed here (media.allow_data)"


def _https_problem(url: str, hosts: frozenset[str]) -> str | None:
    """Check an ``https:`` URL; any doubt about which host it names is a problem."""
    if _UNSAFE.search(url):
        return "the URL has characters that have to be percent-encoded"
    authority = re.split(r"[/?#]", url[len("https://") :], maxsplit=1)[0].lower()
    host = authority.removesuffix(":443")
    if len(host) > _LONGEST_HOST or not (_HOST.fullmatch(host) or _ADDRESS.fullmatch(host)):
        return "the URL must be https://HOST/… with a plain host name and no user or port"
    if "*" in hosts or host in hosts or host.strip("[]") in hosts:
        return None
    return f"the host '{host[:_SHOWN]}' is not in media.allow_hosts"


def _is_base64(value: str) -> bool:
    """Whether ``value`` is strict base64 (RFC 4648 §4: padded, no line breaks)."""
    if not value or len(value) % 4 or not value.isascii():
        return False
    data = value.encode().removesuffix(b"=").removesuffix(b"=")
    return not data.translate(None, _BASE64)


def _is_inline(value: str, family: str) -> bool:
    """Whether ``value`` is base64 of something that begins like a medium of ``family``.

    What does not might be a path: SGLang opens those, and most letters of base64 occur in them.
    """
    try:
        head = binascii.a2b_base64(value[:_HEAD], strict_mode=True)
    except ValueError:
        return False
    return _begins_like(head, family) and _is_base64(value)


def _begins_like(head: bytes, family: str) -> bool:
    """Whether ``head`` has the signature of a format that ``family`` comes in."""
    riff = head[8:12] if head.startswith(b"RIFF") else b""
    if family in ("image", "video") and (
        head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a"))
        or riff == b"WEBP"
        or (head.startswith(b"BM") and head[6:10] == b"\0\0\0\0")
    ):
        return True
    container = head[4:8] == b"ftyp" or head.startswith((b"\x1a\x45\xdf\xa3", b"OggS"))
    match family:
        case "video":
            return container or riff == b"AVI "
        case "audio" | "inline audio":
            # A bare MPEG audio frame is base64 that begins like the path "//…", so it is taken
            # only where SGLang puts a data: URL around it.
            frame = family == "inline audio" and head[:1] == b"\xff" and head[1:2] >= b"\xe0"
            return container or riff == b"WAVE" or head.startswith((b"ID3", b"fLaC")) or frame
        case _:
            return False


def _refusal(value: object, path: _Path, problem: str) -> BadRequestError:
    name = _dotted(path)
    shown = _shortened(str(value), _SHOWN)
    return BadRequestError(
        f"'{name}' cannot be used: {problem}. Its value is {shown!r}.",
        param=name,
        code="media_not_allowed",
    )


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _dotted(path: _Path) -> str:
    """A path as text; of one that is too long, what ends it is kept, which names the medium."""
    text = ""
    while path and len(text) <= _LONGEST_PATH:
        path, key = path
        text = (f"[{key}]" if isinstance(key, int) else f".{_shortened(key, _SHOWN)}") + text
    if len(text) > _LONGEST_PATH:
        return "…" + text[1 - _LONGEST_PATH :]
    return text.removeprefix(".")
