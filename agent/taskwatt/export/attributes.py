"""The attributes that users see on spans, under the names of the public contract."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, Final

from opentelemetry.trace import Span, Status, StatusCode

from taskwatt.incidents import Incident
from taskwatt.observations import CodeSite, Outcome
from taskwatt.rules import Finding
from taskwatt.windows import Window

Value = str | bool | int | float | Sequence[str] | Sequence[float] | Sequence[int]

SECONDS: Final = (
    (0.001, "<1ms"), (0.01, "1ms-10ms"), (0.1, "10ms-100ms"), (1.0, "100ms-1s"), (10.0, "1s-10s"), (inf, ">=10s"),
)  # fmt: skip
_CORES: Final = ((0.1, "<0.1"), (0.5, "0.1-0.5"), (1.0, "0.5-1"), (2.0, "1-2"), (4.0, "2-4"), (inf, ">=4"))


def bucket(value: float, below: Sequence[tuple[float, str]]) -> str:
    """The number once more, as a word to search for: Jaeger finds tags by exact match only."""
    for limit, word in below:
        if value < limit:
            return word
    return below[-1][1]


def attempt_attributes(
    *,
    task: str,
    state: str,
    task_id: str,
    queue: str,
    attempt: int,
    outcome: Outcome,
    cpu_s: float,
    serialization_s: float,
    queue_wait_s: float | None,
    redelivered: bool,
    max_rss: int,
    body_size: int,
) -> dict[str, Value]:
    """What a `run/<task>` span carries. Times in seconds, sizes in bytes; unknown figures are left out."""
    found: dict[str, Value] = {
        "celery.task_name": task,
        "celery.state": state,
        "messaging.message.id": task_id,
        "messaging.destination.name": queue,
        "messaging.message.body.size": body_size,
        "taskwatt.task.attempt": attempt,
        "taskwatt.task.outcome": outcome,
        "taskwatt.cpu.time": cpu_s,
        "taskwatt.cpu.time_bucket": bucket(cpu_s, SECONDS),
        "taskwatt.cpu.serialization_time": serialization_s,
        "taskwatt.task.redelivered": redelivered,
    }
    if queue_wait_s is not None:
        found["taskwatt.queue.wait"] = queue_wait_s
        found["taskwatt.queue.wait_bucket"] = bucket(queue_wait_s, SECONDS)
    if max_rss:
        found["taskwatt.memory.max_rss"] = max_rss
    return found


def publish_attributes(task: str, task_id: str, queue: str) -> dict[str, Value]:
    """What an `apply_async/<task>` span carries."""
    return {"celery.task_name": task, "messaging.message.id": task_id, "messaging.destination.name": queue}


def finish_span(span: Span, attributes: dict[str, Value], failure: tuple[str, str, str] | None) -> None:
    """End a span of the user's own provider. A final failure is ERROR; a retry is not.

    `failure`: type, message and stack trace of the exception.
    """
    span.set_attributes(attributes)
    if failure is not None:
        kind, message, stacktrace = failure
        told = {"exception.type": kind, "exception.message": message, "exception.stacktrace": stacktrace}
        span.add_event("exception", told)
        span.set_status(Status(StatusCode.ERROR, message))
    span.end()


def incident_attributes(incident: Incident, window: Window) -> dict[str, Value]:
    """What a `taskwatt.finding <cause>` span carries."""
    finding = incident.finding
    cpu = window.cpu_total or 1.0
    useful = sum(seconds for (_, outcome, _), seconds in window.ledger.items() if outcome == "useful")
    found: dict[str, Value] = {
        "taskwatt.finding.cause": finding.cause,
        "taskwatt.finding.subtype": finding.subtype,
        "taskwatt.finding.severity": incident.severity,
        "taskwatt.finding.severity_number": incident.severity_number,
        "taskwatt.finding.confidence": finding.confidence,
        "taskwatt.finding.summary": finding.summary,
        "taskwatt.finding.next_step": finding.next_step,
        "taskwatt.incident.id": incident.id,
        "taskwatt.incident.fingerprint": incident.fingerprint,
        "taskwatt.incident.segment": incident.segment,
        "taskwatt.incident.state": incident.state,
        "taskwatt.process.class": finding.process_class,
        "taskwatt.cpu.total_cores": window.total_cores,
        "taskwatt.cpu.wasted_cores": finding.wasted_cores,
        "taskwatt.cpu.wasted_cores_bucket": bucket(finding.wasted_cores, _CORES),
        "taskwatt.cpu.useful_ratio": useful / cpu,
        "taskwatt.cpu.unattributed_ratio": window.cpu_unattributed / cpu,
        "taskwatt.evidence.metric": [one.metric for one in finding.evidence],
        "taskwatt.evidence.value": [float(one.value) for one in finding.evidence],
        "taskwatt.evidence.threshold": [float(one.threshold) for one in finding.evidence],
        "taskwatt.evidence.n": [one.n for one in finding.evidence],
        "taskwatt.keep": True,
    }
    found.update(_task(finding, window))
    found.update(code_attributes(finding.code))
    return {key: value for key, value in found.items() if value != ""}


def code_attributes(code: CodeSite | None) -> dict[str, Value]:
    """Where it burns; empty without a stack sample."""
    if code is None:
        return {}
    return {"code.function.name": code.function, "code.file.path": code.file, "code.line.number": code.line}


def _task(finding: Finding, window: Window) -> dict[str, Any]:
    if not finding.task:
        return {}
    found: dict[str, Any] = {"taskwatt.task.name": finding.task}
    for task in window.tasks:
        if task.task == finding.task and task.process_class == finding.process_class and task.settled:
            found["taskwatt.task.amplification"] = task.settled / max(1, task.firsts)
            found["taskwatt.task.retry_ratio"] = task.attempts.get("retried", 0) / task.settled
    return found
