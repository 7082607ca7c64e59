"""What event loops and coroutine types have done since the agent began, over all its processes: what metrics read.

Only ever growing, whichever loops and processes have ended since. Bounded in names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from taskwatt.observations import DELAY_BUCKETS, OTHER, ExecutorTally
from taskwatt.windows.coroutines import SUMS

NAMES: Final = 500
"""Coroutine types with series of their own; the rest share `other`."""

_EXPORTED: Final = (
    "steps",
    "self_wakes",
    "never_retrieved",
    "never_awaited",
    "destroyed_pending",
    "delays",
    "delay_s",
)
_AT: Final = tuple(SUMS.index(name) for name in _EXPORTED)


@dataclass(slots=True)
class CoroutineTotals:
    """Field by field as in CoroutineTally."""

    steps: int = 0
    self_wakes: int = 0
    never_retrieved: int = 0
    never_awaited: int = 0
    destroyed_pending: int = 0
    delays: int = 0
    delay_s: float = 0.0


@dataclass(slots=True)
class ExecutorTotals:
    started: int = 0
    wait_s: float = 0.0


class LoopTotals:
    """Written by the agent's tick; read by any thread."""

    def __init__(self) -> None:
        self.coroutines: dict[str, CoroutineTotals] = {}
        self.busy_s = 0.0
        self.idle_s = 0.0
        self.delay: list[float] = [0.0] * (len(DELAY_BUCKETS) + 1)
        """Seconds of loops' lives by what an arrival would have waited."""
        self.by_executor: dict[str, ExecutorTotals] = {}

    def name(self, name: str) -> str:
        return name if name in self.coroutines or len(self.coroutines) < NAMES else OTHER

    def coroutine(self, name: str, figures: Sequence[float]) -> None:
        totals = self.of(self.name(name))
        for field, at in zip(_EXPORTED, _AT, strict=True):
            if figures[at]:
                setattr(totals, field, getattr(totals, field) + figures[at])

    def of(self, name: str) -> CoroutineTotals:
        totals = self.coroutines.get(name)
        if totals is None:
            totals = self.coroutines[name] = CoroutineTotals()
        return totals

    def executor(self, kind: str) -> ExecutorTotals:
        return self.by_executor.setdefault(kind, ExecutorTotals())

    def loop(self, busy_s: float, idle_s: float, delay: Sequence[float]) -> None:
        self.busy_s += busy_s
        self.idle_s += idle_s
        for at, seconds in enumerate(delay):
            self.delay[at] += seconds

    def executors(self, before: Mapping[str, ExecutorTally], now: Mapping[str, ExecutorTally]) -> None:
        for kind, tally in now.items():
            old = before.get(kind, ExecutorTally())
            if tally.submitted < old.submitted:
                old = ExecutorTally()
            totals = self.executor(kind)
            started = tally.submitted - tally.queued_now - (old.submitted - old.queued_now)
            totals.started += max(0, started)
            totals.wait_s += max(0.0, tally.wait_s - old.wait_s)
