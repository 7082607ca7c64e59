"""Spans of usual attempts straight as OTLP messages, for OpenTelemetry's own OTLP exporters.

The SDK takes 40 us to make a span of an attempt and encode it. Most attempts say the same as the one before but for
ids, times and figures: so the first of a kind goes through the SDK, and what came of it is the template of those that
follow. Whatever is unusual (user code set something on the span, a failure has a message, a line is known) goes
through the SDK every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import FunctionType, MethodType
from typing import Final, NamedTuple, TypeAlias

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

from taskwatt.export.attributes import SECONDS, bucket
from taskwatt.export.spans import HOT_ATTEMPT_S, NO_SPAN, SpanFactory
from taskwatt.observations import Attempt
from taskwatt.segments.records import Observed

Told: TypeAlias = ReadableSpan | Span
"""A span as an exporter that uses `Encoder.request` takes it."""

MAX_KINDS: Final = 1024
"""Templates kept, of about 1 kB."""
_SEAMS: Final = ("export", "_translate_data")
"""The methods of OpenTelemetry's exporters (HTTP, gRPC) that call `encode_spans`."""


class _Template(NamedTuple):
    span: Span
    places: dict[str, int]
    """Of the attributes, by key."""


class Encoder:
    """Makes spans for exporters for which `used_by` is true."""

    def __init__(self, factory: SpanFactory) -> None:
        self._factory = factory
        self._templates: dict[tuple[object, ...], _Template] = {}
        self._envelope: ResourceSpans | None = None
        """Resource and scope, and no span."""

    def used_by(self, exporter: SpanExporter) -> bool:
        """Have this one exporter encode by `request`; False when it does not let us, and goes on as it was.

        OpenTelemetry's exporters call `encode_spans` by a name of their module. Here the one method that does, of this
        one object, finds `request` under that name. Any other exporter, and one that somebody has wrapped, has none.
        """
        for name in _SEAMS:
            function = getattr(getattr(exporter, name, None), "__func__", None)
            if isinstance(function, FunctionType) and function.__globals__.get("encode_spans") is encode_spans:
                seen = function.__globals__ | {"encode_spans": self.request}
                own = FunctionType(function.__code__, seen, name, function.__defaults__, function.__closure__)
                if "encode_spans" in function.__code__.co_names:
                    setattr(exporter, name, MethodType(own, exporter))
                    return True
        return False

    def request(self, spans: Sequence[Told]) -> ExportTraceServiceRequest:
        """In place of the SDK's `encode_spans`."""
        found = encode_spans([span for span in spans if isinstance(span, ReadableSpan)])
        ready = [span for span in spans if isinstance(span, Span)]
        if ready and self._envelope is not None:
            found.resource_spans.add().CopyFrom(self._envelope)
            found.resource_spans[-1].scope_spans[0].spans.extend(ready)
        return found

    def span(self, observed: Observed) -> Told:
        if not isinstance(observed, Attempt) or observed.user_data:
            return self._factory.span(observed)
        cpu_s = observed.cpu.total
        if cpu_s >= HOT_ATTEMPT_S:
            return self._factory.span(observed)
        incident = self._factory.incident_of(observed.task)
        if self._factory.keep(observed, incident is not None):
            return self._factory.span(observed)
        kind = (
            observed.task,
            observed.state,
            observed.outcome,
            observed.queue,
            observed.redelivered,
            observed.expected,
            None if observed.queue_wait_s is None else bucket(observed.queue_wait_s, SECONDS),
            bucket(cpu_s, SECONDS),
            observed.max_rss == 0,
            observed.parent_span_id == NO_SPAN,
            observed.link_span_id == NO_SPAN,
            incident,
        )
        template = self._templates.get(kind)
        if template is None:
            return self._first(kind, self._factory.span(observed))
        return _filled(template, observed, cpu_s)

    def _first(self, kind: tuple[object, ...], span: ReadableSpan) -> ReadableSpan:
        if len(self._templates) >= MAX_KINDS:
            self._templates.clear()
        envelope = encode_spans([span]).resource_spans[0]
        template = envelope.scope_spans[0].spans.pop()
        places = {one.key: place for place, one in enumerate(template.attributes)}
        self._templates[kind] = _Template(template, places)
        self._envelope = envelope
        return span


def _filled(template: _Template, attempt: Attempt, cpu_s: float) -> Span:
    """The template with everything that its kind leaves open."""
    span = Span()
    span.CopyFrom(template.span)
    span.trace_id, span.span_id = attempt.trace_id, attempt.span_id
    if attempt.parent_span_id != NO_SPAN:
        span.parent_span_id = attempt.parent_span_id
    if attempt.link_span_id != NO_SPAN:
        link = span.links[0]
        link.trace_id, link.span_id = attempt.link_trace_id, attempt.link_span_id
    span.start_time_unix_nano, span.end_time_unix_nano = attempt.start_ns, attempt.end_ns
    attributes, places = span.attributes, template.places
    attributes[places["messaging.message.id"]].value.string_value = attempt.task_id
    attributes[places["messaging.message.body.size"]].value.int_value = attempt.body_size
    attributes[places["taskwatt.task.attempt"]].value.int_value = attempt.retries + 1
    attributes[places["taskwatt.cpu.time"]].value.double_value = cpu_s
    attributes[places["taskwatt.cpu.serialization_time"]].value.double_value = attempt.cpu.serialization
    if attempt.queue_wait_s is not None:
        attributes[places["taskwatt.queue.wait"]].value.double_value = attempt.queue_wait_s
    if attempt.max_rss:
        attributes[places["taskwatt.memory.max_rss"]].value.int_value = attempt.max_rss
    return span
