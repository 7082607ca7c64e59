"""What is known of an attempt while it runs in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskwatt.code_sampler import CodeSampler
from taskwatt.export.context import Scope
from taskwatt_celery.threads import Before


class Running:
    """What is known of the attempt now running in this process.

    `Recorder.begin` sets everything: a constructor's frame would cost as much as a clock reading.
    """

    __slots__ = (
        "attempt_no", "begun", "body", "body_cpu", "cpu", "depth", "error", "expected", "finished_body", "flags",
        "gap", "hook_s", "message", "others", "redelivered", "sampler", "sampling_s", "scope", "size", "start",
        "task", "task_name", "wait",
    )  # fmt: skip

    task_name: str
    message: Mapping[str, Any]
    """The request, as it came."""
    attempt_no: int
    start: float
    cpu: float
    gap: float
    others: Before | None
    redelivered: bool
    depth: int
    wait: float
    size: int
    scope: Scope
    flags: int
    task: int
    begun: bytes
    """What the record says of it already: see layout.pack_begun."""
    body: bool
    finished_body: bool
    body_cpu: float
    """Process CPU net of what is booked to other activities, when the body begins; afterwards what it used of it."""
    hook_s: float
    sampling_s: float
    error: BaseException | None
    expected: bool
    sampler: CodeSampler | None

    def others_s(self) -> float:
        """CPU seconds on the process's clock since the attempt began that are not the attempt's."""
        return sum(self.others.used()) if self.others is not None else 0.0
