"""What a label (`taskwatt.label`) refines where no request is served: the type that the loop is running."""

from __future__ import annotations

from asyncio import events, tasks

from taskwatt import labels
from taskwatt_asyncio import loop_threads, types


def install() -> None:
    """Have labels ask for it. Idempotent."""
    if running_type not in labels.namers:
        labels.namers.append(running_type)


def uninstall() -> None:
    if running_type in labels.namers:
        labels.namers.remove(running_type)


def running_type() -> str:
    """The name of the task's or the callback's type that runs on this thread; empty when no loop runs one here."""
    loop = events._get_running_loop()
    if loop is None:
        return ""
    task = tasks.current_task(loop)
    if task is not None:
        return types.of_task(task).name
    thread = loop_threads.here.thread
    handle = thread.handle if thread is not None else None
    callback = getattr(handle, "_callback", None)  # None on uvloop, whose handles are not Python's
    return types.of_callback(callback, handle).name if callback is not None else ""
