"""The threads in which loops run: what goes on in each, and who wants to hear of it.

Everybody in this integration reads it; `loops` alone says which loop runs where.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from asyncio import AbstractEventLoop, Handle
from collections.abc import Callable
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from taskwatt.meter import meter
from taskwatt.runtime import runtime
from taskwatt.segments import layout
from taskwatt_asyncio import figures
from taskwatt_asyncio.figures import run_delay

if TYPE_CHECKING:
    from taskwatt_asyncio.types import CoroutineType

log = logging.getLogger("taskwatt")

LONG_S: Final = 50e-6
"""A step, or a gap before one, that makes reading the CPU clock worth its 0.3 us."""
ALWAYS_S: Final = -1.0
"""The limit of a thread of which the end of the running step has to be looked at: a part of it is booked already, or
all its steps are paid for by a Celery attempt."""


class Rest(Protocol):
    """A timer of ours that does not run while its loop waits; called on other threads than the loop's."""

    def waited(self, now: float) -> None:
        """The loop has waited all the time until now (`perf_counter`)."""

    def resume(self, since: float) -> None:
        """It has gone on, or is held up, since then (`perf_counter`)."""


class LoopThread:
    """One thread in which a loop runs. Written on that thread alone, read from any: plain attributes, no lock."""

    __slots__ = (
        "_clock",
        "_cpu_s",
        "_run_delay_s",
        "alive",
        "base_cpu",
        "base_wall",
        "busy_since",
        "depth",
        "detail",
        "due",
        "end",
        "figures",
        "guarded",
        "handle",
        "ident",
        "idle_since",
        "inner",
        "kind",
        "limit",
        "looked",
        "loop",
        "name",
        "native_id",
        "release",
        "resting",
        "rouse",
        "settled_cpu",
        "since",
        "stamp_s",
        "stamped",
        "step_since",
    )  # fmt: skip

    def __init__(self, loop: AbstractEventLoop, kind: str, figures: figures.LoopFigures) -> None:
        """On the thread of the loop."""
        self.loop = loop
        self.kind = kind
        """asyncio or uvloop."""
        self.name = threading.current_thread().name
        self.ident = threading.get_ident()
        self.native_id = threading.get_native_id()
        now = perf_counter()
        self.busy_since = 0.0 if kind == "uvloop" else now
        """`perf_counter` when it last stopped waiting for events; 0.0 while it waits, and where that is not seen."""
        self.idle_since = 0.0
        """The opposite."""
        self.due = 0.0
        """`perf_counter` when a timer of ours should run; 0.0 where `busy_since` is seen (stock loops)."""
        self.guarded = False
        """Has the watchdog seen it wait for events? Then it will see when it no longer does."""
        self.resting: Rest | None = None
        """What has left it to the watchdog to see that (uvloop)."""
        self.rouse: Callable[[], None] | None = None
        """Called once, on this thread, when the loop stops waiting; where that is seen."""
        self.step_since = 0.0
        """`perf_counter` when the running step began; 0.0 between steps."""
        self.handle: Handle | None = None
        """What is running, or ran last in this iteration; None on uvloop, and while the loop waits."""
        self.detail = _is_detail()
        """Its CPU is that of a Celery attempt, which pays for it: coroutine types only say what for."""

        # The rest is the carriers' and selecting.py's.
        self.figures = figures
        self.depth = 0
        """Index in READY_BUCKETS of the iteration at hand."""
        self.release: Callable[[], None] = _nothing
        """Undoes what was done to this one loop."""
        self.alive = 0
        self.limit = ALWAYS_S if self.detail else LONG_S
        """The end of a step that took longer than this is looked at."""
        self.end = now
        self.base_wall = now
        self.base_cpu = thread_time()
        self.since = 0.0
        """Until when the running step is already paid for."""
        self.settled_cpu = 0.0
        self.inner: CoroutineType | None = None
        """The type of the running step, or of the eager task whose first step runs inside of it."""
        self.stamped: object = None
        """A handle (uvloop: a callback) of which it is known when it became ready; and that moment."""
        self.stamp_s = 0.0
        self.looked: CoroutineType | None = None
        """The type of the step that was looked at and was the last one ready: what is ready after it, it made so."""
        self._clock = _thread_clock()
        self._cpu_s = self.base_cpu
        self._run_delay_s = run_delay(self.native_id)

    def let_go(self) -> None:
        """Undo what was done to the loop, and keep no reference to ourselves: a loop goes when its last owner does."""
        release, self.release = self.release, _nothing
        release()

    def flush(self) -> None:
        """Bring `figures` up to date."""

    def cpu_s(self) -> float:
        """CPU seconds of the thread since the loop began to run here. Any thread; 0.0 once the thread is gone."""
        try:
            return max(0.0, time.clock_gettime(self._clock) - self._cpu_s) if self._clock is not None else 0.0
        except OSError:
            return 0.0

    def run_delay_s(self) -> float:
        """How long the thread waited for a CPU meanwhile; NaN where the kernel does not tell."""
        now = run_delay(self.native_id)
        return now if math.isnan(now) else max(0.0, now - self._run_delay_s)


OnLoop: TypeAlias = Callable[[LoopThread], None]
OnSlow: TypeAlias = Callable[[LoopThread, str, float, float, float], None]

running: dict[int, LoopThread] = {}
"""By `threading.get_ident()`: the innermost loop that runs in each thread."""

on_start: list[OnLoop] = []
"""Called on the loop's thread when it starts to run (or when it is found running). One that raises is taken out."""

on_end: list[OnLoop] = []
"""Called on the loop's thread when it has stopped running; on any thread when the agent is taken out meanwhile."""

on_slow: list[OnSlow] = []
"""`(thread, type name, start, duration_s, cpu_s)` on the loop's thread, after a step longer than `threshold_s`; its
start by `perf_counter`. The name is empty where something blocked that cannot be seen (uvloop's protocol callbacks)."""

threshold_s = 0.1
"""TASKWATT_STALL_THRESHOLD, read when the first loop starts."""

table = figures.Table()
"""Figures by name of the thread."""


class _Here(threading.local):
    thread: LoopThread | None = None
    """The loop that runs in the current thread, if any."""
    suspended: tuple[LoopThread, ...] = ()
    """Those in whose steps it runs; the innermost last."""


here = _Here()


def tell(listeners: list[Any], *arguments: object) -> None:
    """Call every listener. One that raises is taken out, said once in the log, and never reaches the loop."""
    for listener in tuple(listeners):
        try:
            listener(*arguments)
        except Exception as error:
            if listener in listeners:
                listeners.remove(listener)
            log.warning("taskwatt stopped watching loops with %s: it failed: %r", listener, error, exc_info=error)


def forget() -> None:
    """No loop runs, and nothing was counted."""
    global table
    running.clear()
    table = figures.Table()


def _is_detail() -> bool:
    segment = runtime.segment
    return segment is not None and (segment.role == layout.CHILD or meter.in_attempt)


def _thread_clock() -> int | None:
    if sys.platform == "darwin" or sys.platform == "win32":
        return None
    try:
        return time.pthread_getcpuclockid(threading.get_ident())
    except (OSError, OverflowError, AttributeError):
        return None


def _nothing() -> None:
    pass
