"""Incidents as spans: short root traces, one a segment, each linked to the one before.

A span is exported only when it ends, and backends look for spans by their start: one long, backdated span would be
found by nobody while the incident lasts.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import getrandbits

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from taskwatt.export.attributes import incident_attributes
from taskwatt.export.span import Ids, span_context
from taskwatt.export.spans import SCOPE
from taskwatt.incidents import Incident
from taskwatt.windows import Window

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def incident_span(
    incident: Incident,
    window: Window,
    resource: Resource,
    previous: tuple[int, int] | None,
    evidence: Iterable[Ids] = (),
) -> ReadableSpan:
    """The span `taskwatt.finding <cause>` of one segment; ERROR from warning up.

    `previous`: ids of the segment before; the first link, if there is one. `evidence`: ids of attempts that are kept.
    """
    links = [Link(SpanContext(*previous, False, _SAMPLED))] if previous else []
    links += [Link(span_context(ids, _SAMPLED)) for ids in evidence]
    bad = incident.severity != "info" and incident.state != "resolved"
    return ReadableSpan(
        name=f"taskwatt.finding {incident.finding.cause}",
        context=SpanContext(getrandbits(128) or 1, getrandbits(64) or 1, False, _SAMPLED),
        parent=None,
        resource=resource,
        attributes=incident_attributes(incident, window),
        links=links,
        kind=SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, incident.finding.summary) if bad else Status(StatusCode.UNSET),
        start_time=incident.updated_at_ns - int(window.seconds * 1e9),
        end_time=incident.updated_at_ns,
        instrumentation_scope=SCOPE,
    )
