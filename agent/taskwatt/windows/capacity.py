"""How much CPU this machine has for us, how much we got, and how long we waited for the rest.

Sampled once a tick with the pids of all own processes; a window is the difference of two samples. What a process used
stays counted after it died, so sums never go backwards. Costs about 90 us a tick and
30 us a process on Linux 6.18.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

from taskwatt import clocks
from taskwatt.windows import HostWindow
from taskwatt.windows.cgroup import MOUNT, CpuQuota, Throttling

KEEP_S: Final = 120.0
"""Samples older than this are forgotten; no window may be longer."""

RUNNABLE_SHARE: Final = 0.01
"""A process counts as runnable from this share of a CPU on; an idle worker's ticking is 0.1 %."""

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")

_QUOTA_TICKS: Final = 10
"""The quota's size is read every so many samples: it changes when an operator changes it."""


@dataclass(slots=True)
class _Process:
    start: int | None
    cpu: float
    delay: float | None
    waits: clocks.RunDelay


_Idle: TypeAlias = "tuple[frozenset[int], float] | None"


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    cpu: float | None
    """CPU seconds of all own processes since the first sample; None when not one of them could be read."""
    delay: float | None
    used: Mapping[int, float]
    """CPU seconds by pid since the sample before."""
    throttling: Mapping[Path, Throttling]
    steal: tuple[int, int] | None
    """(stolen, all) ticks of all CPUs since boot."""
    idle: _Idle
    """The CPUs that own processes may run on, and the seconds that those have been idle since boot."""
    excess: float
    shortfall: float
    """By how much own processes exceeded what they may use, and fell short of it, since the first sample: CPU
    seconds."""
    unknown: int
    """Samples since the first one to which these two say nothing."""


class Capacity:
    """Call `sample` once a tick from one thread; `window` then folds the last seconds."""

    def __init__(
        self,
        proc: Path = clocks.PROC,
        cgroup: Path = MOUNT,
        process_cpu: Callable[[int], float | None] = clocks.process_cpu,
        affinity: Callable[[int], frozenset[int] | None] = clocks.affinity,
        cpu_count: int | None = None,
    ) -> None:
        """`cpu_count` stands in where no affinity can be read; None asks the system."""
        self._proc = proc
        self._process_cpu = process_cpu
        self._affinity = affinity
        self._cpu_count = cpu_count or clocks.cpu_count()
        self._quota = CpuQuota(proc, cgroup)
        self._quota_cpus: float | None = None
        self._processes: dict[int, _Process] = {}
        self._cpu = 0.0
        self._delay = 0.0
        self._delay_known = False
        self._cpus = float(self._cpu_count)
        self._allowed: frozenset[int] = frozenset()
        self._last_ticks: int | None = None
        self._samples: deque[_Sample] = deque()
        self._count = 0

    def sample(self, now: float, pids: Sequence[int]) -> None:
        """Read every clock once. `now`: monotonic seconds; `pids`: all own processes alive, in any order."""
        if self._count % _QUOTA_TICKS == 0:
            self._quota_cpus = self._quota.cpus()
        self._count += 1
        self._cpus = self._effective(pids)
        used = {pid: spent for pid in dict.fromkeys(pids) if (spent := self._advance(pid)) is not None}
        for pid in self._processes.keys() - set(pids):
            del self._processes[pid]
        self._cpu += sum(used.values())
        self._last_ticks = clocks.uptime_ticks(self._proc)
        steal, idle = _machine(self._proc, self._allowed)
        cpu, delay = self._cpu if used or not pids else None, self._delay if self._delay_known else None
        before = self._samples[-1] if self._samples else None
        waited = self._waited(before, now, cpu, delay, idle) if before is not None else None
        excess, shortfall = waited or (0.0, 0.0)
        self._samples.append(
            _Sample(
                at=now,
                cpu=cpu,
                delay=delay,
                used={pid: spent for pid, spent in used.items() if spent > 0},
                throttling=self._quota.throttling() if self._quota_cpus is not None else {},
                steal=steal,
                idle=idle,
                excess=excess + (before.excess if before is not None else 0.0),
                shortfall=shortfall + (before.shortfall if before is not None else 0.0),
                unknown=(before.unknown if before is not None else 0) + (waited is None),
            )
        )
        while self._samples[0].at < now - KEEP_S:
            self._samples.popleft()

    def window(self, seconds: float) -> HostWindow:
        """The last `seconds`, or what there is of them; rates are None before the second sample."""
        if len(self._samples) < 2:
            return HostWindow(self._cpus, None, None)
        last = self._samples[-1]
        inside = bisect_left(self._samples, last.at - seconds - 1e-6, key=_moment)
        at = min(inside, len(self._samples) - 2)
        first = self._samples[at]
        span = last.at - first.at
        cpu = _rate(first.cpu, last.cpu, span)
        known = span > 0 and last.unknown == first.unknown
        return HostWindow(
            effective_cpus=self._cpus,
            own_cpu=cpu,
            own_run_delay=_rate(first.delay, last.delay, span),
            throttled_ratio=_throttled(first.throttling, last.throttling),
            steal_ratio=_stolen(first.steal, last.steal),
            # Below a single one's share none can have it, which spares the sums of a worker that waits.
            runnable_processes=(
                0 if cpu is not None and cpu < RUNNABLE_SHARE else _runnable(islice(self._samples, at + 1, None), span)
            ),
            idle_cpus=_idle(first, last),
            summed_excess=(last.excess - first.excess) / span if known else None,
            summed_shortfall=(last.shortfall - first.shortfall) / span if known else None,
        )

    def _waited(
        self, before: _Sample, at: float, cpu: float | None, delay: float | None, idle: _Idle
    ) -> tuple[float, float] | None:
        """(own excess, shortfall) since the sample before, in CPU seconds; None where one is unknown."""
        span = at - before.at
        idle_cpus = _idle_between(before.idle, idle, span)
        step = HostWindow(
            self._cpus, _rate(before.cpu, cpu, span), _rate(before.delay, delay, span), idle_cpus=idle_cpus
        )
        if step.own_excess is None or step.shortfall is None:
            return None
        return step.own_excess * span, step.shortfall * span

    @property
    def total_run_delay(self) -> float | None:
        """Seconds that own threads waited for a CPU since the first sample; None where the kernel does not tell."""
        return self._delay if self._delay_known else None

    def _advance(self, pid: int) -> float | None:
        """CPU that one process used since the last sample; its run delay is added on the way."""
        cpu = self._process_cpu(pid)
        if cpu is None:
            return None
        start = clocks.start_time(pid, self._proc)
        known = self._processes.get(pid)
        if known is None or known.start != start or cpu < known.cpu:
            known = self._meet(pid, start, cpu)
        spent = cpu - known.cpu
        known.cpu = cpu
        delay = known.waits.read()
        if delay is not None:
            self._delay_known = True
            self._delay += 0.0 if known.delay is None else delay - known.delay
            known.delay = delay
        return spent

    def _meet(self, pid: int, start: int | None, cpu: float) -> _Process:
        """First met: a process born since the last sample counts from its birth, an older one from now."""
        waits = clocks.RunDelay(pid, self._proc)
        born_since = start is not None and self._last_ticks is not None and start >= self._last_ticks
        process = _Process(start, 0.0, 0.0, waits) if born_since else _Process(start, cpu, waits.read(), waits)
        self._processes[pid] = process
        return process

    def _effective(self, pids: Sequence[int]) -> float:
        """min(CPUs that any own process may run on, quota)."""
        allowed: set[int] = set()
        for pid in pids:
            allowed |= self._affinity(pid) or frozenset()
        self._allowed = frozenset(allowed)
        cpus = float(len(allowed) or self._cpu_count)
        return cpus if self._quota_cpus is None else min(cpus, self._quota_cpus)


def _rate(first: float | None, last: float | None, span: float) -> float | None:
    if first is None or last is None or span <= 0:
        return None
    return max(0.0, last - first) / span


def _throttled(first: Mapping[Path, Throttling], last: Mapping[Path, Throttling]) -> float | None:
    """The worst level's share of throttled periods; 0 when there was no work, None without a quota."""
    ratios = [0.0] if last else []
    for level, now in last.items():
        before = first.get(level, now)
        if now.periods > before.periods:
            ratios.append(max(0, now.throttled - before.throttled) / (now.periods - before.periods))
    return max(ratios, default=None)


def _stolen(first: tuple[int, int] | None, last: tuple[int, int] | None) -> float | None:
    if first is None or last is None or last[1] <= first[1]:
        return None
    return max(0, last[0] - first[0]) / (last[1] - first[1])


def _idle(first: _Sample, last: _Sample) -> float | None:
    return _idle_between(first.idle, last.idle, last.at - first.at)


def _idle_between(first: _Idle, last: _Idle, span: float) -> float | None:
    """CPUs that nobody used; None when unknown, or when the CPUs that we may use have changed."""
    if first is None or last is None or first[0] != last[0]:
        return None
    return _rate(first[1], last[1], span)


def _moment(sample: _Sample) -> float:
    return sample.at


def _machine(proc: Path, allowed: frozenset[int]) -> tuple[tuple[int, int] | None, _Idle]:
    """(steal, idle) as a sample holds them, from /proc/stat.

    A line for all CPUs and then one for each: user nice system idle iowait irq softirq steal (guests are in user).
    """
    total: list[int] = []
    idle: dict[int, int] = {}
    try:
        with open(f"{proc}/stat", "rb") as stat:
            for line in stat:
                name, *fields = line.split()
                if not name.startswith(b"cpu"):
                    break
                ticks = [int(field) for field in fields[:8]]
                if name == b"cpu":
                    total = ticks
                elif (number := int(name[3:])) in allowed:
                    idle[number] = ticks[3] + ticks[4]
    except (OSError, ValueError, IndexError):
        return None, None
    steal = (total[7], sum(total)) if len(total) == 8 else None
    return steal, (allowed, sum(idle.values()) / _TICKS_PER_S) if allowed and idle.keys() == allowed else None


def _runnable(samples: Iterable[_Sample], span: float) -> int:
    used: dict[int, float] = {}
    for sample in samples:
        for pid, spent in sample.used.items():
            used[pid] = used.get(pid, 0.0) + spent
    return sum(spent >= RUNNABLE_SHARE * span for spent in used.values())
