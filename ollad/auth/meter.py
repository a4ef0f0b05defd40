"""What a key has used: its limits, and its figures for the metrics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ollad.auth.bucket import Bucket
from ollad.errors import TooManyRequestsError

if TYPE_CHECKING:
    from ollad.config.schema import ApiKey

__all__ = ["Lease", "Meter"]


class Meter:
    """The limits of one key and what was used of them; lives on when the key is configured anew.

    Written by its leases alone.

    Args:
        key: the configured key.
        now: monotonic seconds.

    Attributes:
        active: requests under way.
        admitted: requests let in so far.
        refused: requests turned away so far for want of allowance.
        prompt_tokens: tokens of prompts so far.
        completion_tokens: tokens of replies so far.
    """

    __slots__ = (
        "_most",
        "_requests",
        "_tokens",
        "active",
        "admitted",
        "completion_tokens",
        "prompt_tokens",
        "refused",
    )

    def __init__(self, key: ApiKey, now: float) -> None:
        self._requests = Bucket(key.requests_per_minute, now)
        self._tokens = Bucket(key.tokens_per_minute, now)
        self._most = key.max_concurrent
        self.active = 0
        self.admitted = 0
        self.refused = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def __repr__(self) -> str:
        return f"<Meter active={self.active} requests={self._requests} tokens={self._tokens}>"

    def reconfigure(self, key: ApiKey, now: float) -> None:
        """Go on with the limits of ``key``."""
        self._requests.resize(key.requests_per_minute, now)
        self._tokens.resize(key.tokens_per_minute, now)
        self._most = key.max_concurrent

    def lease(self, name: str, now: float) -> Lease:
        """Let one request in.

        Args:
            name: of the key, for the message.
            now: monotonic seconds.

        Raises:
            TooManyRequestsError: the key is at one of its limits.
        """
        if self._most and self.active >= self._most:
            self.refused += 1
            raise TooManyRequestsError(
                f"The key '{name}' has {self._most} requests under way, as many as it may have "
                "(max_concurrent). Wait for one to end.",
                retry_after=1,
            )
        self.spend(name, 1, now)
        self.active += 1
        return Lease(name, self)

    def spend(self, name: str, requests: int, now: float) -> None:
        """Count ``requests`` against the limits, all of them or none.

        Raises:
            TooManyRequestsError: one of the two allowances is used up.
        """
        wait = self._tokens.wait(1, now)
        if wait:
            raise self._refusal(name, "tokens_per_minute", wait)
        wait = self._requests.claim(requests, now)
        if wait:
            raise self._refusal(name, "requests_per_minute", wait)
        self.admitted += requests

    def spend_instead(self, name: str, requests: int, now: float) -> None:
        """Count ``requests`` where one was counted already, all of them or that one.

        Raises:
            TooManyRequestsError: one of the two allowances is used up.
        """
        self._requests.take(-1, now)
        try:
            self.spend(name, requests, now)
        except TooManyRequestsError:
            self._requests.take(1, now)
            raise
        self.admitted -= 1

    def _refusal(self, name: str, limit: str, wait: float) -> TooManyRequestsError:
        self.refused += 1
        seconds = math.ceil(wait)
        return TooManyRequestsError(
            f"The key '{name}' has used up its allowance ({limit}). Try again in {seconds} s.",
            retry_after=seconds,
        )

    def charge(self, prompt: int, completion: int, now: float) -> None:
        """Count tokens against the limit, even over it."""
        self._tokens.take(prompt + completion, now)
        self.prompt_tokens += prompt
        self.completion_tokens += completion


class Lease:
    """One request that was let in; it has to be released, however it ends.

    Args:
        name: of the key.
        meter: of the key.
    """

    __slots__ = ("_meter", "_name", "_open")

    def __init__(self, name: str, meter: Meter) -> None:
        self._name = name
        self._meter = meter
        self._open = True

    def more(self, requests: int, now: float) -> None:
        """Let in what the request turned out to hold besides itself, all of it or nothing.

        Args:
            requests: how many further ones.
            now: monotonic seconds.

        Raises:
            TooManyRequestsError: they are more than the key may send now.
        """
        self._meter.spend_instead(self._name, requests + 1, now)

    def charge(self, prompt: int | None, completion: int | None, now: float) -> None:
        """Count what a reply cost.

        Args:
            prompt: tokens of the prompt, None if not known.
            completion: tokens of the reply, None if not known.
            now: monotonic seconds.
        """
        if prompt or completion:
            self._meter.charge(prompt or 0, completion or 0, now)

    def release(self) -> None:
        """The request has ended; more than once is once."""
        if self._open:
            self._open = False
            self._meter.active -= 1
