"""Steps of tasks on loops whose handles are not Python's (uvloop): `call_soon` hands one of these over instead.

They measure what `Handle._run` measures elsewhere (steps.py). A step that is handed over is run as it is once the
agent was taken out.
"""

from __future__ import annotations

from time import perf_counter, thread_time
from typing import Any

from taskwatt import accounts
from taskwatt.meter import hide_this_frame
from taskwatt_asyncio import loop_threads, steps


def run_step(callback: Any, *arguments: Any) -> None:
    """A task's step on a loop whose handles are not Python's. The current context is the task's."""
    thread = loop_threads.here.thread
    if thread is None or not steps.installed:
        callback(*arguments)
        return
    begun = steps.begin_step(thread, callback, arguments, None)
    if begun is None:
        callback(*arguments)
        return
    try:
        callback(*arguments)
    except BaseException as error:
        hide_this_frame(error)
        raise
    finally:
        steps.guarded(steps.finish_step, thread, *begun, None)


def run_known_step(stats: Any, coroutine: Any, callback: Any, *arguments: Any) -> None:  # noqa: C901  # the hot path, in one piece
    """The same where the task's type was known when the step was scheduled: `_run`'s twin."""
    thread = loop_threads.here.thread
    if thread is None or thread.step_since or not steps.installed or stats.steps >= stats.next_look:
        run_step(callback, *arguments)
        return
    start = 0.0
    try:
        if not coroutine.cr_suspended:
            stats.started += 1
            thread.alive += 1
        elif not arguments:
            stats.self_wakes += 1
        thread.inner = stats
        thread.step_since = start = perf_counter()
        if start - thread.end > loop_threads.LONG_S:
            thread.base_cpu = thread_time()
            thread.base_wall = start
        callback(*arguments)
        thread.end = end = perf_counter()
        thread.step_since = 0.0
        stats.steps += 1
        taken = end - start
        if taken > thread.limit:
            steps.guarded(steps.bill_step, thread, stats, start, end, None)
        else:
            stats.wall_s += taken
            if steps.accounting:
                account = accounts.account.get()
                if account is not None:
                    steps.guarded(steps.bill_account, stats, account, taken)
        if not coroutine.cr_suspended:
            steps.guarded(steps.count_end, thread, stats, callback.__self__)
    except BaseException as error:
        hide_this_frame(error)
        if start and thread.step_since:
            steps.guarded(steps.finish_step, thread, stats, steps.task_of(callback), None, start, None)
        raise
