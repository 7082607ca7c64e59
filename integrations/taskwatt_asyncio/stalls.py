"""Steps that held a loop too long: each becomes a record, with its line, its cause, the span and the row that
were active.

A loop that blocks all the time is told of by its figures (`slow_steps`); records are bounded.
"""

from __future__ import annotations

import math
import os
import sys
import time
from contextvars import Context, copy_context
from dataclasses import replace
from random import getrandbits
from time import perf_counter
from typing import Final

from taskwatt.accounts import row_in
from taskwatt.observations import InterpreterTally, Stall
from taskwatt.runtime import runtime
from taskwatt.segments.stall_records import put_stall
from taskwatt_asyncio import loop_threads
from taskwatt_asyncio.causes import Figures, cause_of
from taskwatt_asyncio.loop_threads import LoopThread
from taskwatt_asyncio.readings import Reading, read_once
from taskwatt_asyncio.sightings import Sightings
from taskwatt_asyncio.watchdog import Seen, Watchdog

AT_ONCE: Final = 3
"""Records of one type or row that may follow each other; then one in EVERY_S."""
EVERY_S: Final = 2.0
ALL_AT_ONCE: Final = 20
ALL_EVERY_S: Final = 0.1
_MAX_TYPES: Final = 1000
_YOUNG: Final = 0.4
"""A reading within the step stands for all of it when no more of it than this had passed."""
_ENOUGH_S: Final = 0.02
"""Where nothing else is known, a later one does if so much followed."""
_LOOSE_S: Final = 1.0
"""A reading so long before it says only that something did not happen."""
_LITTLE: Final = 0.2
_NOBODY = bytes(16), bytes(8)


class Bound:
    """So many at once, then one in `every_s`."""

    __slots__ = ("_at", "_every_s", "_left", "_most")

    def __init__(self, most: int, every_s: float) -> None:
        self._most = self._left = float(most)
        self._every_s = every_s
        self._at = 0.0

    def refill(self, now: float) -> bool:
        """Is one left?"""
        self._left = min(self._most, self._left + (now - self._at) / self._every_s)
        self._at = now
        return self._left >= 1.0

    def take(self) -> None:
        self._left -= 1.0


class Stalls:
    """Listens to `loop_threads.on_slow`; on the loops' threads."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self.forget()

    def forget(self) -> None:
        """Nothing was ever told."""
        self._all = Bound(ALL_AT_ONCE, ALL_EVERY_S)
        self._types: dict[str, Bound] = {}
        self._before: dict[int, Reading] = {}
        """By thread, in a pool child, which has no watchdog: at the loop's start or the last stall."""

    def on_start(self, thread: LoopThread) -> None:
        if thread.detail:
            self._before[thread.ident] = read_once(thread.native_id)

    def on_end(self, thread: LoopThread) -> None:
        self._before.pop(thread.ident, None)

    def on_slow(self, thread: LoopThread, name: str, start: float, duration_s: float, cpu_s: float) -> None:
        segment = runtime.segment
        seen = self._watchdog.seen(thread, start, duration_s) or self._unwatched(thread)
        site, stack = seen.sightings.found(name) if seen is not None else (None, "")
        context = copy_context() if thread.kind == "uvloop" else getattr(thread.handle, "_context", None)
        row = (seen.row if seen is not None else "") or (row_in(context) if context is not None else "")
        if segment is None or not self._admitted(row or name, perf_counter()):
            return
        figures = figures_of(seen, start, duration_s, cpu_s)
        # What was active while it blocked, or else when it had ended.
        trace_id, span_id = (seen.span if seen is not None else None) or active_span(context)
        stall = Stall(
            loop=thread.name,
            task=name,
            cause=cause_of(figures),
            start_ns=time.time_ns() - int((perf_counter() - start) * 1e9),
            duration_s=duration_s,
            cpu_s=cpu_s,
            run_delay_s=figures.run_delay_s,
            others_cpu_s=figures.others_cpu_s,
            code=site,
            stack=stack,
            trace_id=(getrandbits(128) or 1).to_bytes(16, "big"),
            span_id=(getrandbits(64) or 1).to_bytes(8, "big"),
            link_trace_id=trace_id,
            link_span_id=span_id,
            process_class=segment.process_class,
            row=row,
        )
        put_stall(segment, stall)

    def _unwatched(self, thread: LoopThread) -> Seen | None:
        before = self._before.get(thread.ident)
        if before is None:
            return None
        now = self._before[thread.ident] = read_once(thread.native_id)
        return Seen(Sightings(), None, before, now, math.nan, None, "")

    def _admitted(self, name: str, now: float) -> bool:
        bound = self._types.get(name)
        if bound is None:
            if len(self._types) >= _MAX_TYPES:
                self._types.clear()
            bound = self._types[name] = Bound(AT_ONCE, EVERY_S)
        if not bound.refill(now) or not self._all.refill(now):
            return False
        bound.take()
        self._all.take()
        return True


def active_span(context: Context | None) -> tuple[bytes, bytes]:
    """Of OpenTelemetry, if this process uses it; zeros when there is none, or one that is not sampled."""
    if context is None or "opentelemetry.trace" not in sys.modules:
        return _NOBODY
    from taskwatt.export.context import active_in

    return active_in(context)


def figures_of(seen: Seen | None, start: float, duration_s: float, cpu_s: float) -> Figures:
    """What is known of a step: its CPU from the carrier, the rest from readings around it or within."""
    cpu_s = min(cpu_s, duration_s)
    interval_s = sys.getswitchinterval()
    known = Figures(duration_s, cpu_s, switch_interval_s=interval_s)
    if seen is None:
        return known
    first, now = seen.first, seen.now
    young = first is not None and first.at - start <= _YOUNG * duration_s
    late = first is not None and seen.before is None and now.at - first.at >= _ENOUGH_S
    if first is not None and (young or late):
        scale = duration_s / max(now.at - first.at, 1e-9)
        since = _since(first, now)
        return replace(
            known,
            run_delay_s=min(since.run_delay_s * scale, duration_s - cpu_s),
            others_cpu_s=max(0.0, (since.process_cpu_s - since.cpu_s) * scale),
            wake_ups=since.wake_ups * scale,
            asleep=seen.asleep,
        )
    if seen.before is None:
        return known
    since = _since(seen.before, now)
    if since.at > duration_s + _LOOSE_S:
        most_s = max(since.run_delay_s, since.process_cpu_s - since.cpu_s)
        return replace(known, run_delay_s=0.0, others_cpu_s=0.0) if most_s <= _LITTLE * duration_s else known
    others_s = (since.process_cpu_s - since.cpu_s) * min(1.0, duration_s / max(since.at, 1e-9))
    run_delay_s = min(since.run_delay_s, duration_s - cpu_s)
    return replace(
        known,
        run_delay_s=run_delay_s,
        others_cpu_s=max(0.0, others_s),
        wake_ups=_wake_ups(since, first, now, duration_s),
        asleep=seen.asleep,
    )


def _wake_ups(since: Reading, first: Reading | None, now: Reading, duration_s: float) -> float:
    """In a step that was met late: as often as after that; else what is known from before it, at the most so many."""
    if first is None or now.at - first.at < _ENOUGH_S:
        return since.wake_ups
    return (now.wake_ups - first.wake_ups) * duration_s / (now.at - first.at)


def _since(before: Reading, now: Reading) -> Reading:
    return Reading(*(later - earlier for later, earlier in zip(now, before, strict=True)))


watchdog = Watchdog()
stalls = Stalls(watchdog)
_hooked_fork = False


def install() -> None:
    """The first loop of this process runs. Idempotent."""
    from taskwatt_asyncio import tallying

    if stalls.on_slow not in loop_threads.on_slow:
        watchdog.read_span = active_span
        loop_threads.on_start += (watchdog.started, stalls.on_start)
        loop_threads.on_end += (watchdog.ended, stalls.on_end)
        loop_threads.on_slow.append(stalls.on_slow)
        tallying.interpreter = watchdog.interpreter.tally
        _watch_forks()


def uninstall() -> None:
    from taskwatt_asyncio import tallying

    loop_threads.on_start[:] = [one for one in loop_threads.on_start if one not in (watchdog.started, stalls.on_start)]
    loop_threads.on_end[:] = [one for one in loop_threads.on_end if one not in (watchdog.ended, stalls.on_end)]
    loop_threads.on_slow[:] = [one for one in loop_threads.on_slow if one != stalls.on_slow]
    tallying.interpreter = InterpreterTally
    watchdog.stop()
    stalls.forget()


def _watch_forks() -> None:
    global _hooked_fork
    if not _hooked_fork:  # such a handler cannot be taken back: it stays, and finds nothing to do
        _hooked_fork = True
        os.register_at_fork(after_in_child=watchdog.forget)
