"""TLS contexts that can be replaced while connections made with the old ones go on."""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING

from ollad.config.certificates import client_context, server_context
from ollad.config.problems import InvalidValueError
from ollad.errors import ConfigError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from ollad.config.schema import Config, EndpointTls

__all__ = ["BackendTls", "ListenerTls", "TlsFiles", "load_tls"]


class TlsFiles:
    """What the files that a configuration names have become, checked and ready for use.

    Attributes:
        server: for the listener, None without TLS there.
        clients: for backends, by their configuration.
    """

    __slots__ = ("clients", "server")

    def __init__(
        self, server: ssl.SSLContext | None, clients: Mapping[EndpointTls, ssl.SSLContext]
    ) -> None:
        self.server = server
        self.clients = MappingProxyType(dict(clients))


async def load_tls(config: Config) -> TlsFiles:
    """Read every certificate and key that ``config`` names, in a thread.

    Raises:
        ConfigError: one of them cannot be used.
    """
    return await asyncio.to_thread(_load, config)


def _load(config: Config) -> TlsFiles:
    tls = config.server.tls
    try:
        server = None
        if tls.cert_file is not None and tls.key_file is not None:
            server = server_context(tls.cert_file, tls.key_file)
        secured = {e.tls for e in config.endpoints if e.url.lower().startswith("https:")}
        return TlsFiles(server, {one: client_context(one) for one in secured})
    except InvalidValueError as error:
        raise ConfigError((f"TLS: {error.reason}",)) from error


class ListenerTls:
    """Secures the connections of a listener, each with the certificate of its time.

    A context cannot be loaded anew in safety, since half of it may fail, so each handshake is
    handed the latest one, by the callback for server names, which is called without a name too.

    Args:
        context: the first one.

    Attributes:
        context: what to listen with.
    """

    __slots__ = ("_latest", "context")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._latest = context
        self.context = context
        context.sni_callback = self._choose

    def renew(self, context: ssl.SSLContext) -> None:
        """Secure connections from now on with ``context``."""
        self._latest = context

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        connection.context = self._latest


class BackendTls:
    """The contexts for backends.

    Args:
        contexts: by their configuration.
    """

    __slots__ = ("_contexts",)

    def __init__(self, contexts: Mapping[EndpointTls, ssl.SSLContext]) -> None:
        self._contexts = contexts

    def renew(self, contexts: Mapping[EndpointTls, ssl.SSLContext]) -> None:
        """Secure connections from now on with these; those of endpoints that leave are kept.

        Requests that began before go on with endpoints that are gone.
        """
        self._contexts = {**self._contexts, **contexts}

    def context(self, tls: EndpointTls) -> ssl.SSLContext:
        """What connections to a backend with this configuration are secured with.

        Raises:
            KeyError: no endpoint had it when the contexts were made.
        """
        return self._contexts[tls]
