"""Attempts measured by the accelerator in C: the recorder's own methods, put in place of four of them.

It reads and writes the very slots of recorder, attempt, scope and segment, and leaves whatever is unusual to the
methods in Python, so the two may take turns within one attempt.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from random import getrandbits
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context

from taskwatt.export import context, span
from taskwatt.meter import Meter, meter
from taskwatt.segments import SegmentWriter, layout
from taskwatt_celery import attempt
from taskwatt_celery.attempt import Recorder
from taskwatt_celery.outcome import SUCCESS, USEFUL
from taskwatt_celery.running import Running
from taskwatt_fast.attempts import Surroundings, methods


def accelerated() -> type[Recorder]:
    """A class of recorders whose usual attempts are measured in C. Raises Refused, which says why there is none."""

    class Accelerated(Recorder):
        """The recorder, but for four methods."""

        __slots__ = ()

    for name, method in methods(Accelerated, _surroundings()).items():
        setattr(Accelerated, name, method)
    return Accelerated


def timed_in_c() -> Callable[..., Any]:
    """What measures an encoder; once there is a class of recorders."""
    from taskwatt_fast import _attempts

    return _attempts.Timed


def _surroundings() -> Surroundings:
    return Surroundings(
        parts=_parts(),
        layout=(
            layout.PROGRESS_AT, layout.READER_AT, layout.IN_FLIGHT_AT, layout.BODY_AT, layout.RING_AT,
            layout.RING_SLOTS, layout.SLOT, layout.SIZE, layout.BEGUN_SIZE, layout.ENDED_SIZE, layout.ATTEMPT,
            layout.SAMPLED, layout.REDELIVERED, layout.ID_SPILLED, layout.NO_STRING, layout.TASK_ID_SIZE, context.OWN,
        ),
        described=layout.HOT_LAYOUT,
        provider_named=context.PROVIDER_NAMED,
        waited_s=attempt.WAITED_S,
        threads_min_s=attempt.THREADS_MIN_S,
        subprocess_min_s=attempt.SUBPROCESS_MIN_S,
        hook_every=attempt.HOOK_EVERY,
        useful=USEFUL,
        success=SUCCESS,
    )  # fmt: skip


def _parts() -> dict[str, Any]:
    classes = (
        Recorder, Running, context.Scope, SegmentWriter, context.Sample, Meter, span.RecordedSpan, span.UnsampledSpan,
        Context,
    )  # fmt: skip
    return {
        **{one.__name__: one for one in classes},
        "meter": meter,
        "span_key": context.SPAN_KEY,
        "current_context": _current_context(),
        "detach": otel_context.detach,
        "trace": vars(trace),
        "propagate": vars(propagate),
        "tracing": vars(context),
        "official": context.OFFICIAL_MODULE,
        "modules": sys.modules,
        "active": vars(threading).get("_active"),
        "limbo": vars(threading).get("_limbo"),
        "enter_attempt": context.enter_attempt,
        "follow_parent": context.follow_parent,
        "getrandbits": getrandbits,
        "no_ids": context.NO_IDS,
        "begin": Recorder.begin,
        "enter_body": Recorder.enter_body,
        "leave_body": Recorder.leave_body,
    }


def _current_context() -> Any:
    """The variable in which OpenTelemetry keeps what is current; None where it keeps it elsewhere."""
    from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext

    keeper = vars(otel_context).get("_RUNTIME_CONTEXT")
    return vars(keeper).get("_current_context") if type(keeper) is ContextVarsRuntimeContext else None
