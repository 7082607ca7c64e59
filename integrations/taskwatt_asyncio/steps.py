"""Measures every step of stock loops, in pure Python: one wrapper around `asyncio.Handle._run`.

Wall time is read around each step; the thread's CPU clock (a system call) only after a step longer than 50 us or a gap
as long before one, and then corrects what waited. Against a CPU clock read at every step that was within 0.4 % for
every type that holds 5 % of the CPU, beside threads that hog the interpreter and under preemption too.

`_run` below is written for speed: what is usual (a step of a type that is known, on a thread that is in no other one)
is inline; everything else goes through `_measured`. A step is run by the original whatever fails in here.
"""
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false
# In `_run` a type that was found implies that there is a thread: not asked twice.

from __future__ import annotations

import logging
from asyncio import Handle, Task, tasks
from collections.abc import Callable
from contextvars import Context
from time import perf_counter, thread_time
from types import BuiltinMethodType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final, cast

from taskwatt import accounts
from taskwatt.interruption import raised_by_a_signal
from taskwatt.meter import hide_this_frame
from taskwatt_asyncio import eager, looks, loop_threads, types
from taskwatt_asyncio.loop_threads import ALWAYS_S, LONG_S, LoopThread

if TYPE_CHECKING:
    from taskwatt_asyncio.types import CoroutineType

log = logging.getLogger("taskwatt")

MAX_COSTS: Final = 32
"""Long steps of a type, between two readings, of which it is noted how many tasks were alive."""

_STEP: Final = "TaskStepMethWrapper"
_STEPS: Final = ("task_wakeup", "__step", "__wakeup")
_TASKS: Final[tuple[type, ...]] = (Task, getattr(tasks, "_PyTask", Task))
"""Written in C, and in Python."""

installed = False
"""Are steps measured? Handles and steps that were handed over may outlive it."""
accounting = False
"""Has an account been opened in this process? Until then none is looked up."""
_original: Callable[[Handle], None] = Handle._run


def _ignore(*_: Any) -> None:
    pass


_tell: Callable[[Any, bool], None] = _ignore
"""Tells `_run` of the one thread that runs a loop (None: there are none or several), and of `accounting`."""


def install() -> None:
    """Patch `asyncio.events.Handle._run`. Idempotent; any thread."""
    global accounting, installed, _original, _tell
    if installed:
        return
    installed = True
    _original = Handle._run
    run, _tell = _make(_original)
    setattr(Handle, "_run", run)  # noqa: B010  # type checkers allow no other assignment
    accounting = accounts.in_use()
    accounts.add_settler(settle)
    alone()
    eager.install()


def uninstall() -> None:
    """Restore it, also while steps run: they end as they began. Idempotent."""
    global installed, accounting
    if not installed:
        return
    installed = False
    accounting = False
    accounts.remove_settler(settle)
    eager.uninstall()
    if getattr(Handle._run, "__wrapped__", None) is _original:
        setattr(Handle, "_run", _original)  # noqa: B010


def alone() -> None:
    """Loops have started or ended. Where one thread alone runs any, looking up the thread's own costs too much."""
    threads = tuple(loop_threads.running.values())
    _tell(threads[0] if len(threads) == 1 else None, accounting)


def _make(original: Callable[[Handle], None]) -> tuple[Callable[[Handle], None], Callable[[Any, bool], None]]:  # noqa: C901  # the hot path, in one piece
    here = cast(Any, loop_threads.here)
    known, found, readers = types.by_code.get, types.found, types.READERS
    class_of = types.class_of
    clock = perf_counter
    cpu_clock = thread_time
    task_class: Any = Task
    builtin, function, method = BuiltinMethodType, FunctionType, MethodType
    step_class: Any = None
    only: Any = None
    variable: Any = None

    def _run(self: Any) -> None:  # noqa: C901
        nonlocal step_class
        thread = only
        if thread is None or thread.loop is not self._loop:
            thread = here.thread
        callback = self._callback
        kind = class_of(callback)
        stats: Any = None
        coroutine: Any = None
        start = 0.0
        try:
            if kind is step_class:
                coroutine = callback.__self__._coro
                stats = known(id(coroutine.cr_code)) or found[id(coroutine.cr_code), coroutine.__qualname__]
                if stats.steps >= stats.next_look or thread.step_since:
                    raise LookupError
                if coroutine.cr_suspended:
                    stats.self_wakes += 1
                else:
                    stats.started += 1
                    thread.alive += 1
            else:
                if kind is builtin:
                    owner = class_of(callback.__self__)
                    if owner is task_class and self._args:
                        coroutine = callback.__self__._coro
                        stats = known(id(coroutine.cr_code)) or found[id(coroutine.cr_code), coroutine.__qualname__]
                        if self is thread.stamped or not coroutine.cr_suspended:  # another of a done task's methods
                            raise LookupError
                    else:
                        stats = found[owner, callback.__name__]
                elif kind is function:
                    stats = found[id(callback.__code__)]
                elif kind is method:
                    code = id(callback.__func__.__code__)
                    stats = found[(code, class_of(callback.__self__._protocol)) if code in readers else code]
                else:
                    if step_class is None and kind.__name__ == _STEP:
                        step_class = kind
                    raise LookupError
                if stats.steps >= stats.next_look or thread.step_since:
                    raise LookupError
        except (LookupError, AttributeError):  # also: no loop runs here, a coroutine that is not Python's own
            stats = None
        try:
            if stats is None:
                _measured(original, self, thread)
                return
            thread.handle = self
            thread.inner = stats
            thread.step_since = start = clock()
            if start - thread.end > LONG_S:
                thread.base_cpu = cpu_clock()
                thread.base_wall = start
            original(self)
            thread.end = end = clock()
            thread.step_since = 0.0
            stats.steps += 1
            taken = end - start
            if taken > thread.limit:
                guarded(bill_step, thread, stats, start, end, self._context)
            else:
                stats.wall_s += taken
                if variable is not None:
                    account = self._context.get(variable)
                    if account is not None:
                        try:
                            if account.bill(taken):
                                stats.paid_s += taken
                        except Exception as error:
                            if raised_by_a_signal(error):
                                raise
                            _disable(error)
            if coroutine is not None and not coroutine.cr_suspended:
                guarded(count_end, thread, stats, callback.__self__)
        except BaseException as error:
            hide_this_frame(error)
            if start and thread.step_since:
                _broke_off(thread, stats, start, self)
            raise

    _run.__wrapped__ = original  # type: ignore[attr-defined]
    _run.__qualname__ = original.__qualname__
    _run.__module__ = original.__module__

    def tell(thread: Any, accounting: bool) -> None:
        nonlocal only, variable
        only = thread
        variable = accounts.account if accounting else None

    return _run, tell


def settle() -> None:
    """Bill what the running step has used until now to the account that is current until now."""
    global accounting
    if not accounting:
        accounting = True
        alone()
    one = loop_threads.here.thread
    if one is not None and one.step_since:
        pay(one)


def pay(thread: LoopThread) -> None:
    """Bill the running step, or the eager task within it, for what it has used until now. On the thread, in a step."""
    now = perf_counter()
    since = thread.since
    if since < thread.step_since:
        since = thread.step_since
        thread.settled_cpu = 0.0
    piece = now - since
    stats = thread.inner or types.other
    account = accounts.account.get()
    if piece > LONG_S or thread.detail:
        thread.settled_cpu += _piece(thread, stats, piece, now, account)
    else:
        thread.settled_cpu += piece
        stats.wall_s += piece
        if account is not None and account.bill(piece):
            stats.paid_s += piece
    thread.since = now
    thread.limit = ALWAYS_S


def pause(thread: LoopThread) -> None:
    """Another loop, or a step of the same one, begins inside the running step."""
    pay(thread)


def resume(thread: LoopThread) -> None:
    """It has ended; what it took is not the step's."""
    thread.since = thread.end = thread.base_wall = perf_counter()
    thread.base_cpu = thread_time()
    thread.limit = ALWAYS_S


def task_of(callback: Any) -> Any:
    """The task that a callback is a step of; None for any other callback, a task's other methods included."""
    kind = types.class_of(callback)
    if kind.__name__ == _STEP:
        return callback.__self__
    if kind is not BuiltinMethodType and kind is not MethodType:
        return None
    owner = callback.__self__
    return owner if isinstance(owner, _TASKS) and callback.__name__ in _STEPS else None


def _measured(original: Callable[[Handle], None], handle: Any, thread: LoopThread | None) -> None:
    """A step about which something is unusual: its type is new, it is no task's, it runs inside another one."""
    if thread is None or not installed:
        original(handle)
        return
    context: Context = handle._context
    begun = begin_step(thread, handle._callback, handle._args, handle)
    if begun is None:
        original(handle)
        return
    try:
        original(handle)
    except BaseException as error:
        hide_this_frame(error)
        raise
    finally:
        guarded(finish_step, thread, *begun, context)


def begin_step(thread: LoopThread, callback: Any, arguments: Any, handle: Any) -> tuple[Any, ...] | None:
    """(type, task, what runs outside of it, start) of a step; None when the measuring has failed."""
    try:
        outer: Any = None
        if thread.step_since:
            pause(thread)
            outer = thread.handle, thread.step_since, thread.settled_cpu, thread.inner
        task = task_of(callback)
        coroutine = None
        if task is None:
            stats = types.of_callback(callback, handle)
        else:
            coroutine = task.get_coro()
            stats = types.of_coroutine(coroutine)
            _begins(thread, stats, coroutine, callback)
        token = callback if handle is None else handle
        if token is thread.stamped or stats.steps >= stats.next_look:
            looks.look(token, arguments, thread, stats, coroutine)
        thread.handle = handle
        thread.inner = stats
        thread.step_since = start = perf_counter()
        if start - thread.end > LONG_S:
            thread.base_cpu = thread_time()
            thread.base_wall = start
    except Exception as error:
        if raised_by_a_signal(error):
            raise
        _disable(error)
        return None
    return stats, task, outer, start


def finish_step(
    thread: LoopThread, stats: CoroutineType, task: Any, outer: Any, start: float, context: Context | None
) -> None:
    thread.end = end = perf_counter()
    thread.step_since = 0.0
    stats.steps += 1
    bill_step(thread, stats, start, end, context)
    thread.handle = None
    if task is not None and task.done():
        count_end(thread, stats, task)
    if outer is not None:
        thread.handle, thread.step_since, thread.settled_cpu, thread.inner = outer
        resume(thread)


def _begins(thread: LoopThread, stats: CoroutineType, coroutine: Any, callback: Any) -> None:
    """A step that no future woke is the task's first one, or follows a bare yield."""
    if type(callback).__name__ != _STEP and callback.__name__ != "__step":
        return
    if types.is_suspended(coroutine):
        stats.self_wakes += 1
    else:
        stats.started += 1
        thread.alive += 1


def _broke_off(thread: LoopThread, stats: CoroutineType, start: float, handle: Any) -> None:
    """An exception came through the loop's own code: SystemExit, KeyboardInterrupt, a signal's."""
    task = task_of(handle._callback)
    guarded(finish_step, thread, stats, task, None, start, handle._context)


def bill_step(thread: LoopThread, stats: CoroutineType, start: float, end: float, context: Context | None) -> None:
    """After a step that was long, or of which a part is booked already, or all of which is paid for.

    `context`: the step's; None: the current.
    """
    thread.limit = ALWAYS_S if thread.detail else LONG_S
    settled = thread.since > start
    piece = end - thread.since if settled else end - start
    account = None
    if accounting:
        account = accounts.account.get() if context is None else context.get(accounts.account)
    cpu = _piece(thread, stats, piece, end, account)
    if settled:
        cpu += thread.settled_cpu
    taken = end - start
    if taken > LONG_S:
        stats.longest_s = max(stats.longest_s, taken)
        _tell_long(thread, stats, start, taken, cpu)


def _piece(thread: LoopThread, stats: CoroutineType, piece: float, end: float, account: Any) -> float:
    """Book `piece` seconds of wall time that ended at `end`; how much of them was CPU."""
    cpu = piece + _correct(thread, stats, piece, end) if piece > LONG_S else piece
    stats.wall_s += piece
    if (account is not None and account.bill(cpu)) or thread.detail:
        stats.paid_s += cpu
    return cpu


def bill_account(stats: CoroutineType, account: accounts.Account, cpu: float) -> None:
    if account.bill(cpu):
        stats.paid_s += cpu


def _correct(thread: LoopThread, stats: CoroutineType, piece: float, end: float) -> float:
    """What of the piece was no CPU, as a negative number."""
    cpu = thread_time()
    waited = (cpu - thread.base_cpu) - (end - thread.base_wall)
    thread.base_cpu = cpu
    thread.base_wall = end
    if waited >= 0:
        return 0.0
    waited = max(waited, -piece)
    stats.correction_s += waited
    return waited


def _tell_long(thread: LoopThread, stats: CoroutineType, start: float, taken: float, cpu: float) -> None:
    if len(stats.costs) < MAX_COSTS:
        stats.costs.append((thread.alive, cpu))
    if taken > loop_threads.threshold_s:
        thread.figures.slow_step(taken)
        loop_threads.tell(loop_threads.on_slow, thread, stats.name, start, taken, cpu)


def count_end(thread: LoopThread, stats: CoroutineType, task: Any) -> None:
    """A task is done. `_exception`, not `exception()`, which would silence "exception was never retrieved"."""
    thread.alive -= 1
    if task._exception is not None:
        stats.failed += 1
    elif task.cancelled():
        stats.cancelled += 1
    else:
        stats.completed += 1


def end_eager(thread: LoopThread, outer: Any, coroutine: Any, task: Any, began: float) -> None:
    """A task was made inside the running step; has it also made its first one? Then that is its own."""
    stats = thread.inner
    done = bool(task and task.done())
    if stats is None or not (done or types.is_suspended(coroutine)):
        thread.inner = outer
        pay(thread)
        return
    now = perf_counter()
    account = task.get_context().get(accounts.account) if accounting else None
    thread.settled_cpu += _piece(thread, stats, now - thread.since, now, account)
    thread.since = now
    thread.inner = outer
    stats.longest_s = max(stats.longest_s, now - began)
    stats.steps += 1
    stats.started += 1
    thread.alive += 1
    if done:
        count_end(thread, stats, task)


def guarded(part: Callable[..., None], *arguments: Any) -> None:
    """Run a part of ours. Its failure ends the measuring and stays here; a signal that hit it is not ours."""
    try:
        part(*arguments)
    except Exception as error:
        if raised_by_a_signal(error):
            raise
        _disable(error)


def _disable(error: Exception) -> None:
    if installed:
        uninstall()
        log.warning("taskwatt stopped measuring the steps of event loops: its hook failed: %r", error, exc_info=error)
