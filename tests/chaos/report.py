"""The table of a run, and the evidence of what should not have been."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import orjson

from tests.chaos.judge import BROKEN, Promise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.chaos.daemon import Census
    from tests.chaos.judge import Verdict
    from tests.chaos.records import Reply, Window
    from tests.chaos.settings import Settings

__all__ = ["Facts", "Left", "left_behind", "render", "write_evidence"]

_MIB: Final = 1 << 20
MEMORY_SLACK: Final = 8 * _MIB
"""What may be resident more than at the start: pages that the allocator keeps in part."""
_SHOWN: Final = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Left:
    """What the daemon held more at the end than at the start, none of it below 0.

    Attributes:
        tasks: of asyncio.
        descriptors: files and sockets.
        resident: bytes, beyond the slack.
        in_flight: requests that it counts as under way.
    """

    tasks: int
    descriptors: int
    resident: int
    in_flight: int


def left_behind(before: Census, after: Census, in_flight: int) -> Left:
    """Compare what a process held."""
    grown = after.resident - before.resident
    return Left(
        tasks=max(0, after.tasks - before.tasks),
        descriptors=max(0, after.descriptors - before.descriptors),
        resident=0 if grown <= MEMORY_SLACK else grown,
        in_flight=in_flight,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """A run.

    Attributes:
        left: what was left behind.
        censuses: what the process held at the start and at the end.
        troubles: everything that was done to backends.
        reloads: good and bad files.
        problems: broken promises that are of no single request.
        metrics: figures of the daemon's own.
        rate: requests that were made a second.
        late: the longest that a request was sent after its time, seconds.
        drops_packets: whether packets could be dropped.
    """

    settings: Settings
    verdict: Verdict
    replies: Sequence[Reply]
    left: Left
    censuses: tuple[Census, Census]
    troubles: Sequence[Window]
    reloads: tuple[int, int]
    problems: Sequence[str]
    metrics: Mapping[str, float]
    rate: float
    late: float
    drops_packets: bool

    @property
    def zeros(self) -> dict[str, int]:
        """All that has to be 0."""
        left = self.left
        return {
            **{promise.value: self.verdict.broken(promise) for promise in Promise},
            "tasks beyond the start": left.tasks,
            "descriptors beyond the start": left.descriptors,
            f"bytes of memory beyond the start and {MEMORY_SLACK // _MIB} MiB": left.resident,
            "requests that the daemon takes for being under way": left.in_flight,
            "errors that the daemon logged, reloads gone wrong, and the like": len(self.problems),
        }

    @property
    def kept(self) -> bool:
        """Whether every promise was."""
        return not any(self.zeros.values())


def render(facts: Facts) -> str:
    """The page about a run."""
    settings = facts.settings
    lines = [
        (
            f"Chaos: {settings.rate:g} requests a second for {settings.seconds:g} s, "
            f"seed {settings.seed}."
        ),
        "",
        *_table(("has to be 0", "count"), facts.zeros.items()),
        "",
        *_table(("what became of requests", "count"), _outcomes(facts)),
        "",
        *_table(("what was done", "times"), _deeds(facts)),
        "",
        *_table(("figure", "value"), _figures(facts)),
    ]
    if not facts.drops_packets:
        lines += ["", "No packets were dropped: there were no network namespaces."]
    if not facts.kept:
        lines += ["", "Broken promises, the first of each kind:", *_examples(facts)]
    return "\n".join(lines) + "\n"


def _table(head: tuple[str, str], rows: Iterable[tuple[str, object]]) -> list[str]:
    return [
        f"| {head[0]} | {head[1]} |",
        "|---|---:|",
        *(f"| {name} | {value} |" for name, value in rows),
    ]


def _outcomes(facts: Facts) -> list[tuple[str, object]]:
    counts = facts.verdict.counts
    rows: list[tuple[str, object]] = [("all", len(facts.replies))]
    rows += [(name, count) for name, count in counts.most_common() if name != BROKEN]
    return [*rows, (BROKEN, counts[BROKEN])]


def _deeds(facts: Facts) -> list[tuple[str, object]]:
    deeds = Counter(window.trouble.value for window in facts.troubles)
    good, bad = facts.reloads
    return [*deeds.most_common(), ("SIGHUP, good file", good), ("SIGHUP, bad file", bad)]


def _figures(facts: Facts) -> list[tuple[str, object]]:
    before, after = facts.censuses
    firsts = sorted(
        reply.first - reply.sent
        for reply in facts.replies
        if reply.first is not None and reply.status == 200
    )
    rows: list[tuple[str, object]] = [
        (f"first byte, {name}", f"{_quantile(firsts, share) * 1000:.0f} ms")
        for name, share in (("median", 0.5), ("p99", 0.99), ("longest", 1.0))
    ]
    rows += [
        ("requests a second", f"{facts.rate:.1f}"),
        ("latest request", f"{facts.late * 1000:.0f} ms"),
        ("tasks", f"{before.tasks} → {after.tasks}"),
        ("descriptors", f"{before.descriptors} → {after.descriptors}"),
        ("memory", f"{before.resident / _MIB:.1f} → {after.resident / _MIB:.1f} MiB"),
        ("blocks of Python's memory", f"{before.blocks} → {after.blocks}"),
    ]
    return [*rows, *((name, f"{value:g}") for name, value in facts.metrics.items())]


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def _examples(facts: Facts) -> list[str]:
    lines: list[str] = []
    for promise in Promise:
        found = [finding for finding in facts.verdict.findings if finding.promise is promise]
        whys = Counter(finding.why for finding in found)
        if found:
            lines += ["", f"{promise}: {len(found)}"]
            lines += [f"  {count} x {why}" for why, count in whys.most_common(_SHOWN)]
        for finding in found[:_SHOWN]:
            lines.append(f"  {finding.id}: {finding.why}")
            lines += [f"    {item}" for item in finding.evidence]
    if facts.problems:
        lines += ["", "Of no single request:", *(f"  {problem}" for problem in facts.problems)]
    return lines


def write_evidence(folder: Path, facts: Facts) -> None:
    """Write everything that a finding can be traced with, as JSON lines."""
    files: dict[str, Iterable[Any]] = {
        "findings.jsonl": facts.verdict.findings,
        "replies.jsonl": facts.replies,
        "troubles.jsonl": sorted(facts.troubles, key=lambda window: window.begin),
    }
    for name, items in files.items():
        (folder / name).write_bytes(b"".join(orjson.dumps(item) + b"\n" for item in items))
    counts = {"zeros": facts.zeros, "requests": dict(facts.verdict.counts)}
    counts |= {"troubles": dict(Counter(window.trouble.value for window in facts.troubles))}
    (folder / "counts.json").write_bytes(orjson.dumps(counts, option=orjson.OPT_INDENT_2))
