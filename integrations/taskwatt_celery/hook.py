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
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

from taskwatt.interruption import raised_by_a_signal
from taskwatt.meter import hide_this_frame
from taskwatt_celery.attempt import Recorder
from taskwatt_celery.outcome import classify, outcome_of
from taskwatt_celery.running import Running

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
        _replace("fast_trace_task", self._fast, self._wrap_fast(self._fast))
        _replace("build_tracer", self._build, self._wrap_build(self._build))

    def uninstall(self) -> None:
        if self._trace is None:
            return
        for name, original in (("fast_trace_task", self._fast), ("build_tracer", self._build)):
            ours = getattr(self._trace, name)
            if getattr(ours, "__wrapped__", None) is original:
                _replace(name, ours, original)
        for cell, function in self._cells:
            cell.cell_contents = function
        self._cells.clear()
        self._trace = None

    def _disable(self, error: Exception) -> bool:
        """A step of ours failed, which ends the measuring. False when a signal hit it: that exception is not ours."""
        if raised_by_a_signal(error):
            return False
        if not self._failed:
            self._failed = True
            log.warning(
                "taskwatt stopped measuring attempts in this process: its hook failed: %r", error, exc_info=error
            )
        return True

    def _wrap_fast(self, original: Any) -> Any:
        @functools.wraps(original)
        def fast_trace_task(task: str, uuid: str, request: Any, body: Any, *args: Any, **kwargs: Any) -> Any:
            recorder = self._recorder()
            if recorder is None or self._failed:
                return original(task, uuid, request, body, *args, **kwargs)
            run = None
            try:
                run = recorder.begin(task, uuid, request, body)
            except Exception as error:
                if not self._disable(error):
                    raise
            try:
                result = original(task, uuid, request, body, *args, **kwargs)
            except BaseException as error:
                hide_this_frame(error)
                if run is not None:
                    self._end(recorder, run, uuid, error, None)
                raise
            if run is not None:
                self._end(recorder, run, uuid, None, result)
            return result

        return fast_trace_task

    def _end(self, recorder: Recorder, run: Running, task_id: str, error: BaseException | None, result: Any) -> None:
        try:
            try:
                end_attempt(recorder, run, task_id, error, result)
            except Exception as interruption:
                if raised_by_a_signal(interruption) and recorder.segment.finished_no < run.attempt_no:
                    end_attempt(recorder, run, task_id, error, result)  # a user's time limit; the attempt still counts
                raise
        except Exception as failure:
            if not self._disable(failure):
                raise

    def _wrap_build(self, original: Any) -> Any:
        @functools.wraps(original)
        def build_tracer(name: str, task: Any, *args: Any, **kwargs: Any) -> Any:
            tracer = original(name, task, *args, **kwargs)
            if not kwargs.get("eager"):
                try:
                    self._time_body(tracer, task)
                except Exception as error:
                    if not self._disable(error):
                        raise
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
            run = None
            recorder = self._recorder()
            if recorder is not None and not self._failed:
                try:
                    run = recorder.enter_body()
                except Exception as error:
                    if not self._disable(error):
                        raise
            if recorder is None or run is None:
                return function(*args, **kwargs)
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                run.error = error
                hide_this_frame(error)
                raise
            finally:
                try:
                    recorder.leave_body(run, task)
                except Exception as error:
                    if not self._disable(error):
                        raise

        return body


def end_attempt(
    recorder: Recorder, run: Running, task_id: str, error: BaseException | None, result: tuple[Any, ...] | None
) -> None:
    """`error`: what tore it down; else `result` is what `fast_trace_task` returned."""
    if error is None and recorder.end_plainly(run, result):
        return
    outcome, state = outcome_of(run, result) if error is None else classify(run.error or error, run.task_name)
    recorder.end(run, outcome, state, task_id)


def _replace(name: str, old: Any, new: Any) -> None:
    """In every module of Celery's that has imported it: a name that means two functions cannot be pickled."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("celery.") and vars(module).get(name) is old:
            setattr(module, name, new)
