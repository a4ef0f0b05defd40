"""What the clients got against what the backends did: counts, and who broke which promise.

Pure: everything is handed in. Nothing is excused but by a trouble of the very backend that the
request ran on, at the time it ran there, or by there having been no backend at all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from tests.chaos.records import End, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tests.chaos.records import Reply, Window, Work

__all__ = ["Finding", "Promise", "Verdict", "judge"]


class Promise(StrEnum):
    """What has to be counted zero times."""

    UNSERVED = "neither a full reply nor a begun stream, while some backend was up"
    TWICE = "prompts that completed on two backends"
    CUT = "streams cut by anything but their own backend"
    LOOKS_COMPLETE = "truncated replies that looked complete"
    MIXED_UP = "replies mixed up"
    UNCLEAR = "errors that do not say what happened"
    STUCK = "requests that never ended"
    LOST_COUNT = "prompts without exactly one reply on record"


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken promise.

    Attributes:
        promise: which.
        id: of the prompt.
        why: in words.
        evidence: what is on record about it.
    """

    promise: Promise
    id: str
    why: str
    evidence: tuple[Any, ...] = ()


@dataclass(slots=True)
class Verdict:
    """The outcome.

    Attributes:
        counts: of requests, by what became of them; each request in one of them.
        findings: broken promises.
    """

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def broken(self, promise: Promise) -> int:
        """How often a promise was broken."""
        return sum(finding.promise is promise for finding in self.findings)


FULL: Final = "full reply"
WHOLE_STREAM: Final = "whole stream"
OWN_CUT: Final = "stream cut by its own backend"
DIED: Final = "502: its backend died, or sent what is no reply, while running it"
CAME_BACK: Final = "502: its backend was silent, and closed the connection when it was back"
OUTAGE: Final = "error while no backend was up"
LEFT: Final = "client left"
BROKEN: Final = "broken promise"

_DEADLY: Final = frozenset({Trouble.KILL})
"""Troubles that end what runs, before its first byte."""
_SILENT: Final = frozenset({Trouble.STOP, Trouble.BLACK_HOLE})
_CUTTING: Final = _DEADLY | _SILENT
"""Troubles that cut streams: silence, too, if it lasts."""
_DEADLY_FAULTS: Final = frozenset({"reset", "truncate", "garbage"})
_CUTTING_FAULTS: Final = _DEADLY_FAULTS | {"stall"}


class _Case:
    """All that is on record."""

    def __init__(
        self,
        works: Iterable[Work],
        windows: Sequence[Window],
        backends: Sequence[str],
        recovery: float,
    ) -> None:
        self.works: dict[str, list[Work]] = defaultdict(list)
        for work in works:
            self.works[work.id].append(work)
        self._windows: dict[str, list[Window]] = {backend: [] for backend in backends}
        for window in windows:
            self._windows[window.backend].append(window)
        self._starts = sorted(window.begin for window in windows)
        self._recovery = recovery

    def dark(self, begin: float, end: float) -> bool:
        """Whether at some moment of a time no backend was up."""
        moments = [begin, *(moment for moment in self._starts if begin < moment <= end)]
        return any(
            all(self._down(backend, moment) for backend in self._windows) for moment in moments
        )

    def _down(self, backend: str, moment: float) -> bool:
        return any(
            window.begin <= moment <= window.end + self._recovery
            for window in self._windows[backend]
        )

    def came_back(self, reply: Reply) -> bool:
        """Whether the reply's own backend was stopped or cut off, and back before it ended.

        A server that was silent for longer than its keep-alive timeout closes connections with
        requests on them that it has not read; from outside that is no different from one that
        breaks off what it runs.
        """
        return any(
            window.trouble in _SILENT
            and window.touches(reply.sent, reply.ended)
            and window.end <= reply.ended
            for window in self._windows.get(reply.endpoint, ())
        )

    def blamed(self, reply: Reply, troubles: frozenset[Trouble], faults: frozenset[str]) -> bool:
        """Whether the reply's own backend had a trouble, or did it a fault, while it ran there."""
        windows = self._windows.get(reply.endpoint, ())
        if any(
            window.trouble in troubles and window.touches(reply.sent, reply.ended)
            for window in windows
        ):
            return True
        return any(
            work.fault in faults
            for work in self.works.get(reply.id, ())
            if work.backend == reply.endpoint
        )


def judge(
    prompts: Iterable[str],
    replies: Iterable[Reply],
    works: Iterable[Work],
    windows: Sequence[Window],
    *,
    backends: Sequence[str],
    expected: Callable[[str], str],
    recovery: float,
) -> Verdict:
    """Judge a run.

    Args:
        prompts: the ids of all that were sent.
        replies: what clients got.
        works: what backends logged.
        windows: when backends were in trouble.
        backends: the names of all.
        expected: the whole text that belongs to a prompt.
        recovery: seconds after a trouble for which a backend does not count as up: the daemon has
            to see it well again first.
    """
    case = _Case(works, windows, backends, recovery)
    verdict = Verdict()
    by_id: dict[str, list[Reply]] = {prompt: [] for prompt in prompts}
    for reply in replies:
        by_id.setdefault(reply.id, []).append(reply)
    for prompt, found in by_id.items():
        if len(found) != 1:
            why = f"{len(found)} replies are on record"
            verdict.findings.append(Finding(Promise.LOST_COUNT, prompt, why, tuple(found)))
        for reply in found:
            _judge_one(reply, expected(prompt), case, verdict)
    _judge_completions(case.works, verdict)
    return verdict


def _judge_completions(works: Mapping[str, Sequence[Work]], verdict: Verdict) -> None:
    for prompt, lines in works.items():
        completed = [work for work in lines if work.completed]
        if len(completed) > 1:
            where = ", ".join(work.backend for work in completed)
            finding = Finding(Promise.TWICE, prompt, f"completed on {where}", tuple(lines))
            verdict.findings.append(finding)


def _judge_one(reply: Reply, expected: str, case: _Case, verdict: Verdict) -> None:
    def broken(promise: Promise, why: str) -> None:
        evidence = (reply, *case.works.get(reply.id, ()))
        verdict.findings.append(Finding(promise, reply.id, why, evidence))
        verdict.counts[BROKEN] += 1

    if reply.request_id not in {reply.id, ""}:
        broken(Promise.MIXED_UP, f"it is the reply to {reply.request_id}")
    elif reply.status == 200 and not expected.startswith(reply.text):
        broken(Promise.MIXED_UP, f"its text belongs to another prompt, not {expected!r}")
    elif reply.end is End.LEFT:
        verdict.counts[LEFT] += 1
    elif reply.end is End.STUCK:
        broken(Promise.STUCK, "nothing came for as long as the client waited")
    elif reply.status == 200 and reply.end is End.WHOLE and not reply.error:
        _judge_whole(reply, expected, verdict, broken)
    elif reply.begun:
        if case.blamed(reply, _CUTTING, _CUTTING_FAULTS):
            verdict.counts[OWN_CUT] += 1
        else:
            broken(Promise.CUT, f"nothing was wrong with {reply.endpoint}")
    else:
        _judge_error(reply, case, verdict, broken)


def _judge_whole(
    reply: Reply, expected: str, verdict: Verdict, broken: Callable[[Promise, str], None]
) -> None:
    """A reply that ended where its framing says it ends."""
    if not reply.finished or reply.text != expected:
        missing = len(expected) - len(reply.text)
        broken(Promise.LOOKS_COMPLETE, f"{missing} characters are missing, or how it ended")
    else:
        verdict.counts[WHOLE_STREAM if reply.kind.stream else FULL] += 1


def _judge_error(
    reply: Reply, case: _Case, verdict: Verdict, broken: Callable[[Promise, str], None]
) -> None:
    """A request that got neither a full reply nor a begun stream."""
    clear = reply.end is End.WHOLE and bool(reply.error)
    died = case.blamed(reply, _DEADLY, _DEADLY_FAULTS)
    if died and reply.status == 502 and clear:
        verdict.counts[DIED] += 1
    elif reply.status == 502 and clear and case.came_back(reply):
        verdict.counts[CAME_BACK] += 1
    elif died and (reply.status == 502 or not reply.status):
        broken(Promise.UNCLEAR, "its backend died, but the client got no clear 502")
    elif not case.dark(reply.sent, reply.ended):
        what = f"{reply.status} {reply.error}" if reply.status else f"{reply.end}"
        broken(Promise.UNSERVED, what)
    elif clear and (reply.status != 503 or reply.retry_after or _is_backends_own(reply)):
        verdict.counts[OUTAGE] += 1
    else:
        broken(Promise.UNCLEAR, "no backend was up, but the client was not told so")


def _is_backends_own(reply: Reply) -> bool:
    """Whether an error is the backend's, which passes untouched: its code is the status."""
    return reply.error.startswith(f"{reply.status}:")
