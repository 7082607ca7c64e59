"""Finished spans through the tracer provider that the user set in this process.

For what only the draining process can tell: attempts that were killed with their span, attempts of processes that were
forked before the provider was set, incidents. The user's sampler, processors and exporters apply.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Tracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext

from taskwatt import __version__

log = logging.getLogger("taskwatt")


def is_set() -> bool:
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def send(span: ReadableSpan) -> None:
    """Make the same span there, and end it. It keeps its ids: other spans name it as their parent, or link to it."""
    # With its version this is no tracer that attempts use, so that giving ids on it disturbs nobody.
    tracer = trace.get_tracer_provider().get_tracer("taskwatt", __version__)
    if isinstance(tracer, Tracer):
        tracer.id_generator = _Given(span.context or INVALID_SPAN_CONTEXT)
    parent = trace.set_span_in_context(NonRecordingSpan(span.parent), Context()) if span.parent else Context()
    copy = tracer.start_span(span.name, parent, span.kind, span.attributes, span.links, span.start_time)
    for event in span.events:
        copy.add_event(event.name, event.attributes, event.timestamp)
    copy.set_status(span.status)
    copy.end(span.end_time)


def flush(seconds: float) -> None:
    """Let it send what it holds, for so long at the most, in a process that is about to leave by `os._exit`.

    On a thread of its own: the SDK's batch processor does not keep to its timeout.
    """
    force_flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if not is_set() or force_flush is None:
        return
    thread = threading.Thread(target=_quietly, args=(force_flush,), name="taskwatt-flush", daemon=True)
    thread.start()
    thread.join(seconds)


def _quietly(force_flush: Callable[[], object]) -> None:
    try:
        force_flush()
    except Exception as error:
        log.debug("taskwatt could not flush the tracer provider of this process: %r", error)


class _Given(IdGenerator):
    """The ids of one span that exists already."""

    def __init__(self, context: SpanContext) -> None:
        self._context = context

    def generate_span_id(self) -> int:
        return self._context.span_id

    def generate_trace_id(self) -> int:
        return self._context.trace_id
