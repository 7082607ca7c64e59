"""Spans of time, folded from observations: all that a rule may look at.

A window is frozen. Every figure in it is a plain sum or a sorted sample over `seconds`, so that a test can write one
down by hand and a later source (PromQL) can fill the same shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from taskwatt.observations import (
    DELAY_BUCKETS,
    READY_BUCKETS,
    CodeSite,
    Outcome,
    ProcessClass,
    Stall,
    StallCause,
    StepKind,
)

EMPTY_OUTCOMES: Mapping[Outcome, int] = MappingProxyType({})
EMPTY_CPU: Mapping[Outcome, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TaskWindow:
    """One task type in one process class over the window."""

    task: str
    process_class: ProcessClass
    attempts: Mapping[Outcome, int] = field(default_factory=lambda: EMPTY_OUTCOMES)
    """Settled attempts by outcome."""
    firsts: int = 0
    """Attempts with which a logical id began (settled ones)."""
    cpu: Mapping[Outcome, float] = field(default_factory=lambda: EMPTY_CPU)
    """CPU seconds by outcome, the main process's share included; `pending` is what is in flight."""
    repeat_attempts: int = 0
    """Attempts that were retries (`retries > 0`) or redeliveries."""
    repeat_wasted_cpu: float = 0.0
    """CPU seconds of repeat attempts that did not end useful, the main process's share included."""
    repeat_useful: int = 0
    """Repeat attempts that ended useful."""
    retry_delays: tuple[float, ...] = ()
    """Delays that retried attempts asked for, in seconds, in the order in which they were seen (a bounded sample)."""
    retry_growth: tuple[float, ...] = ()
    """For retried attempts with retries >= 1: delay of attempt n / delay of attempt n-1 of the same task id
    (sampled)."""
    max_depth: int = 0
    """Deepest generation of this task publishing itself seen in the window."""
    self_published: int = 0
    """Attempts that came from an attempt of the same task name (not retries)."""
    repeated_args: int = 0
    """Of those, how many repeated the arguments of an attempt already seen in this lineage."""
    unsettled_attempts: int = 0
    """Most attempts that any one logical id has used without reaching a terminal state."""
    deaths: int = 0
    """Most attempts of any one logical id that were cut off while its message came back each time (acks_late)."""
    oldest_in_flight_s: float = 0.0
    """Age of the oldest attempt now running."""
    in_flight: int = 0
    code: CodeSite | None = None
    """The hottest line, when one was sampled."""
    code_missing: str = ""
    """Why there is none although it was looked for: a phrase."""

    @property
    def settled(self) -> int:
        return sum(self.attempts.values())

    @property
    def cpu_total(self) -> float:
        return sum(self.cpu.values())


@dataclass(frozen=True, slots=True)
class HostWindow:
    """Capacity of the machine as this worker meets it, over the window. Rates are in CPUs (seconds per second)."""

    effective_cpus: float
    """E = min(affinity, quota / period)."""
    own_cpu: float | None
    """C: CPU of all own processes; None where it cannot be read."""
    own_run_delay: float | None
    """W: run-queue delay of all own threads; None where the kernel does not tell (no schedstat)."""
    throttled_ratio: float | None = None
    """nr_throttled / nr_periods; None without a quota."""
    steal_ratio: float | None = None
    runnable_processes: int = 0
    """Own processes that used CPU in the window."""
    idle_cpus: float | None = None
    """Of the CPUs that the own processes may run on, those that nobody used; None where the kernel does not tell."""
    summed_excess: float | None = None
    """`own_excess` of each sample, averaged: a busy second does not hide behind a quiet one. None: from the means."""
    summed_shortfall: float | None = None
    """The same of `shortfall`."""

    @property
    def demand(self) -> float | None:
        """D = C + W: the CPUs the own processes would have used, had nobody made them wait."""
        if self.own_cpu is None or self.own_run_delay is None:
            return None
        return self.own_cpu + self.own_run_delay

    @property
    def own_excess(self) -> float | None:
        """max(0, D - E): waiting that own concurrency alone explains."""
        if self.summed_excess is not None:
            return self.summed_excess
        demand = self.demand
        return None if demand is None else max(0.0, demand - self.effective_cpus)

    @property
    def shortfall(self) -> float | None:
        """min(D, E) - C - idle: CPU that was ours to have and that the host took away.

        What was idle nobody took: threads also wait while the scheduler is slow to move them to a free CPU.
        """
        if self.summed_shortfall is not None:
            return self.summed_shortfall
        demand = self.demand
        if demand is None or self.own_cpu is None:
            return None
        return max(0.0, min(demand, self.effective_cpus) - self.own_cpu - (self.idle_cpus or 0.0))


@dataclass(frozen=True, slots=True)
class CoroutineWindow:
    """One coroutine or callback type over the window. Field by field as in CoroutineTally, as differences."""

    name: str
    kind: StepKind = "task"
    steps: int = 0
    cpu_s: float = 0.0
    own_cpu_s: float = 0.0
    wall_s: float = 0.0
    longest_s: float = 0.0
    self_wakes: int = 0
    started: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    live: int = 0
    """Now."""
    waits: int = 0
    short_waits: int = 0
    looks: int = 0
    sleeping: int = 0
    timed_out: int = 0
    connecting: int = 0
    scanning: int = 0
    scanned: int = 0
    last: int = 0
    woke: int = 0
    at_end: int = 0
    resumed_at: CodeSite | None = None
    """The line at which it was suspended most often; weight is the share of looks."""
    defined_at: CodeSite | None = None
    costs: tuple[tuple[int, float], ...] = ()
    """(tasks that had begun and not ended, CPU seconds of it) of a sample of long steps."""
    code: CodeSite | None = None
    """The hottest line, when one was sampled."""

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class LoopWindow:
    """One event loop over the window."""

    name: str
    kind: str = "asyncio"
    iterations: int = 0
    busy_s: float = 0.0
    idle_s: float = 0.0
    cpu_s: float = 0.0
    run_delay_s: float = 0.0
    delay: tuple[float, ...] = (0.0,) * (len(DELAY_BUCKETS) + 1)
    """Seconds by what an arrival would have waited (DELAY_BUCKETS)."""
    ready: tuple[float, ...] = (0.0,) * (len(READY_BUCKETS) + 1)
    """Busy seconds by ready handles (READY_BUCKETS)."""
    ready_max: int = 0
    slow_steps: int = 0
    """Steps above the stall threshold: all of them."""
    slow_s: float = 0.0
    """How long they took together."""
    late_s: float = 0.0
    """Of it: in which no step that is seen was so long (see LoopTally)."""
    stalls: Mapping[StallCause, tuple[int, float]] = field(default_factory=dict[StallCause, tuple[int, float]])
    """(number, seconds) of those of them that left a record, by cause. They are bounded: good for shares."""
    worst: Stall | None = None
    """The longest of them."""
    partial: str = ""

    @property
    def ready_known(self) -> bool:
        """Is it seen how many handles are ready? Not in uvloop."""
        return self.ready_max > 0 or not self.partial

    @property
    def utilization(self) -> float:
        """Share of its time in which it was not waiting for events."""
        alive = self.busy_s + self.idle_s
        return self.busy_s / alive if alive > 0 else 0.0

    def delay_quantile(self, share: float) -> float:
        """What an arrival waits at the most in `share` of the time: linear within a bucket; 0.0 without data."""
        total = sum(self.delay)
        left = total * share
        if total <= 0:
            return 0.0
        low = 0.0
        for high, seconds in zip((*DELAY_BUCKETS, DELAY_BUCKETS[-1]), self.delay, strict=True):
            if seconds > 0 and left <= seconds:
                return low + (high - low) * left / seconds
            left -= seconds
            low = high
        return DELAY_BUCKETS[-1]

    def ready_quantile(self, share: float) -> float:
        """Ready handles in `share` of the busy time, at the most: an upper bound of the bucket."""
        left = sum(self.ready) * share
        for high, seconds in zip((*READY_BUCKETS, max(self.ready_max, READY_BUCKETS[-1])), self.ready, strict=True):
            if seconds > 0 and left <= seconds:
                return float(min(high, self.ready_max or high))
            left -= seconds
        return 0.0


@dataclass(frozen=True, slots=True)
class InterpreterWindow:
    """How threads of one process share its interpreter, over the window."""

    python_cpu: float
    """CPUs that its threads used together."""
    probe_late_s: float
    """How much later than asked, and than its own run-queue delay explains, a sleeping thread got the interpreter: on
    average over `samples`."""
    samples: int
    waiting: float
    """Threads that wanted to run and neither ran nor waited for a CPU, on average."""
    hottest: str = ""
    """The name of the thread, other than a loop's, that used most CPU."""


@dataclass(frozen=True, slots=True)
class Window:
    """What one agent knows about a span of time; the argument of every rule."""

    seconds: float
    """Length actually covered; shorter than asked for while the agent is young."""
    process_class: ProcessClass
    tasks: tuple[TaskWindow, ...]
    host: HostWindow
    cpu_total: float
    """CPU seconds the kernel charged to all processes of this agent in the window."""
    cpu_none: float
    """CPU seconds booked to no attempt (idle polling of the broker, start-up)."""
    cpu_unattributed: float
    slots: int = 0
    """Pool size; 0 when unknown."""
    ledger: Mapping[tuple[str, Outcome, str], float] = field(default_factory=dict[tuple[str, Outcome, str], float])
    """(task, outcome, activity) -> CPU seconds in the window."""
    coroutines: tuple[CoroutineWindow, ...] = ()
    loops: tuple[LoopWindow, ...] = ()
    interpreter: InterpreterWindow | None = None
    """None where no event loop runs, or none was probed yet."""
    rows: frozenset[str] = frozenset()
    """Of `tasks`, the names that are requests and labelled blocks: neither Celery tasks nor coroutine types."""
    dropped: int = 0
    """Records lost to bounds or damage in the window; lowers confidence."""

    @property
    def attempted(self) -> tuple[TaskWindow, ...]:
        """Tasks that somebody tries, and may try again: Celery's. Steps of coroutines and requests are no attempts.

        Within an attempt, whose own CPU it is, a type may have the name of its task.
        """
        others = self.rows | {one.name for one in self.coroutines if one.own_cpu_s > 0}
        return tuple(task for task in self.tasks if task.task not in others)

    @property
    def total_cores(self) -> float:
        return self.cpu_total / self.seconds if self.seconds else 0.0

    @property
    def coverage(self) -> float:
        """Share of the kernel's CPU that the ledger explains, 0 to 1."""
        if self.cpu_total <= 0:
            return 1.0
        return max(0.0, min(1.0, 1.0 - self.cpu_unattributed / self.cpu_total))
