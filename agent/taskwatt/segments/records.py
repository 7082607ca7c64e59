"""Between a record's bytes and the observation it stands for."""

from __future__ import annotations

import json
import math
import uuid

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
        expected=bool(flags & layout.EXPECTED),
    )


def _spilled_id(data: bytes) -> str:
    try:
        found = json.loads(data)[SPILLED_ID]
    except (ValueError, KeyError, TypeError):
        return ""
    return found if isinstance(found, str) else ""
