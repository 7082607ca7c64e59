"""The only vocabulary between integrations and the rest: what happened, as plain immutable records.

An integration translates its runtime into these; segments carry them between processes; windows fold them. Times are
wall-clock nanoseconds since the epoch or durations in seconds; CPU is in seconds; sizes are in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

Outcome: TypeAlias = Literal["useful", "retried", "failed", "duplicate", "cancelled", "polling", "pending", "none"]
Activity: TypeAlias = Literal["business", "serialization", "gc", "framework", "native", "agent", "unattributed"]
ProcessClass: TypeAlias = Literal["web", "worker", "scheduler", "job"]
StallCause: TypeAlias = Literal["unknown", "blocking", "own_cpu", "gil", "starved"]
"""A call that waits, the loop's own CPU, other threads holding the interpreter, or a host that had no CPU for it."""
StepKind: TypeAlias = Literal["task", "callback", "timer", "io"]

OUTCOMES: Final[tuple[Outcome, ...]] = (
    "none",
    "useful",
    "retried",
    "failed",
    "duplicate",
    "cancelled",
    "polling",
    "pending",
)
"""Index = the byte a segment stores. Append only."""

WASTED_OUTCOMES: Final[frozenset[Outcome]] = frozenset({"retried", "failed", "duplicate", "cancelled", "polling"})

ACTIVITIES: Final[tuple[Activity, ...]] = (
    "business",
    "serialization",
    "gc",
    "framework",
    "native",
    "agent",
    "unattributed",
)

STATES: Final[tuple[str, ...]] = ("", "SUCCESS", "RETRY", "FAILURE", "IGNORED", "REJECTED", "REVOKED", "REQUEUED")
"""Celery's own word for how an attempt ended; index = the byte a segment stores. Append only."""

STALL_CAUSES: Final[tuple[StallCause, ...]] = ("unknown", "blocking", "own_cpu", "gil", "starved")
"""Index = the byte a segment stores. Append only."""

DELAY_BUCKETS: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    10.0,
)
"""Upper bounds, in seconds, of what an arrival would wait for its event loop; one more bucket lies above."""

READY_BUCKETS: Final = (0, 1, 10, 100, 1_000, 10_000)
"""Upper bounds of how many handles were ready in one iteration; one more bucket lies above."""

OTHER: Final = "other"
"""The name that tasks, types and rows share for which a table has no room."""

ENDED: Final = "ended"
"""The name under which carriers add up what was not told of loops whose names have made room."""


class Cpu(NamedTuple):
    """CPU seconds of one attempt, split by activity; the parts sum to what the kernel charged for it."""

    business: float = 0.0
    serialization: float = 0.0
    gc: float = 0.0
    framework: float = 0.0
    agent: float = 0.0
    subprocesses: float = 0.0
    """Reaped subprocesses of the attempt: business by activity, but not on the process's own clock."""

    @property
    def total(self) -> float:
        return self.business + self.serialization + self.gc + self.framework + self.agent + self.subprocesses


class Attempt(NamedTuple):
    """One execution of one task, from the moment its process was free for it until its result was handed back."""

    task: str
    task_id: str
    outcome: Outcome
    state: str
    """Celery's word: SUCCESS, RETRY, FAILURE, IGNORED, REJECTED, REQUEUED, REVOKED."""
    start_ns: int
    duration_s: float
    queue: str
    queue_wait_s: float | None
    """From publish (or ETA, if later) to start; None without our header. Negative means clock skew."""
    cpu: Cpu
    retries: int
    """0 for the first attempt of a logical id; Celery's own counter."""
    nesting: int
    """`replaced_task_nesting`: `replace()` keeps the id and starts retries at 0 again."""
    redelivered: bool
    retry_delay_s: float | None
    """For a retried attempt: how long until the next one may start. None when not a retry."""
    depth: int
    """How many generations of the same task name published each other before this one; 0 for a fresh one."""
    args_hash: int
    """A 32-bit hash of the arguments' representation, never exported; 0 when unknown."""
    body_size: int
    max_rss: int
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    """All zero for a root."""
    link_trace_id: bytes
    """The previous attempt of the same task; all zero when there is none."""
    link_span_id: bytes
    sampled: bool
    exported: bool
    """Another tracer (the user's provider, the official instrumentation) already owns the span of this attempt."""
    user_data: bytes
    """JSON of what user code set on the current span (attributes, events, status, name); empty when nothing."""
    expected: bool = False
    """It failed with an exception that the task's author declared to be part of normal work (Celery's `throws`)."""

    @property
    def end_ns(self) -> int:
        return self.start_ns + int(self.duration_s * 1e9)

    @property
    def first(self) -> bool:
        """Is this the attempt with which its logical id began?"""
        return self.retries == 0 and self.nesting == 0 and not self.redelivered


class Publish(NamedTuple):
    """One message handed to the broker."""

    task: str
    task_id: str
    queue: str
    start_ns: int
    duration_s: float
    publisher: str
    """Task name whose attempt published it; empty outside of an attempt."""
    depth: int
    retry: bool
    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes
    sampled: bool
    exported: bool


class CodeSite(NamedTuple):
    """Where a hot attempt was seen on CPU."""

    task: str
    function: str
    file: str
    line: int
    weight: float
    """Share of the sampled CPU of this task seen at this line, 0 to 1."""
    samples: int


class Stall(NamedTuple):
    """One step that held an event loop for longer than the threshold."""

    loop: str
    """The name of the loop's thread."""
    task: str
    """The coroutine or callback type; empty when it is not known."""
    cause: StallCause
    start_ns: int
    duration_s: float
    cpu_s: float
    """Of the loop's thread within the stall, as are the next two figures of others; NaN where it is not known."""
    run_delay_s: float
    others_cpu_s: float
    """Of the process's other threads."""
    code: CodeSite | None
    """Where it was seen while it blocked; None without a stack."""
    stack: str
    """Innermost last, one frame a line, bounded; empty without one."""
    trace_id: bytes
    span_id: bytes
    """The stall's own span: a root."""
    link_trace_id: bytes
    """The span that was active in the step; all zero when there was none."""
    link_span_id: bytes
    process_class: ProcessClass = "job"
    row: str = ""
    """The row of the ledger that paid for it, `METHOD route` of a request; empty when there was none."""

    @property
    def name(self) -> str:
        """What people know it by: of a server all requests have one coroutine type, and each has its row."""
        return self.row or self.task


class CoroutineTally(NamedTuple):
    """What one coroutine or callback type did in one process. Sums since it began, unless a field says otherwise."""

    kind: StepKind
    steps: int = 0
    cpu_s: float = 0.0
    """All CPU of its steps."""
    own_cpu_s: float = 0.0
    """Of it, what no account's row and no Celery attempt pays for: the type's own line in the ledger."""
    wall_s: float = 0.0
    longest_s: float = 0.0
    """Longest step since the last reading; 0 while none took 50 us."""
    self_wakes: int = 0
    """Steps that nothing had to happen for: a bare yield, such as `sleep(0)`."""
    started: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    never_retrieved: int = 0
    never_awaited: int = 0
    destroyed_pending: int = 0
    delays: int = 0
    """Steps of which it was measured how long they waited between being woken and running."""
    delay_s: float = 0.0
    waits: int = 0
    """Suspensions that were measured (a sample)."""
    short_waits: int = 0
    """Of them, those of 50 ms at the most."""
    looks: int = 0
    """Steps before which it was looked at where the task had been suspended (a sample)."""
    sleeping: int = 0
    """Of them: in `asyncio.sleep`."""
    timed_out: int = 0
    """Of them: woken by a timeout, with nothing to show for the wait. Python 3.11's `wait_for` makes a task of what it
    is given and waits for its cancellation (`_cancel_and_wait`): both of its suspensions are meant."""
    connecting: int = 0
    """Of them: in an attempt to connect, between `getaddrinfo` and the end of `sock_connect`."""
    scanning: int = 0
    """Of them: in `asyncio.wait`, which goes through all that it is given at every call."""
    scanned: int = 0
    """How many awaitables `asyncio.wait` was given, summed over those looks."""
    last: int = 0
    """Of them: the step that followed was the last one that was ready, so that what was ready after it is its work."""
    woke: int = 0
    """Of the last ones: something was ready after it: a task that it started or woke, a callback, itself."""
    at_end: int = 0
    """For handles of file descriptors, of which looks are taken as well: of them, readable but with nothing to read
    (FIONREAD says 0): the end of the file."""
    same_line: int = 0
    """Of them: at the line where it was suspended most often."""
    resumed_at: tuple[str, str, int] | None = None
    """That line: function, file, line."""
    defined_at: tuple[str, str, int] | None = None
    """Where the coroutine function or callback begins."""
    costs: tuple[tuple[int, float], ...] = ()
    """(tasks begun and not ended, CPU seconds of the step) of a sample of long steps since the last reading."""

    @property
    def live(self) -> int:
        return self.started - self.completed - self.failed - self.cancelled - self.destroyed_pending


class LoopTally(NamedTuple):
    """What one event loop did. Sums since it began, unless it says otherwise."""

    kind: str
    """asyncio or uvloop."""
    running: bool = False
    iterations: int = 0
    busy_s: float = 0.0
    idle_s: float = 0.0
    cpu_s: float = 0.0
    """Of its thread, while the loop ran."""
    run_delay_s: float = 0.0
    """How long that thread waited for a CPU; NaN where the kernel does not tell."""
    delay: tuple[float, ...] = (0.0,) * (len(DELAY_BUCKETS) + 1)
    """Seconds of the loop's life in which an arrival would have waited so long, by DELAY_BUCKETS."""
    ready: tuple[float, ...] = (0.0,) * (len(READY_BUCKETS) + 1)
    """Busy seconds by how many handles were ready, by READY_BUCKETS."""
    ready_max: int = 0
    """Since the last reading."""
    slow_steps: int = 0
    """Steps longer than the stall threshold: all of them, where records of stalls are a sample."""
    slow_s: float = 0.0
    """How long they took together."""
    late_s: float = 0.0
    """Of it: for which a timer came late although no step that is seen was so long (uvloop): there were many short
    ones, or one that nobody sees, such as a protocol callback."""
    partial: str = ""
    """What of it cannot be seen, as a phrase; empty when all can."""


class ExecutorTally(NamedTuple):
    """What one kind of thread pool did, over all its instances in this process."""

    submitted: int = 0
    wait_s: float = 0.0
    """From submission to start, of those that began."""
    queued_now: int = 0


class InterpreterTally(NamedTuple):
    """How the threads of one process share its interpreter. Sums since the watching began."""

    probes: int = 0
    """How often a thread went to sleep and looked when it got the interpreter again."""
    late_s: float = 0.0
    """How much later than asked, net of what it waited for a CPU."""
    watched_s: float = 0.0
    """Wall time over which the next two were summed."""
    threads_cpu_s: float = 0.0
    """Of all threads of the process."""
    waiting_s: float = 0.0
    """Thread-seconds in which a loop's thread was in the middle of a step and neither ran nor waited for a CPU."""
    hottest: str = ""
    """The name of the thread, other than a loop's, that used most CPU since the last reading."""


class RowTally(NamedTuple):
    """One row of the ledger that is neither a Celery task nor a coroutine type, under one outcome."""

    number: int
    """Of accounts; of `pending` ones: those that are open."""
    cpu_s: float
    wall_s: float


class Tallies(NamedTuple):
    """All that an integration of event loops counted in one process, at one moment."""

    coroutines: Mapping[str, CoroutineTally]
    """By `module.qualname`; bounded, the rest under `other`."""
    loops: Mapping[str, LoopTally]
    """By name of the thread, over all loops that ran in a thread of that name. Bounded: of one that made room, what was
    not told yet is under `ended`."""
    executors: Mapping[str, ExecutorTally]
    interpreter: InterpreterTally = InterpreterTally()
    carrier: str = ""
    """Which of them measures steps, and why: a sentence."""
