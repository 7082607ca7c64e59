"""The only vocabulary between integrations and the rest: what happened, as plain immutable records.

An integration translates its runtime into these; segments carry them between processes; windows fold them. Times are
wall-clock nanoseconds since the epoch or durations in seconds; CPU is in seconds; sizes are in bytes.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

Outcome: TypeAlias = Literal["useful", "retried", "failed", "duplicate", "cancelled", "polling", "pending", "none"]
Activity: TypeAlias = Literal["business", "serialization", "gc", "framework", "native", "agent", "unattributed"]
ProcessClass: TypeAlias = Literal["web", "worker", "scheduler", "job"]

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

OTHER: Final = "other"
"""Where task names go when a process has more of them than its string table holds."""


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
