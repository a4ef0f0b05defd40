"""From a request's headers to its key, if keys there are.

Keys are looked up by their SHA-256. How long a look-up takes may tell how much of a hash was
right, but nobody can choose what their key hashes to, so it tells nothing of any key: comparing
hashes is what makes the comparison constant-time in effect.
"""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ollad.auth.key import make_key
from ollad.auth.meter import Meter
from ollad.errors import UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from multidict import MultiMapping

    from ollad.auth.key import Key
    from ollad.config.schema import Auth

__all__ = ["Gate"]

_AUTHORIZATION: Final = "Authorization"
_API_KEY: Final = "X-API-Key"
_SCHEME: Final = "bearer"
_HOW: Final = "Send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."


class Gate:
    """Knows the keys; made anew with each configuration, the meters handed down by name.

    Args:
        auth: the configured keys; none leave the gate open.
        now: monotonic seconds.
        before: the gate whose place this one takes.

    Attributes:
        closed: whether there are keys.
    """

    __slots__ = ("_by_digest", "_meters", "closed")

    def __init__(self, auth: Auth, now: float, before: Gate | None = None) -> None:
        inherited = {} if before is None else before.meters
        self._meters: dict[str, Meter] = {}
        self._by_digest: dict[bytes, Key] = {}
        for configured in auth.keys:
            meter = inherited.get(configured.name)
            if meter is None:
                meter = Meter(configured, now)
            else:
                meter.reconfigure(configured, now)
            self._meters[configured.name] = meter
            self._by_digest[configured.digest] = make_key(configured, meter)
        self.closed = bool(auth.keys)

    def __repr__(self) -> str:
        return f"<Gate {', '.join(self._meters) or 'open'}>"

    @property
    def meters(self) -> Mapping[str, Meter]:
        """What each key has used, by its name."""
        return MappingProxyType(self._meters)

    def authenticate(self, headers: MultiMapping[str]) -> Key:
        """The key that a request was sent with.

        ``X-API-Key`` goes before ``Authorization``; the second counts if the first is not known.

        Raises:
            UnauthorizedError: there is no key, or none that is known.
        """
        keys = headers.getall(_API_KEY, ())
        if len(keys) == 1 and (key := self._known(keys[0].strip())) is not None:
            return key
        tokens = headers.getall(_AUTHORIZATION, ())
        if len(tokens) == 1 and (key := self._bearer(tokens[0])) is not None:
            return key
        raise _refusal(keys, tokens)

    def without_own(
        self, headers: Iterable[tuple[bytes, bytes]]
    ) -> tuple[tuple[bytes, bytes], ...]:
        """Raw ``headers`` without an ``Authorization`` that holds a key of ollad's.

        What is left of it is meant for a backend, on endpoints with ``forward_authorization``.
        """
        return tuple(
            (name, value)
            for name, value in headers
            if name.lower() != b"authorization"
            or self._bearer(value.decode("utf-8", "surrogateescape")) is None
        )

    def _bearer(self, value: str) -> Key | None:
        scheme, _, token = value.strip().partition(" ")
        return self._known(token.lstrip()) if scheme.lower() == _SCHEME else None

    def _known(self, key: str) -> Key | None:
        # what is not UTF-8 in a header comes as surrogates
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        return self._by_digest.get(digest)


def _refusal(keys: Sequence[str], tokens: Sequence[str]) -> UnauthorizedError:
    if not keys and not tokens:
        return UnauthorizedError(
            f"A key is needed here. {_HOW}",
            code="missing_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return UnauthorizedError(
        f"This key is not known here. {_HOW}",
        headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
    )
