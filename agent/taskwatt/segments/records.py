"""Between a record's bytes and the observation it stands for."""

from __future__ import annotations

import json
import math
import uuid
from typing import NamedTuple

from taskwatt.observations import OUTCOMES, STATES, Attempt, Cpu, Publish
from taskwatt.segments import layout
from taskwatt.segments.reader import Drained

SPILLED_ID = "id"
"""Key of a task id that is no UUID within the spilled JSON."""


def pack_task_id(task_id: str) -> bytes | None:
    """The 16 bytes of a canonical UUID; None for any other id, which must be spilled."""
    if len(task_id) == 36:
        plain = task_id.replace("-", "")
        if len(plain) == 32 and plain == plain.lower():
            try:
                return bytes.fromhex(plain)
            except ValueError:
                return None
    return None


def decode(record: Drained) -> Attempt | Publish | None:
    """The observation; None for a kind, outcome or state that this version does not know (the caller counts it)."""
    (
        kind, flags, _task, task_id, trace_id, span_id, parent_id, link_trace, link_span, start_ns,
        duration, wait, delay, business, serialization, gc, framework, agent, subprocesses,
        _attempt_no, body_size, max_rss, retries, depth, nesting, _queue, args_hash,
        outcome, state, _publisher, _length, _at,
    ) = layout.RECORD.unpack(record.payload)  # fmt: skip
    name = _spilled_id(record.user_data) if flags & layout.ID_SPILLED else str(uuid.UUID(bytes=task_id))
    if kind == layout.PUBLISH:
        return Publish(
            task=record.task,
            task_id=name,
            queue=record.queue,
            start_ns=start_ns,
            duration_s=duration,
            publisher=record.publisher,
            depth=depth,
            retry=bool(flags & layout.RETRY_PUBLISH),
            trace_id=trace_id,
            span_id=span_id,
            parent_span_id=parent_id,
            sampled=bool(flags & layout.SAMPLED),
            exported=bool(flags & layout.EXPORTED),
        )
    if kind != layout.ATTEMPT or outcome >= len(OUTCOMES) or state >= len(STATES):
        return None
    return Attempt(
        task=record.task,
        task_id=name,
        outcome=OUTCOMES[outcome],
        state=STATES[state],
        start_ns=start_ns,
        duration_s=duration,
        queue=record.queue,
        queue_wait_s=None if math.isnan(wait) else wait,
        cpu=Cpu(business, serialization, gc, framework, agent, subprocesses),
        retries=retries,
        nesting=nesting,
        redelivered=bool(flags & layout.REDELIVERED),
        retry_delay_s=None if math.isnan(delay) else delay,
        depth=depth,
        args_hash=args_hash,
        body_size=body_size,
        max_rss=max_rss,
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent_id,
        link_trace_id=link_trace,
        link_span_id=link_span,
        sampled=bool(flags & layout.SAMPLED),
        exported=bool(flags & layout.EXPORTED),
        user_data=record.user_data,
    )


class Taken(NamedTuple):
    """What was taken from a cell: attempts of which only sums are known."""

    segment: str
    task: str
    outcome: int
    state: int
    attempts: int
    firsts: int
    so_far: int
    """Attempts of that cell taken since its segment began, these included."""
    cpu: tuple[float, float, float, float, float, float]


def pack_taken(taken: Taken) -> Drained:
    payload = layout.RECORD.pack(
        layout.TOTALS, 0, layout.NO_STRING, layout.NO_ID, layout.NO_ID, layout.NO_SPAN, layout.NO_SPAN,
        layout.NO_ID, layout.NO_SPAN, 0, 0.0, 0.0, 0.0, *taken.cpu, taken.attempts, taken.firsts, taken.so_far,
        0, 0, 0, layout.NO_STRING, 0, taken.outcome, taken.state, layout.NO_STRING, 0, 0,
    )  # fmt: skip
    return Drained(taken.segment, 0, payload, taken.task, "", "", b"")


def decode_taken(record: Drained) -> Taken | None:
    """None for any other record."""
    kind, *fields = layout.RECORD.unpack(record.payload)
    if kind != layout.TOTALS or fields[26] >= len(OUTCOMES) or fields[27] >= len(STATES):
        return None
    attempts, firsts, so_far = fields[18:21]
    cpu = (fields[12], fields[13], fields[14], fields[15], fields[16], fields[17])
    return Taken(record.segment, record.task, fields[26], fields[27], attempts, firsts, so_far, cpu)


def _spilled_id(data: bytes) -> str:
    try:
        found = json.loads(data)[SPILLED_ID]
    except (ValueError, KeyError, TypeError):
        return ""
    return found if isinstance(found, str) else ""
