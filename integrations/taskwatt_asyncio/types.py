"""What coroutine and callback types did, by `module.qualname`: plain figures that the steps of all loops add to.

A type is found by its code object, which is kept alive so that its id stays its own. The table is bounded: what does
not fit shares one type, `other`.
"""

from __future__ import annotations

from asyncio import Future
from typing import Any, Final

from taskwatt.observations import OTHER, StepKind

MAX_TYPES: Final = 1_000


class CoroutineType:
    """Mutable sums of one type; the names are those of CoroutineTally, where they are explained."""

    __slots__ = (
        "cancelled", "completed", "correction_s", "costs", "defined_at", "delay_s", "delays", "destroyed_pending",
        "failed", "kind", "limit", "lines", "longest_s", "looks", "name", "never_awaited", "never_retrieved",
        "next_look", "paid_s", "recent_looks", "self_wakes", "short_waits", "sleeping", "started", "steps",
        "suspended", "timed_out", "waits", "wall_s",
    )  # fmt: skip

    def __init__(self, name: str, kind: StepKind, defined_at: tuple[str, str, int] | None = None) -> None:
        self.name = name
        self.kind: StepKind = kind
        self.defined_at = defined_at
        self.steps = 0
        self.wall_s = 0.0
        self.correction_s = 0.0
        """CPU seconds = `wall_s` + `correction_s`, which is negative: what steps spent waiting."""
        self.paid_s = 0.0
        """Of its CPU, what an account's row or a Celery attempt pays for."""
        self.longest_s = 0.0
        """Since the last reading."""
        self.limit = 0.0
        """A step longer than this is looked at more closely (the longest so far, or one for which CPU is read)."""
        self.self_wakes = 0
        self.started = 0
        self.completed = 0
        self.failed = 0
        self.cancelled = 0
        self.never_retrieved = 0
        self.never_awaited = 0
        self.destroyed_pending = 0
        self.delays = 0
        self.delay_s = 0.0
        self.waits = 0
        self.short_waits = 0
        self.looks = 0
        self.next_look = 0
        """The number of steps at which the next one is looked at (looks.py)."""
        self.recent_looks = 0
        self.sleeping = 0
        self.timed_out = 0
        self.lines: dict[tuple[str, str, int], int] = {}
        """How often it was suspended at (function, file, line); bounded."""
        self.suspended: tuple[int, int, float, float] | None = None
        """At the last look: its task's id, `steps`, `perf_counter`, `wall_s`."""
        self.costs: list[tuple[int, float]] = []

    @property
    def cpu_s(self) -> float:
        return max(0.0, self.wall_s + self.correction_s)


other: CoroutineType = CoroutineType(OTHER, "callback")
by_name: dict[str, CoroutineType] = {}


def of_task(task: Future[Any]) -> CoroutineType:
    """The type of a task, by its coroutine. Any thread. Never raises: what cannot be told apart is `other`."""
    raise NotImplementedError


def of_callback(callback: Any) -> CoroutineType:
    """The type of any other callback: partials and methods by what they call, protocol callbacks by their protocol."""
    raise NotImplementedError
