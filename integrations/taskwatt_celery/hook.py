"""The two patches around every attempt in an executing process.

Hooked: `celery.app.trace.fast_trace_task` (what the worker hands to the pool; billiard pickles it by name, so the
wrapper keeps its name) and `build_tracer` (to learn when the task's body starts and ends). Signals would be tamer, but
prerun to postrun misses decoding and storing the result, which is 99 % of the CPU of a task that returns the length of
a 3 MB argument; and two empty receivers cost more than this whole hook.

The body's edges come from replacing the variable `fun` in the closure that `build_tracer` returns: the user's task
object stays untouched and tracebacks look as they did. Where that variable does not exist (another agent wraps the
tracer), everything between entry and exit counts as the body.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from time import process_time
from types import FunctionType
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded

from taskwatt.export.context import OFFICIAL
from taskwatt.meter import hide_this_frame, meter
from taskwatt_celery.attempt import Recorder, Running
from taskwatt_celery.outcome import classify, is_expected, outcome_of

log = logging.getLogger("taskwatt")


class Hook:
    """The patches of one process: `install` once, `uninstall` leaves Celery as it was."""

    def __init__(self, recorder: Callable[[], Recorder | None]) -> None:
        """`recorder` gives the recorder of the executing process, None where attempts are not measured."""
        self._recorder = recorder
        self._failed = False
        self._trace: Any = None
        self._fast: Any = None
        self._build: Any = None
        self._cells: list[tuple[Any, Any]] = []

    def install(self, trace: Any) -> None:
        """`trace`: the module celery.app.trace."""
        self._trace, self._fast, self._build = trace, trace.fast_trace_task, trace.build_tracer
        trace.fast_trace_task = self._wrap_fast(trace.fast_trace_task)
        trace.build_tracer = self._wrap_build(trace.build_tracer)

    def uninstall(self) -> None:
        if self._trace is None:
            return
        if getattr(self._trace.fast_trace_task, "__wrapped__", None) is self._fast:
            self._trace.fast_trace_task = self._fast
        if getattr(self._trace.build_tracer, "__wrapped__", None) is self._build:
            self._trace.build_tracer = self._build
        for cell, function in self._cells:
            cell.cell_contents = function
        self._cells.clear()
        self._trace = None

    def _disable(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            log.warning(
                "taskwatt stopped measuring attempts in this process: its hook failed: %r", error, exc_info=error
            )

    def _wrap_fast(self, original: Any) -> Any:
        @functools.wraps(original)
        def fast_trace_task(task: str, uuid: str, request: Any, body: Any, *args: Any, **kwargs: Any) -> Any:
            recorder = self._recorder()
            if recorder is None or self._failed:
                return original(task, uuid, request, body, *args, **kwargs)
            run = None
            try:
                run = recorder.begin(task, uuid, request, body)
            except SoftTimeLimitExceeded:
                raise
            except Exception as error:
                self._disable(error)
            try:
                result = original(task, uuid, request, body, *args, **kwargs)
            except BaseException as error:
                hide_this_frame(error)
                if run is not None:
                    self._end(recorder, run, *classify(run.error or error, task), uuid)
                raise
            if run is not None:
                self._end(recorder, run, *outcome_of(run, result), uuid)
            return result

        return fast_trace_task

    def _end(self, recorder: Recorder, run: Running, outcome: int, state: int, task_id: str) -> None:
        try:
            recorder.end(run, outcome, state, task_id)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:
            self._disable(error)

    def _wrap_build(self, original: Any) -> Any:
        @functools.wraps(original)
        def build_tracer(name: str, task: Any, *args: Any, **kwargs: Any) -> Any:
            tracer = original(name, task, *args, **kwargs)
            if not kwargs.get("eager"):
                try:
                    self._time_body(tracer, task)
                except Exception as error:
                    self._disable(error)
            return tracer

        return build_tracer

    def _time_body(self, tracer: Any, task: Any) -> None:
        while tracer is not None:
            if isinstance(tracer, FunctionType) and "fun" in tracer.__code__.co_freevars and tracer.__closure__:
                cell = tracer.__closure__[tracer.__code__.co_freevars.index("fun")]
                self._cells.append((cell, cell.cell_contents))
                cell.cell_contents = self._wrap_body(cell.cell_contents, task)
                return
            tracer = getattr(tracer, "__wrapped__", None)

    def _wrap_body(self, function: Any, task: Any) -> Any:
        def body(*args: Any, **kwargs: Any) -> Any:
            recorder = self._recorder()
            run = recorder.running if recorder is not None else None
            if recorder is None or run is None or run.body:
                return function(*args, **kwargs)
            run.body = True
            self._guard(run.scope.uncover)
            serialization, collected, published = meter.serialization, meter.gc, meter.publish
            cpu = process_time()
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                run.error, run.expected = error, is_expected(error, task)
                hide_this_frame(error)
                raise
            finally:
                run.body_cpu = process_time() - cpu
                run.body_serialization = meter.serialization - serialization
                run.body_gc = meter.gc - collected
                run.body_publish = meter.publish - published
                run.finished_body = True
                self._guard(run.scope.cover)
                if run.scope.mode == OFFICIAL:
                    self._guard(functools.partial(recorder.enrich_official, run))

        return body

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            step()
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:
            self._disable(error)
