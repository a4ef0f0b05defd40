"""URLs, hosts, networks, paths and header fields as configuration values."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from ollad.config.problems import InvalidValueError, safe_url

__all__ = [
    "check_header_name",
    "check_header_value",
    "parse_file",
    "parse_host",
    "parse_network",
    "parse_origin",
    "parse_path",
    "parse_url",
]

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_DIGITS_AND_DOTS: Final = re.compile(r"[0-9.]+")
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_FIELD_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_NOT_CONFIGURABLE: Final = frozenset(
    {
        # RFC 9110 section 7.6.1 and those that frame or address a message
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def parse_url(text: str) -> str:
    """A base URL without its trailing slash, so that a path can be put after it.

    Raises:
        InvalidValueError: not http or https, no host, or more than scheme, host, port and path.
    """
    if not _VISIBLE.fullmatch(text):
        raise InvalidValueError("it contains a space or a character that is not ASCII")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InvalidValueError("its host or port cannot be read") from None
    if "://" not in text:
        example = f"http://{text.lstrip('/')}"
        raise InvalidValueError("the scheme is missing", f"write '{safe_url(example)}'")
    if parts.scheme not in {"http", "https"}:
        raise InvalidValueError("its scheme is neither http nor https")
    if "@" in parts.netloc:
        raise InvalidValueError("credentials do not belong in a URL; put them in headers")
    if not host:
        raise InvalidValueError("the host is missing")
    if "?" in text or "#" in text:
        raise InvalidValueError("a base URL has no query and no fragment; remove it")
    if port == 0 or parts.netloc.endswith(":"):
        raise InvalidValueError("its port must be a number from 1 to 65535")
    parse_host(host)
    return text.rstrip("/")


def parse_origin(text: str) -> str:
    """An origin as browsers send it (RFC 6454 §6.2): lower case, without a default port.

    Raises:
        InvalidValueError: not http or https, or more than scheme, host and port.
    """
    url = parse_url(text)
    parts = urlsplit(url)
    if parts.path or text.endswith("/"):
        raise InvalidValueError("an origin ends with its host or port; remove the rest")
    default = {"http": 80, "https": 443}[parts.scheme]
    host = parts.hostname or ""
    authority = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{authority}" + (
        f":{parts.port}" if parts.port not in (None, default) else ""
    )


def parse_file(text: str) -> str:
    """The path of a file.

    Raises:
        InvalidValueError: it is relative, or has characters that no careful name has.
    """
    if not text.startswith("/"):
        raise InvalidValueError("it does not start with '/'; write the whole path")
    if not text.isprintable() or text != text.strip():
        raise InvalidValueError("it has a line break or control character, or a space at an end")
    return text


def parse_host(text: str) -> str:
    """A host name or IP address (IPv6 without brackets), in lower case.

    Raises:
        InvalidValueError: it is neither.
    """
    if ("/" not in text and ":" in text) or _DIGITS_AND_DOTS.fullmatch(text):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise InvalidValueError("not an IP address; a port does not belong here") from None
    elif not _HOST_NAME.fullmatch(text):
        fix = "write 0.0.0.0 or :: for every address" if text == "*" else ""
        raise InvalidValueError("only the host, without scheme, brackets, port or path", fix)
    return text.lower()


def parse_network(text: str) -> str:
    """An IP network; a lone address stands for itself.

    Raises:
        InvalidValueError: it is not a network, or has bits set right of its mask.
    """
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        nearest = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidValueError("not an IP address or network") from None
    raise InvalidValueError("bits are set right of the mask", f"write {nearest}")


def parse_path(text: str) -> str:
    """A path from the root of the base URL.

    Raises:
        InvalidValueError: it does not start with one ``/`` or has characters no path has.
    """
    if text.startswith(("http:", "https:")):
        raise InvalidValueError("the host comes from url; write only the path, such as /health")
    if not text.startswith("/"):
        raise InvalidValueError("it does not start with '/'", f"write '/{text}'")
    if text.startswith("//") or "#" in text or not _VISIBLE.fullmatch(text):
        raise InvalidValueError("it has '//' in front, a '#', a space or a non-ASCII character")
    return text


def check_header_name(name: str) -> None:
    """Accept the name of an end-to-end header.

    Raises:
        InvalidValueError: not a token (RFC 9110 section 5.6.2), or not the operator's to set.
    """
    if not _TOKEN.fullmatch(name):
        raise InvalidValueError("not a header name: letters, digits and '-' only")
    if name.lower() in _NOT_CONFIGURABLE:
        raise InvalidValueError("this header belongs to the connection; it cannot be set here")


def check_header_value(value: str) -> None:
    """Accept a header value of visible ASCII (RFC 9110 section 5.5).

    Raises:
        InvalidValueError: it is empty, begins or ends with a space, or has other characters.
    """
    if not value:
        raise InvalidValueError("the value is empty")
    if not _FIELD_VALUE.fullmatch(value):
        raise InvalidValueError(
            "the value has a line break, control or non-ASCII character, or a space at an end"
        )
