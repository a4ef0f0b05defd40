"""Requests of the engine that are answered together: choices and prompts of an HTTP request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from ollad.simulator.completion import complete
from ollad.simulator.engine import Phase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType

    from ollad.simulator.completion import Completion, Sampling
    from ollad.simulator.engine import Task
    from ollad.simulator.service import Service

__all__ = [
    "DuplicateRidError",
    "Generation",
    "Generations",
    "TooLongError",
    "Wanted",
    "check_length",
    "usage",
]

_POLL: Final = 4.0
"""How often a server looks whether the client of a plain reply is still there, seconds."""


class TooLongError(Exception):
    """Prompt and answer do not fit the context; the message is SGLang's."""


class DuplicateRidError(Exception):
    """A request with the same rid is under way; the message is SGLang's."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One generation that is asked for.

    Attributes:
        rid: its request id.
        prompt: tokens.
        sampling: how.
        choice: which one of its prompt's.
        images: prompt tokens that stand for images.
    """

    rid: str
    prompt: Sequence[int]
    sampling: Sampling
    choice: int = 0
    images: int = 0


class Generation:
    """One generation under way; ``index`` is its place in the reply."""

    def __init__(self, index: int, wanted: Wanted, completion: Completion, task: Task) -> None:
        self.index = index
        self.rid = wanted.rid
        self.wanted = wanted
        self.completion = completion
        self.task = task
        self.count = 0

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.task.over and self.count >= self.task.generated

    @property
    def text(self) -> str:
        """What there is of it, up to ``count`` tokens."""
        return self.completion.text_of(self.count)

    @property
    def reason(self) -> str:
        """Why it ended: stop, length or abort."""
        if self.task.phase is Phase.ABORTED:
            return "abort"
        return "length" if self.completion.matched is None else "stop"

    @property
    def matched(self) -> int | str | None:
        """The token or text that ended it."""
        return None if self.task.phase is Phase.ABORTED else self.completion.matched


def check_length(service: Service, prompt: int, answer: int) -> None:
    """Refuse what does not fit.

    Args:
        service: whose context counts.
        prompt: tokens.
        answer: tokens at most.

    Raises:
        TooLongError: it does not.
    """
    context = service.longest
    if prompt >= context:
        raise TooLongError(
            f"The input ({prompt} tokens) is longer than the model's context length "
            f"({context} tokens)."
        )
    if prompt + answer > context:
        raise TooLongError(
            f"Requested token count exceeds the model's maximum context length of {context} "
            f"tokens. You requested a total of {prompt + answer} tokens: {prompt} tokens from the "
            f"input messages and {answer} tokens for the completion. Please reduce the number of "
            "tokens in the input messages or the completion to fit within the limit."
        )


def _check_rid(service: Service, rid: str) -> None:
    if rid in service.flying:
        raise DuplicateRidError(f"Duplicate request ID detected: {rid}")


class Generations:
    """Submits generations and ends them with the block, whatever happened in it.

    Args:
        service: which generates.
        wanted: what.
        stream: whether every token is of interest.

    Raises (on entering):
        QueueFullError: the engine takes no more.
        DuplicateRidError: one has the rid of a request under way.
    """

    def __init__(self, service: Service, wanted: Sequence[Wanted], *, stream: bool) -> None:
        self._service = service
        self._wanted = wanted
        self._stream = stream
        self._event = asyncio.Event()
        self.arrived = service.driver.now()
        self.items: list[Generation] = []

    def __enter__(self) -> Self:
        service = self._service
        try:
            for index, wanted in enumerate(self._wanted):
                _check_rid(service, wanted.rid)
                completion = complete(
                    wanted.prompt,
                    wanted.sampling,
                    seed=service.options.seed,
                    choice=wanted.choice,
                )
                task = service.driver.submit(
                    wanted.prompt, completion.tokens, self._event, every_token=self._stream
                )
                service.flying[wanted.rid] = task
                self.items.append(Generation(index, wanted, completion, task))
        except BaseException:
            self._finish()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, asyncio.CancelledError) and not self._stream:
            waited = self._service.driver.now() - self.arrived
            self._service.later(_POLL - waited % _POLL, self._finish)
        else:
            self._finish()

    async def ended(self) -> None:
        """Wait until all have ended."""
        while not all(item.task.over for item in self.items):
            self._event.clear()
            await self._event.wait()
        for item in self.items:
            item.count = item.task.generated

    async def progress(self) -> AsyncIterator[Generation]:
        """Each generation whenever it has more tokens or has ended, until all have."""
        pending = list(self.items)
        while pending:
            self._event.clear()
            now = self._service.driver.advance()
            for item in tuple(pending):
                count = self._service.engine.generated(item.task, now)
                if count > item.count or item.task.over:
                    item.count = count
                    if item.task.over:
                        pending.remove(item)
                    yield item
            if pending:
                await self._event.wait()

    def _finish(self) -> None:
        service = self._service
        for item in self.items:
            if service.flying.get(item.rid) is item.task:
                del service.flying[item.rid]
            if not item.task.over:
                service.statistics.aborted += 1
                service.driver.abort(item.task)
            service.driver.forget(item.task)
            service.statistics.ended(item.task, stream=self._stream)
            item.count = item.task.generated


def usage(items: Sequence[Generation], choices: int, *, report: bool) -> dict[str, Any]:
    """The ``usage`` of a reply.

    Args:
        items: its generations, the choices of a prompt side by side.
        choices: how many a prompt has.
        report: whether cached tokens are told.
    """
    firsts = items[::choices]
    prompt = sum(len(item.task.prompt) for item in firsts)
    answer = sum(item.count for item in items)
    images = sum(item.wanted.images for item in firsts)
    details: dict[str, int] = {}
    if report:
        details["cached_tokens"] = sum(item.task.cached for item in firsts)
    if images:
        details["image_tokens"] = images
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + answer,
        "completion_tokens": answer,
        "prompt_tokens_details": details or None,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }
