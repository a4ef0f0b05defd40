"""Every configuration key: its name, default, unit and meaning.

One frozen dataclass a section; ``key`` gives each field the kind of value it takes (what the
reader in ``load`` converts from YAML) and the sentence that documents it. Durations are held in
seconds, sizes in bytes.
"""

# ruff: noqa: RUF009 - key() makes a dataclass field

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from types import MappingProxyType
from typing import Any, Final, cast, get_args, get_type_hints

__all__ = [
    "DEFAULT_PATH",
    "SECRETS",
    "Admin",
    "Annotate",
    "ApiKey",
    "Auth",
    "Batch",
    "Config",
    "Conversations",
    "Endpoint",
    "EndpointTls",
    "Health",
    "Kind",
    "Logging",
    "Media",
    "ModelFilter",
    "PrefixSettings",
    "Proxy",
    "Queue",
    "Routing",
    "Server",
    "ServerTls",
    "child_type",
    "key",
]

DEFAULT_PATH: Final = "/etc/ollad/ollad.yaml"

_EMPTY: Final[Mapping[str, str]] = MappingProxyType({})
_KIB: Final = 1024
_MIB: Final = 1024 * 1024


class Kind(enum.Enum):
    """What a YAML value is turned into."""

    STRING = "a string"
    HOST = "a host name or IP address"
    PORT = "a port number from 0 to 65535"
    URL = "an http:// or https:// URL"
    PATH = "an absolute path that starts with '/'"
    FILE = "the path of a file, from '/' on"
    NAME = "a name of letters, digits, '.', '_' and '-'"
    BOOLEAN = "true or false"
    POSITIVE = "a whole number, 1 or more"
    FACTOR = "a number, 1 or more"
    COUNT = "a whole number, 0 or more"
    FRACTION = "a number from 0 to 1"
    DURATION = "a duration such as 250ms, 5s, 2m, 1h or 0"
    PERIOD = "a duration above 0 such as 250ms, 5s, 2m or 1h"
    SIZE = "a size such as 64KiB or 8MiB"
    CHOICE = "one of a fixed set of words"
    STRINGS = "a list of strings"
    HOSTS = "a list of host names or '*'"
    NETWORKS = "a list of IP addresses or networks"
    ORIGINS = "a list of origins such as https://app.example, or '*'"
    KEY = "a key of 16 or more letters, digits and signs"
    KEY_FILE = "the path of a file with a key"
    DIGEST = "64 hexadecimal digits"
    MAPPING = "a mapping of strings to strings"
    HEADERS = "a mapping of header names to values"
    SECTION = "a mapping"
    SECTIONS = "a list of mappings"


SECRETS: Final = frozenset({Kind.DIGEST, Kind.HEADERS, Kind.KEY, Kind.KEY_FILE})
"""Kinds whose values are shown to nobody."""


def key(kind: Kind, doc: str, default: Any = MISSING, *, choices: tuple[str, ...] = ()) -> Any:
    """Declare a configuration key.

    Args:
        kind: how the YAML value is read.
        doc: one sentence for the manual.
        default: the value without the key; none makes the key mandatory.
        choices: the words a ``Kind.CHOICE`` takes.
    """
    metadata = {"kind": kind, "doc": doc, "choices": choices}
    visible = kind not in SECRETS  # a repr may end in a log
    if isinstance(default, Mapping):  # not hashable, so dataclasses refuse it as a plain default
        return field(default_factory=lambda: default, repr=visible, metadata=metadata)
    return field(default=default, repr=visible, metadata=metadata)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """``server.tls``: HTTPS instead of HTTP; both files, in PEM, or neither."""

    cert_file: str | None = key(
        Kind.FILE, "The server's certificate, with those that vouch for it behind it.", None
    )
    key_file: str | None = key(Kind.FILE, "Its private key, not encrypted.", None)


@dataclass(frozen=True, slots=True)
class Server:
    """``server``: where ollad listens."""

    host: str = key(Kind.HOST, "Address to listen on; loopback unless told otherwise.", "127.0.0.1")
    port: int = key(Kind.PORT, "TCP port to listen on; 0 takes a free one.", 40114)
    shutdown_timeout: float = key(
        Kind.DURATION, "How long requests under way may finish after SIGTERM.", 30.0
    )
    trusted_proxies: tuple[str, ...] = key(
        Kind.NETWORKS, "Peers whose X-Forwarded-* headers are believed.", ()
    )
    cors_origins: tuple[str, ...] = key(
        Kind.ORIGINS, "Web pages whose scripts may call ollad (CORS), by origin.", ()
    )
    tls: ServerTls = key(Kind.SECTION, "HTTPS instead of HTTP.", ServerTls())
    max_connections: int = key(
        Kind.COUNT, "Most client connections at once; the next get 503. 0 is no limit.", 10_000
    )
    header_timeout: float = key(
        Kind.PERIOD,
        "A request's headers must arrive within this time, its TLS handshake likewise.",
        10.0,
    )
    body_timeout: float = key(
        Kind.PERIOD, "A request's body must arrive within this time after its headers.", 120.0
    )
    keepalive_timeout: float = key(
        Kind.PERIOD, "An idle client connection is closed after this time.", 75.0
    )
    max_body_size: int = key(Kind.SIZE, "Largest request body taken.", 64 * _MIB)
    max_buffered_bytes: int = key(
        Kind.SIZE,
        "All request bodies held at once; past it requests get 503. At least max_body_size.",
        1024 * _MIB,
    )


@dataclass(frozen=True, slots=True)
class Admin:
    """``admin``: a listener of its own for /metrics and /internal/*, by port or by socket."""

    host: str = key(Kind.HOST, "Address to listen on, if there is a port.", "127.0.0.1")
    port: int | None = key(Kind.PORT, "TCP port to listen on; 0 takes a free one.", None)
    socket: str | None = key(
        Kind.FILE, "Unix socket to listen on, open to the daemon's user and group.", None
    )


@dataclass(frozen=True, slots=True)
class ModelFilter:
    """``endpoints[].models``: which of a backend's models are offered; ``*`` matches any text."""

    include: tuple[str, ...] = key(Kind.STRINGS, "Patterns of models to offer; empty: all.", ())
    exclude: tuple[str, ...] = key(Kind.STRINGS, "Patterns of models to hide; beats include.", ())


@dataclass(frozen=True, slots=True)
class EndpointTls:
    """``endpoints[].tls``: how an https:// backend is known, and ollad to it; files in PEM."""

    ca_file: str | None = key(
        Kind.FILE, "Authorities to trust, instead of the system's, for this backend.", None
    )
    cert_file: str | None = key(
        Kind.FILE, "ollad's own certificate, for backends that ask for one (mTLS).", None
    )
    key_file: str | None = key(Kind.FILE, "Its private key, not encrypted.", None)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``endpoints[]``: one backend."""

    url: str = key(Kind.URL, "Base URL of the SGLang server, a base path included.")
    name: str = key(Kind.NAME, "Unique name, shown in headers, logs and metrics.")
    type: str = key(Kind.CHOICE, "Kind of engine.", "sglang", choices=("sglang",))
    priority: int = key(
        Kind.POSITIVE,
        "Share of the load relative to the highest priority of all endpoints; with routing.policy "
        "'priority' strict tiers: who has less gets what those with more have no room for.",
        100,
    )
    model_url: str = key(Kind.PATH, "Where the backend lists its models.", "/v1/models")
    health_check_url: str = key(
        Kind.PATH,
        "Readiness probe; /health (the default) stands for the cheap routes SGLang has for it, "
        "with /health itself asked rarely, as it takes a second or more.",
        "/health",
    )
    check_interval: float = key(
        Kind.PERIOD, "Time between two rounds of probes; at least 100ms.", 5.0
    )
    check_timeout: float = key(
        Kind.PERIOD, "How long one probe may take; at most check_interval.", 2.0
    )
    headers: Mapping[str, str] = key(
        Kind.HEADERS,
        "Headers sent with every request to this backend; a value may be read from a file, "
        "as in X-API-Key: {file: /path}.",
        _EMPTY,
    )
    forward_authorization: bool = key(
        Kind.BOOLEAN,
        "Pass the client's Authorization header on to this backend, "
        "which then must not stand in headers.",
        False,
    )
    max_concurrent: int = key(
        Kind.COUNT,
        "Requests under way there at once, beyond which others wait in proxy.queue; 0: no limit.",
        0,
    )
    models: ModelFilter = key(
        Kind.SECTION, "Which of the backend's models to offer.", ModelFilter()
    )
    tls: EndpointTls = key(Kind.SECTION, "Trust and identity for https://.", EndpointTls())


_key = key  # ApiKey has a field of that name


@dataclass(frozen=True, slots=True)
class ApiKey:
    """``auth.keys[]``: one client; its secret as one of ``key``, ``key_file`` and ``sha256``.

    Of a secret only the SHA-256 is kept, as 64 hexadecimal digits, whichever way it was given.
    """

    name: str = _key(Kind.NAME, "Unique name, shown in logs and metrics instead of the key.")
    key: str | None = _key(Kind.KEY, "The key itself, best from a variable.", None)
    key_file: str | None = _key(
        Kind.KEY_FILE, "A file that holds the key, such as a systemd credential.", None
    )
    sha256: str | None = _key(
        Kind.DIGEST, "The SHA-256 of the key, as from printf %s KEY | sha256sum.", None
    )
    models: tuple[str, ...] = _key(
        Kind.STRINGS, "Patterns of models it may use, as in endpoints; empty: all.", ()
    )
    requests_per_minute: int = _key(
        Kind.COUNT, "Requests it may send a minute, all at once if it likes; 0 is no limit.", 0
    )
    tokens_per_minute: int = _key(
        Kind.COUNT,
        "Tokens a minute, prompts and replies as backends count them; 0 is no limit.",
        0,
    )
    max_concurrent: int = _key(Kind.COUNT, "Requests under way at once; 0 is no limit.", 0)
    cache_salt: bool = _key(
        Kind.BOOLEAN, "Keep its prompts in a radix cache apart from everyone else's.", False
    )

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the secret."""
        return bytes.fromhex(self.key or self.key_file or self.sha256 or "")


@dataclass(frozen=True, slots=True)
class Auth:
    """``auth``: who may use ollad; without keys, everyone who can reach it."""

    keys: tuple[ApiKey, ...] = key(Kind.SECTIONS, "The clients.", ())


@dataclass(frozen=True, slots=True)
class PrefixSettings:
    """``routing.prefix``: how prompts are known again, and what a cached prefix is worth."""

    block_bytes: int = key(
        Kind.POSITIVE, "Bytes of prompt in the first blocks that are compared; 16 to 4096.", 128
    )
    recompute_price: float = key(
        Kind.FACTOR,
        "What it costs to prefill a token that another backend has cached, in tokens of waiting.",
        3.0,
    )
    popular_after: int = key(
        Kind.POSITIVE,
        "Times a prefix has been seen when it counts as shared by many, so that to prefill it on "
        "one more backend costs no more than its tokens.",
        4,
    )


@dataclass(frozen=True, slots=True)
class Routing:
    """``routing``: how a backend is chosen."""

    policy: str = key(
        Kind.CHOICE,
        "prefix-cache: where the first token is expected soonest; priority: the same among the "
        "backends of the highest priority that have room.",
        "prefix-cache",
        choices=("prefix-cache", "least-connections", "round-robin", "priority"),
    )
    prefix: PrefixSettings = key(Kind.SECTION, "How prompts are compared.", PrefixSettings())
    model_aliases: Mapping[str, str] = key(
        Kind.MAPPING,
        "Other names for models, as alias: model id; an alias of an alias is refused.",
        _EMPTY,
    )


@dataclass(frozen=True, slots=True)
class Queue:
    """``proxy.queue``: requests that wait while backends are at their max_concurrent."""

    size: int = key(Kind.COUNT, "Most that wait for one model; 0: none waits.", 512)
    timeout: float = key(Kind.DURATION, "How long one waits at most; 0 is no limit.", 30.0)


@dataclass(frozen=True, slots=True)
class Proxy:
    """``proxy``: patience and persistence towards backends; a timeout of 0 is no limit."""

    connect_timeout: float = key(Kind.DURATION, "TCP and TLS connection to a backend.", 5.0)
    first_byte_timeout: float = key(
        Kind.DURATION, "Silence before the first byte of a reply; prefill is silent.", 600.0
    )
    idle_timeout: float = key(Kind.DURATION, "Silence between two reads of a reply.", 120.0)
    total_timeout: float = key(Kind.DURATION, "A whole exchange, retries included.", 0.0)
    attempts: int = key(Kind.POSITIVE, "Most backends tried for one request.", 3)
    retry_budget: float = key(
        Kind.FRACTION,
        "Retries per request over all traffic, beyond 10 a second; connections that fail or had "
        "been idle spend none.",
        0.2,
    )
    queue: Queue = key(Kind.SECTION, "Waiting while all backends are busy.", Queue())


@dataclass(frozen=True, slots=True)
class Health:
    """``health``: when a backend is taken out and put back."""

    fall: int = key(Kind.POSITIVE, "Failed rounds in a row that take a backend out.", 3)
    rise: int = key(Kind.POSITIVE, "Good rounds in a row that bring a backend back.", 2)
    deep_interval: float = key(
        Kind.PERIOD, "Time between probes of /health, each a real one-token generation.", 60.0
    )
    ramp: float = key(Kind.DURATION, "A recovered backend's weight grows over this time.", 20.0)


@dataclass(frozen=True, slots=True)
class Media:
    """``media``: which images, videos and sounds requests may name."""

    allow_data: bool = key(Kind.BOOLEAN, "Take data: URLs and inline base64.", True)
    allow_hosts: tuple[str, ...] = key(
        Kind.HOSTS, "Hosts whose https: URLs are passed on; '*' for all.", ()
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """``batch``: limits of /olla/sglang/batch."""

    max_items: int = key(Kind.POSITIVE, "Most requests in one batch.", 256)
    concurrency: int = key(Kind.POSITIVE, "Items of one batch under way at once.", 16)


@dataclass(frozen=True, slots=True)
class Conversations:
    """``conversations``: what /olla/sglang/extend can continue."""

    ttl: float = key(Kind.PERIOD, "A conversation is forgotten after this idle time.", 3600.0)
    max_bytes: int = key(Kind.SIZE, "All stored conversations together.", 256 * _MIB)
    max_conversation_bytes: int = key(
        Kind.SIZE, "Longest stored conversation; at most max_bytes.", _MIB
    )


@dataclass(frozen=True, slots=True)
class Annotate:
    """``annotate``: what ollad adds to replies."""

    json: bool = key(
        Kind.BOOLEAN, "Add metrics, meta and vision_metrics to non-streamed JSON replies.", True
    )


@dataclass(frozen=True, slots=True)
class Logging:
    """``logging``: what is logged, and how."""

    level: str = key(
        Kind.CHOICE, "Least level.", "info", choices=("debug", "info", "warning", "error")
    )
    format: str = key(
        Kind.CHOICE,
        "auto: console on a terminal, JSON otherwise.",
        "auto",
        choices=("auto", "console", "json"),
    )
    access: bool = key(Kind.BOOLEAN, "One line per request.", True)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file."""

    endpoints: tuple[Endpoint, ...] = key(Kind.SECTIONS, "The backends.")
    server: Server = key(Kind.SECTION, "Where ollad listens.", Server())
    admin: Admin = key(Kind.SECTION, "A listener for operators.", Admin())
    auth: Auth = key(Kind.SECTION, "Who may use ollad.", Auth())
    routing: Routing = key(Kind.SECTION, "How a backend is chosen.", Routing())
    proxy: Proxy = key(Kind.SECTION, "Patience towards backends.", Proxy())
    health: Health = key(Kind.SECTION, "When a backend is out.", Health())
    media: Media = key(Kind.SECTION, "Which media requests may name.", Media())
    batch: Batch = key(Kind.SECTION, "Limits of /batch.", Batch())
    conversations: Conversations = key(Kind.SECTION, "Memory of /extend.", Conversations())
    annotate: Annotate = key(Kind.SECTION, "What is added to replies.", Annotate())
    logging: Logging = key(Kind.SECTION, "What is logged.", Logging())


@functools.cache
def child_type(section: type, name: str) -> type:
    """The dataclass of the section, or of the sections in the list, under key ``name``."""
    hint = get_type_hints(section)[name]
    return cast("type", next(iter(get_args(hint)), hint))
