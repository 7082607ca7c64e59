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

import contextvars
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

from taskwatt.export.span import Ids, RecordedSpan, span_context
from taskwatt.settings import Settings

OWN: Final = 1
PROVIDER: Final = 2
OFFICIAL: Final = 3

_OFFICIAL_MODULE = "opentelemetry.instrumentation.celery"
_PROVIDER_NAMED = "OTEL_PYTHON_TRACER_PROVIDER" in os.environ
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
_ROOT = Context()
_NO_PARENT = SpanContext(0, 0, False)
NO_IDS: Final[Ids] = bytes(16), bytes(8)

_NAMES_MAX = 1000

Decide: TypeAlias = Callable[[SpanContext, int, str, Context], bool]
"""Parent, trace id, span name and parent context: is it sampled?"""


class Sample:
    """Which attempts and publishes get a span of ours."""

    __slots__ = ("_decide", "_excluded", "_patterns", "follows_parent")

    def __init__(self, decide: Decide, excluded: Sequence[str] = ()) -> None:
        """`excluded`: globs of task names."""
        self._decide = decide
        self.follows_parent = decide is follow_parent
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
    unset = _no_provider()
    official = sys.modules.get(_OFFICIAL_MODULE)
    if official is not None:
        instrumentor = official.CeleryInstrumentor()
        # Without a provider its spans record nothing and reach nobody.
        mute = unset and isinstance(getattr(instrumentor, "_tracer", None), trace.ProxyTracer)
        if instrumentor.is_instrumented_by_opentelemetry and not mute:
            return OFFICIAL
    return OWN if unset else PROVIDER


def _no_provider() -> bool:
    """Has nobody set a tracer provider here?

    While there is none, get_tracer_provider() reads the environment at each call, which is dear here.
    """
    if getattr(trace, "_TRACER_PROVIDER", trace) is None and not _PROVIDER_NAMED:
        return True
    return isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def follow_parent(parent: SpanContext, _trace_id: int, _name: str, _context: Context) -> bool:
    """The default sampler (parent-based, always on), without the SDK's objects, which cost more than the record."""
    return not parent.is_valid or bool(parent.trace_flags & 1)


def env_sampler() -> Sample:
    """What OTEL_TRACES_SAMPLER and TASKWATT_EXCLUDED_TASKS ask for.

    `follow_parent` where it asks for nothing.
    """
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import Decision

    excluded = Settings.from_environ(os.environ).excluded_tasks
    sampler = TracerProvider(shutdown_on_exit=False).sampler
    if sampler.get_description() == (
        "ParentBased{root:AlwaysOnSampler,remoteParentSampled:AlwaysOnSampler,remoteParentNotSampled:AlwaysOffSampler,"
        "localParentSampled:AlwaysOnSampler,localParentNotSampled:AlwaysOffSampler}"
    ):
        return Sample(follow_parent, excluded)

    def decide(_parent: SpanContext, trace_id: int, name: str, context: Context) -> bool:
        result = sampler.should_sample(context, trace_id, name, kind=SpanKind.CONSUMER)
        return result.decision is Decision.RECORD_AND_SAMPLE

    return Sample(decide, excluded)


class Scope:
    """The current span of one attempt or publish, from `enter` to `leave`."""

    __slots__ = ("_cover", "_token", "context_ids", "link_ids", "mode", "parent_id", "sampled", "span")

    def __init__(self) -> None:
        self.mode = OWN
        self.span: Span | None = None
        self.context_ids = NO_IDS
        self.parent_id = NO_IDS[1]
        self.link_ids = NO_IDS
        self.sampled = False
        self._token: Any = None
        self._cover: Any = None

    @property
    def context(self) -> SpanContext:
        flags = _SAMPLED if self.sampled else _NOT_SAMPLED
        return self.span.get_span_context() if self.span is not None else span_context(self.context_ids, flags)

    @property
    def parent(self) -> SpanContext:
        known = self.parent_id != NO_IDS[1]
        return span_context((self.context_ids[0], self.parent_id), _SAMPLED, remote=True) if known else _NO_PARENT

    @property
    def link(self) -> SpanContext:
        """Of the attempt before this one."""
        return span_context(self.link_ids, _SAMPLED, remote=True)

    def identify(self, context: SpanContext, parent: SpanContext) -> None:
        self.context_ids = _ids(context)
        self.parent_id = _ids(parent)[1]
        self.sampled = bool(context.trace_flags & 1)

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
    span_name = f"run/{name}"
    if previous:
        scope.link_ids = (_parse_traceparent(previous) or (NO_IDS, 0))[0]
    excluded = sample.excludes(name)
    if scope.mode == OWN and sample.follows_parent and not excluded and _is_plain(headers):
        _enter_light(scope, span_name, headers.get("traceparent"))
        return scope
    context, parent = _extract(headers)
    if excluded:
        if scope.mode != OFFICIAL:
            scope.enter(context)
        return scope
    if scope.mode == PROVIDER:
        links = [trace.Link(scope.link)] if scope.link.is_valid else None
        tracer = trace.get_tracer("taskwatt")
        scope.span = tracer.start_span(span_name, context, SpanKind.CONSUMER, links=links, start_time=start_ns)
        scope.identify(scope.span.get_span_context(), parent)
    else:
        own = _new_context(parent, span_name, context, sample)
        scope.identify(own, parent)
        if scope.mode == OFFICIAL:
            return scope
        scope.span = RecordedSpan(own, span_name) if scope.sampled else NonRecordingSpan(own)
    scope.enter(trace.set_span_in_context(scope.span, context))
    return scope


def _enter_light(scope: Scope, span_name: str, traceparent: object) -> None:
    """The usual case without the objects that nobody asks for: half of what an attempt costs went into them."""
    parent = _parse_traceparent(traceparent)
    span_id = (getrandbits(64) or 1).to_bytes(8, "big")
    if parent is None:
        scope.context_ids, scope.sampled = ((getrandbits(128) or 1).to_bytes(16, "big"), span_id), True
    else:
        (trace_id, scope.parent_id), flags = parent
        scope.context_ids, scope.sampled = (trace_id, span_id), bool(flags & 1)
    if scope.sampled:
        scope.span = RecordedSpan(scope.context_ids, span_name)
    else:
        scope.span = NonRecordingSpan(span_context(scope.context_ids, _NOT_SAMPLED))
    scope.enter(trace.set_span_in_context(scope.span, _ROOT))


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
    parent = trace.get_current_span().get_span_context()
    span_name = f"apply_async/{name}"
    if scope.mode == PROVIDER:
        scope.span = trace.get_tracer("taskwatt").start_span(span_name, kind=SpanKind.PRODUCER, start_time=start_ns)
    else:
        scope.span = NonRecordingSpan(_new_context(parent, span_name, otel_context.get_current(), sample))
    scope.identify(scope.span.get_span_context(), parent)
    if not (keep_parent and "traceparent" in headers):
        propagate.inject(headers, trace.set_span_in_context(scope.span))
    return scope


def current() -> tuple[int, Span]:
    """(mode, current span): what an enrichment writes to."""
    return mode(), trace.get_current_span()


def active_in(context: contextvars.Context) -> Ids:
    """Ids of the span that is current in a context, from any thread; NO_IDS when there is none, or one not sampled."""
    runtime = getattr(otel_context, "_RUNTIME_CONTEXT", None)
    variable: Any = getattr(runtime, "_current_context", None)
    read: Any = context.get
    found = read(variable) if variable is not None else None
    span = trace.get_current_span(found).get_span_context() if found is not None else _NO_PARENT
    return _ids(span) if span.is_valid and span.trace_flags & 1 else NO_IDS


def traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _new_context(parent: SpanContext, name: str, context: Context, sample: Sample) -> SpanContext:
    trace_id = parent.trace_id if parent.is_valid else getrandbits(128) or 1
    flags = _SAMPLED if sample(parent, trace_id, name, context) else _NOT_SAMPLED
    return SpanContext(trace_id, getrandbits(64) or 1, False, flags, parent.trace_state if parent.is_valid else None)


def _extract(headers: Mapping[str, Any]) -> tuple[Context, SpanContext]:
    if _is_plain(headers):
        found = _parse_traceparent(headers.get("traceparent"))
        if found is None:
            return _ROOT, _NO_PARENT
        parent = span_context(found[0], TraceFlags(found[1]), remote=True)
        return trace.set_span_in_context(NonRecordingSpan(parent), _ROOT), parent
    carrier = {key: value for key, value in headers.items() if isinstance(value, str)}
    context = propagate.extract(carrier, _ROOT)
    return context, trace.get_current_span(context).get_span_context()


def _is_plain(headers: Mapping[str, Any]) -> bool:
    """Do the default propagators, which are set, find a `traceparent` there or nothing? Then we can do without them."""
    global _plain_textmap
    if "baggage" in headers or "tracestate" in headers:
        return False
    textmap = propagate.get_global_textmap()
    if textmap is _plain_textmap:
        return True
    if textmap.fields != _DEFAULT_FIELDS:
        return False
    _plain_textmap = textmap
    return True


_DEFAULT_FIELDS = {"traceparent", "tracestate", "baggage"}
_plain_textmap: object = None
"""A propagator that was found to be the default: asking for its fields costs 1 us."""


_match_traceparent = re.compile("(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?![0-9a-f])").match


def _parse_traceparent(value: object) -> tuple[Ids, int] | None:
    """Ids and flags of a W3C header; None for anything malformed."""
    found = _match_traceparent(value) if isinstance(value, str) else None
    if found is None:
        return None
    trace_id, span_id, flags = map(bytes.fromhex, found.groups())
    return ((trace_id, span_id), flags[0]) if any(trace_id) and any(span_id) else None


def _ids(context: SpanContext) -> Ids:
    return context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
