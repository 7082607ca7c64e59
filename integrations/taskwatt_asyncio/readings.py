"""What the kernel says of one loop's thread, read from any thread: a few descriptors that stay open.

Opening these files costs 10 us, reading an open one 1-2 us, and `status` 7 us. They belong to the process that opened
them: one forked from it closes them.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Final, NamedTuple

from taskwatt import procfs
from taskwatt_asyncio.dozing import Resting, says_events

LINUX: Final = sys.platform.startswith("linux")
_PER_THREAD: Final = 0b110
"""CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED: the clock of a thread by the kernel's number; one that is gone has none."""
_WAKE_UPS: Final = b"\nvoluntary_ctxt_switches:"


class Reading(NamedTuple):
    """At one moment; seconds since the thread or process began. NaN: not known."""

    at: float
    """`perf_counter`."""
    cpu_s: float
    run_delay_s: float
    process_cpu_s: float
    """Of all threads of the process."""
    wake_ups: float
    """How often the thread gave up its CPU of its own accord; NaN unless asked for."""


def thread_clock(native_id: int) -> int | None:
    """The clock of a thread of this process, for `time.clock_gettime`; None where there is none."""
    return (~native_id << 3) | _PER_THREAD if LINUX else None


class ThreadReader:
    """Of one thread of this process. Close it when the thread's loop has ended."""

    def __init__(self, native_id: int, returned: Callable[[], None] | None = None) -> None:
        """`returned`: called after each call that gave the interpreter to others."""
        self.clock = thread_clock(native_id)
        self._returned = returned or _nothing
        self._schedstat, self._status, self._waits_in = (
            self._opened(f"/proc/self/task/{native_id}/{name}") for name in ("schedstat", "status", "wchan")
        )

    def read(self, *, wake_ups: bool = False) -> Reading:
        woken = self.wake_ups() if wake_ups else math.nan
        return Reading(perf_counter(), self.cpu_s(), self.run_delay_s(), time.process_time(), woken)

    def read_after(self, last: Reading | None) -> Reading:
        """The same, for less where the thread has not run since."""
        cpu_s = self.cpu_s()
        if last is None or cpu_s != last.cpu_s:
            return self.read()
        return Reading(perf_counter(), cpu_s, last.run_delay_s, time.process_time(), math.nan)

    def cpu_s(self) -> float:
        if self.clock is None or sys.platform == "win32":
            return math.nan
        try:
            return time.clock_gettime(self.clock)
        except OSError:
            return math.nan

    def run_delay_s(self) -> float:
        fields = self._text(self._schedstat).split()
        # All zero means that the kernel was built without the figures: a thread that is seen has run.
        if len(fields) != 3 or fields[0] == fields[1] == b"0" or not fields[1].isdigit():
            return math.nan
        return int(fields[1]) / 1e9

    def wake_ups(self) -> float:
        _, found, rest = self._text(self._status).partition(_WAKE_UPS)
        return float(int(rest.split(None, 1)[0])) if found else math.nan

    def asleep(self) -> bool | None:
        """Does it sleep in the kernel in something else than a futex, for which those wait who want the interpreter?

        None: it does not sleep, or the kernel does not tell.
        """
        where = self._text(self._waits_in)
        return None if where in (b"", b"0") else b"futex" not in where

    def waits_for_events(self) -> bool:
        """Is it in epoll's call, as a loop is that waits? False where the kernel does not tell.

        Blocking clients wait in `poll` and `select`.
        """
        return says_events(self._text(self._waits_in))

    def resting(self) -> Resting:
        """For `doze`, of a thread that was seen to wait for events."""
        return self._waits_in, -1 if self.clock is None else self.clock

    def _text(self, descriptor: int) -> bytes:
        text = _text(descriptor)
        self._returned()
        return text

    def _opened(self, path: str) -> int:
        descriptor = _opened(path)
        self._returned()
        return descriptor

    def close(self) -> None:
        """Idempotent."""
        descriptors = self._schedstat, self._status, self._waits_in
        self._schedstat = self._status = self._waits_in = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                with suppress(OSError):
                    os.close(descriptor)
                self._returned()


def read_once(native_id: int) -> Reading:
    """The same without keeping anything open."""
    reader = ThreadReader(native_id)
    try:
        return reader.read(wake_ups=True)
    finally:
        reader.close()


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC) if LINUX else -1
    except OSError:
        return -1


def _text(descriptor: int) -> bytes:
    return procfs.read_open(descriptor) if descriptor >= 0 else b""


def _nothing() -> None:
    pass
