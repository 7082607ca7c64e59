"""Between a record's bytes and the observation it stands for."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple, TypeAlias

from taskwatt.observations import OUTCOMES, STATES, Attempt, Cpu, Publish, Stall
from taskwatt.segments import layout
from taskwatt.segments.layout import Record
from taskwatt.segments.reader import Drained
from taskwatt.segments.stall_records import decode_stall

SPILLED_ID = "id"
"""Key of a task id that is no UUID within the spilled JSON."""

Observed: TypeAlias = Attempt | Publish | Stall
"""What a record stands for."""

_CANCELLED: Final = OUTCOMES.index("cancelled")
_MAX_NS: Final = 1 << 62
"""Wall clock, the year 2116: its sum with a duration still fits what OpenTelemetry carries."""
_MAX_S: Final = 3.2e9
"""A century."""
_MAX_SIZE: Final = (1 << 63) - 1
"""OpenTelemetry's integers are signed."""


def pack_task_id(task_id: str) -> bytes | None:
    """The bytes of an id as long as a UUID is written; None for any other, which must be spilled."""
    raw = task_id.encode("utf-8", "replace")
    return raw if len(raw) == layout.TASK_ID_SIZE else None


def decode(drained: Drained) -> Observed | None:
    """The observation; None for what makes no sense to this version (the caller counts it).

    That is an unknown kind, outcome or state, and figures that no process can have: one infinite CPU time would
    spoil every sum it enters.
    """
    # Once for each attempt, twice where it has a span: local names and positions take half of what attributes and
    # keywords do.
    (
        kind, flags, _, packed_id, trace_id, span_id, parent_span_id, link_trace_id, link_span_id, start_ns,
        queue_wait, _, body_size, retries, depth, nesting, _, args_hash, _, duration, retry_delay, business,
        serialization, gc, framework, agent, subprocesses, max_rss, outcome, state, _, _,
    ) = layout.RECORD.unpack(drained.payload)  # fmt: skip
    total = business + serialization + gc + framework + agent + subprocesses
    if not (0 <= start_ns < _MAX_NS and 0.0 <= duration < _MAX_S and abs(total) < _MAX_S):
        return None
    _, _, _, task, queue, publisher, user_data = drained
    task_id = _spilled_id(user_data) if flags & layout.ID_SPILLED else packed_id.decode("utf-8", "replace")
    sampled, exported = bool(flags & layout.SAMPLED), bool(flags & layout.EXPORTED)
    if kind == layout.PUBLISH:
        retry = bool(flags & layout.RETRY_PUBLISH)
        return Publish(
            task, task_id, queue, start_ns, duration, publisher, depth, retry, trace_id, span_id, parent_span_id,
            sampled, exported,
        )  # fmt: skip
    if kind == layout.STALL:
        return decode_stall(drained)
    if kind != layout.ATTEMPT or outcome >= len(OUTCOMES) or state >= len(STATES):
        return None
    return Attempt(
        task, task_id, OUTCOMES[outcome], STATES[state], start_ns, duration, queue, _known(queue_wait),
        Cpu(business, serialization, gc, framework, agent, subprocesses), retries, nesting,
        bool(flags & layout.REDELIVERED), _known(retry_delay), depth, args_hash, min(body_size, _MAX_SIZE),
        min(max_rss, _MAX_SIZE), trace_id, span_id, parent_span_id, link_trace_id, link_span_id, sampled, exported,
        user_data, bool(flags & layout.EXPECTED),
    )  # fmt: skip


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
    layout.TOTALS, 0, layout.NO_STRING, b"", layout.NO_ID, layout.NO_SPAN, layout.NO_SPAN, layout.NO_ID,
    layout.NO_SPAN, 0, 0.0, 0, 0, 0, 0, 0, layout.NO_STRING, 0, layout.NO_STRING, 0.0, 0.0, *Cpu(), 0, 0, 0, 0, 0,
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


def _spilled_id(data: bytes) -> str:
    try:
        found = json.loads(data)[SPILLED_ID]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return found.encode("utf-8", "replace").decode() if isinstance(found, str) else ""
