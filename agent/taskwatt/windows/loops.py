"""Event loops, their types and their interpreters over the last ticks: differences of what carriers have counted.

A loop is told by the name of its thread; one that comes after it in a thread of that name adds to the same figures.
Where there are too many names, the oldest makes room, and what was not told of it yet goes to `ended`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan, nan
from typing import Final

from taskwatt.observations import (
    DELAY_BUCKETS,
    ENDED,
    OTHER,
    READY_BUCKETS,
    CodeSite,
    CoroutineTally,
    InterpreterTally,
    LoopTally,
    Stall,
    StallCause,
    Tallies,
)
from taskwatt.windows import CoroutineWindow, InterpreterWindow, LoopWindow
from taskwatt.windows.coroutines import CoroutineWindows, gained
from taskwatt.windows.loop_totals import LoopTotals
from taskwatt.windows.sliding import SlidingSums

LOOPS: Final = 64
"""Loops with figures of their own in one tick; the rest share `other`."""
PROCESSES: Final = 64
"""Interpreters kept of one tick."""

_PLAIN: Final = ("iterations", "busy_s", "idle_s", "cpu_s", "run_delay_s", "slow_steps", "slow_s", "late_s")
_DELAY_AT: Final = len(_PLAIN)
_READY_AT: Final = _DELAY_AT + len(DELAY_BUCKETS) + 1
_UNKNOWN_AT: Final = _READY_AT + len(READY_BUCKETS) + 1
"""Counts readings without a run-queue delay."""
_WIDTH: Final = _UNKNOWN_AT + 1
_NOTHING: Final = (0.0,) * _WIDTH

Vector = tuple[float, ...]


@dataclass(slots=True)
class _Stalls:
    """Of one loop in one tick."""

    by_cause: dict[StallCause, tuple[int, float]] = field(default_factory=dict[StallCause, tuple[int, float]])
    worst: Stall | None = None

    def add(self, cause: StallCause, number: int, seconds: float) -> None:
        before = self.by_cause.get(cause, (0, 0.0))
        self.by_cause[cause] = before[0] + number, before[1] + seconds

    def meet(self, stall: Stall | None) -> None:
        if stall is not None and (self.worst is None or stall.duration_s > self.worst.duration_s):
            self.worst = stall


class LoopWindows:
    """`fold` each process's tallies and the stalls of a tick, then `roll`; `over` tells of the newest ticks."""

    def __init__(self, spans: Sequence[int]) -> None:
        self.totals = LoopTotals()
        self._coroutines = CoroutineWindows(spans)
        self._sliding = SlidingSums(spans, _WIDTH)
        self._sources: dict[str, Tallies] = {}
        """The last tallies of each process."""
        self._interpreters: deque[dict[str, InterpreterTally]] = deque(maxlen=max(spans))
        self._stalls: deque[dict[str, _Stalls]] = deque(maxlen=max(spans))
        self._open: dict[str, tuple[list[float], float]] = {}
        self._open_interpreters: dict[str, InterpreterTally] = {}
        self._open_stalls: dict[str, _Stalls] = {}
        self.blocked = False
        """Was a loop held up in the newest tick?"""

    def fold(self, source: str, tallies: Tallies, *, anew: bool = True) -> None:
        """What one process has counted so far.

        `anew`: is it another reading than the last one? Otherwise what it says "since the last reading" was heard.
        """
        before = self._sources.get(source)
        self._sources[source] = tallies
        for name, now in tallies.coroutines.items():
            old = before.coroutines.get(name) if before is not None else None
            if old == now:
                continue
            figures = gained(old, now)
            self._coroutines.add(name, figures, now.longest_s if anew else 0.0, now.costs if anew else ())
            self.totals.coroutine(name, figures)
        self._fold_loops(before.loops if before is not None else {}, tallies.loops)
        self.totals.executors(before.executors if before is not None else {}, tallies.executors)
        self._fold_interpreter(source, before.interpreter if before is not None else None, tallies.interpreter)

    def forget(self, source: str) -> None:
        """A process has ended; what it did stays in the windows."""
        self._sources.pop(source, None)

    def stalled(self, stalls: Iterable[Stall]) -> None:
        for stall in stalls:
            self._coroutines.stalled(stall)
            name = stall.loop if stall.loop in self._open_stalls or len(self._open_stalls) < LOOPS else OTHER
            of_loop = self._open_stalls.setdefault(name, _Stalls())
            of_loop.add(stall.cause, 1, stall.duration_s)
            of_loop.meet(stall)

    def roll(self) -> None:
        """The tick has ended."""
        slow = _PLAIN.index("slow_steps")
        self.blocked = bool(self._open_stalls) or any(figures[slow] > 0 for figures, _ in self._open.values())
        self._coroutines.roll()
        self._sliding.roll(self._open)
        self._interpreters.append(self._open_interpreters)
        self._stalls.append(self._open_stalls)
        self._open, self._open_interpreters, self._open_stalls = {}, {}, {}

    @property
    def carriers(self) -> list[str]:
        """The sentences of the carriers that run."""
        return sorted({one.carrier for one in self._sources.values() if one.carrier})

    @property
    def live(self) -> dict[str, tuple[CoroutineTally, int]]:
        """A tally of each type, and how many of it live, in all processes."""
        found: dict[str, tuple[CoroutineTally, int]] = {}
        for source in list(self._sources.values()):
            for name, tally in source.coroutines.items():
                found[name] = tally, max(0, tally.live) + (found[name][1] if name in found else 0)
        return found

    @property
    def running(self) -> list[LoopTally]:
        """Those that run now, of every process."""
        return [one for source in list(self._sources.values()) for one in source.loops.values() if one.running]

    def queued(self) -> dict[str, int]:
        """Work that waits for a thread, by kind of executor."""
        found: dict[str, int] = {}
        for source in list(self._sources.values()):
            for kind, tally in source.executors.items():
                found[kind] = found.get(kind, 0) + tally.queued_now
        return found

    def coroutines(self, span: int) -> tuple[CoroutineWindow, ...]:
        return self._coroutines.over(span, self.live)

    def code(self, span: int) -> dict[str, CodeSite]:
        """Where the rows of the ledger held a loop."""
        return self._coroutines.code(span)

    def over(self, span: int) -> tuple[LoopWindow, ...]:
        """Every loop that ran or was held up in the newest `span` ticks, by name."""
        stalls: dict[str, _Stalls] = {}
        sums = self._sliding.over(span)
        for tick in list(self._stalls)[-span:]:
            for name, of_loop in tick.items():
                merged = stalls.setdefault(name if name in sums or ENDED not in sums else ENDED, _Stalls())
                for cause, (number, seconds) in of_loop.by_cause.items():
                    merged.add(cause, number, seconds)
                merged.meet(of_loop.worst)
        kinds = self._kinds()
        return tuple(
            _loop_window(name, *sums.get(name, ([], 0.0)), kinds.get(name, ("asyncio", "")), stalls.get(name))
            for name in sorted(sums.keys() | stalls.keys())
        )

    def interpreter(self, span: int) -> InterpreterWindow | None:
        """Of the process whose threads wait most for it; None where no event loop was watched."""
        sums: dict[str, InterpreterTally] = {}
        for tick in list(self._interpreters)[-span:]:
            for source, one in tick.items():
                before = sums.get(source, InterpreterTally())
                sums[source] = InterpreterTally(
                    probes=before.probes + one.probes,
                    late_s=before.late_s + one.late_s,
                    watched_s=before.watched_s + one.watched_s,
                    threads_cpu_s=before.threads_cpu_s + one.threads_cpu_s,
                    waiting_s=before.waiting_s + one.waiting_s,
                    hottest=one.hottest or before.hottest,
                )
        watched = [each for each in sums.values() if each.watched_s > 0]
        if not watched:
            return None
        worst = max(watched, key=lambda each: each.waiting_s / each.watched_s)
        return InterpreterWindow(
            python_cpu=worst.threads_cpu_s / worst.watched_s,
            probe_late_s=worst.late_s / worst.probes if worst.probes else 0.0,
            samples=worst.probes,
            waiting=worst.waiting_s / worst.watched_s,
            hottest=worst.hottest,
        )

    def _fold_loops(self, before: Mapping[str, LoopTally], loops: Mapping[str, LoopTally]) -> None:
        for name, now in loops.items():
            old_one = before.get(name)
            known = _NOTHING if old_one is None or _began_anew(old_one, now) else _vector(old_one)
            change = tuple(max(0.0, new - old) for new, old in zip(_vector(now), known, strict=True))
            if any(change):
                self._add(name, change, now)

    def _add(self, name: str, change: Vector, now: LoopTally) -> None:
        self.totals.loop(change[1], change[2], change[_DELAY_AT:_READY_AT])
        if name not in self._open and len(self._open) >= LOOPS:
            name = OTHER
        sums, peak = self._open.get(name, (list(_NOTHING), 0.0))
        self._open[name] = [one + more for one, more in zip(sums, change, strict=True)], max(peak, now.ready_max)

    def _fold_interpreter(self, source: str, before: InterpreterTally | None, now: InterpreterTally) -> None:
        if now == before or not now.watched_s or len(self._open_interpreters) >= PROCESSES:
            return
        old = before if before is not None and now.watched_s >= before.watched_s else InterpreterTally()
        self._open_interpreters[source] = InterpreterTally(
            probes=max(0, now.probes - old.probes),
            late_s=max(0.0, now.late_s - old.late_s),
            watched_s=now.watched_s - old.watched_s,
            threads_cpu_s=max(0.0, now.threads_cpu_s - old.threads_cpu_s),
            waiting_s=max(0.0, now.waiting_s - old.waiting_s),
            hottest=now.hottest,
        )

    def _kinds(self) -> dict[str, tuple[str, str]]:
        """What kind of loop runs under a name, and what cannot be seen of it."""
        found: dict[str, tuple[str, str]] = {}
        for source in self._sources.values():
            for name, one in source.loops.items():
                kind, partial = found.get(name, (one.kind, ""))
                found[name] = kind, partial or one.partial
        return found


def _began_anew(before: LoopTally, now: LoopTally) -> bool:
    return now.iterations < before.iterations or now.busy_s + now.idle_s < before.busy_s + before.idle_s


def _vector(tally: LoopTally) -> Vector:
    unknown = isnan(tally.run_delay_s)
    run_delay_s = 0.0 if unknown else tally.run_delay_s
    plain = (tally.iterations, tally.busy_s, tally.idle_s, tally.cpu_s, run_delay_s)
    return (
        *plain,
        tally.slow_steps,
        tally.slow_s,
        tally.late_s,
        *tally.delay,
        *tally.ready,
        float(tally.iterations if unknown else 0),
    )


def _loop_window(
    name: str, figures: list[float], ready_max: float, kind: tuple[str, str], stalls: _Stalls | None
) -> LoopWindow:
    found = LoopWindow(name, kind[0], partial=kind[1])
    if stalls is not None:
        # A record may arrive a tick before the figures, and from a loop that nobody counted: it happened as well.
        number = sum(each for each, _ in stalls.by_cause.values())
        seconds = sum(each for _, each in stalls.by_cause.values())
        found = replace(found, slow_steps=number, slow_s=seconds, stalls=dict(stalls.by_cause), worst=stalls.worst)
    if not figures:
        return found
    sums = [max(0.0, value) for value in figures]
    iterations, busy_s, idle_s, cpu_s, run_delay_s, slow_steps, slow_s, late_s = sums[:_DELAY_AT]
    return replace(
        found,
        iterations=round(iterations),
        busy_s=busy_s,
        idle_s=idle_s,
        cpu_s=cpu_s,
        run_delay_s=nan if sums[_UNKNOWN_AT] else run_delay_s,
        delay=tuple(sums[_DELAY_AT:_READY_AT]),
        ready=tuple(sums[_READY_AT:_UNKNOWN_AT]),
        ready_max=round(ready_max),
        slow_steps=max(found.slow_steps, round(slow_steps)),
        slow_s=max(found.slow_s, slow_s),
        late_s=late_s,
    )
