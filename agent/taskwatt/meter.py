"""What this process spent on named activities, summed on the hot path and read at the edges of an attempt.

Integrations wrap encoders with `timed`; the garbage collector reports itself. The figures are CPU seconds of the
calling thread since the process began, and only ever grow. Nested encoders (kombu's JSON calls the standard library's)
count once.
"""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import thread_time
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class _Inside(threading.local):
    encoder = False
    collecting_since = 0.0


class Meter:
    """CPU seconds by activity in this process.

    Plain additions: a lost update between threads costs one sample, not a crash.
    """

    __slots__ = ("_attempts", "agent", "gc", "publish", "serialization")

    def __init__(self) -> None:
        self.agent = 0.0
        """Setting up the agent: its imports, its files. What its threads use is on their own clocks."""
        self.serialization = 0.0
        self.gc = 0.0
        """Everywhere, encoders included; `serialization` is already net of it."""
        self.publish = 0.0
        """Handing messages to a broker, net of the two above."""
        self._attempts: tuple[float, float, tuple[float, float] | None] = (0.0, 0.0, None)

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

    def outside_attempts(self) -> tuple[float, float]:
        """(serialization, gc) CPU seconds outside of the attempts of `enter_attempt`. Any thread."""
        serialization, collected, entered = self._attempts
        until = (self.serialization, self.gc) if entered is None else entered
        return until[0] - serialization, until[1] - collected


meter = Meter()
_inside = _Inside()


def timed(function: Callable[P, R]) -> Callable[P, R]:
    """Count `function`'s CPU as serialization. Same signature, same result, same traceback."""

    @functools.wraps(function)
    def counted(*args: P.args, **kwargs: P.kwargs) -> R:
        if _inside.encoder:
            return function(*args, **kwargs)
        _inside.encoder = True
        collected = meter.gc
        started = thread_time()
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            hide_this_frame(error)
            raise
        finally:
            meter.serialization += max(0.0, thread_time() - started - (meter.gc - collected))
            _inside.encoder = False

    return counted


@contextmanager
def own_cost() -> Generator[None]:
    """Count this thread's CPU in the block as the agent's. Not on a hot path, and not nested."""
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


def _on_collection(phase: str, _info: dict[str, int]) -> None:
    if phase == "start":
        _inside.collecting_since = thread_time()
    elif _inside.collecting_since:
        meter.gc += thread_time() - _inside.collecting_since
        _inside.collecting_since = 0.0


def watch_collections() -> None:
    """Count garbage collection from now on; idempotent."""
    if _on_collection not in gc.callbacks:
        gc.callbacks.append(_on_collection)


def ignore_collections() -> None:
    if _on_collection in gc.callbacks:
        gc.callbacks.remove(_on_collection)
