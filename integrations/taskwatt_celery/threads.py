"""Threads that were there before an attempt began: what they use is not the attempt's.

A process's CPU clock counts all of its threads. Those that an attempt starts are its own; one that an earlier attempt
left behind, or that belongs to a library or to this agent, is not. A worker of a `ThreadPoolExecutor` that was idle
when the attempt began is the exception: whatever it does from then on, it was most likely asked to by this attempt.
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import thread as executor
from typing import Final, NamedTuple

_OURS: Final = "taskwatt"
"""How the names of the agent's threads begin."""

_IDLE_IN: Final = frozenset({getattr(getattr(executor, "_worker", None), "__code__", None)})


class Before(NamedTuple):
    """The clocks of those threads, when the attempt began."""

    foreign: dict[int, float]
    ours: dict[int, float]

    def used(self) -> tuple[float, float]:
        """CPU seconds since, of foreign threads and of the agent's; one that ended meanwhile counts nothing."""
        return _used(self.foreign), _used(self.ours)


def others() -> Before | None:
    """The threads beside the calling one; None when there is none."""
    if threading.active_count() <= 1:
        return None
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]  # documented, its underscore notwithstanding
    before = Before({}, {})
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if thread is threading.current_thread() or frame is None or frame.f_code in _IDLE_IN:
            continue
        clock = _clock(thread.native_id)
        if clock is not None:
            (before.ours if thread.name.startswith(_OURS) else before.foreign)[thread.native_id or 0] = clock
    return before


def _used(before: dict[int, float]) -> float:
    now = {native: _clock(native) for native in before}
    return sum(max(0.0, clock - before[native]) for native, clock in now.items() if clock is not None)


def _clock(native: int | None) -> float | None:
    """CPU seconds of a thread, by the kernel's number for it (Linux): unlike pthreads, safe for one that has ended."""
    if native is None or not sys.platform.startswith("linux"):
        return None
    try:
        return time.clock_gettime((~native << 3) | 6)
    except OSError:
        return None
