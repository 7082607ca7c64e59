"""What this process spent on named activities, summed on the hot path and read at the edges of an attempt.

Integrations wrap encoders with `timed`; the garbage collector reports itself. The figures are CPU seconds of the
calling thread since the process began, and only ever grow. Nested encoders (kombu's JSON calls the standard library's)
count once.
"""

from __future__ import annotations

import functools
import gc
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from time import thread_time
from types import MethodType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class _Inside(threading.local):
    encoder = False


class Meter:
    """CPU seconds by activity in this process.

    Plain additions: a lost update between threads costs one sample, not a crash.
    """

    __slots__ = ("_attempts", "agent", "collected", "publish", "serialization")

    def __init__(self) -> None:
        self.agent = 0.0
        """Setting up the agent: its imports, its files. What its threads use is on their own clocks."""
        self.serialization = 0.0
        """Net of garbage collection."""
        self.collected = deque([0.0], maxlen=1)
        self.publish = 0.0
        """Handing messages to a broker, net of serialization and garbage collection."""
        self._attempts: tuple[float, float, tuple[float, float] | None] = (0.0, 0.0, None)

    @property
    def gc(self) -> float:
        """Everywhere, encoders included."""
        return self.collected[0]

    def named(self) -> float:
        """All that is booked to an activity of its own, or to the framework, also inside of a task's body."""
        return self.serialization + self.collected[0] + self.publish

    def enter_attempt(self) -> None:
        """An attempt begins in the process that also serves it (the solo pool)."""
        serialization, collected, _ = self._attempts
        self._attempts = (serialization, collected, (self.serialization, self.gc))

    def leave_attempt(self) -> None:
        """It ended, and reported what it used."""
        serialization, collected, entered = self._attempts
        if entered is not None:
            used = (self.serialization - entered[0], self.gc - entered[1])
            self._attempts = (serialization + used[0], collected + used[1], None)

    @property
    def in_attempt(self) -> bool:
        """Does an attempt of `enter_attempt` run now?"""
        return self._attempts[2] is not None

    def outside_attempts(self) -> tuple[float, float]:
        """(serialization, gc) CPU seconds outside of the attempts of `enter_attempt`. Any thread."""
        serialization, collected, entered = self._attempts
        until = (self.serialization, self.gc) if entered is None else entered
        return until[0] - serialization, until[1] - collected


meter = Meter()
_inside = _Inside()
_watching: Any = None


def timed(function: Callable[P, R]) -> Callable[P, R]:
    """Count `function`'s CPU as serialization. Same signature, same result, same traceback."""

    @functools.wraps(function)
    def counted(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            if _inside.encoder:
                return function(*args, **kwargs)
            _inside.encoder = True
            collected = meter.gc
            started = thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                _inside.encoder = False
                meter.serialization += max(0.0, thread_time() - started - (meter.gc - collected))
        except BaseException as error:
            hide_this_frame(error)
            raise

    return counted


@contextmanager
def own_cost() -> Generator[None]:
    """Count this thread's CPU in the block as the agent's. Not on a hot path, and not nested.

    A thread of the agent's own is counted by its clock, whatever it does.
    """
    if threading.current_thread().name.startswith("taskwatt"):
        yield
        return
    started = thread_time()
    try:
        yield
    finally:
        meter.agent += thread_time() - started


def hide_this_frame(error: BaseException) -> None:
    """Take the calling frame out of a traceback that passes through it, so that users see what they would without us.

    Works because a bare `raise` does not add its frame a second time (tested on every supported Python).
    """
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next


def watch_collections() -> None:
    """Count garbage collection from now on; idempotent."""
    global _watching
    if _watching is None:
        _watching = _collector_callback()
        gc.callbacks.append(_watching)


def ignore_collections() -> None:
    global _watching
    if _watching in gc.callbacks:
        gc.callbacks.remove(_watching)
    _watching = None


def _collector_callback() -> Any:
    """A callback for the garbage collector in which no Python code runs.

    A signal that arrives during a collection is handled by the next Python code of the main thread. Were that a
    callback of ours, the exception of a soft time limit would end there: the collector swallows what its callbacks
    raise. So this one is put together from functions written in C: `getattr(phases, "start" | "stop", info)` reads a
    property whose getter takes the next element of an endless iterator over the thread's CPU clock. With each element x
    the iterator goes from a to x - a: after every stop that is the sum of what all collections took. Watching must not
    begin within a collection.
    """
    clock = accumulate(iter(thread_time, None), float.__rsub__, initial=meter.gc)
    next(clock)

    class Phases:
        start = property(partial(next, map(deque[float](maxlen=1).append, clock)))
        stop = property(partial(next, map(meter.collected.append, clock)))

    return MethodType(getattr, Phases())
