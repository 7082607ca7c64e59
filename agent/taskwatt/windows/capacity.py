"""How much CPU this machine has for us, how much we got, and how long we waited for the rest.

Sampled once a tick with the pids of all own processes; a window is the difference of two samples. What a process used
stays counted after it died, so sums never go backwards. Costs about 90 us a tick and
30 us a process on Linux 6.18.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

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
    idle: tuple[frozenset[int], float] | None
    """The CPUs that own processes may run on, and the seconds that those have been idle since boot."""
    waited: tuple[float, float] | None = None
    """(own excess, shortfall) since the sample before, in CPU seconds; None where one is unknown."""


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
        sample = _Sample(
            at=now,
            cpu=self._cpu if used or not pids else None,
            delay=self._delay if self._delay_known else None,
            used={pid: spent for pid, spent in used.items() if spent > 0},
            throttling=self._quota.throttling() if self._quota_cpus is not None else {},
            steal=steal,
            idle=idle,
        )
        self._samples.append(
            replace(sample, waited=self._waited(self._samples[-1], sample)) if self._samples else sample
        )
        while self._samples[0].at < now - KEEP_S:
            self._samples.popleft()

    def window(self, seconds: float) -> HostWindow:
        """The last `seconds`, or what there is of them; rates are None before the second sample."""
        if len(self._samples) < 2:
            return HostWindow(self._cpus, None, None)
        last = self._samples[-1]
        inside = [sample for sample in self._samples if sample.at >= last.at - seconds - 1e-6]
        first = inside[0] if len(inside) > 1 else self._samples[-2]
        span = last.at - first.at
        steps = [sample for sample in inside if sample.at > first.at] or [last]
        waited = [one.waited for one in steps if one.waited is not None] if span > 0 else []
        known = bool(waited) and len(waited) == len(steps)
        return HostWindow(
            effective_cpus=self._cpus,
            own_cpu=_rate(first.cpu, last.cpu, span),
            own_run_delay=_rate(first.delay, last.delay, span),
            throttled_ratio=_throttled(first.throttling, last.throttling),
            steal_ratio=_stolen(first.steal, last.steal),
            runnable_processes=_runnable(steps, span),
            idle_cpus=_idle(first, last),
            summed_excess=sum(excess for excess, _ in waited) / span if known else None,
            summed_shortfall=sum(shortfall for _, shortfall in waited) / span if known else None,
        )

    def _waited(self, before: _Sample, after: _Sample) -> tuple[float, float] | None:
        span = after.at - before.at
        cpu, delay = _rate(before.cpu, after.cpu, span), _rate(before.delay, after.delay, span)
        step = HostWindow(self._cpus, cpu, delay, idle_cpus=_idle(before, after))
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
    """CPUs that nobody used; None when unknown, or when the CPUs that we may use have changed."""
    if first.idle is None or last.idle is None or first.idle[0] != last.idle[0]:
        return None
    return _rate(first.idle[1], last.idle[1], last.at - first.at)


def _machine(proc: Path, allowed: frozenset[int]) -> tuple[tuple[int, int] | None, tuple[frozenset[int], float] | None]:
    """(steal, idle) as a sample holds them, from /proc/stat.

    A line for all CPUs and then one for each: user nice system idle iowait irq softirq steal (guests are in user).
    """
    total: list[int] = []
    idle: dict[int, int] = {}
    try:
        with open(proc / "stat", "rb") as stat:
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


def _runnable(samples: Sequence[_Sample], span: float) -> int:
    used: dict[int, float] = {}
    for sample in samples:
        for pid, spent in sample.used.items():
            used[pid] = used.get(pid, 0.0) + spent
    return sum(spent >= RUNNABLE_SHARE * span for spent in used.values())
