"""TLS contexts from the files that a configuration names.

Made once when the configuration is checked, to see that they can be, and again for use.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from ollad.config.problems import InvalidValueError, shown

if TYPE_CHECKING:
    from ollad.config.schema import EndpointTls

__all__ = ["client_context", "server_context", "unusable"]

_PROTOCOLS: Final = ["http/1.1"]
_NO_IDENTITY: Final = "no certificate and private key in PEM without a password"


def server_context(cert_file: str, key_file: str) -> ssl.SSLContext:
    """What clients' connections are secured with: TLS 1.2 or later, HTTP/1.1 by ALPN.

    Raises:
        InvalidValueError: a file cannot be read or is not PEM, or the two do not match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_PROTOCOLS)
    _load_identity(context, cert_file, key_file)
    return context


def client_context(tls: EndpointTls) -> ssl.SSLContext:
    """What connections to a backend are secured with; its certificate and name are verified.

    Without ``ca_file`` the system's authorities are trusted, or those of ``SSL_CERT_FILE``;
    reading them takes tens of milliseconds.

    Raises:
        InvalidValueError: a file cannot be read or is not PEM, or certificate and key do not match.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except (OSError, ValueError) as error:
        why = unusable(error, "no certificate in PEM")
        raise InvalidValueError(f"{shown(tls.ca_file or '')}: {why}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.cert_file is not None and tls.key_file is not None:
        _load_identity(context, tls.cert_file, tls.key_file)
    return context


def _load_identity(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    for path in (cert_file, key_file):
        try:
            with open(path, "rb"):  # noqa: PTH123 - only to learn which of the two is unreadable
                pass
        except (OSError, ValueError) as error:
            raise InvalidValueError(f"{shown(path)}: {unusable(error, _NO_IDENTITY)}") from None
    try:
        context.load_cert_chain(cert_file, key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        files = f"{shown(cert_file)} and {shown(key_file)}"
        raise InvalidValueError(f"{files}: {unusable(error, _NO_IDENTITY)}") from None


def unusable(error: OSError | ValueError, lacking: str) -> str:
    """Why files cannot be used, in few words; OpenSSL's own are for its authors.

    Args:
        error: what reading them raised.
        lacking: what to say of files that can be read but hold something else.
    """
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key is not that of the certificate"
        return lacking
    return getattr(error, "strerror", None) or "not a path"
