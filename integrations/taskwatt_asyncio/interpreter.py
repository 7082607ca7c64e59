"""How the threads of this process share its interpreter, from what the watchdog meets when it wakes up.

A thread that sleeps and is late has waited for a CPU, which the kernel tells, or for the interpreter: some 5 ms for
each thread that computes in Python.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from time import perf_counter
from typing import Final

from taskwatt.observations import InterpreterTally
from taskwatt_asyncio import loop_threads
from taskwatt_asyncio.readings import ThreadReader, thread_clock

BUSY: Final = 0.2
"""CPUs from which it is worth knowing which thread is the hottest."""
NOT_LATE_S: Final = 0.001
"""A sleep ends 0.1 ms late by itself. Why is asked only beyond this: asking takes a third of a waking."""
_MAX_THREADS: Final = 1000


class InterpreterWatch:
    """Probes on the watchdog's thread, is read on the agent's."""

    def __init__(self) -> None:
        self._reader: ThreadReader | None = None
        self._delay_s = math.nan
        self._probes = 0
        self._late_s = 0.0
        self._since = 0.0
        self._watched_s = 0.0
        self._cpu_before = 0.0
        self._threads_cpu_s = 0.0
        self._read_at = 0.0
        self._cpu_at_reading = 0.0
        self._threads: dict[int, float] = {}
        self.used_cpus = math.nan
        """By all threads of the process between the last two wakings."""

    def open(self, returned: Callable[[], None] | None = None) -> None:
        """The watchdog begins; on its thread. One that it takes over from may not have closed yet.

        `returned`: called after each call that gave the interpreter to others.
        """
        self.close()
        self._reader = ThreadReader(threading.get_native_id(), returned)
        self._delay_s = self._reader.run_delay_s()
        self._since, self._cpu_before = perf_counter(), time.process_time()

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def probed(self, now: float, late_s: float, *, counts: bool = True) -> float:
        """It woke up, so much later than asked; what of that was not waiting for a CPU.

        `counts`: False when a thread woke it that has the interpreter, and so does not stand for any moment.
        """
        if late_s > NOT_LATE_S:
            before = self._delay_s
            self._delay_s = self._reader.run_delay_s() if self._reader is not None else math.nan
            waited_s = self._delay_s - before
            if not math.isnan(waited_s):
                late_s -= waited_s
        late_s = max(0.0, late_s)
        cpu_s = time.process_time()
        passed_s, used_s = now - self._since, cpu_s - self._cpu_before
        self._probes += counts
        self._late_s += late_s * counts
        self._watched_s += passed_s
        self._threads_cpu_s += used_s
        self.used_cpus = used_s / passed_s if passed_s > 0.0 else math.nan
        self._since, self._cpu_before = now, cpu_s
        return late_s

    def tally(self) -> InterpreterTally:
        """`waiting_s` is left to whoever knows how long loops were busy."""
        return InterpreterTally(
            probes=self._probes,
            late_s=self._late_s,
            watched_s=self._watched_s,
            threads_cpu_s=self._threads_cpu_s,
            hottest=self._hottest(),
        )

    def _hottest(self) -> str:
        """The name of the thread, other than a loop's or ours, that used most CPU since the last reading."""
        now, cpu_s = perf_counter(), time.process_time()
        seconds, used_s = now - self._read_at, cpu_s - self._cpu_at_reading
        self._read_at, self._cpu_at_reading = now, cpu_s
        before, self._threads = self._threads, {}
        most_s, hottest = 0.0, ""
        for thread in threading.enumerate()[:_MAX_THREADS]:
            clock = thread_clock(thread.native_id) if thread.native_id is not None else None
            if clock is None or thread.ident in loop_threads.running or thread.name.startswith("taskwatt"):
                continue
            try:
                total_s = time.clock_gettime(clock)
            except OSError:
                continue  # it has ended
            self._threads[thread.native_id or 0] = total_s
            gained_s = total_s - before.get(thread.native_id or 0, total_s)
            if gained_s > most_s:
                most_s, hottest = gained_s, thread.name
        return hottest if used_s >= BUSY * seconds else ""
