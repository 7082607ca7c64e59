"""Thread pools: the CPU of an item is billed to whoever submitted it, not to a thread that nobody knows.

Supported: `concurrent.futures.ThreadPoolExecutor` of Python 3.11 to 3.14, and with it `submit`, `run_in_executor`,
`asyncio.to_thread` and asgiref's `sync_to_async`. Whatever subclass, initializer or wrapper there is stays as it was.

What is hooked is the pool's work item: where it is made it is noted for whom, where it runs it is measured. Wrapping
the submitted function would be the usual way; it adds a frame to every traceback and keeps what the function keeps
alive. Within `run` the item has a stand-in for its future: the CPU must be billed before the result is known, since
who waits for it may end a request, or a span, at once.

Who pays: the row that is open where the item was submitted (a request, a label); else the coroutine type of the task
that submitted it; else, in a thread pool's own thread, who paid for the item that submitted this one; else the
function itself, as a callback type. The user's context is not carried to the thread; ours is.
"""

from __future__ import annotations

import logging
import threading
from asyncio import events, tasks
from collections.abc import Callable, Mapping
from concurrent.futures import thread as pools
from functools import wraps
from time import perf_counter
from typing import Any

from taskwatt import accounts, pieces
from taskwatt.accounts import Account
from taskwatt.observations import ExecutorTally
from taskwatt.pieces import Own, Piece
from taskwatt.runtime import runtime
from taskwatt_asyncio import loop_threads, tallying, types
from taskwatt_asyncio.loop_threads import LoopThread

log = logging.getLogger("taskwatt")

_ATTRIBUTE = "_taskwatt"


class Pools:
    """What one kind of pool did, over all its instances in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._submitted = 0
        self._started = 0
        self._wait_s = 0.0
        self._dropped: list[None] = []

    def submitted(self) -> None:
        with self._lock:
            self._submitted += 1

    def started(self, wait_s: float) -> None:
        with self._lock:
            self._started += 1
            self._wait_s += wait_s

    def dropped(self) -> None:
        """An item will never run. From a destructor: takes no lock."""
        self._dropped.append(None)

    def tally(self) -> ExecutorTally:
        with self._lock:
            queued = self._submitted - self._started - len(self._dropped)
            return ExecutorTally(self._submitted, self._wait_s, max(0, queued))


class Submission:
    """One item: for whom it was submitted, and what it uses when it runs."""

    __slots__ = ("_pools", "account", "at", "own", "piece", "started")

    def __init__(self, of: Pools, account: Account | None, own: Own | None, at: float) -> None:
        self._pools = of
        self.account = account
        self.own = own
        self.at = at
        self.piece: Piece | None = None
        self.started = False
        of.submitted()

    def start(self) -> None:
        """On the pool's thread, before the item runs."""
        self.started = True
        self._pools.started(perf_counter() - self.at)
        self.piece = pieces.begin(self.account, self.own)

    def finish(self) -> None:
        """On that thread, when it has run and before anybody is told. Idempotent."""
        piece, self.piece = self.piece, None
        if piece is not None:
            pieces.end(piece)

    def __del__(self) -> None:
        if not self.started:
            self._pools.dropped()


class _Future:
    """Stands in for an item's future while the item runs."""

    __slots__ = ("_future", "_submission")

    def __init__(self, future: Any, submission: Submission) -> None:
        self._future = future
        self._submission = submission

    def __getattr__(self, name: str) -> Any:
        return getattr(self._future, name)

    def set_running_or_notify_cancel(self) -> bool:
        runs = bool(self._future.set_running_or_notify_cancel())
        if runs:
            _guarded(self._submission.start)
        return runs

    def set_result(self, result: object) -> None:
        _guarded(self._submission.finish)
        self._future.set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        _guarded(self._submission.finish)
        self._future.set_exception(exception)


def payer(function: Callable[..., Any] | None) -> tuple[Account | None, Own | None]:
    """Who pays for what is submitted here and now: an account, a type, or both (an account that only adds up)."""
    account = accounts.account.get()
    if (account is not None and account.has_row) or runtime.attempts_pay():
        return account, None
    loop = events._get_running_loop()
    task = tasks.current_task(loop) if loop is not None else None
    if task is not None:
        return account, types.of_task(task)
    piece = pieces.here()
    if piece is not None and piece.own is not None:
        return account, piece.own
    # OpenTelemetry looks for its resource in a pool: for our exporters as well, and once more after each fork.
    nobody = function is None or str(getattr(function, "__module__", "")).startswith("opentelemetry.")
    return account, None if nobody else types.of_callback(function)


thread_pools = Pools()
kinds: dict[str, Pools] = {"ThreadPoolExecutor": thread_pools}
"""anyio's threads add themselves."""

_originals: list[tuple[Any, Any]] = []

_on = True


def install() -> None:
    """Measure all thread pools of this process, those that exist too; not the items that already wait. Idempotent."""
    global _on
    item: Any = getattr(pools, "_WorkItem", None)
    if _originals or not callable(getattr(item, "run", None)):
        return
    _on = True
    _originals.append((item.__init__, item.run))
    item.__init__, item.run = _noting(item.__init__), _measuring(item.run)
    loop_threads.on_start.append(_on_loop_start)
    loop_threads.on_end.append(_on_loop_end)
    tallying.executors = tallies


def uninstall() -> None:
    """Leave thread pools as they were; items that run now end as they would."""
    while _originals:
        item: Any = vars(pools)["_WorkItem"]
        item.__init__, item.run = _originals.pop()
        for listeners, listener in ((loop_threads.on_start, _on_loop_start), (loop_threads.on_end, _on_loop_end)):
            if listener in listeners:
                listeners.remove(listener)
        tallying.executors = tallying.no_executors


def tallies() -> Mapping[str, ExecutorTally]:
    """By kind of pool; those that were used. Any thread."""
    found = {name: one.tally() for name, one in kinds.items()}
    return {name: tally for name, tally in found.items() if tally.submitted}


class _Paused(threading.local):
    def __init__(self) -> None:
        self.pieces: list[Piece | None] = []


_paused = _Paused()


def _on_loop_start(_: LoopThread) -> None:
    """A loop runs within an item, a request or a block of a thread: its steps are measured by themselves."""
    _paused.pieces.append(pieces.pause())


def _on_loop_end(_: LoopThread) -> None:
    piece = _paused.pieces.pop() if _paused.pieces else None
    if piece is not None:
        pieces.end(piece)


def _noting(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        if _on and not threading.current_thread().name.startswith("taskwatt"):  # our own exporters use pools too
            try:
                account, own = payer(getattr(self, "fn", None))
                setattr(self, _ATTRIBUTE, Submission(thread_pools, account, own, perf_counter()))
            except Exception as error:
                _disable(error)

    return __init__


def _measuring(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def run(self: Any, *args: Any) -> None:
        submission: Submission | None = self.__dict__.pop(_ATTRIBUTE, None)
        if submission is None:
            original(self, *args)
            return
        self.future = _Future(self.future, submission)
        try:
            original(self, *args)
        finally:
            _guarded(submission.finish)
            # A traceback keeps the frames below its own: this one must not keep the exception alive through the item.
            del self, submission

    return run


def _guarded(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception as error:
        _disable(error)


def _disable(error: Exception) -> None:
    global _on
    if _on:
        _on = False
        log.warning("taskwatt stopped measuring thread pools: %r", error, exc_info=error)
