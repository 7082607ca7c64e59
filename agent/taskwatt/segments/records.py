"""Between a record's bytes and the observation it stands for."""

from __future__ import annotations

import json
import uuid
from typing import Any, Final, NamedTuple

from taskwatt.observations import OUTCOMES, STATES, Attempt, Cpu, Publish
from taskwatt.segments import layout
from taskwatt.segments.layout import Record
from taskwatt.segments.reader import Drained

SPILLED_ID = "id"
"""Key of a task id that is no UUID within the spilled JSON."""

_CANCELLED: Final = OUTCOMES.index("cancelled")
_MAX_NS: Final = 1 << 62
"""Wall clock, the year 2116: its sum with a duration still fits what OpenTelemetry carries."""
_MAX_S: Final = 3.2e9
"""A century."""
_MAX_SIZE: Final = (1 << 63) - 1
"""OpenTelemetry's integers are signed."""


def pack_task_id(task_id: str) -> bytes | None:
    """The 16 bytes of a canonical UUID; None for any other id, which must be spilled."""
    if len(task_id) == 36 and task_id[8] == task_id[13] == task_id[18] == task_id[23] == "-":
        plain = task_id.replace("-", "")
        if len(plain) == 32 and plain == plain.lower():
            try:
                packed = bytes.fromhex(plain)
            except ValueError:
                return None
            return packed if len(packed) == 16 else None  # shorter: blanks are skipped
    return None


def decode(drained: Drained) -> Attempt | Publish | None:
    """The observation; None for what makes no sense to this version (the caller counts it).

    That is an unknown kind, outcome or state, and figures that no process can have: one infinite CPU time would
    spoil every sum it enters.
    """
    record = Record.unpack(drained.payload)
    cpu = Cpu(record.business, record.serialization, record.gc, record.framework, record.agent, record.subprocesses)
    if not (0 <= record.start_ns < _MAX_NS and 0.0 <= record.duration < _MAX_S and abs(cpu.total) < _MAX_S):
        return None
    if record.kind == layout.PUBLISH:
        return Publish(
            task=drained.task,
            task_id=_task_id(record, drained),
            queue=drained.queue,
            start_ns=record.start_ns,
            duration_s=record.duration,
            publisher=drained.publisher,
            depth=record.depth,
            retry=bool(record.flags & layout.RETRY_PUBLISH),
            trace_id=record.trace_id,
            span_id=record.span_id,
            parent_span_id=record.parent_span_id,
            sampled=bool(record.flags & layout.SAMPLED),
            exported=bool(record.flags & layout.EXPORTED),
        )
    if record.kind != layout.ATTEMPT or record.outcome >= len(OUTCOMES) or record.state >= len(STATES):
        return None
    return Attempt(
        task=drained.task,
        task_id=_task_id(record, drained),
        outcome=OUTCOMES[record.outcome],
        state=STATES[record.state],
        start_ns=record.start_ns,
        duration_s=record.duration,
        queue=drained.queue,
        queue_wait_s=_known(record.queue_wait),
        cpu=cpu,
        retries=record.retries,
        nesting=record.nesting,
        redelivered=bool(record.flags & layout.REDELIVERED),
        retry_delay_s=_known(record.retry_delay),
        depth=record.depth,
        args_hash=record.args_hash,
        body_size=min(record.body_size, _MAX_SIZE),
        max_rss=min(record.max_rss, _MAX_SIZE),
        trace_id=record.trace_id,
        span_id=record.span_id,
        parent_span_id=record.parent_span_id,
        link_trace_id=record.link_trace_id,
        link_span_id=record.link_span_id,
        sampled=bool(record.flags & layout.SAMPLED),
        exported=bool(record.flags & layout.EXPORTED),
        user_data=drained.user_data,
        expected=bool(record.flags & layout.EXPECTED),
    )


def killed(
    drained: Drained, *, state: str, died_ns: int, before_s: float, cpu_s: float, max_rss: int | None
) -> Drained:
    """The record of an attempt in flight as it stands once its process has died.

    What it used is business but for `before_s`, the part before its body began: nobody was left to split it further.
    `max_rss` None: the one noted at its start holds.
    """
    record = Record.unpack(drained.payload)
    before_s = max(0.0, min(cpu_s, before_s))
    record = record._replace(
        duration=max(0.0, (died_ns - record.start_ns) / 1e9),
        business=max(0.0, cpu_s - before_s),
        framework=before_s,
        max_rss=record.max_rss if max_rss is None else max_rss,
        outcome=_CANCELLED,
        state=STATES.index(state) if state in STATES else 0,
    )
    return drained._replace(payload=layout.pack_record(*record))


class Taken(NamedTuple):
    """What was taken from a cell: attempts of which only sums are known."""

    segment: str
    slot: int
    task: str
    outcome: int
    state: int
    attempts: int
    firsts: int
    so_far: int
    """Attempts of that cell taken since its segment began, these included."""
    cpu: Cpu


_NOTHING: Final = Record(
    layout.TOTALS, 0, layout.NO_STRING, layout.NO_ID, layout.NO_ID, layout.NO_SPAN, layout.NO_SPAN,
    layout.NO_ID, layout.NO_SPAN, 0, 0.0, 0.0, 0.0, *Cpu(), 0, 0, 0, 0, 0, 0, layout.NO_STRING, 0, 0, 0,
    layout.NO_STRING, 0, 0,
)  # fmt: skip


def pack_taken(taken: Taken) -> Drained:
    """As a record of the journal: see layout.TOTALS."""
    fields: dict[str, Any] = taken.cpu._asdict()
    record = _NOTHING._replace(
        **fields,
        attempt_no=taken.attempts,
        body_size=taken.firsts,
        max_rss=taken.so_far,
        retries=taken.slot,
        outcome=taken.outcome,
        state=taken.state,
    )
    return Drained(taken.segment, 0, layout.pack_record(*record), taken.task, "", "", b"")


def decode_taken(drained: Drained) -> Taken | None:
    """None for any other record."""
    record = Record.unpack(drained.payload)
    if record.kind != layout.TOTALS or record.outcome >= len(OUTCOMES) or record.state >= len(STATES):
        return None
    counts = record.attempt_no, record.body_size, record.max_rss
    cpu = Cpu(*(getattr(record, name) for name in Cpu._fields))
    return Taken(drained.segment, record.retries, drained.task, record.outcome, record.state, *counts, cpu)


def _known(seconds: float) -> float | None:
    """NaN stands for unknown; anything beyond a lifetime was made up by whoever sent the message."""
    return seconds if abs(seconds) < _MAX_S else None


def _task_id(record: Record, drained: Drained) -> str:
    if record.flags & layout.ID_SPILLED:
        return _spilled_id(drained.user_data)
    return str(uuid.UUID(bytes=record.task_id))


def _spilled_id(data: bytes) -> str:
    try:
        found = json.loads(data)[SPILLED_ID]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return found.encode("utf-8", "replace").decode() if isinstance(found, str) else ""
