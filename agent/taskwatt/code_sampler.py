"""Names the hot line of an attempt from inside its process, while somebody asks.

A short-lived daemon thread looks at the executing thread's stack every few milliseconds. A look counts only when that
thread uses CPU right after it (a look is possible just when a thread begins to block, too), and weighs what the thread
has used since the last one: a line that sleeps or waits gets nothing.

Two things would bend the picture and are dealt with. The interpreter lets another thread look only every 5 ms or when
the thread blocks, so that short bursts would always be seen at their next blocking call: the switch interval is lowered
while sampling and put back afterwards. And an attempt shorter than the interval would never be seen, or only at its
end: the first look comes at a random moment of the first interval and weighs one interval, which is right on average
over many attempts; add their `Samples` up.

While asked this costs 1-5 % of a busy attempt and 0.2-0.4 ms for start and stop; nothing otherwise. No frame outlives
the look at it. A fork by the task's code ends the sampling (what was seen is kept), so that the child has no half-held
lock and Python sees no second thread.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Final

from taskwatt import clocks
from taskwatt.code_site import Line, choose
from taskwatt.observations import CodeSite

MAX_SITES: Final = 64
MIN_SAMPLES: Final = 5
"""Fewer looks at a thread on the CPU name no line."""
MAX_S: Final = 10.0

_SWITCH_INTERVAL_S: Final = 0.0001
_LOOK_AHEAD_S: Final = 0.0002
_LOOKS: Final = 3
_IDLE_S: Final = 0.00005
"""A thread that used less since the last look is not worth the next one."""
_PRUNE_AT: Final = 4 * MAX_SITES


@dataclass(frozen=True, slots=True)
class Seen:
    """One line: how often it was seen on CPU, and the CPU seconds that this stands for."""

    line: Line
    cpu_s: float
    samples: int


@dataclass(frozen=True, slots=True)
class Samples:
    """What a sampler saw; the hottest lines first, at most 64."""

    seen: tuple[Seen, ...] = ()
    cpu_s: float = 0.0
    """All CPU seconds seen, those of lines that were dropped included."""
    samples: int = 0
    agent_cpu_s: float = 0.0
    """What the sampler's own thread used."""

    def __add__(self, other: Samples) -> Samples:
        """Both together: attempts of one task type may each be too short to say anything."""
        tally = _Tally()
        for seen in (*self.seen, *other.seen):
            tally.add(seen.line, seen.cpu_s, seen.samples)
        return Samples(
            tally.hottest(),
            self.cpu_s + other.cpu_s,
            self.samples + other.samples,
            self.agent_cpu_s + other.agent_cpu_s,
        )


def hottest(samples: Samples, task: str = "") -> CodeSite | None:
    """The hottest line of the hottest function; None when too little was seen on CPU."""
    if samples.samples < MIN_SAMPLES or not samples.seen or samples.cpu_s <= 0:
        return None
    functions: dict[tuple[str, str], float] = {}
    for seen in samples.seen:
        key = (seen.line.file, seen.line.function)
        functions[key] = functions.get(key, 0.0) + seen.cpu_s
    best = max(functions, key=lambda key: functions[key])
    top = next(seen for seen in samples.seen if (seen.line.file, seen.line.function) == best)
    share = min(1.0, top.cpu_s / samples.cpu_s)
    return CodeSite(task, top.line.function, top.line.file, top.line.line, share, samples.samples)


class CodeSampler:
    """One use: `start` when the attempt starts, `stop` when it ends. Neither raises; both return at once."""

    def __init__(self, max_s: float = MAX_S) -> None:
        """`max_s`: the thread ends by itself after so many seconds; what it saw is kept."""
        self._max_s = max_s
        self._tally = _Tally()
        self._agent_cpu_s = 0.0
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._wake = threading.Lock()  # held while sampling: releasing it never blocks, unlike an Event's lock
        self._switch_interval_s = 0.0

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, thread_ident: int, interval_s: float = 0.005) -> None:
        """Begin to look at a live thread of this process; nothing when it is not one or no thread can be started."""
        if self._thread is not None:
            return
        clock = clocks.thread_clock(thread_ident)
        if clock is None and clocks.LINUX:
            return
        self._pid = os.getpid()
        self._wake.acquire()
        self._thread = threading.Thread(
            target=self._run, args=(thread_ident, clock, interval_s), name="taskwatt-code", daemon=True
        )
        self._lower_switch_interval()
        _end_at_fork(self)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            self._thread = None
            self._restore_switch_interval()

    def stop(self) -> Samples:
        """What was seen; the thread has ended when this returns. In a process forked meanwhile: nothing."""
        if self._thread is None or self._pid != os.getpid():
            return Samples()
        self.end()
        return Samples(self._tally.hottest(), self._tally.cpu_s, self._tally.samples, self._agent_cpu_s)

    def end(self) -> None:
        """Sample no more and keep what was seen; called by `stop`, and before a fork."""
        global _sampling
        if _sampling is self:
            _sampling = None
        if self._wake.locked():
            self._wake.release()
        try:
            if self._thread is not None:
                self._thread.join(timeout=1.0)
        finally:  # also when a time limit is raised right here
            self._restore_switch_interval()

    def _lower_switch_interval(self) -> None:
        before = sys.getswitchinterval()
        if before > _SWITCH_INTERVAL_S:
            self._switch_interval_s = before
            sys.setswitchinterval(_SWITCH_INTERVAL_S)

    def _restore_switch_interval(self) -> None:
        """Unless somebody else has set it since."""
        before, self._switch_interval_s = self._switch_interval_s, 0.0
        if before and abs(sys.getswitchinterval() - _SWITCH_INTERVAL_S) < 1e-5:
            sys.setswitchinterval(before)

    def _run(self, ident: int, clock: int | None, interval_s: float) -> None:
        try:
            self._look_repeatedly(ident, clock, interval_s)
        except OSError:
            pass  # the thread that was looked at has ended
        finally:
            self._agent_cpu_s = time.thread_time()
            self._restore_switch_interval()

    def _look_repeatedly(self, ident: int, clock: int | None, interval_s: float) -> None:
        until = time.monotonic() + self._max_s
        used = before = _read(clock)
        wait_s, weight = interval_s * random.random(), interval_s
        while not self._wake.acquire(timeout=wait_s) and time.monotonic() < until:
            wait_s, first_weight, weight = interval_s, weight, 0.0
            cpu = _read(clock)
            idle, before = cpu - before < _IDLE_S, cpu
            line = None if idle else _running_line(ident, clock)
            if line is None:
                continue  # it was blocking: what it used before goes to the next look that meets it running
            self._tally.add(line, first_weight or cpu - used, 1)
            used = cpu


class _Tally:
    """CPU by line, bounded."""

    def __init__(self) -> None:
        self._lines: dict[Line, tuple[float, int]] = {}
        self.cpu_s = 0.0
        self.samples = 0

    def add(self, line: Line, cpu_s: float, samples: int) -> None:
        before = self._lines.get(line, (0.0, 0))
        self._lines[line] = before[0] + cpu_s, before[1] + samples
        self.cpu_s += cpu_s
        self.samples += samples
        if len(self._lines) > _PRUNE_AT:
            self._lines = {seen.line: (seen.cpu_s, seen.samples) for seen in self.hottest()}

    def hottest(self) -> tuple[Seen, ...]:
        seen = [Seen(line, cpu_s, samples) for line, (cpu_s, samples) in self._lines.items()]
        return tuple(sorted(seen, key=lambda one: one.cpu_s, reverse=True)[:MAX_SITES])


_sampling: CodeSampler | None = None
_hooked = False


def _end_at_fork(sampler: CodeSampler) -> None:
    """Sampling ends before a fork, in the forking thread. A hook cannot be taken out: there is one, for the latest."""
    global _sampling, _hooked
    _sampling = sampler
    if not _hooked and hasattr(os, "register_at_fork"):
        _hooked = True
        os.register_at_fork(before=_before_fork)


def _before_fork() -> None:
    global _sampling
    sampler, _sampling = _sampling, None
    if sampler is not None and sampler.running:
        sampler.end()


def _read(clock: int | None) -> float:
    """CPU seconds of the thread looked at; where threads have no clock, of the process."""
    return time.process_time() if clock is None else time.clock_gettime(clock)


def _running_line(ident: int, clock: int | None) -> Line | None:
    """The line that a thread is running; None when it is blocking.

    The first look may meet it blocking and the CPU come from what it did when it woke up: two looks in a row have to
    agree. Where they keep disagreeing, many short lines are running, and the last one seen is as good as any.
    """
    cpu, line = _read(clock), _line_of(ident)
    for _ in range(_LOOKS):
        time.sleep(_LOOK_AHEAD_S)
        now = _read(clock)
        if now - cpu < _LOOK_AHEAD_S / 4:
            return None
        cpu, before, line = now, line, _line_of(ident)
        if line == before:
            break
    return line


def _line_of(ident: int) -> Line | None:
    frame = sys._current_frames().get(ident)  # pyright: ignore[reportPrivateUsage]  # documented, its underscore notwithstanding
    return None if frame is None else choose(_stack(frame))


def _stack(frame: FrameType | None) -> Iterator[Line]:
    while frame is not None:
        code = frame.f_code
        yield Line(code.co_qualname, code.co_filename, frame.f_lineno or code.co_firstlineno)
        frame = frame.f_back
