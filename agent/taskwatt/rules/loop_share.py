"""What an event loop uses to go round, and whose share of it that is.

A step of 2 us costs its loop more than itself: the timer that wakes it, the call that waits for events, the bookkeeping
between them. A rule that counted the steps alone would see a sixth of what a poll costs: of the 0.046 CPUs of a
coroutine that sleeps 1 ms at a time, its steps are 0.008.
"""

from __future__ import annotations

from collections.abc import Sequence

from taskwatt.observations import CodeSite
from taskwatt.rules.statistics import wilson_lower
from taskwatt.windows import CoroutineWindow, Window

OWN = "asyncio."
"""Where the types of asyncio's own begin. Its timers and callbacks serve the tasks that asked for them."""

NO_LOOP = "No event loop."
"""What every rule of loops says then: causes that say the same share a line of the report."""

MOSTLY = 0.75
"""The least lower bound of a share that a look decides: twelve looks of twelve, or eighty of a hundred."""

TURN_S = 1e-6
"""What uvloop needs at the least for a step beside itself. Measured with the accelerator: 1.2 to 1.7 us of CPU."""


def tasks(window: Window) -> tuple[CoroutineWindow, ...]:
    return tuple(one for one in window.coroutines if one.kind == "task" and one.steps)


def cores(one: CoroutineWindow, window: Window) -> float:
    """CPUs that would be free if `one` did not run: its steps, and its share of the turning, by number of steps."""
    served = sum(other.steps for other in window.coroutines if not _serves(other))
    share = one.steps / served if served else 0.0
    return (one.cpu_s + _turning_s(window) * share) / window.seconds


def short_steps_s(window: Window, kind: CoroutineWindow | None = None) -> float:
    """At least so many seconds of what only a late timer told of (`LoopWindow.late_s`) went into short steps that are
    seen: of `kind`, or of all types. The rest of a loop's busy time is neither late nor one long step, so that what
    the steps took beyond it they took while the timer was late. Seconds of all loops: types are not told by loop.
    """
    seen = tasks(window) if kind is None else (kind,)
    took = sum(one.wall_s + one.steps * TURN_S for one in seen)
    if kind is not None:
        took -= kind.longest_s
    other = sum(one.busy_s - one.slow_s for one in window.loops)
    if kind is None:
        other += sum(one.slow_s - one.late_s for one in window.loops)  # `took` has the long steps as well
    return max(0.0, min(took - other, sum(one.late_s for one in window.loops)))


def mostly(looks: int, of: int) -> bool:
    return wilson_lower(looks, of) >= MOSTLY


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def where(one: CoroutineWindow) -> str:
    """The line it is about, as the end of a sentence; empty when none was seen."""
    site = seen(one)
    if site is not None:
        return f", at {site.function} ({site.file}:{site.line})"
    defined = one.defined_at
    return f", defined at {defined.file}:{defined.line}" if defined is not None else ""


def seen(one: CoroutineWindow) -> CodeSite | None:
    """Where it was seen to be suspended, for nothing else happens in a step as short as these; else where it burns."""
    return one.resumed_at or one.code


def callers(found: Sequence[CoroutineWindow]) -> Sequence[CoroutineWindow]:
    """Without asyncio's own (`open_connection`, in a task that `wait_for` made), where there is any other."""
    return [one for one in found if not one.name.startswith(OWN)] or found


def _serves(one: CoroutineWindow) -> bool:
    return one.kind in ("timer", "callback") and one.name.startswith(OWN)


def _turning_s(window: Window) -> float:
    """CPU seconds of all loops in no step, and in asyncio's own timers and callbacks."""
    steps = sum(one.cpu_s for one in window.coroutines if not _serves(one))
    return max(0.0, sum(loop.cpu_s for loop in window.loops) - steps)
