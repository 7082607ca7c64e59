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
from binascii import unhexlify
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from random import getrandbits
from typing import Any, Final, TypeAlias

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags

from taskwatt.export.span import Ids, RecordedSpan, UnsampledSpan, span_context
from taskwatt.settings import Settings

OWN: Final = 1
PROVIDER: Final = 2
OFFICIAL: Final = 3

OFFICIAL_MODULE = "opentelemetry.instrumentation.celery"
PROVIDER_NAMED = "OTEL_PYTHON_TRACER_PROVIDER" in os.environ
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NOT_SAMPLED = TraceFlags(TraceFlags.DEFAULT)
_ROOT = Context()
_NO_PARENT = SpanContext(0, 0, False)
NO_IDS: Final[Ids] = bytes(16), bytes(8)

_NAMES_MAX = 1000

Decide: TypeAlias = Callable[[SpanContext, int, str, Context], bool]
"""Parent, trace id, span name and parent context: is it sampled?"""

LightDecide: TypeAlias = Callable[[int | None, bytes], bool]
"""The same of the usual samplers, from the parent's flags (None: a root) and the trace id alone."""


class Sample:
    """Which attempts and publishes get a span of ours."""

    __slots__ = ("_decide", "_names", "_patterns", "excluded", "light")

    def __init__(self, decide: Decide | None, excluded: Sequence[str] = (), light: LightDecide | None = None) -> None:
        """`excluded`: globs of task names. `light`, where there is one, decides in place of `decide`."""
        self._decide = decide
        self.light = light
        self._patterns = tuple(excluded)
        self._names: dict[str, bool] = {}
        self.excluded = self._excludes if excluded else None
        """Is there to be no span of ours? What is above it in the trace is then what is below it sees above.

        None when that is true of no task.
        """

    def __call__(self, parent: SpanContext, trace_id: int, name: str, context: Context) -> bool:
        if self.light is not None:
            return self.light(parent.trace_flags if parent.is_valid else None, trace_id.to_bytes(16, "big"))
        return self._decide is None or self._decide(parent, trace_id, name, context)

    def _excludes(self, task: str) -> bool:
        found = self._names.get(task)
        if found is None:
            found = any(fnmatchcase(task, pattern) for pattern in self._patterns)
            if len(self._names) < _NAMES_MAX:
                self._names[task] = found
        return found


def mode() -> int:
    """Whose span an attempt (or a publish) that begins now should have."""
    # While nobody has set a provider, get_tracer_provider() reads the environment at each call, which is dear here.
    unset = getattr(trace, "_TRACER_PROVIDER", trace) is None and not PROVIDER_NAMED
    if not unset:
        unset = isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    official = sys.modules.get(OFFICIAL_MODULE)
    if official is not None:
        instrumentor = official.CeleryInstrumentor()
        # Without a provider its spans record nothing and reach nobody.
        mute = unset and isinstance(getattr(instrumentor, "_tracer", None), trace.ProxyTracer)
        if instrumentor.is_instrumented_by_opentelemetry and not mute:
            return OFFICIAL
    return OWN if unset else PROVIDER


def env_sampler() -> Sample:
    """What OTEL_TRACES_SAMPLER and TASKWATT_EXCLUDED_TASKS ask for."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import Decision

    excluded = Settings.from_environ(os.environ).excluded_tasks
    sampler = TracerProvider(shutdown_on_exit=False).sampler
    light = _light_sampler(sampler.get_description()) if type(sampler).__module__ == _SAMPLERS else None

    def decide(_parent: SpanContext, trace_id: int, name: str, context: Context) -> bool:
        result = sampler.should_sample(context, trace_id, name, kind=SpanKind.CONSUMER)
        return result.decision is Decision.RECORD_AND_SAMPLE

    return Sample(decide, excluded, light)


def follow_parent(flags: int | None, _trace_id: bytes) -> bool:
    """The default sampler: parent-based, always on."""
    return flags is None or bool(flags & 1)


def _light_sampler(description: str) -> LightDecide | None:
    """As the standard sampler of this description; None for any other, which must be asked itself.

    The SDK's objects that are needed to ask one cost more than the record.
    """
    follows = _PARENT_BASED.fullmatch(description)
    root = _root_sampler(follows[1] if follows else description)
    if root is None:
        return None
    if follows is None:
        return lambda _, trace_id: root(trace_id)
    if follows[1] == "AlwaysOnSampler":
        return follow_parent
    return lambda flags, trace_id: root(trace_id) if flags is None else bool(flags & 1)


def _root_sampler(description: str) -> Callable[[bytes], bool] | None:
    if description in ("AlwaysOnSampler", "AlwaysOffSampler"):
        sampled = description == "AlwaysOnSampler"
        return lambda _: sampled
    ratio = _RATIO.fullmatch(description)
    if ratio is None:
        return None
    bound = round(float(ratio[1]) * (1 << 64))
    return lambda trace_id: int.from_bytes(trace_id[8:], "big") < bound


_SAMPLERS = "opentelemetry.sdk.trace.sampling"
_PARENT_BASED = re.compile(
    "ParentBased{root:(.*),remoteParentSampled:AlwaysOnSampler,remoteParentNotSampled:AlwaysOffSampler,"
    "localParentSampled:AlwaysOnSampler,localParentNotSampled:AlwaysOffSampler}"
)
_RATIO = re.compile("TraceIdRatioBased{(.*)}")


class Scope:
    """The current span of one attempt or publish, from `enter` to `leave`."""

    __slots__ = ("_cover", "_token", "context_ids", "link_ids", "mode", "parent_id", "recorded", "sampled", "span")

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.context_ids = self.link_ids = NO_IDS
        self.parent_id = NO_IDS[1]
        self.sampled = False
        self.span: Span | None = None
        self.recorded: RecordedSpan | None = None
        """`span`, where it is one of these."""
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
        if self.mode == OWN and self.span is not None and OFFICIAL_MODULE in sys.modules:
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


def enter_attempt(name: str, headers: Mapping[str, Any], previous: str | None, start_ns: int, sample: Sample) -> Scope:
    """Make the span `run/<name>` current for an attempt whose message carried `headers`.

    `previous` is the traceparent of the attempt before this one of the same task: a link, not the parent.
    In OFFICIAL mode nothing is made current: ids are kept for the case that the attempt is killed and its span with it.
    """
    scope = Scope(mode())
    if previous:
        trace_id, span_id, _ = _parse_traceparent(previous) or (*NO_IDS, 0)
        scope.link_ids = trace_id, span_id
    excluded = sample.excluded is not None and sample.excluded(name)
    if scope.mode == OWN and sample.light is not None and not excluded and _is_plain(headers):
        _enter_light(scope, headers.get("traceparent"), sample.light)
        return scope
    span_name = f"run/{name}"
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
        if scope.sampled:
            scope.span = scope.recorded = RecordedSpan(own)
        else:
            scope.span = NonRecordingSpan(own)
    scope.enter(trace.set_span_in_context(scope.span, context))
    return scope


def _enter_light(scope: Scope, traceparent: object, decide: LightDecide) -> None:
    """The usual case without the objects that nobody asks for: half of what an attempt costs went into them."""
    parent = _parse_traceparent(traceparent)
    if parent is None:
        trace_id, flags = (getrandbits(128) or 1).to_bytes(16, "big"), None
    else:
        trace_id, scope.parent_id, flags = parent
    scope.context_ids = ids = trace_id, (getrandbits(64) or 1).to_bytes(8, "big")
    scope.sampled = decide(flags, trace_id)
    if scope.sampled:
        scope.span = scope.recorded = RecordedSpan(ids)
    else:
        scope.span = UnsampledSpan(ids)
    scope.enter(Context({SPAN_KEY: scope.span}))


SPAN_KEY = next(iter(trace.set_span_in_context(NonRecordingSpan(_NO_PARENT), _ROOT)))
"""Under which OpenTelemetry keeps the current span in a context; it is made anew in every process."""


def enter_publish(name: str, headers: dict[str, Any], start_ns: int, sample: Sample, keep_parent: bool) -> Scope:
    """Begin the span `apply_async/<name>` and put the context that the consumer continues into `headers`.

    `keep_parent`: a retry. Its attempts are siblings under the first publish, so the context already in `headers`
    stays. In OFFICIAL mode that instrumentation does both.
    """
    scope = Scope(mode())
    if scope.mode == OFFICIAL:
        return scope
    if sample.excluded is not None and sample.excluded(name):
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
        trace_id, span_id, flags = found
        parent = span_context((trace_id, span_id), TraceFlags(flags), remote=True)
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


def _parse_traceparent(value: object) -> tuple[bytes, bytes, int] | None:
    """Trace id, span id and flags of a W3C header; None for anything malformed."""
    if not isinstance(value, str) or value != value.lower():
        return None
    try:
        version, trace_id, span_id, flags = value.split("-", 4)[:4]
        raw = unhexlify(version + trace_id + span_id + flags)  # unlike bytes.fromhex, it does not skip blanks
    except ValueError:
        return None
    if len(raw) != 26 or len(trace_id) != 32 or len(span_id) != 16 or version == "ff":
        return None
    found = raw[1:17], raw[17:25], raw[25]
    return None if NO_IDS[0] in found or NO_IDS[1] in found else found


def _ids(context: SpanContext) -> Ids:
    return context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")
