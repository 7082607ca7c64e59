"""How the watchdog sleeps while all loops wait: long, and looking up only as far as it must.

A stock loop says by itself when it goes on. A thread that nobody hears of (uvloop's) is asked of the kernel every
period: has it used no CPU, and is it still in epoll's call? To look up for that alone costs less than half of a
waking, in Python; the accelerator has a twin of what stands here. The interpreter is asked for each time: a call in C
that keeps it has kept this thread out by then, as in any waking.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from time import perf_counter
from typing import Final, TypeAlias

from taskwatt import accounts, procfs

Resting: TypeAlias = tuple[int, int]
"""A thread: an open descriptor of its `wchan`, and its CPU clock."""

LATE_S: Final = 0.001
"""Who wakes up so late, or needs so long to look up, was kept out."""


def says_events(where: bytes) -> bool:
    """Is a thread whose `wchan` says this in epoll's call? The name differs from kernel to kernel."""
    return b"epoll" in where or b"ep_poll" in where


def _doze_in_python(
    acquire: Callable[[bool, float], bool],
    longest_s: float,
    period_s: float,
    threads: tuple[Resting, ...],
    waited: Callable[[float], None],
) -> float | None:
    used = [_cpu_s(clock) for _, clock in threads]
    end = perf_counter() + longest_s
    while True:
        asked = perf_counter()
        wait_s = max(0.0, min(period_s, end - asked))
        if acquire(True, wait_s):
            return None
        now = perf_counter()
        late_s = max(0.0, now - asked - wait_s)
        if now >= end or late_s >= LATE_S:
            return late_s
        for (descriptor, clock), cpu_s in zip(threads, used, strict=True):
            if not _rests(descriptor, clock, cpu_s):
                return max(late_s, perf_counter() - now)  # reading gives the interpreter away
        if perf_counter() - now >= LATE_S:
            return perf_counter() - now
        waited(now)


def _rests(descriptor: int, clock: int, cpu_s: float) -> bool:
    return descriptor >= 0 and 0.0 <= cpu_s == _cpu_s(clock) and says_events(procfs.read_open(descriptor))


def _cpu_s(clock: int) -> float:
    """Negative when the thread is gone."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return -1.0


doze: Callable[
    [Callable[[bool, float], bool], float, float, tuple[Resting, ...], Callable[[float], None]], float | None
] = _doze_in_python
"""(acquire, longest_s, period_s, threads, waited): sleep until a lock is released, `longest_s` have passed, or a thread
no longer rests. None when the lock was; else how late it woke up: for so long the interpreter may have been others'.
`waited` is called every `period_s` with the moment (`perf_counter`) in which all threads still rested."""
if accounts.IN_C:
    doze = accounts.part_in_c.doze
