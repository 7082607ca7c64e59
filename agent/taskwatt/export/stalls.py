"""From a stall of an event loop to its span: when, how long, at which line, and why.

A root of its own, linked to the span that was active: the stall held up every task of that loop, and belongs to the
trace of none.
"""

from __future__ import annotations

import math
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

from taskwatt.export.attributes import SECONDS, Value, bucket, code_attributes
from taskwatt.observations import Stall

NAME: Final = "asyncio.stall"
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def stall_span(
    stall: Stall, resource: Resource, scope: InstrumentationScope, *, keep: bool = False, incident: str | None = None
) -> ReadableSpan:
    """`keep`: marked for tail sampling. `incident`: the id of an open one of its task type."""
    attributes = stall_attributes(stall)
    if incident is not None:
        attributes["taskwatt.incident.id"] = incident
    if keep:
        attributes["taskwatt.keep"] = True
    active = _context(stall.link_trace_id, stall.link_span_id)
    return ReadableSpan(
        name=NAME,
        context=_context(stall.trace_id, stall.span_id),
        resource=resource,
        attributes=attributes,
        links=[Link(active)] if active.is_valid else [],
        kind=SpanKind.INTERNAL,
        start_time=stall.start_ns,
        end_time=stall.start_ns + int(stall.duration_s * 1e9),
        instrumentation_scope=scope,
    )


def stall_attributes(stall: Stall) -> dict[str, Value]:
    """Times in seconds; what is not known is left out."""
    found: dict[str, Value] = {
        "taskwatt.task.name": stall.name,
        "taskwatt.process.class": stall.process_class,
        "taskwatt.stall.cause": stall.cause,
        "taskwatt.stall.duration": stall.duration_s,
        "taskwatt.stall.duration_bucket": bucket(stall.duration_s, SECONDS),
        "taskwatt.stall.run_delay": stall.run_delay_s,
        "taskwatt.stall.others_cpu": stall.others_cpu_s,
        "taskwatt.cpu.time": stall.cpu_s,
        "taskwatt.cpu.time_bucket": bucket(stall.cpu_s, SECONDS),
        "thread.name": stall.loop,
        "code.stacktrace": stall.stack,
    }
    found.update(code_attributes(stall.code))
    return {key: value for key, value in found.items() if value != "" and not _unknown(value)}


def _unknown(value: Value) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _context(trace_id: bytes, span_id: bytes) -> SpanContext:
    return SpanContext(int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"), False, _SAMPLED)
