"""Steps measured by the accelerator in C: its hooks, in the terms of this integration's types, loops and looks.

It counts by itself, per type and thread; what it counted is added to the types' figures when they are read, and before
each look. Of Python it asks who a new type is, a look at some steps, and what is to be done about slow ones.
"""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop, Handle
from collections.abc import Callable, Sized
from time import perf_counter
from typing import Any, Final

from taskwatt import accounts
from taskwatt.interruption import raised_by_a_signal
from taskwatt.observations import READY_BUCKETS
from taskwatt_asyncio import looks, loop_threads, selecting, types
from taskwatt_asyncio.figures import SHORT_S, LoopFigures
from taskwatt_asyncio.loop_threads import LoopThread
from taskwatt_fast.accelerator import Accelerator, Hooks
from taskwatt_fast.compiled import compiled

log = logging.getLogger("taskwatt")

_NEVER: Final = 1 << 30


class _Carried:
    """A figure of a thread that its clock in C holds. Those that only C writes keep what they are."""

    def __init__(self, name: str, *, writable: bool = False, by: str = "carried") -> None:
        self._name = name
        self._writable = writable
        self._by = by

    def __get__(self, thread: Any, owner: type | None = None) -> Any:
        return self if thread is None else getattr(getattr(thread, self._by), self._name)

    def __set__(self, thread: Any, value: Any) -> None:
        if self._writable:
            setattr(getattr(thread, self._by), self._name, value)


class _Handle(_Carried):
    def __get__(self, thread: Any, owner: type | None = None) -> Any:
        running = super().__get__(thread, owner)
        return running if isinstance(running, Handle) else None


class _Type(_Carried):
    def __get__(self, thread: Any, owner: type | None = None) -> Any:
        figures = super().__get__(thread, owner)
        return None if figures is None else figures.owner


class CarriedThread(LoopThread):
    """What the accelerator keeps of a thread, under the names by which the others know it."""

    __slots__ = ("carried", "waits")

    step_since: Any = _Carried("step_since")
    end: Any = _Carried("end")
    handle: Any = _Handle("handle")
    inner: Any = _Type("figures")
    alive: Any = _Carried("alive", writable=True)
    detail: Any = _Carried("detail", writable=True)
    stamped: Any = _Carried("stamped", writable=True)

    busy_since: Any = _Carried("busy_since", writable=True, by="waits")
    idle_since: Any = _Carried("idle_since", writable=True, by="waits")
    depth: Any = _Carried("depth", writable=True, by="waits")
    looked: Any = _Carried("looked", writable=True, by="waits")
    rouse: Any = _Carried("rouse", writable=True, by="waits")

    def __init__(self, loop: AbstractEventLoop, kind: str, figures: LoopFigures, clock: Any, waits: Any) -> None:
        self.carried = clock
        self.waits = waits
        super().__init__(loop, kind, figures)

    def flush(self) -> None:
        self.waits.flush(self.figures)


class Accelerated:
    """The carrier in C. `Refused` when it is made says why there is none."""

    hooks_tasks = True

    def __init__(self) -> None:
        self._c = compiled()
        self._figures: dict[types.CoroutineType, Any] = {}
        self._accounting = False
        self._installed = False
        hooks = Hooks(resolve=self._resolve, adopt=self._adopt, look=self._look, slow=self._slow, broken=self._broken)
        self._accelerator = Accelerator(hooks, loop_threads.threshold_s)

    def install(self) -> None:
        self._installed = True
        self._accelerator.install()
        if not accounts.IN_C:  # those settle by themselves
            accounts.add_settler(self._settle)
        if accounts.in_use():
            self._account()

    def uninstall(self) -> None:
        if not self._installed:
            return
        self._installed = False
        accounts.remove_settler(self._settle)
        self._accelerator.uninstall()
        self._c.detach()
        self.flush()
        self._figures.clear()

    def thread(self, loop: AbstractEventLoop, kind: str, figures: LoopFigures) -> LoopThread:
        return CarriedThread(loop, kind, figures, self._c.Clock(), self._c.Wait())

    def watched(self, thread: LoopThread, select: Callable[..., Any], ready: Sized) -> Callable[..., Any]:
        if not isinstance(thread, CarriedThread):
            return selecting.watched(thread, select, ready)
        long_period, unseen = thread.figures.long_period, selecting.say_unseen
        watched: Callable[..., Any] = thread.waits.watch(select, ready, READY_BUCKETS, SHORT_S, long_period, unseen)
        return watched

    def enter(self, thread: LoopThread) -> None:
        if self._installed and isinstance(thread, CarriedThread):
            self._c.set_slow(loop_threads.threshold_s)
            self._c.attach(thread.carried)

    def leave(self, thread: LoopThread) -> None:  # noqa: ARG002  # the clock of this thread
        self._c.detach()

    def pause(self, thread: LoopThread) -> None:
        if isinstance(thread, CarriedThread):
            thread.carried.pause()

    def resume(self, thread: LoopThread) -> None:
        if isinstance(thread, CarriedThread):
            thread.carried.resume()

    def flush(self) -> None:
        now = perf_counter()
        for figures in tuple(self._figures.values()):
            figures.flush()
            looks.plan(figures.owner, now)
            figures.until_look = max(0, figures.owner.next_look - figures.owner.steps)

    def forget(self) -> None:
        self._c.detach()
        self._c.forget()
        self._figures.clear()

    def _resolve(self, subject: Any, is_task: bool, handle: Handle | None) -> Any:
        stats = types.of_coroutine(subject) if is_task else types.of_callback(subject, handle)
        figures = self._figures.get(stats)
        return figures if figures is not None else self._figures.setdefault(stats, self._c.Figures(stats))

    def _adopt(self) -> None:
        thread = loop_threads.here.thread
        if thread is not None:
            self.enter(thread)

    def _look(self, figures: Any, coroutine: Any, running: Any, woken_by: Any) -> int:
        thread = loop_threads.here.thread
        if thread is None:
            return _NEVER
        stats: types.CoroutineType = figures.owner
        figures.flush()
        if isinstance(running, Handle):
            arguments: Any = running._args
        else:
            arguments = () if woken_by is None else (woken_by,)
        looks.look(running, arguments, thread, stats, coroutine)
        return max(1, stats.next_look - stats.steps)

    def _slow(self, _: Any, figures: Any, start: float, duration_s: float, cpu_s: float) -> None:
        thread = loop_threads.here.thread
        if thread is not None:
            thread.figures.slow_step(duration_s)
            loop_threads.tell(loop_threads.on_slow, thread, figures.owner.name, start, duration_s, cpu_s)

    def _settle(self) -> None:
        if not self._accounting:
            self._account()
        self._c.settle()

    def _account(self) -> None:
        """From now on one may be open in any context: steps look it up."""
        self._accounting = True
        self._c.use_account(accounts.account)

    def _broken(self, error: BaseException) -> bool:
        if not isinstance(error, Exception) or raised_by_a_signal(error):
            return True
        if self._installed:
            self.uninstall()
            log.warning(
                "taskwatt stopped measuring the steps of event loops: its hook failed: %r", error, exc_info=error
            )
        return False
