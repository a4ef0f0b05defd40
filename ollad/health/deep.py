"""The deep probe: ``/health`` of a real SGLang, which generates a token.

It takes a second at least, more while the server is busy, and costs a prefill (SGLang
``entrypoints/http_server.py``, ``health_generate``). So it runs as a task of its own, rarely, and
rounds pick up its result when it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from ollad.backends.snapshot import State
from ollad.health.fetch import fetch
from ollad.health.verdict import Outcome, Result
from ollad.sglang import probes, readings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ollad.config.schema import Endpoint
    from ollad.health.fetch import ProbeClient, Reply

__all__ = ["DeepProbe"]

_LEAST_TIMEOUT: Final = 5.0
"""Seconds; the reply comes on a whole second, and a long prefill may delay it."""
_OK: Final = Outcome(Result.OK)


class DeepProbe:
    """Asks ``/health`` of one backend now and then.

    A server whose ``/health`` is a document in the API page's shape is asked in every round.

    Args:
        endpoint: the backend.
        client: the control plane's.
        interval: time between two probes while all is well, seconds; jittered by a tenth.
        clock: monotonic time, seconds.
        random: a number from 0 to 1.

    Attributes:
        document: the last document in the API page's shape, if the server has one.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        client: ProbeClient,
        *,
        interval: float,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._endpoint = endpoint
        self._client = client
        self.interval = interval
        self._clock = clock
        self._random = random
        self._task: asyncio.Task[Reply] | None = None
        self._due = float("-inf")
        self._failing = False
        self.document: Mapping[str, Any] | None = None

    async def judge(self, state: State, *, has_ready: bool) -> Outcome:
        """What ``/health`` adds to a round whose cheap probes went well.

        Waits for the reply only when nothing else tells whether the server is ready: out of
        service, and no ``/ready``.

        Args:
            state: the backend's state before the round.
            has_ready: whether it has ``/ready``.
        """
        outcome = self._collect()
        if outcome is None and not state.routable and not has_ready:
            await asyncio.wait({self._start()})
            outcome = self._collect()
        elif self._wanted(state, has_ready=has_ready):
            self._start()
        if outcome is not None:
            return outcome
        return Outcome(Result.UNDECIDED) if self._failing else _OK

    async def reset(self) -> None:
        """Forget everything; the next round asks again."""
        await self.close()
        self._due = float("-inf")
        self._failing = False
        self.document = None

    async def close(self) -> None:
        """End the probe under way."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _wanted(self, state: State, *, has_ready: bool) -> bool:
        if self._failing or self.document is not None:
            return True
        if state is not State.HEALTHY and not has_ready:
            return True
        return self._clock() >= self._due

    def _start(self) -> asyncio.Task[Reply]:
        """The probe under way, begun if there is none."""
        if self._task is None:
            timeout = max(_LEAST_TIMEOUT, self._endpoint.check_timeout)
            self._task = asyncio.create_task(
                fetch(self._client, self._endpoint, probes.HEALTH, seconds=timeout),
                name=f"deep probe of {self._endpoint.name}",
            )
        return self._task

    def _collect(self) -> Outcome | None:
        """The verdict of a probe that has ended since the last look; None if there is none."""
        if self._task is None or not self._task.done():
            return None
        reply, self._task = self._task.result(), None
        self._due = self._clock() + self.interval * (0.9 + 0.2 * self._random())
        outcome = _read(reply)
        self._failing = outcome.result is not Result.OK
        self.document = readings.page_health(reply.json())
        return outcome


def _read(reply: Reply) -> Outcome:
    if reply.ok or reply.missing:  # a server without /health has the cheap probes to go by
        return _OK
    if reply.refused:
        return Outcome(Result.REFUSED, reply.problem)
    unready = reply.status == 503
    return Outcome(Result.NOT_READY if unready else Result.FAILED, reply.problem)
