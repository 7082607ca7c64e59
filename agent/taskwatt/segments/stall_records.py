"""Between a record's bytes and the stall of an event loop.

A stall has more to say than a record holds: the line, the stack and the row are spilled, as a short
JSON list.
"""

from __future__ import annotations

import json
import math
from typing import Final, cast, get_args

from taskwatt.observations import STALL_CAUSES, CodeSite, ProcessClass, Stall
from taskwatt.segments import layout
from taskwatt.segments.layout import Record
from taskwatt.segments.reader import Drained
from taskwatt.segments.writer import SegmentWriter

_NAME_MAX: Final = 500
_MAX_S: Final = 3.2e9
"""A century."""
_MAX: Final = (1 << 63) - 1


def put_stall(segment: SegmentWriter, stall: Stall) -> bool:
    """Write it into the ring; False when that is full. Any thread."""
    spilled = spill_of(stall)
    at, length = segment.spill(spilled) if spilled else (0, 0)
    record = Record(
        kind=layout.STALL,
        flags=layout.SAMPLED,
        task=segment.string(stall.task),
        task_id=layout.NO_ID,
        trace_id=stall.trace_id,
        span_id=stall.span_id,
        parent_span_id=layout.NO_SPAN,
        link_trace_id=stall.link_trace_id,
        link_span_id=stall.link_span_id,
        start_ns=stall.start_ns,
        duration=stall.duration_s,
        queue_wait=stall.run_delay_s,
        retry_delay=stall.others_cpu_s,
        business=stall.cpu_s,
        serialization=0.0,
        gc=0.0,
        framework=0.0,
        agent=0.0,
        subprocesses=0.0,
        attempt_no=0,
        body_size=0,
        max_rss=0,
        retries=0,
        depth=0,
        nesting=0,
        queue=segment.string(stall.loop),
        args_hash=0,
        outcome=STALL_CAUSES.index(stall.cause),
        state=0,
        publisher=segment.string(stall.process_class),
        spill_length=length,
        spill_at=at,
    )
    return segment.put(layout.pack_record(*record), 0, 0.0)


def spill_of(stall: Stall) -> bytes:
    """Its code, stack and row; empty without any. What is too long loses its outer frames."""
    if stall.code is None and not stall.stack and not stall.row:
        return b""
    code = stall.code or CodeSite(stall.task, "", "", 0, 0.0, 0)
    site = code.function[:_NAME_MAX], code.file[-_NAME_MAX:], code.line, code.weight, code.samples
    lines = stall.stack.splitlines()
    while True:
        data = json.dumps([*site, "\n".join(lines), stall.row[:_NAME_MAX]]).encode()
        if len(data) <= layout.SPILL_MAX or not lines:
            return data
        del lines[: 1 + len(lines) // 8]


def decode_stall(drained: Drained) -> Stall | None:
    """None for one of an unknown cause. Its times were looked at by the caller."""
    record = Record.unpack(drained.payload)
    if record.outcome >= len(STALL_CAUSES):
        return None
    code, stack, row = _seen(drained)
    name = drained.publisher
    return Stall(
        loop=drained.queue,
        task=drained.task,
        cause=STALL_CAUSES[record.outcome],
        start_ns=record.start_ns,
        duration_s=record.duration,
        cpu_s=record.business,
        run_delay_s=_known(record.queue_wait),
        others_cpu_s=_known(record.retry_delay),
        code=code,
        stack=stack,
        trace_id=record.trace_id,
        span_id=record.span_id,
        link_trace_id=record.link_trace_id,
        link_span_id=record.link_span_id,
        process_class=cast(ProcessClass, name) if name in get_args(ProcessClass) else "job",
        row=row,
    )


def _seen(drained: Drained) -> tuple[CodeSite | None, str, str]:
    """Code, stack and row as they were spilled; nothing of damaged data."""
    try:
        function, file, line, weight, samples, stack, row = json.loads(drained.user_data)
        code = CodeSite(drained.task, _text(function), _text(file), int(line), float(weight), int(samples))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None, "", ""
    sound = code.function and 0 <= code.line <= _MAX and 0.0 <= code.weight <= 1.0 and 0 <= code.samples <= _MAX
    return code if sound else None, _text(stack), _text(row)


def _text(value: object) -> str:
    """Names of files may hold bytes that are no text, which no receiver can be told."""
    return str(value).encode("utf-8", "replace").decode()


def _known(seconds: float) -> float:
    return seconds if abs(seconds) < _MAX_S else math.nan
