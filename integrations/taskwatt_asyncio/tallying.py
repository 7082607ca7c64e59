"""What the agent's tick reads: all figures of this process as immutable records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Final

from taskwatt.observations import ENDED, CoroutineTally, ExecutorTally, InterpreterTally, LoopTally, Tallies
from taskwatt_asyncio import carriers, figures, loop_threads, types

_ROUNDING_S: Final = 1e-9


def no_executors() -> Mapping[str, ExecutorTally]:
    return {}


executors: Callable[[], Mapping[str, ExecutorTally]] = no_executors
"""Set by executors.py while it is installed."""

interpreter: Callable[[], InterpreterTally] = InterpreterTally
"""Set by stalls.py while the watchdog probes."""


def tallies() -> Tallies:
    """All that was counted until now; on the agent's thread, by one reader only ("since the last reading")."""
    now = perf_counter()
    carriers.current.flush()
    coroutines = {one.name: _coroutine(one) for one in (*types.by_name.values(), types.other) if _known(one)}
    told = _loops(now)
    sharing = interpreter()._replace(waiting_s=sum(map(_waiting, told.values())))
    return Tallies(coroutines, told, executors(), sharing, carriers.sentence)


def _waiting(loop: LoopTally) -> float:
    """Busy seconds in which its thread neither ran nor waited for a CPU: it blocked, or waited for the interpreter."""
    delay_s = 0.0 if math.isnan(loop.run_delay_s) else loop.run_delay_s
    return max(0.0, loop.busy_s - loop.cpu_s - delay_s)


def _known(one: types.CoroutineType) -> bool:
    return one is not types.other or one.steps > 0 or one.never_awaited > 0


def _coroutine(one: types.CoroutineType) -> CoroutineTally:
    cpu_s = one.cpu_s
    own_s = cpu_s - one.paid_s
    ended = one.completed + one.failed + one.cancelled
    lines = one.lines.copy()
    resumed_at = max(lines, key=lines.__getitem__, default=None)
    costs, one.costs = one.costs, []
    longest_s = one.longest_s
    one.longest_s = 0.0
    return CoroutineTally(
        one.kind,
        steps=one.steps,
        cpu_s=cpu_s,
        own_cpu_s=own_s if own_s > _ROUNDING_S else 0.0,
        wall_s=one.wall_s,
        longest_s=longest_s,
        self_wakes=one.self_wakes,
        started=max(one.started, ended + one.destroyed_pending),
        completed=one.completed,
        failed=one.failed,
        cancelled=one.cancelled,
        never_retrieved=one.never_retrieved,
        never_awaited=one.never_awaited,
        destroyed_pending=one.destroyed_pending,
        delays=one.delays,
        delay_s=one.delay_s,
        waits=one.waits,
        short_waits=one.short_waits,
        looks=one.looks,
        sleeping=one.sleeping,
        timed_out=one.timed_out,
        connecting=one.connecting,
        scanning=one.scanning,
        scanned=one.scanned,
        last=one.last,
        woke=one.woke,
        at_end=one.at_end,
        same_line=lines[resumed_at] if resumed_at else 0,
        resumed_at=resumed_at,
        defined_at=one.defined_at,
        costs=tuple(costs),
    )


def _loops(now: float) -> Mapping[str, LoopTally]:
    table = loop_threads.table
    told: dict[str, LoopTally] = {}
    for name, one in tuple(table.named.items()):
        one.read = told[name] = figures.tally(one, now)
        one.ready_max = 0
    if table.ended is not None:
        told[ENDED] = table.ended
    return told
