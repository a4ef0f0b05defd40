"""What programs use: CPU time and memory, read from ``/proc``."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Meter", "Usage", "cpu_seconds", "peak_mib", "processes_of", "reset_peak", "rss_mib"]

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


def processes_of(session: int) -> tuple[int, ...]:
    """The processes of a session, as started with ``start_new_session``."""
    return tuple(pid for pid in _all_processes() if _stat(pid)[3:4] == [str(session)])


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time that processes and the children they have waited for took so far, in seconds."""
    return sum(sum(map(int, _stat(pid)[11:15])) for pid in pids) / _TICKS


def rss_mib(pids: Iterable[int]) -> float:
    """Resident memory, in MiB. What processes share counts for each of them."""
    return sum(int((_read(pid, "statm").split() or ["0", "0"])[1]) for pid in pids) * _PAGE / _MIB


def reset_peak(pids: Iterable[int]) -> None:
    """Forget the highest resident memory so far (proc(5), clear_refs)."""
    for pid in pids:
        (_PROC / str(pid) / "clear_refs").write_text("5")


def peak_mib(pids: Iterable[int]) -> float:
    """The highest resident memory since ``reset_peak``, in MiB; as the sum of each one's peak."""
    lines = (line.split() for pid in pids for line in _read(pid, "status").splitlines())
    return sum(int(words[1]) for words in lines if words[0] == "VmHWM:") / 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """What happened between two looks at a machine.

    Attributes:
        proxy: CPU time of the proxy, in seconds.
        others: share of the machine's cores that programs of somebody else took, the hypervisor
            included, as a fraction 0..1.
    """

    proxy: float
    others: float


class Meter:
    """CPU time from its making to ``read()``.

    Args:
        proxy: processes of the proxy.
        backends: processes of the backends.
    """

    def __init__(self, proxy: tuple[int, ...], backends: tuple[int, ...]) -> None:
        self._proxy = proxy
        self._backends = backends
        self._before = self._now()
        self._started = time.monotonic()

    def _now(self) -> tuple[float, float, float]:
        """CPU seconds of the proxy, of all that is ours, and of the whole machine."""
        proxy = cpu_seconds(self._proxy)
        own = resource.getrusage(resource.RUSAGE_SELF)
        load = resource.getrusage(resource.RUSAGE_CHILDREN)
        ours = own.ru_utime + own.ru_stime + load.ru_utime + load.ru_stime
        return proxy, proxy + cpu_seconds(self._backends) + ours, _machine_seconds()

    def read(self) -> Usage:
        """What was used since this meter was made."""
        proxy, ours, machine = (b - a for a, b in zip(self._before, self._now(), strict=True))
        available = (time.monotonic() - self._started) * (os.cpu_count() or 1)
        return Usage(proxy, min(1.0, max(0.0, (machine - ours) / available)))


def _machine_seconds() -> float:
    """CPU seconds that were not idle, on all cores (proc(5), /proc/stat)."""
    first = (_PROC / "stat").read_text().splitlines()[0].split()
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, first[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def _all_processes() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; none if the process is gone."""
    return _read(pid, "stat").rpartition(")")[2].split()


def _read(pid: int, name: str) -> str:
    try:
        return (_PROC / str(pid) / name).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
