"""Which span is current during an attempt, and whose it is.

Three modes, decided per process and per attempt, because users may install their tracing at any time:

- `OFFICIAL`: opentelemetry-instrumentation-celery is active here. Its span is enriched, never doubled.
- `PROVIDER`: a tracer provider is set in this process. The span is made by it, so user's samplers, processors and
  exporters apply.
- `OWN`: neither. A light recording span is current, so that other instrumentations nest under it and what user code
  sets on it is kept; the draining process exports it from the record.

Nothing here starts a thread, opens a socket or sets a global.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from random import getrandbits
from typing import Any, Final, TypeAlias

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags

from taskwatt.export.span import RecordedSpan
from taskwatt.settings import Settings

OWN: Final = 1
PROVIDER: Final = 2
OFFICIAL: Final = 3

_OFFICIAL_MODULE = "opentelemetry.instrumentation.celery"
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
_ROOT = Context()
_NO_PARENT = SpanContext(0, 0, False)

_NAMES_MAX = 1000

Decide: TypeAlias = Callable[[SpanContext, int, str, Context], bool]
"""Parent, trace id, span name and parent context: is it sampled?"""


class Sample:
    """Which attempts and publishes get a span of ours."""

    __slots__ = ("_decide", "_excluded", "_patterns")

    def __init__(self, decide: Decide, excluded: Sequence[str] = ()) -> None:
        """`excluded`: globs of task names."""
        self._decide = decide
        self._patterns = tuple(excluded)
        self._excluded: dict[str, bool] = {}

    def __call__(self, parent: SpanContext, trace_id: int, name: str, context: Context) -> bool:
        return self._decide(parent, trace_id, name, context)

    def excludes(self, task: str) -> bool:
        """Is there to be no span of ours? What is above it in the trace is then what is below it sees above."""
        if not self._patterns:
            return False
        found = self._excluded.get(task)
        if found is None:
            found = any(fnmatchcase(task, pattern) for pattern in self._patterns)
            if len(self._excluded) < _NAMES_MAX:
                self._excluded[task] = found
        return found


def mode() -> int:
    """Whose span an attempt (or a publish) that begins now should have."""
    unset = isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    official = sys.modules.get(_OFFICIAL_MODULE)
    if official is not None:
        instrumentor = official.CeleryInstrumentor()
        # Without a provider its spans record nothing and reach nobody.
        mute = unset and isinstance(getattr(instrumentor, "_tracer", None), trace.ProxyTracer)
        if instrumentor.is_instrumented_by_opentelemetry and not mute:
            return OFFICIAL
    return OWN if unset else PROVIDER


def env_sampler() -> Sample:
    """What OTEL_TRACES_SAMPLER and TASKWATT_EXCLUDED_TASKS ask for.

    The default (parent-based, always on) is answered without the SDK's sampler objects, which cost more than the
    record.
    """
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import Decision

    excluded = Settings.from_environ(os.environ).excluded_tasks
    sampler = TracerProvider(shutdown_on_exit=False).sampler
    if sampler.get_description() == (
        "ParentBased{root:AlwaysOnSampler,remoteParentSampled:AlwaysOnSampler,remoteParentNotSampled:AlwaysOffSampler,"
        "localParentSampled:AlwaysOnSampler,localParentNotSampled:AlwaysOffSampler}"
    ):
        return Sample(
            lambda parent, _trace_id, _name, _context: not parent.is_valid or bool(parent.trace_flags & 1), excluded
        )

    def decide(_parent: SpanContext, trace_id: int, name: str, context: Context) -> bool:
        result = sampler.should_sample(context, trace_id, name, kind=SpanKind.CONSUMER)
        return result.decision is Decision.RECORD_AND_SAMPLE

    return Sample(decide, excluded)


class Scope:
    """The current span of one attempt or publish, from `enter` to `leave`."""

    __slots__ = ("_cover", "_token", "context", "link", "mode", "parent", "span")

    def __init__(self) -> None:
        self.mode = OWN
        self.span: Span | None = None
        self.context = _NO_PARENT
        self.parent = _NO_PARENT
        self.link = _NO_PARENT
        self._token: Any = None
        self._cover: Any = None

    @property
    def sampled(self) -> bool:
        return bool(self.context.trace_flags & 1)

    def enter(self, context: Context) -> None:
        """Make `context`, which has our span in it, current."""
        self._token = otel_context.attach(context)

    def uncover(self) -> None:
        """Make our span current where the official instrumentation put one over it that records nothing."""
        if self.mode == OWN and self.span is not None and _OFFICIAL_MODULE in sys.modules:
            above = trace.get_current_span()
            if above is not self.span and not above.is_recording():
                self._cover = otel_context.attach(trace.set_span_in_context(self.span))

    def cover(self) -> None:
        """Take back `uncover`."""
        if self._cover is not None:
            token, self._cover = self._cover, None
            otel_context.detach(token)

    def leave(self) -> None:
        """Make the span before ours current again."""
        if self._token is not None:
            token, self._token = self._token, None
            otel_context.detach(token)

    def recorded(self) -> RecordedSpan | None:
        return self.span if isinstance(self.span, RecordedSpan) else None


def enter_attempt(name: str, headers: Mapping[str, Any], previous: str | None, start_ns: int, sample: Sample) -> Scope:
    """Make the span `run/<name>` current for an attempt whose message carried `headers`.

    `previous` is the traceparent of the attempt before this one of the same task: a link, not the parent.
    In OFFICIAL mode nothing is made current: ids are kept for the case that the attempt is killed and its span with it.
    """
    scope = Scope()
    scope.mode = mode()
    context, scope.parent = _extract(headers)
    if previous:
        scope.link = _parse_traceparent(previous)
    if sample.excludes(name):
        if scope.mode != OFFICIAL:
            scope.enter(context)
        return scope
    span_name = f"run/{name}"
    if scope.mode == PROVIDER:
        links = [trace.Link(scope.link)] if scope.link.is_valid else None
        tracer = trace.get_tracer("taskwatt")
        scope.span = tracer.start_span(span_name, context, SpanKind.CONSUMER, links=links, start_time=start_ns)
        scope.context = scope.span.get_span_context()
    else:
        scope.context = _new_context(scope.parent, span_name, context, sample)
        if scope.mode == OFFICIAL:
            return scope
        recording = scope.sampled
        scope.span = RecordedSpan(scope.context, span_name) if recording else NonRecordingSpan(scope.context)
    scope.enter(trace.set_span_in_context(scope.span, context))
    return scope


def enter_publish(name: str, headers: dict[str, Any], start_ns: int, sample: Sample, keep_parent: bool) -> Scope:
    """Begin the span `apply_async/<name>` and put the context that the consumer continues into `headers`.

    `keep_parent`: a retry. Its attempts are siblings under the first publish, so the context already in `headers`
    stays. In OFFICIAL mode that instrumentation does both.
    """
    scope = Scope()
    scope.mode = mode()
    if scope.mode == OFFICIAL:
        return scope
    if sample.excludes(name):
        if not (keep_parent and "traceparent" in headers):
            propagate.inject(headers)
        return scope
    scope.parent = trace.get_current_span().get_span_context()
    span_name = f"apply_async/{name}"
    if scope.mode == PROVIDER:
        scope.span = trace.get_tracer("taskwatt").start_span(span_name, kind=SpanKind.PRODUCER, start_time=start_ns)
        scope.context = scope.span.get_span_context()
    else:
        scope.context = _new_context(scope.parent, span_name, otel_context.get_current(), sample)
        scope.span = NonRecordingSpan(scope.context)
    if not (keep_parent and "traceparent" in headers):
        propagate.inject(headers, trace.set_span_in_context(scope.span))
    return scope


def current() -> tuple[int, Span]:
    """(mode, current span): what an enrichment writes to."""
    return mode(), trace.get_current_span()


def traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _new_context(parent: SpanContext, name: str, context: Context, sample: Sample) -> SpanContext:
    trace_id = parent.trace_id if parent.is_valid else getrandbits(128) or 1
    flags = _SAMPLED if sample(parent, trace_id, name, context) else _NOT_SAMPLED
    return SpanContext(trace_id, getrandbits(64) or 1, False, flags, parent.trace_state if parent.is_valid else None)


def _extract(headers: Mapping[str, Any]) -> tuple[Context, SpanContext]:
    if "traceparent" not in headers and "baggage" not in headers and _w3c():
        return _ROOT, _NO_PARENT
    if "baggage" not in headers and "tracestate" not in headers and _w3c():
        parent = _parse_traceparent(headers["traceparent"])
        return (trace.set_span_in_context(NonRecordingSpan(parent), _ROOT) if parent.is_valid else _ROOT), parent
    carrier = {key: value for key, value in headers.items() if isinstance(value, str)}
    context = propagate.extract(carrier, _ROOT)
    return context, trace.get_current_span(context).get_span_context()


def _w3c() -> bool:
    """Are the default propagators set, so that the header can be read without them?"""
    fields = propagate.get_global_textmap().fields
    return fields == _DEFAULT_FIELDS


_DEFAULT_FIELDS = {"traceparent", "tracestate", "baggage"}


_match_traceparent = re.compile("(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?![0-9a-f])").match


def _parse_traceparent(value: object) -> SpanContext:
    """The remote context of a W3C header; an invalid one, ids all zero, for anything malformed."""
    found = _match_traceparent(value) if isinstance(value, str) else None
    if found is None:
        return _NO_PARENT
    trace_id, span_id, flags = found.groups()
    context = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
    return context if context.is_valid else _NO_PARENT
