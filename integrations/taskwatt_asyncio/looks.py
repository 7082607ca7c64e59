"""A closer look at some steps of each type: where the task was suspended, for how long, and what woke it.

A look costs 5 us where all is warm, as much as many a step. So after its first 32 steps a type has to earn its looks:
two in a row, which tell how long it waited between them, for each 4 ms that it uses, and 10 times a second at most.
What rules ask about uses 5 ms a second or more. Strides are odd, so that a task that goes round in a circle is not
always met at the same place.
"""

from __future__ import annotations

import asyncio
import asyncio.selector_events
import logging
from asyncio import Future
from contextlib import suppress
from fcntl import ioctl
from termios import FIONREAD
from time import monotonic, perf_counter
from types import BuiltinMethodType, GeneratorType
from types import CoroutineType as NativeCoroutine
from typing import TYPE_CHECKING, Any, Final

from taskwatt.code_site import is_user_code
from taskwatt.interruption import raised_by_a_signal
from taskwatt_asyncio.types import class_of

if TYPE_CHECKING:
    from taskwatt_asyncio.loop_threads import LoopThread
    from taskwatt_asyncio.types import CoroutineType, Place

log = logging.getLogger("taskwatt")

SHORT_S: Final = 0.05
_DENSE: Final = 32
_EARNED_S: Final = 0.004
"""What a type uses between two pairs of looks,"""
_APART_S: Final = 0.1
"""and how much time lies between them."""
_FARTHEST: Final = 1 << 20
_MAX_DEPTH: Final = 64
_MAX_LINES: Final = 16

_SLEEP: Final = asyncio.sleep.__code__
_WAIT: Final = getattr(getattr(asyncio.tasks, "_wait", None), "__code__", None)
_CANCEL_AND_WAIT: Final = getattr(getattr(asyncio.tasks, "_cancel_and_wait", None), "__code__", None)
"""Where `wait_for` is after its time is up, in Python 3.11."""
_WAIT_FOR: Final = asyncio.wait_for.__code__
"""In Python 3.11 it waits for a task that it made, and is woken when that is done or the time is up."""
_BASE: Any = asyncio.selector_events.BaseSelectorEventLoop
_CONNECTING: Final = {
    getattr(_BASE, name).__code__
    for name in ("sock_connect", "_sock_connect", "getaddrinfo", "_ensure_resolved")
    if hasattr(getattr(_BASE, name, None), "__code__")
}
"""Between the look-up of a name and the end of an attempt to connect."""
_MAX_FILES: Final = 1_000
_ASYNCIO: Final = _SLEEP.co_filename.rpartition("/")[0] + "/"


WANTED: Final = None
TAKEN: Final = object()
"""What LoopThread.stamped is when a handle is to be stamped (uvloop), and when the next look has to say so."""


_NEVER: Final = 1 << 30
"""Steps until the next look, once one has failed."""
_failed = False


def install() -> None:
    """Looks are taken, again where one has failed before."""
    global _failed
    _failed = False


def look(token: Any, arguments: Any, thread: LoopThread, stats: CoroutineType, coroutine: Any) -> None:
    """Right before a step. Nothing of it has run yet.

    `token`: what may have been stamped, the handle or, on uvloop, the callback. `arguments`: of the callback.
    `coroutine`: the task's; None for other callbacks. One that fails is the last one, said once in the log: steps are
    measured without.
    """
    global _failed
    if not _failed:
        try:
            _look(token, arguments, thread, stats, coroutine)
            return
        except Exception as error:
            if raised_by_a_signal(error):
                raise
            _failed = True
            log.warning("taskwatt looks at no more steps of event loops: a look failed: %r", error, exc_info=error)
    stats.next_look = stats.steps + _NEVER
    thread.stamped = TAKEN


def _look(token: Any, arguments: Any, thread: LoopThread, stats: CoroutineType, coroutine: Any) -> None:
    now = perf_counter()
    _delay(token, thread, stats, now)
    if stats.steps < stats.next_look:
        return
    _next(stats, now)
    if not _is_native(coroutine):
        if stats.kind == "io":
            _look_at_file(token, thread, stats)
        return
    before, stats.suspended = stats.suspended, (id(coroutine), stats.steps, now, stats.wall_s)
    if not coroutine.cr_suspended:
        return
    stats.looks += 1
    ready: Any = getattr(thread.loop, "_ready", None)
    if ready is not None and not ready:
        thread.looked = stats
    waited = None
    if before is not None and before[:2] == (id(coroutine), stats.steps - 1):
        waited = now - before[2] - (stats.wall_s - before[3])
    chain = _chain(coroutine)
    _busy_with(stats, chain)
    waited = _waited(stats, arguments, *chain[-1], waited)
    if waited is not None:
        stats.waits += 1
        if waited <= SHORT_S:
            stats.short_waits += 1
    place = _place(chain)
    seen = stats.lines.get(place)
    if seen is not None or len(stats.lines) < _MAX_LINES:
        stats.lines[place] = (seen or 0) + 1


def _busy_with(stats: CoroutineType, chain: list[tuple[Any, Any]]) -> None:
    innermost = chain[-1][0]
    if any(frame.f_code in _CONNECTING for frame, _ in chain) or _was_refused(innermost):
        stats.connecting += 1
    elif innermost.f_code is _WAIT:
        stats.scanning += 1
        stats.scanned += len(innermost.f_locals["fs"])


def _waited(stats: CoroutineType, arguments: Any, innermost: Any, awaited: Any, waited: float | None) -> float | None:
    """Note what it waited for; how long, if it was not measured and a sleep says it."""
    if innermost.f_code is _SLEEP and type(awaited) is not GeneratorType:  # that is `sleep(0)`
        stats.sleeping += 1
        delay = innermost.f_locals.get("delay") if waited is None else waited
        return delay if isinstance(delay, int | float) else None
    if _timed_out(arguments, innermost):
        stats.timed_out += 1
    return waited


def _look_at_file(handle: Any, thread: LoopThread, stats: CoroutineType) -> None:
    """Is there anything to read? FIONREAD takes nothing out of it, and says 0 at the end of a pipe or a connection.

    A descriptor is found by its handle among those of the loop, if there are not too many.
    """
    files: Any = getattr(getattr(thread.loop, "_selector", None), "_fd_to_key", None)
    if files is None or len(files) > _MAX_FILES:
        return
    for descriptor, key in list(files.items()):
        data: Any = key.data  # (reader's handle, writer's), or whatever the user registered with the selector
        if isinstance(data, tuple) and data and data[0] is handle:
            stats.looks += 1
            with suppress(OSError):  # it listens, or is of a kind that does not tell
                unread = ioctl(descriptor, FIONREAD, b"\0" * 4)
                stats.at_end += unread == b"\0" * 4
            return


def _next(stats: CoroutineType, now: float) -> None:
    """When the next look is due, now that one is taken."""
    stats.taken += 1
    if stats.taken <= _DENSE or stats.taken % 2:
        stats.next_look = stats.steps + 1
        return
    stats.next_look = stats.steps + (_steps_until(stats, now, _EARNED_S, _APART_S) | 1)
    stats.paired_steps, stats.paired_s, stats.paired_at = stats.steps, stats.wall_s, now


def plan(stats: CoroutineType, now: float) -> None:
    """At each reading: a type whose steps have become longer since its last look has earned one earlier."""
    if not _failed and stats.taken > _DENSE and stats.next_look > stats.steps:
        left_s = _EARNED_S - (stats.wall_s - stats.paired_s), _APART_S - (now - stats.paired_at)
        stats.next_look = min(stats.next_look, stats.steps + _steps_until(stats, now, *left_s))


def _steps_until(stats: CoroutineType, now: float, used_s: float, passed_s: float) -> int:
    """In how many steps a type will have used so much, and so much time will have passed, if it goes on as since the
    last pair of looks."""
    steps, used, passed = stats.steps - stats.paired_steps, stats.wall_s - stats.paired_s, now - stats.paired_at
    if used <= 0.0 or passed <= 0.0:
        return _FARTHEST
    return min(_FARTHEST, max(0, int(steps * max(used_s / used, passed_s / passed))))


def _delay(token: Any, thread: LoopThread, stats: CoroutineType, now: float) -> None:
    """How long a handle was ready before it runs; known of one at a time.

    On a stock loop it is the last one that is ready at a look: it was put there by the step before, or by the events
    just met. On uvloop `call_soon` stamps the next one.
    """
    stamped: Any = thread.stamped
    if stamped is token:
        stats.delays += 1
        stats.delay_s += max(0.0, now - thread.stamp_s)
        thread.stamped = TAKEN
    if thread.kind == "uvloop":
        if thread.stamped is TAKEN and stamped is not token:
            thread.stamped = WANTED
    elif thread.stamped in (TAKEN, WANTED) or stamped._cancelled:
        ready: Any = getattr(thread.loop, "_ready", None)
        if ready and type(ready[-1]._callback) is BuiltinMethodType:  # a task that a future woke
            thread.stamped, thread.stamp_s = ready[-1], thread.end
        else:
            thread.stamped = TAKEN


def _is_native(coroutine: Any) -> bool:
    return type(coroutine) is NativeCoroutine


def _chain(coroutine: Any) -> list[tuple[Any, Any]]:
    """(frame, what it awaits) from the task's coroutine inwards, as far as can be seen."""
    chain: list[tuple[Any, Any]] = []
    one = coroutine
    while len(chain) < _MAX_DEPTH:
        kind = class_of(one)
        if kind is NativeCoroutine:
            frame, awaited = one.cr_frame, one.cr_await
        elif kind is GeneratorType:
            frame, awaited = one.gi_frame, one.gi_yieldfrom
        else:
            break
        if frame is None:
            break
        if kind is GeneratorType and frame.f_code.co_filename.startswith(_ASYNCIO):
            break  # `sleep(0)`
        chain.append((frame, awaited))
        one = awaited
    return chain


def _place(chain: list[tuple[Any, Any]]) -> Place:
    """The innermost line of the user's own; else the innermost outside of asyncio; else the task's."""
    fallback = None
    for frame, _ in reversed(chain):
        file = frame.f_code.co_filename
        if is_user_code(file):
            break
        if fallback is None and not file.startswith(_ASYNCIO):
            fallback = frame
    else:
        frame = fallback or chain[0][0]
    code = frame.f_code
    return code.co_qualname, code.co_filename, frame.f_lineno


def _was_refused(innermost: Any) -> bool:
    """Did the task end with a connection's error that Python 3.11's `wait_for` made for an attempt to connect?"""
    inner = innermost.f_locals.get("fut") if innermost.f_code is _WAIT_FOR else None
    return isinstance(inner, Future) and isinstance(inner._exception, OSError)


def _timed_out(arguments: Any, innermost: Any) -> bool:
    woken_by = arguments[0] if arguments else None
    if isinstance(woken_by, Future) and woken_by.cancelled():
        return True
    code = innermost.f_code
    if code is _CANCEL_AND_WAIT:
        return True
    if code is _WAIT_FOR:
        inner = innermost.f_locals.get("fut")
        return isinstance(inner, Future) and not inner.done()
    if code is _WAIT:
        timer = innermost.f_locals.get("timeout_handle")
        return timer is not None and not timer.cancelled() and timer.when() <= monotonic()
    return False
