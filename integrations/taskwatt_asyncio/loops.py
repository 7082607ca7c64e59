"""Event loops while they run: found on their own, whichever way and in whichever thread they start.

A loop announces itself by `_set_running_loop`, which `__init__` watches (uvloop's by `run_forever`, uvloop_loops.py).
From then on `loop_threads.running` holds what is going on in its thread. A loop that is run inside a step of another
one (a debugger's, nest_asyncio's) suspends that one until it has ended.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from asyncio import AbstractEventLoop, BaseEventLoop, all_tasks
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, TypeAlias

from taskwatt.runtime import runtime
from taskwatt.settings import Settings
from taskwatt_asyncio import carriers, looks, loop_threads, losses, selecting, steps, types
from taskwatt_asyncio.loop_threads import LoopThread, here, on_end, on_start, tell

log = logging.getLogger("taskwatt")

_MAX_ATTACHED: Final = 200_000
"""Tasks that are counted when a loop is met that already runs."""

Watch: TypeAlias = Callable[[LoopThread], Callable[[], None]]

watches: dict[str, Watch] = {"asyncio": lambda thread: selecting.install(thread, carriers.current.watched)}
"""By kind of loop: watches when it waits, from the loop's thread; what is returned undoes that."""

_pid = 0
_beginning = threading.Lock()
_beginner = 0
"""The thread that puts the hooks in."""
_BEGIN_S: Final = 1.0


def changed(loop: AbstractEventLoop | None) -> None:
    """The current thread says which loop runs in it now. Called right after it became true."""
    thread = here.thread
    if loop is None:
        if thread is not None:
            _leave(thread)
        elif here.suspended and not here.suspended[-1].step_since:
            _end_suspended()
    elif thread is None or thread.loop is not loop:
        if thread is not None:
            _leave(thread)
        outer = next((one for one in here.suspended if one.loop is loop), None)
        if outer is not None:
            _resume(outer)
        else:
            start(loop)


def start(loop: AbstractEventLoop) -> LoopThread:
    """Measure a loop that runs in the current thread, from now on."""
    if _pid != os.getpid():
        _begin()
    name = threading.current_thread().name
    package = type(loop).__module__.partition(".")[0]
    kind = package if package in watches else "asyncio"
    sums = loop_threads.table.of(f"{name} (nested)" if here.suspended else name, kind)
    thread = carriers.current.thread(loop, kind, sums)
    thread.release = watches[kind](thread)
    sums.running.append(thread)
    here.thread = loop_threads.running[thread.ident] = thread
    steps.alone()
    carriers.current.enter(thread)
    tell(on_start, thread)
    return thread


def attach() -> None:
    """Measure the loops that already run. What the current step has used until now stays uncounted."""
    global _attaching
    from asyncio import _get_running_loop  # pyright: ignore[reportPrivateUsage]  # documented

    _attaching = True
    codes = {BaseEventLoop.run_forever.__code__}
    for ident, innermost in sys._current_frames().items():  # pyright: ignore[reportPrivateUsage]  # documented
        frame: FrameType | None = innermost
        while frame is not None and frame.f_code not in codes:
            frame = frame.f_back
        loop = frame.f_locals.get("self") if frame is not None else None
        if loop is None or ident in loop_threads.running:
            continue
        if ident == threading.get_ident():
            if _get_running_loop() is loop:
                _attach(loop)
        else:
            loop.call_soon_threadsafe(_attach, loop)
    unseen = _get_running_loop()
    if unseen is not None and here.thread is None:
        _attach(unseen)


def _attach(loop: Any) -> None:
    if here.thread is not None or not _attaching:
        return
    try:
        thread = start(loop)
        for number, task in enumerate(all_tasks(loop)):
            if number >= _MAX_ATTACHED:
                break
            if types.is_suspended(task.get_coro()):
                types.of_task(task).started += 1
                thread.alive += 1
    except Exception as error:
        log.warning("taskwatt does not measure a loop that already runs: %r", error, exc_info=error)


_installed = False
_attaching = False


def install() -> None:
    """Called once, before the first loop is measured."""
    global _installed
    if not _installed:
        from taskwatt_asyncio import anyio_threads, executors, naming

        _installed = True
        _watch_forks()
        looks.install()
        carriers.install()
        losses.install()
        executors.install()
        anyio_threads.install()
        naming.install()


def uninstall() -> None:
    """Let go of every loop, also of those that run."""
    global _installed, _attaching, _pid
    from taskwatt_asyncio import anyio_threads, executors, naming

    _installed = _attaching = False
    for thread in tuple(loop_threads.running.values()):
        thread.let_go()
        tell(on_end, thread)
    here.thread, here.suspended = None, ()
    naming.uninstall()
    anyio_threads.uninstall()
    executors.uninstall()
    carriers.uninstall()
    losses.uninstall()
    for name in ("taskwatt_asyncio.stalls", "taskwatt_asyncio.children", "taskwatt_asyncio.console"):
        used = sys.modules.get(name)
        if used is not None:
            used.uninstall()
    _pid = 0
    _forget()


def _begin() -> None:
    """The first loop of this process runs. One that starts in another thread meanwhile waits until all hooks are in.

    Not for ever: who puts them in imports modules, and may wait for one that the other thread is importing.
    """
    global _beginner, _pid
    if _beginner == threading.get_ident() or not _beginning.acquire(timeout=_BEGIN_S):
        return
    try:
        if _pid != os.getpid():
            _beginner = threading.get_ident()
            _first()
    finally:
        _pid, _beginner = os.getpid(), 0
        _beginning.release()


def _first() -> None:
    from taskwatt_asyncio import children, stalls
    from taskwatt_asyncio.tallying import tallies

    settings = Settings.from_environ(os.environ)
    loop_threads.threshold_s = settings.stall_threshold_s
    install()
    children.install()
    if settings.aiomonitor:
        from taskwatt_asyncio import console

        console.install()
    runtime.measure_self()
    runtime.tallies = tallies
    stalls.install()


def _leave(thread: LoopThread) -> None:
    here.thread = None
    loop_threads.running.pop(thread.ident, None)
    steps.alone()
    carriers.current.leave(thread)
    if thread.step_since:
        carriers.current.pause(thread)
        here.suspended = (*here.suspended, thread)
    else:
        _end(thread)


def _resume(thread: LoopThread) -> None:
    while here.suspended[-1] is not thread:
        _end(here.suspended[-1])
        here.suspended = here.suspended[:-1]
    here.suspended = here.suspended[:-1]
    here.thread = loop_threads.running[thread.ident] = thread
    steps.alone()
    carriers.current.enter(thread)
    carriers.current.resume(thread)


def _end_suspended() -> None:
    for thread in reversed(here.suspended):
        _end(thread)
    here.suspended = ()


def _end(thread: LoopThread) -> None:
    thread.let_go()
    sums = thread.figures
    selecting.finish(thread)
    sums.cpu_s += thread.cpu_s()
    sums.run_delay_s += thread.run_delay_s()
    if thread in sums.running:
        sums.running.remove(thread)
    thread.stamped = thread.handle = None
    tell(on_end, thread)


def _forget() -> None:
    loop_threads.forget()
    steps.alone()
    types.forget()


def _after_fork() -> None:
    """In the child: nothing was counted yet. The loop that it was forked from goes on unmeasured, if it goes on."""
    global _beginner, _beginning
    _beginner, _beginning = 0, threading.Lock()
    thread = here.thread
    here.thread, here.suspended = None, ()
    carriers.current.forget()
    _forget()
    if thread is not None:
        thread.let_go()


_hooked_fork = False


def _watch_forks() -> None:
    global _hooked_fork
    if not _hooked_fork:  # such a handler cannot be taken back: it stays, and finds nothing to do
        _hooked_fork = True
        os.register_at_fork(after_in_child=_after_fork)
