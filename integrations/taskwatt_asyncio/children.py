"""What loops of a pool child count is left for its main process: once a second while one runs, and when it ends.

There is no thread in a pool child. A timer of the loop does it instead, which a loop that ends before a second has
passed never runs.
"""

from __future__ import annotations

from asyncio import TimerHandle

from taskwatt.runtime import TELL_EVERY_S, runtime
from taskwatt_asyncio import loop_threads
from taskwatt_asyncio.loop_threads import LoopThread

_timers: dict[int, TimerHandle] = {}
"""By thread."""


def install() -> None:
    """Called once, before the first loop is measured. Idempotent."""
    if _on_start not in loop_threads.on_start:
        loop_threads.on_start.append(_on_start)
        loop_threads.on_end.append(_on_end)


def uninstall() -> None:
    """Loops that run now are told a last time when they end or are let go."""
    for listeners, listener in ((loop_threads.on_start, _on_start), (loop_threads.on_end, _on_end)):
        if listener in listeners:
            listeners.remove(listener)


def _on_start(thread: LoopThread) -> None:
    if runtime.is_child:
        _arm(thread)


def _arm(thread: LoopThread) -> None:
    _timers[thread.ident] = thread.loop.call_later(TELL_EVERY_S, _tell, thread)


def _tell(thread: LoopThread) -> None:
    if loop_threads.running.get(thread.ident) is thread and runtime.is_child:
        runtime.tell_tallies()
        _arm(thread)


def _on_end(thread: LoopThread) -> None:
    timer = _timers.pop(thread.ident, None)
    if timer is not None:
        timer.cancel()
    if runtime.is_child:
        runtime.tell_tallies(at_once=True)
