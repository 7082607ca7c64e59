"""anyio's worker threads, in which Starlette and FastAPI run functions that are not coroutines.

Supported: anyio 3.7 and 4, on asyncio. Others run as without taskwatt.

A worker thread takes its items from a queue of its own and reports through a method of its own, and both are looked up
on the worker at every item. So its queue notes for whom an item is when it is put and begins to measure when it is
taken, and the look-up of the report ends it: before the result is known, with no frame between anyio and the user's
function. The wait is counted from the call, so that waiting for the limiter (40 threads by default) is in it.
"""

from __future__ import annotations

import logging
import threading
from asyncio import events, tasks
from collections.abc import Callable
from functools import wraps
from queue import Queue
from time import perf_counter
from types import FunctionType, ModuleType
from typing import Any, cast
from weakref import WeakKeyDictionary

from taskwatt import _imports, accounts
from taskwatt.observations import ExecutorTally
from taskwatt_asyncio import executors
from taskwatt_asyncio.executors import Pools, Submission

log = logging.getLogger("taskwatt")

_BACKEND = "anyio._backends._asyncio"
_CALL = "run_sync_in_worker_thread"
_REPORT = "_report_result"

_asked: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
"""When a task asked for a thread that it has not got yet."""


class _Pools(Pools):
    def tally(self) -> ExecutorTally:
        """With those that wait for the limiter."""
        tally, waiting = super().tally(), len(_asked)
        return tally._replace(submitted=tally.submitted + waiting, queued_now=tally.queued_now + waiting)


_pools = _Pools()
_patched: list[tuple[Any, str, Any]] = []
_on = True


def install() -> None:
    """Measure worker threads from here on, also when anyio is imported later. Idempotent."""
    if "anyio" not in executors.kinds:
        executors.kinds["anyio"] = _pools
        _imports.when_imported(_BACKEND, _patch)


def uninstall() -> None:
    """Leave anyio as it was; worker threads that live keep their queues, which then are plain ones."""
    global _on
    _on = False
    _imports.forget(_patch)
    executors.kinds.pop("anyio", None)
    while _patched:
        owner, name, original = _patched.pop()
        setattr(owner, name, original)


def _patch(module: ModuleType) -> None:
    global _on
    worker: Any = getattr(module, "WorkerThread", None)
    backend: Any = getattr(module, "AsyncIOBackend", None)
    report = getattr(worker, _REPORT, None)
    call: Any = vars(backend).get(_CALL) if isinstance(backend, type) else None
    if (
        not isinstance(worker, type)
        or "__init__" not in vars(worker)
        or not isinstance(report, FunctionType)
        or not isinstance(call, classmethod)
    ):
        log.info("taskwatt does not know this anyio: its worker threads are not measured")
        return
    _on = True
    for owner, name, replacement in (
        (worker, "__init__", _queueing(vars(worker)["__init__"])),
        (worker, _REPORT, _Report(report)),
        (backend, _CALL, classmethod(_noting(cast(Any, call).__func__))),
    ):
        _patched.append((owner, name, vars(owner)[name]))
        setattr(owner, name, replacement)


class _Queue(Queue[Any]):
    """A worker's queue: one item at a time, and None at its end."""

    waiting: Submission | None = None
    running: Submission | None = None

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if _on and item is not None:
            try:
                self._note(item)
            except Exception as error:
                _disable(error)
        super().put(item, block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        _finish(self)
        item = super().get(block, timeout)
        if item is not None and self.waiting is not None:
            self.running, self.waiting = self.waiting, None
            try:
                self.running.start()
            except Exception as error:
                _disable(error)
        return item

    def _note(self, item: Any) -> None:
        task = _current_task()
        asked = _asked.pop(task, None) if task is not None else None
        account, own = executors.payer(item[1])
        account = item[0].get(accounts.account, account)
        self.waiting = Submission(_pools, account, own, perf_counter() if asked is None else asked)


def _finish(queue: _Queue) -> None:
    submission, queue.running = queue.running, None
    if submission is not None:
        try:
            submission.finish()
        except Exception as error:
            _disable(error)


class _Report:
    """The method by which a worker reports; looking it up on its own thread ends the item."""

    def __init__(self, original: FunctionType) -> None:
        self._original = original

    def __get__(self, worker: Any, owner: type | None = None) -> Any:
        queue = getattr(worker, "queue", None)
        if type(queue) is _Queue and worker.ident == threading.get_ident():
            _finish(queue)
        return self._original.__get__(worker, owner)


def _queueing(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        queue: Any = self.queue
        if _on and type(queue) is Queue:
            self.queue = _Queue(cast(Any, queue).maxsize)

    return __init__


def _noting(original: Callable[..., Any]) -> Callable[..., Any]:
    """Returns anyio's own coroutine, so that no frame comes between."""

    @wraps(original)
    def run_sync_in_worker_thread(cls: Any, *args: Any, **kwargs: Any) -> Any:
        task = _current_task()
        if _on and task is not None:
            _asked[task] = perf_counter()
        return original(cls, *args, **kwargs)

    return run_sync_in_worker_thread


def _current_task() -> Any:
    loop = events._get_running_loop()
    return tasks.current_task(loop) if loop is not None else None


def _disable(error: Exception) -> None:
    global _on
    if _on:
        _on = False
        log.warning("taskwatt stopped measuring anyio's worker threads: %r", error, exc_info=error)
