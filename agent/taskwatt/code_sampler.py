"""Names the hot line of an attempt from inside its process, while somebody asks.

A short-lived daemon thread looks at the executing thread's stack each time that thread has used another 5 ms of CPU. A
look is possible just when a thread begins to block, too: it counts only when the kernel says that the thread goes on
at once, so that a line that sleeps or waits gets nothing.

Three things would bend the picture and are dealt with. The interpreter lets another thread look only every 5 ms or when
the thread blocks, so that short bursts would always be seen at their next blocking call: the switch interval is lowered
while sampling and put back afterwards. A call in C that keeps the interpreter (a regular expression, `json.dumps`)
keeps this thread out, but Python hands the interpreter over where that call returns, before the next line runs: the
first thing done after every wait is to look, and a look stands for all the points of CPU time passed since the last
one. And an attempt shorter than the interval would never be seen, or only at its end: the first point lies at a random
moment of the first interval, which is right on average over many attempts; add their `Samples` up.

What is no call (a power of large integers, a comparison of long lists) hands over at the next call or turn of a loop:
that line is named for it, or none when the thread blocks there.

While asked this costs 1-7 % of a busy attempt and 0.2-0.4 ms for start and stop; nothing otherwise. No frame outlives
the look at it. A fork by the task's code ends the sampling (what was seen is kept), so that the child has no half-held
lock and Python sees no second thread.
"""

from __future__ import annotations

import opcode
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Final, TypeAlias

from taskwatt import clocks
from taskwatt.code_site import Line, choose
from taskwatt.observations import CodeSite

MAX_SITES: Final = 64
MIN_SAMPLES: Final = 5
"""Fewer points of CPU time name no line."""
MAX_S: Final = 10.0

_SWITCH_INTERVAL_S: Final = 0.0001
_LOOK_AHEAD_S: Final = 0.0002
"""Where the kernel does not tell whether a thread runs: one that used no CPU for so long after a look did not."""
_SOON_S: Final = 0.0005
"""A thread that runs now and then is not asked more often whether it has come to the next point."""
_IDLE_S: Final = 0.00005
_EARLY_S: Final = 0.0003
"""A look comes so late by itself: waking up takes 0.1 ms or more, being given the interpreter another 0.1 ms."""
_PROLOGUE: Final = 32
"""Bytes of a function's code within which it resumes, if at its start."""
_RESUME: Final = opcode.opmap.get("RESUME", -1)
_PRUNE_AT: Final = 4 * MAX_SITES

_Place: TypeAlias = tuple[int, int]
"""A frame's identity and its instruction: no frame is kept while its thread may run."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One line: the CPU seconds that it was seen to use, and the points of CPU time, 5 ms apart, that they are."""

    line: Line
    cpu_s: float
    samples: int
    """One look stands for many when the line kept the interpreter for long."""


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
        self._began_cpu_s: float | None = None
        """Of the thread looked at, when `start` returned to it: what it does for us is not its own."""
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
        looked_at = _Thread(thread_ident, clock)
        self._thread = threading.Thread(
            target=self._run, args=(looked_at, interval_s), name="taskwatt-code", daemon=True
        )
        self._lower_switch_interval()
        _end_at_fork(self)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            self._thread = None
            looked_at.close()
            self._restore_switch_interval()
            return
        try:
            self._began_cpu_s = looked_at.cpu_s()
        except OSError:  # it has ended meanwhile, as ours will notice
            self._began_cpu_s = 0.0

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

    def _run(self, thread: _Thread, interval_s: float) -> None:
        try:
            self._look_repeatedly(thread, interval_s)
        except OSError:
            pass  # the thread that was looked at has ended
        finally:
            thread.close()
            self._agent_cpu_s = time.thread_time()
            self._restore_switch_interval()

    def _look_repeatedly(self, thread: _Thread, interval_s: float) -> None:
        until = time.monotonic() + self._max_s
        first_s = interval_s * random.random()
        wait_s = max(_EARLY_S / 3, first_s - _EARLY_S)
        # When it is known already, the thread has gone on before this one had its turn, maybe far.
        while self._began_cpu_s is None:
            if self._wake.acquire(timeout=wait_s) or time.monotonic() > until:
                return
            wait_s = _EARLY_S / 3
        due = self._began_cpu_s + first_s
        before = -1.0
        while time.monotonic() < until:
            # Nothing between a wait and the look gives the interpreter away.
            cpu = thread.cpu_s()
            idle, before = cpu - before < _IDLE_S, cpu
            # One that was idle may be met where it was waiting, just when it wakes up.
            if not idle and cpu >= due - _EARLY_S and self._wake.locked():
                line, place = thread.look()
                if line is not None and thread.goes_on(place, cpu):
                    points = 1 + max(0, int((cpu - due) / interval_s))
                    self._tally.add(line, points * interval_s, points)
                    due += points * interval_s
                    continue  # to ask took as long as the next line kept the interpreter
                idle = True  # what it used goes to the next look that meets it running
            if self._wake.acquire(timeout=interval_s if idle else max(_SOON_S, due - cpu - _EARLY_S)):
                return


class _Thread:
    """The thread that is looked at."""

    def __init__(self, ident: int, clock: int | None) -> None:
        self._ident = ident
        self._clock = clock
        self._stat = _opened_stat(ident) if clock is not None else -1

    def cpu_s(self) -> float:
        """CPU seconds it has used; where threads have no clock, those of the process. OSError: it has ended."""
        return time.process_time() if self._clock is None else time.clock_gettime(self._clock)

    def look(self) -> tuple[Line | None, _Place]:
        """The line, and where exactly."""
        frame = self._frame()
        if frame is None:
            return None, (0, 0)
        place = id(frame), frame.f_lasti
        if frame.f_back is not None and _just_entered(frame):
            frame = frame.f_back  # what has run until here is the caller
        return choose(_stack(frame)), place

    def goes_on(self, place: _Place, cpu_s: float) -> bool:
        """Was it running, or waiting for no more than the interpreter, when it was met there, having used `cpu_s`?

        Gives the interpreter away. One that wants it goes on from its place then, or waits for a CPU; one that blocks
        stays, and sleeps as soon as it has told that the interpreter is free.
        """
        if self._stat < 0:
            time.sleep(_LOOK_AHEAD_S)
            return self.cpu_s() - cpu_s > _LOOK_AHEAD_S / 4
        runs = self._is_runnable()
        if self._has_moved(place, cpu_s):
            return True
        if not runs:
            return False
        time.sleep(_LOOK_AHEAD_S / 2)
        # Asked first: to read the state gives the interpreter away again, and the next line may have kept it till now.
        return self._has_moved(place, cpu_s) or self._is_runnable()

    def _is_runnable(self) -> bool:
        return os.pread(self._stat, 128, 0).rpartition(b") ")[2][:1] == b"R"

    def _has_moved(self, place: _Place, cpu_s: float) -> bool:
        return self.cpu_s() - cpu_s > _LOOK_AHEAD_S / 4 or self._place() != place

    def _place(self) -> _Place:
        frame = self._frame()
        return (0, 0) if frame is None else (id(frame), frame.f_lasti)

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._ident)  # pyright: ignore[reportPrivateUsage]  # documented, its underscore notwithstanding

    def close(self) -> None:
        """Idempotent."""
        stat, self._stat = self._stat, -1
        if stat >= 0:
            os.close(stat)


def _just_entered(frame: FrameType) -> bool:
    """Has a function's first line not begun yet? Python hands the interpreter over there, too."""
    at = frame.f_lasti
    return at < 0 or (at < _PROLOGUE and frame.f_code.co_code[at] == _RESUME)


def _opened_stat(ident: int) -> int:
    """What the kernel says of a thread of this process; -1 where it does not."""
    native = next((thread.native_id for thread in threading.enumerate() if thread.ident == ident), None)
    if native is None or not clocks.LINUX:
        return -1
    try:
        return os.open(f"/proc/self/task/{native}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


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


def _stack(frame: FrameType | None) -> Iterator[Line]:
    while frame is not None:
        code = frame.f_code
        yield Line(code.co_qualname, code.co_filename, frame.f_lineno or code.co_firstlineno)
        frame = frame.f_back
