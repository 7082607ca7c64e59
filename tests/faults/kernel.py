"""The kernel's own figures, read without the agent: CPU of the subject's processes, and how busy the machine was."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

EVERY_S = 0.1
_CPUCLOCK_SCHED = 2
_TICKS = os.sysconf("SC_CLK_TCK")


class Sample(NamedTuple):
    at_ns: int
    own_s: float
    """CPU of the subject's processes so far, those that ended included as last read."""
    apparatus_s: float
    """The same of the suite's own: this process, the broker, neighbours that a fault starts."""
    machine_s: float
    """CPU that anybody used so far at normal priority."""
    niced_s: float
    """The same at a lower one."""
    idle_s: float


def cpu_clock(pid: int) -> float | None:
    """CPU seconds of a process, exited threads included; None when it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return None


class Kernel(threading.Thread):
    """Samples ten times a second until stopped. Use it as a context manager."""

    def __init__(self, own: Callable[[], Iterable[int]], apparatus: Callable[[], Iterable[int]]) -> None:
        super().__init__(daemon=True)
        self._own, self._apparatus = _Clocks(own), _Clocks(apparatus)
        self._stop_event = threading.Event()
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self._sample()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_event.set()
        self.join()

    def run(self) -> None:
        while not self._stop_event.wait(EVERY_S):
            self._sample()

    def _sample(self) -> None:
        look = len(self.samples) % 10 == 0  # walking all processes for children costs more than reading their clocks
        apparatus, own = self._apparatus.read(look), self._own.read(look)
        self.samples.append(Sample(time.time_ns(), own, apparatus, *machine()))

    def own(self, from_ns: float, to_ns: float) -> float:
        """CPU seconds of the subject between two moments."""
        return self._at(to_ns).own_s - self._at(from_ns).own_s

    def crowded(self, *, niced: bool = False, span_s: float = 10.0) -> float:
        """Most CPUs that strangers used in any `span_s` with a full machine (< 10 % idle); 0 when it never was.

        What is true then: the host gave to strangers what the subject could have used. What runs niced gives way, so it
        disturbs no measurement; but the subject waits for it all the same, and `niced` counts it as well.
        """
        most = 0.0
        for first in self.samples:
            last = self._at(first.at_ns + span_s * 1e9)
            seconds = (last.at_ns - first.at_ns) / 1e9
            if seconds < span_s - 2 * EVERY_S:
                break
            busy, idle = last.machine_s - first.machine_s, last.idle_s - first.idle_s
            gives_way = last.niced_s - first.niced_s
            busy, idle = (busy + gives_way, idle) if niced else (busy, idle + gives_way)
            if idle < 0.1 * (busy + idle):
                known = last.own_s - first.own_s + last.apparatus_s - first.apparatus_s
                most = max(most, (busy - known) / seconds)
        return most

    def _at(self, at_ns: float) -> Sample:
        """Between two samples, by a straight line; outside of all, the nearest."""
        index = bisect_left(self.samples, at_ns, key=lambda sample: sample.at_ns)
        if index == 0 or index == len(self.samples):
            return self.samples[min(index, len(self.samples) - 1)]
        before, after = self.samples[index - 1], self.samples[index]
        share = (at_ns - before.at_ns) / max(1, after.at_ns - before.at_ns)
        parts = (old + share * (new - old) for old, new in zip(before[1:], after[1:], strict=True))
        return Sample(int(at_ns), *parts)


class _Clocks:
    """CPU of a changing set of processes."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._clocks: dict[int, float] = {}

    def read(self, look: bool) -> float:
        """Seconds so far; `look` for new processes first."""
        for pid in self._pids() if look else ():
            self._clocks.setdefault(pid, 0.0)
        for pid in self._clocks:
            self._clocks[pid] = max(self._clocks[pid], cpu_clock(pid) or 0.0)
        return sum(self._clocks.values())


def machine() -> tuple[float, float, float]:
    """(busy, niced, idle) CPU seconds of all CPUs since boot; waiting for a disk is idle."""
    with suppress(OSError, ValueError):
        user, nice, system, idle, waiting, interrupts, soft, *_ = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        )
        return (user + system + interrupts + soft) / _TICKS, nice / _TICKS, (idle + waiting) / _TICKS
    return 0.0, 0.0, 0.0
