"""Where a stock loop waits for events: one wrapper around its selector's `select`, on that one object.

Between two calls the loop was busy, within one it was idle (unless it only asked, having work to do). That gives exact
busy and idle time, iterations and depth for a few clock reads an iteration, and nothing while the loop sleeps.
The accelerator has a twin of `watched` in C.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Sized
from selectors import BaseSelector
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias

from taskwatt.meter import hide_this_frame
from taskwatt.observations import READY_BUCKETS
from taskwatt_asyncio.figures import SHORT_S

if TYPE_CHECKING:
    from taskwatt_asyncio.loop_threads import LoopThread

log = logging.getLogger("taskwatt")

Wrap: TypeAlias = "Callable[[LoopThread, Callable[..., Any], Sized], Callable[..., Any]]"

UNSEEN = "how busy it is: it has no selector of the standard library's kind"


def install(thread: LoopThread, wrap: Wrap) -> Callable[[], None]:
    """Watch the waiting of a loop that runs in the current thread. What is returned undoes it.

    `wrap`: what stands in for its selector's `select`, of the thread, that one, and the handles that are ready.
    """
    loop: Any = thread.loop
    selector: Any = getattr(loop, "_selector", object())
    ready = getattr(loop, "_ready", None)
    if not issubclass(type(selector), BaseSelector) or not isinstance(ready, Sized):  # a test's stand-in, for one
        thread.busy_since = 0.0
        thread.figures.partial = UNSEEN
        return _nothing
    attributes: Any = getattr(selector, "__dict__", {})
    own = attributes.get("select")
    select = wrap(thread, selector.select, ready)
    try:
        selector.select = select
    except AttributeError:
        thread.busy_since = 0.0
        thread.figures.partial = UNSEEN
        return _nothing

    def release() -> None:
        if attributes.get("select") is select:
            if own is None:
                del selector.select
            else:
                selector.select = own

    return release


def finish(thread: LoopThread) -> None:
    """The loop stops: its last busy period ends."""
    thread.flush()
    if thread.busy_since:
        _busy(thread, perf_counter() - thread.busy_since)
        thread.busy_since = 0.0


def _busy(thread: LoopThread, seconds: float) -> None:
    figures = thread.figures
    figures.busy_s += seconds
    figures.ready[thread.depth] += seconds
    if seconds > SHORT_S:
        figures.long_period(seconds)


def watched(  # noqa: C901  # written for speed: a call here costs as much as what it does
    thread: LoopThread, original: Callable[..., Any], ready: Sized
) -> Callable[..., Any]:
    figures = thread.figures
    ready_s = figures.ready
    clock = perf_counter
    watching = True

    def select(timeout: float | None = None) -> Any:
        nonlocal watching
        began = clock()
        since = thread.busy_since
        if since:
            busy = began - since
            figures.busy_s += busy
            ready_s[thread.depth] += busy
            if busy > SHORT_S:
                figures.long_period(busy)
        thread.handle = None
        thread.idle_since = began
        thread.busy_since = 0.0
        looked = thread.looked
        if looked is not None:
            thread.looked = None
            looked.last += 1
            looked.woke += bool(ready)
        try:
            events = original(timeout)
        except BaseException as error:
            thread.busy_since = clock()
            hide_this_frame(error)
            raise
        if watching:
            try:
                depth = len(ready) + len(events)
                thread.depth = depth if depth < 2 else bisect_left(READY_BUCKETS, depth)
                if depth > figures.ready_max:
                    figures.ready_max = depth
            except Exception:
                watching = False
                say_unseen()
        figures.iterations += 1
        ended = clock()
        if timeout is not None and timeout <= 0:
            figures.busy_s += ended - began
        else:
            figures.idle_s += ended - began
        thread.idle_since = 0.0
        thread.busy_since = ended
        rouse = thread.rouse
        if rouse is not None:
            thread.rouse = None
            rouse()
        return events

    return select


def say_unseen() -> None:
    log.warning("taskwatt does not see how deep a loop is")


def _nothing() -> None:
    pass
