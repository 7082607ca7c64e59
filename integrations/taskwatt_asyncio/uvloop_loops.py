"""uvloop: its handles are written in C, so its loops are met through their class's own methods.

- `run_forever`: when a loop runs. `call_soon`: a task schedules its every step by it, and is handed over with the
  measuring around it.
- A timer of ours that should run every 10 ms (75 ms while nothing happens) says how late anything else would have
  been, protocol callbacks included, whose steps nobody outside of uvloop sees: what they use is the loop's, not a
  type's, and is reported as such (`partial`). It rests while the watchdog, which wakes up as often, sees the loop wait.
"""

from __future__ import annotations

import logging
from asyncio import Task
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter, thread_time
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any, Final, cast

from taskwatt.meter import hide_this_frame
from taskwatt_asyncio import carriers, loop_threads, loops, losses, steps, types, uvloop_steps
from taskwatt_asyncio.figures import SHORT_S

log = logging.getLogger("taskwatt")

PARTIAL: Final = "protocol callbacks, plain callbacks and timers are not seen, only the time they take"

PERIOD_S: Final = 0.01
IDLE_PERIOD_S: Final = 0.075
"""Waking an idle process costs 0.15 ms. A protocol callback that blocks for 0.2 s makes it late by 0.12 or more, also
where it rests and the watchdog, every 80 ms, says since when it should have run."""
_QUIET: Final = 0.05
"""Share of its time below which a loop is probed less often."""

_methods: dict[str, tuple[Any, Any]] = {}
_class: Any = None


class Probe:
    """A timer on one loop while it runs."""

    def __init__(self, thread: loop_threads.LoopThread) -> None:
        self._thread = thread
        self._timer: Any = None
        self._last = perf_counter()
        self._cpu = thread_time()
        self._slow_s = thread.figures.slow_s
        self._released = self._quiet = False
        self._arm(PERIOD_S)

    def release(self) -> None:
        self._released = True
        timer, self._timer = self._timer, None
        self._thread.due = 0.0
        self._thread.resting = None
        if timer is not None:
            timer.cancel()

    def waited(self, now: float) -> None:
        if self._thread.resting is self:
            self._thread.figures.idle_s += max(0.0, now - self._last)
            self._last = max(self._last, now)

    def resume(self, since: float) -> None:
        if self._thread.resting is not self:
            return
        self._thread.resting = None
        self._thread.due = since
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._thread.loop.call_soon_threadsafe(self)

    def _arm(self, period: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._thread.due = perf_counter() + period
        self._timer = self._thread.loop.call_later(period, self)

    def _rest(self) -> None:
        self._thread.due, self._timer = 0.0, None
        self._thread.resting = self
        if not self._thread.guarded:  # any more: the watchdog has just ended
            self.resume(perf_counter())

    def __call__(self) -> None:
        if not self._released:
            steps.guarded(self._measure)

    def _measure(self) -> None:
        thread, figures = self._thread, self._thread.figures
        now, cpu = perf_counter(), thread_time()
        passed, used = now - self._last, cpu - self._cpu
        late = max(0.0, now - thread.due)
        busy = min(passed, max(late, used))
        figures.iterations += 1
        figures.busy_s += busy
        figures.idle_s += passed - busy
        figures.ready[0] += busy
        if late > SHORT_S * 2:  # libuv's clock ticks in milliseconds
            figures.long_period(min(late, passed))
        untold = late - (figures.slow_s - self._slow_s)  # by steps of tasks, each of which told of itself
        if untold > loop_threads.threshold_s:
            figures.slow_step(untold)
            figures.late_s += untold
            loop_threads.tell(loop_threads.on_slow, thread, "", thread.due, untold, min(untold, used))
        self._slow_s = figures.slow_s
        self._last, self._cpu = now, cpu
        was_quiet, self._quiet = self._quiet, busy <= passed * _QUIET
        if was_quiet and self._quiet and thread.guarded:
            self._rest()
        else:
            self._arm(IDLE_PERIOD_S if self._quiet else PERIOD_S)


def install(module: ModuleType) -> None:
    """`module`: uvloop, imported. Idempotent."""
    global _class
    if _methods:
        return
    _class = module.Loop
    _patch("run_forever", _run_forever)
    if not carriers.current.hooks_tasks:
        _patch("call_soon", _call_soon)
    losses.watch(_class)
    loops.watches["uvloop"] = watch


def uninstall() -> None:
    """Idempotent. Loops that run go on without us."""
    for name in tuple(_methods):
        _restore(name)


def leave_steps_alone() -> None:
    """The carrier sees steps by itself. Those that were handed over before are run as they are."""
    _restore("call_soon")


def _restore(name: str) -> None:
    original, ours = _methods.pop(name, (None, None))
    if ours is None or _own(name) is not ours:
        return
    if original is None:
        delattr(_class, name)
    else:
        setattr(_class, name, original)


def watch(thread: loop_threads.LoopThread) -> Callable[[], None]:
    """Probe a loop that runs in the current thread. What is returned undoes it."""
    thread.figures.partial = PARTIAL
    return Probe(thread).release


def _patch(name: str, wrap: Callable[[Any], Any]) -> None:
    own = _own(name)
    original = getattr(_class, name)
    ours = wrap(original)
    ours.__wrapped__, ours.__name__, ours.__qualname__ = original, original.__name__, original.__qualname__
    ours.__doc__ = original.__doc__
    _methods[name] = own, ours
    setattr(_class, name, ours)


def _own(name: str) -> Any:
    return cast(Any, vars(_class)).get(name)


def _run_forever(original: Any) -> Any:
    def run_forever(self: Any) -> None:
        outer = loop_threads.here.thread
        steps.guarded(loops.changed, self)
        try:
            original(self)
        except BaseException as error:
            hide_this_frame(error)
            raise
        finally:
            thread = loop_threads.here.thread
            if thread is not None and thread.loop is self:
                steps.guarded(loops.changed, None if outer is None else outer.loop)

    return run_forever


def _call_soon(original: Any) -> Any:  # noqa: C901  # written for speed: a call here costs as much as what it does
    here, by_code, task_of, class_of = loop_threads.here, types.by_code, steps.task_of, types.class_of
    run_step, run_known_step = uvloop_steps.run_step, uvloop_steps.run_known_step
    builtin = BuiltinMethodType
    task_class: Any = Task
    step_class: Any = None

    def call_soon(self: Any, callback: Any, *args: Any, context: Any = None) -> Any:
        nonlocal step_class
        stats: Any = None
        coroutine: Any = None
        step = False
        try:
            kind = class_of(callback)
            if kind is step_class or (kind is builtin and args and type(callback.__self__) is task_class):
                coroutine = callback.__self__._coro
                stats = by_code.get(id(coroutine.cr_code))
                step = stats is not None or task_of(callback) is not None
            elif kind is not FunctionType and task_of(callback) is not None:
                step = True
                if kind is not MethodType:
                    step_class = kind
        except AttributeError:  # a coroutine that is not Python's own
            step = True
        try:
            if step:
                thread = here.thread
                if thread is not None and thread.stamped is None and thread.loop is self:
                    thread.stamped, thread.stamp_s = callback, perf_counter()
                    stats = None
                if stats is None:
                    handle = original(self, run_step, callback, *args, context=context)
                else:
                    handle = original(self, run_known_step, stats, coroutine, callback, *args, context=context)
            else:
                handle = original(self, callback, *args, context=context)
            made_at = handle._source_traceback
            if made_at is not None:  # in debug mode: ends where the handle was made, which is our caller
                del made_at[-1]
            return handle
        except BaseException as error:
            hide_this_frame(error)
            raise

    return call_soon
