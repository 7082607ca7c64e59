"""Eager tasks (Python 3.12 and newer): their first step runs inside the step that makes them, and is not its CPU.

Nothing is patched while no task factory is set; then `create_task` of the class, which every way of making a task goes
through except calling the class of a task itself.
"""

from __future__ import annotations

import sys
from asyncio import BaseEventLoop
from time import perf_counter
from typing import Any

from taskwatt.meter import hide_this_frame
from taskwatt_asyncio import loop_threads, types

EAGER = sys.version_info >= (3, 12)

_set_factory: Any = None
_create: Any = None


def install() -> None:
    global _set_factory
    if not EAGER or _set_factory is not None:
        return
    _set_factory = BaseEventLoop.set_task_factory
    original = _set_factory

    def set_task_factory(self: Any, factory: Any) -> None:
        try:
            original(self, factory)
        except BaseException as error:
            hide_this_frame(error)
            raise
        if factory is not None:
            watch()

    _dress(set_task_factory, original)
    setattr(BaseEventLoop, "set_task_factory", set_task_factory)  # noqa: B010
    if any(getattr(thread.loop, "_task_factory", None) is not None for thread in tuple(loop_threads.running.values())):
        watch()


def watch() -> None:
    """A loop has a task factory: look at the tasks that it makes. Idempotent."""
    global _create
    if not EAGER or _create is not None or _set_factory is None:
        return
    from taskwatt_asyncio import steps

    _create = original = BaseEventLoop.create_task

    def enter(thread: Any, coroutine: Any) -> None:
        steps.pay(thread)
        thread.inner = types.of_coroutine(coroutine)

    def create_task(self: Any, coro: Any, **arguments: Any) -> Any:
        thread = loop_threads.here.thread
        if thread is None or not thread.step_since or getattr(self, "_task_factory", None) is None:
            try:
                return original(self, coro, **arguments)
            except BaseException as error:
                hide_this_frame(error)
                raise
        began, outer = perf_counter(), thread.inner
        steps.guarded(enter, thread, coro)
        try:
            task = original(self, coro, **arguments)
        except BaseException as error:
            hide_this_frame(error)
            steps.guarded(steps.end_eager, thread, outer, coro, None, began)
            raise
        steps.guarded(steps.end_eager, thread, outer, coro, task, began)
        return task

    _dress(create_task, original)
    setattr(BaseEventLoop, "create_task", create_task)  # noqa: B010


def uninstall() -> None:
    global _set_factory, _create
    if _set_factory is not None and getattr(BaseEventLoop.set_task_factory, "__wrapped__", None) is _set_factory:
        setattr(BaseEventLoop, "set_task_factory", _set_factory)  # noqa: B010
    if _create is not None and getattr(BaseEventLoop.create_task, "__wrapped__", None) is _create:
        setattr(BaseEventLoop, "create_task", _create)  # noqa: B010
    _set_factory = _create = None


def _dress(function: Any, original: Any) -> None:
    function.__wrapped__ = original
    function.__name__, function.__qualname__ = original.__name__, original.__qualname__
    function.__module__, function.__doc__ = original.__module__, original.__doc__
