"""From records to finished OpenTelemetry spans, for whichever exporter takes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, cast

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from taskwatt import __version__
from taskwatt.export.attributes import attempt_attributes, code_attributes, publish_attributes
from taskwatt.export.stalls import stall_span
from taskwatt.observations import Attempt, CodeSite, Publish, Stall
from taskwatt.segments.records import Observed

SCOPE = InstrumentationScope("taskwatt", __version__)
HOT_ATTEMPT_S: Final = 0.1
"""CPU of one attempt from which its span carries the line where its task type burns."""
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
NO_SPAN: Final = bytes(8)
_FAILED = frozenset({"failed", "cancelled"})
_DESCRIPTIONS = {"REJECTED": "rejected", "REVOKED": "revoked", "FAILURE": "failed"}


class SpanFactory:
    """Makes spans of one resource.

    `excluded` says which task names stay out of spans; the ledger has them all the same. `incident_of` and `code_of`
    tell what is known about a task now: its open incident's id, and the line where it burns. `keep`, given an attempt
    or a stall and whether an incident is open, says which spans are marked for samplers.
    """

    def __init__(
        self,
        resource: Resource,
        *,
        excluded: Callable[[str], bool],
        incident_of: Callable[[str], str | None],
        code_of: Callable[[str], CodeSite | None],
        keep: Callable[[Attempt | Stall, bool], bool] = lambda _observed, _in_incident: False,
    ) -> None:
        self._resource = resource
        self._excluded = excluded
        self.incident_of = incident_of
        self._code_of = code_of
        self.keep = keep

    def wanted(self, observed: Observed | None) -> bool:
        if isinstance(observed, Stall):
            return not self._excluded(observed.task) and not self._excluded(observed.name)
        return observed is not None and observed.sampled and not observed.exported and not self._excluded(observed.task)

    def span(self, observed: Observed) -> ReadableSpan:
        if isinstance(observed, Stall):
            incident = self.incident_of(observed.name)
            keep = self.keep(observed, incident is not None)
            return stall_span(observed, self._resource, SCOPE, keep=keep, incident=incident)
        return self._attempt(observed) if isinstance(observed, Attempt) else self._publish(observed)

    def _attempt(self, attempt: Attempt) -> ReadableSpan:
        try:
            return self._with_user_data(attempt, _user_data(attempt.user_data))
        except (TypeError, ValueError, LookupError, AttributeError):  # damaged: the span goes without
            return self._with_user_data(attempt, {})

    def _with_user_data(self, attempt: Attempt, data: dict[str, Any]) -> ReadableSpan:
        attributes: dict[str, Any] = dict(data.get("attributes") or {})
        attributes.update(
            attempt_attributes(
                task=attempt.task,
                state=attempt.state,
                task_id=attempt.task_id,
                queue=attempt.queue,
                attempt=attempt.retries + 1,
                outcome=attempt.outcome,
                cpu_s=attempt.cpu.total,
                serialization_s=attempt.cpu.serialization,
                queue_wait_s=attempt.queue_wait_s,
                redelivered=attempt.redelivered,
                max_rss=attempt.max_rss,
                body_size=attempt.body_size,
            )
        )
        incident = self.incident_of(attempt.task)
        if incident is not None:
            attributes["taskwatt.incident.id"] = incident
        if self.keep(attempt, incident is not None):
            attributes["taskwatt.keep"] = True
        if attempt.cpu.total >= HOT_ATTEMPT_S:
            attributes.update(code_attributes(self._code_of(attempt.task)))
        links = [Link(_context(attempt.link_trace_id, attempt.link_span_id))] if any(attempt.link_span_id) else []
        links += [
            Link(_context(bytes.fromhex(trace_id), bytes.fromhex(span_id)), extra)
            for trace_id, span_id, extra in data.get("links") or ()
        ]
        events = [Event(name, extra, timestamp) for name, timestamp, extra in data.get("events") or ()]
        end_ns = attempt.end_ns
        exception = data.get("exception")
        if exception and attempt.outcome in _FAILED and not any(event.name == "exception" for event in events):
            events.append(
                Event("exception", {"exception.type": exception[0], "exception.message": exception[1]}, end_ns)
            )
        return ReadableSpan(
            name=data.get("name") or f"run/{attempt.task}",
            context=_context(attempt.trace_id, attempt.span_id),
            parent=_context(attempt.trace_id, attempt.parent_span_id) if attempt.parent_span_id != NO_SPAN else None,
            resource=self._resource,
            attributes=attributes,
            events=events,
            links=links,
            kind=SpanKind.CONSUMER,
            status=_status(attempt, data),
            start_time=attempt.start_ns,
            end_time=end_ns,
            instrumentation_scope=SCOPE,
        )

    def _publish(self, publish: Publish) -> ReadableSpan:
        return ReadableSpan(
            name=f"apply_async/{publish.task}",
            context=_context(publish.trace_id, publish.span_id),
            parent=_context(publish.trace_id, publish.parent_span_id) if publish.parent_span_id != NO_SPAN else None,
            resource=self._resource,
            attributes=publish_attributes(publish.task, publish.task_id, publish.queue),
            kind=SpanKind.PRODUCER,
            status=Status(StatusCode.UNSET),
            start_time=publish.start_ns,
            end_time=publish.start_ns + int(publish.duration_s * 1e9),
            instrumentation_scope=SCOPE,
        )


def _status(attempt: Attempt, data: dict[str, Any]) -> Status:
    if data.get("status"):
        code, description = data["status"]
        return Status(StatusCode(code), description)
    if attempt.outcome not in _FAILED or attempt.expected:
        return Status(StatusCode.UNSET)
    exception = data.get("exception")
    return Status(StatusCode.ERROR, exception[1] if exception else _DESCRIPTIONS.get(attempt.state, "failed"))


def _context(trace_id: bytes, span_id: bytes) -> SpanContext:
    return SpanContext(int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"), False, _SAMPLED)


def _user_data(raw: bytes) -> dict[str, Any]:
    if not raw:
        return {}
    try:
        found = json.loads(raw, parse_int=_int)
        if b"\\ud" in raw:  # perhaps a lone surrogate, which no receiver can be told
            found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}


def _int(text: str) -> int | str:
    """An integer as OTLP can hold it; a longer one as text."""
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 63 else text
