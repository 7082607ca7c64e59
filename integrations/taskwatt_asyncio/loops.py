"""Event loops while they run: found on their own, whichever way and in whichever thread they start.

A loop announces itself by `_set_running_loop`, which `__init__` watches (uvloop's by `run_forever`, uvloop_loops.py).
From then on `running` holds what is going on in its thread. A loop that is run inside a step of another one (a
debugger's, nest_asyncio's) suspends that one until it has ended.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from asyncio import AbstractEventLoop, BaseEventLoop, Handle, all_tasks
from collections.abc import Callable, Sized
from time import perf_counter, thread_time
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from taskwatt.meter import meter
from taskwatt.runtime import runtime
from taskwatt.segments import layout
from taskwatt.settings import Settings
from taskwatt_asyncio import carriers, figures, looks, losses, selecting, steps, types
from taskwatt_asyncio.figures import run_delay

if TYPE_CHECKING:
    from taskwatt_asyncio.types import CoroutineType

log = logging.getLogger("taskwatt")

_MAX_ATTACHED: Final = 200_000
"""Tasks that are counted when a loop is met that already runs."""


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
        self.limit = steps.ALWAYS_S if self.detail else steps.LONG_S
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

    def watched(self, select: Callable[..., Any], ready: Sized) -> Callable[..., Any]:
        """What stands in for the `select` of the loop's selector."""
        return selecting.watched(self, select, ready)

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
_pid = 0
_beginning = threading.Lock()
_beginner = 0
"""The thread that puts the hooks in."""
_BEGIN_S: Final = 1.0


def changed(loop: AbstractEventLoop | None) -> None:
    """The current thread says which loop runs in it now. Called right after it became true."""
    thread = here.thread
    if loop is None:
        if thread is not None:
            _leave(thread)
        elif here.suspended and not here.suspended[-1].step_since:
            _end_suspended()
    elif thread is None or thread.loop is not loop:
        if thread is not None:
            _leave(thread)
        outer = next((one for one in here.suspended if one.loop is loop), None)
        if outer is not None:
            _resume(outer)
        else:
            start(loop)


def start(loop: AbstractEventLoop) -> LoopThread:
    """Measure a loop that runs in the current thread, from now on."""
    if _pid != os.getpid():
        _begin()
    name = threading.current_thread().name
    kind = "uvloop" if type(loop).__module__.partition(".")[0] == "uvloop" else "asyncio"
    sums = table.of(f"{name} (nested)" if here.suspended else name, kind)
    thread = carriers.current.thread(loop, kind, sums)
    if kind == "uvloop":
        from taskwatt_asyncio import uvloop_loops

        thread.release = uvloop_loops.watch(thread)
    else:
        thread.release = selecting.install(thread)
    sums.running.append(thread)
    here.thread = running[thread.ident] = thread
    steps.alone()
    carriers.current.enter(thread)
    tell(on_start, thread)
    return thread


def attach() -> None:
    """Measure the loops that already run. What the current step has used until now stays uncounted."""
    global _attaching
    from asyncio import _get_running_loop  # pyright: ignore[reportPrivateUsage]  # documented

    _attaching = True
    codes = {BaseEventLoop.run_forever.__code__}
    for ident, innermost in sys._current_frames().items():  # pyright: ignore[reportPrivateUsage]  # documented
        frame: FrameType | None = innermost
        while frame is not None and frame.f_code not in codes:
            frame = frame.f_back
        loop = frame.f_locals.get("self") if frame is not None else None
        if loop is None or ident in running:
            continue
        if ident == threading.get_ident():
            if _get_running_loop() is loop:
                _attach(loop)
        else:
            loop.call_soon_threadsafe(_attach, loop)
    unseen = _get_running_loop()
    if unseen is not None and here.thread is None:
        _attach(unseen)


def _attach(loop: Any) -> None:
    if here.thread is not None or not _attaching:
        return
    try:
        thread = start(loop)
        for number, task in enumerate(all_tasks(loop)):
            if number >= _MAX_ATTACHED:
                break
            if types.is_suspended(task.get_coro()):
                types.of_task(task).started += 1
                thread.alive += 1
    except Exception as error:
        log.warning("taskwatt does not measure a loop that already runs: %r", error, exc_info=error)


_installed = False
_attaching = False


def install() -> None:
    """Called once, before the first loop is measured."""
    global _installed
    if not _installed:
        from taskwatt_asyncio import anyio_threads, executors, naming

        _installed = True
        _watch_forks()
        looks.install()
        carriers.install()
        losses.install()
        executors.install()
        anyio_threads.install()
        naming.install()


def uninstall() -> None:
    """Let go of every loop, also of those that run."""
    global _installed, _attaching, _pid
    from taskwatt_asyncio import anyio_threads, executors, naming

    _installed = _attaching = False
    for thread in tuple(running.values()):
        thread.let_go()
        tell(on_end, thread)
    here.thread, here.suspended = None, ()
    naming.uninstall()
    anyio_threads.uninstall()
    executors.uninstall()
    carriers.uninstall()
    losses.uninstall()
    for name in ("taskwatt_asyncio.stalls", "taskwatt_asyncio.children", "taskwatt_asyncio.console"):
        used = sys.modules.get(name)
        if used is not None:
            used.uninstall()
    _pid = 0
    _forget()


def tell(listeners: list[Any], *arguments: object) -> None:
    """Call every listener. One that raises is taken out, said once in the log, and never reaches the loop."""
    for listener in tuple(listeners):
        try:
            listener(*arguments)
        except Exception as error:
            if listener in listeners:
                listeners.remove(listener)
            log.warning("taskwatt stopped watching loops with %s: it failed: %r", listener, error, exc_info=error)


def _begin() -> None:
    """The first loop of this process runs. One that starts in another thread meanwhile waits until all hooks are in.

    Not for ever: who puts them in imports modules, and may wait for one that the other thread is importing.
    """
    global _beginner, _pid
    if _beginner == threading.get_ident() or not _beginning.acquire(timeout=_BEGIN_S):
        return
    try:
        if _pid != os.getpid():
            _beginner = threading.get_ident()
            _first()
    finally:
        _pid, _beginner = os.getpid(), 0
        _beginning.release()


def _first() -> None:
    global threshold_s
    from taskwatt_asyncio import children, stalls
    from taskwatt_asyncio.tallying import tallies

    settings = Settings.from_environ(os.environ)
    threshold_s = settings.stall_threshold_s
    install()
    children.install()
    if settings.aiomonitor:
        from taskwatt_asyncio import console

        console.install()
    runtime.measure_self()
    runtime.tallies = tallies
    stalls.install()


def _leave(thread: LoopThread) -> None:
    here.thread = None
    running.pop(thread.ident, None)
    steps.alone()
    carriers.current.leave(thread)
    if thread.step_since:
        carriers.current.pause(thread)
        here.suspended = (*here.suspended, thread)
    else:
        _end(thread)


def _resume(thread: LoopThread) -> None:
    while here.suspended[-1] is not thread:
        _end(here.suspended[-1])
        here.suspended = here.suspended[:-1]
    here.suspended = here.suspended[:-1]
    here.thread = running[thread.ident] = thread
    steps.alone()
    carriers.current.enter(thread)
    carriers.current.resume(thread)


def _end_suspended() -> None:
    for thread in reversed(here.suspended):
        _end(thread)
    here.suspended = ()


def _end(thread: LoopThread) -> None:
    thread.let_go()
    sums = thread.figures
    selecting.finish(thread)
    sums.cpu_s += thread.cpu_s()
    sums.run_delay_s += thread.run_delay_s()
    if thread in sums.running:
        sums.running.remove(thread)
    thread.stamped = thread.handle = None
    tell(on_end, thread)


def _forget() -> None:
    global table
    running.clear()
    steps.alone()
    table = figures.Table()
    types.forget()


def _after_fork() -> None:
    """In the child: nothing was counted yet. The loop that it was forked from goes on unmeasured, if it goes on."""
    global _beginner, _beginning
    _beginner, _beginning = 0, threading.Lock()
    thread = here.thread
    here.thread, here.suspended = None, ()
    carriers.current.forget()
    _forget()
    if thread is not None:
        thread.let_go()


_hooked_fork = False


def _watch_forks() -> None:
    global _hooked_fork
    if not _hooked_fork:  # such a handler cannot be taken back: it stays, and finds nothing to do
        _hooked_fork = True
        os.register_at_fork(after_in_child=_after_fork)


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
