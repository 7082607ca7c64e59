"""Looks at loops while they block: one thread a process, that lives while a loop runs.

It wakes up every 80 ms: rarely enough to cost little (100-150 us a waking, most of it the kernel's), often enough to
meet every step that holds its loop for 100 ms. A step that lasts 30 ms is looked at, and again every 10 ms, ever more
rarely in a long one. Where all loops have been waiting for a while it sleeps ten times as long, or until one of them
has something to do, which that one says by itself, or, on uvloop, is seen (dozing.py).

A call in C that keeps the interpreter (a catastrophic regex) keeps this thread from looking, too. But it has asked for
the interpreter by then, and Python hands it over where that call returns, before the next line runs: the look that
comes late meets the line, wherever this thread was kept out: asleep, or reading a file. `faulthandler`'s timer looks in
time, and was rejected: it reads the stacks of threads that run, and a program that computes was killed by it within
1,000 looks; and a process that is forked while it is set does not end.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from time import perf_counter
from types import FrameType
from typing import Any, Final, NamedTuple, TypeAlias, cast

from taskwatt.accounts import row_in
from taskwatt.runtime import runtime
from taskwatt.segments import layout
from taskwatt_asyncio import loop_threads
from taskwatt_asyncio.dozing import doze
from taskwatt_asyncio.interpreter import InterpreterWatch
from taskwatt_asyncio.loop_threads import LoopThread
from taskwatt_asyncio.readings import Reading, ThreadReader
from taskwatt_asyncio.sightings import Sightings, stack_of

Ids: TypeAlias = tuple[bytes, bytes]
"""Of a span."""

log = logging.getLogger("taskwatt")

TICK_S: Final = 0.08
YOUNG_S: Final = 0.005
"""A step that is younger at a waking is nothing special yet: the next waking is early enough to meet it before it has
lasted 100 ms. A busy loop is in such a one nearly always."""
LOOK_AFTER_S: Final = 0.03
LOOK_EVERY_S: Final = 0.01
LOOK_RARELY_S: Final = 0.1
"""A tenth of the step's age, from every 10 ms to this."""
GIVEN_AWAY_S: Final = 0.001
"""Since the last look: so long is nobody away who was not kept out. Reading a file takes a few microseconds."""
WAITING_S: Final = 0.4
"""A loop that has waited so long may wait for long: one that is woken more often is not slowed by waking us, too."""
SLEEP_S: Final = 0.8
"""How long this thread then sleeps, if not woken. Readings from before it still say something of the next step."""
QUIET_CPUS: Final = 0.05
"""Beyond it other threads may want the interpreter, which is found by waking up."""
LINGER_S: Final = 5.0
"""How long the thread outlives the last loop: loops run one after another, and test suites wait for threads left."""


class Seen(NamedTuple):
    """What was seen of one step."""

    sightings: Sightings
    first: Reading | None
    """When it was first met; its wake-ups are known. None when it was not."""
    before: Reading | None
    """At the last waking before it began."""
    now: Reading
    asleep: float
    """Share of looks that met the thread asleep in something else than a futex; NaN without any."""
    span: Ids | None
    """The one that was active at the first look; None when there was no look."""
    row: str
    """The one that paid at the newest look that met any: of a request the route is known late."""


class _Step:
    """One step, as far as it was seen."""

    __slots__ = ("asleep", "awake", "began", "first", "looked", "row", "sightings", "span")

    def __init__(self, began: float) -> None:
        self.began = self.looked = began
        self.sightings = Sightings()
        self.first: Reading | None = None
        self.asleep = self.awake = 0
        self.span: Ids | None = None
        self.row = ""


class _Watched:
    """One loop that runs, as the watchdog keeps it."""

    __slots__ = ("former", "reader", "readings", "rested_cpu_s", "step", "thread")

    def __init__(self, thread: LoopThread, reader: ThreadReader) -> None:
        self.thread = thread
        self.reader = reader
        self.readings: deque[Reading] = deque([reader.read(wake_ups=True)], maxlen=3)
        """One at each waking."""
        self.step = self.former = _Step(0.0)
        """The one before is kept: this thread often gets the interpreter just when a step ends, and before it tells."""
        self.rested_cpu_s = math.nan
        """Of its thread, when its timer was first seen resting; NaN while that runs."""

    def rests(self) -> bool:
        """Did its timer rest when this was last visited, and its thread wait? A doze sees when it no longer does."""
        return not math.isnan(self.rested_cpu_s)


class Watchdog:
    """The one of this process."""

    def __init__(self) -> None:
        self.read_span: Callable[[Context], Ids | None] = _nothing
        """Called on the watchdog's thread with the context of a step that blocks."""
        self.interpreter = InterpreterWatch()
        self._reset()

    def _reset(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._unused: deque[ThreadReader] = deque()
        """To be closed by the watchdog's thread, which may be reading them."""
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._gate = threading.Lock()
        """Held while the thread runs; released to end it."""
        self._ident = 0
        """Of the thread."""
        self._looked_at = 0.0
        self._asleep = False
        """Is it until a loop has something to do?"""
        self._roused_at = 0.0

    def started(self, thread: LoopThread) -> None:
        """A loop starts to run, on its thread."""
        if runtime.segment is None or runtime.segment.role != layout.OWNER:
            return  # a pool child holds no thread
        with self._starting:
            running = self._thread is not None and self._thread.is_alive()
            if not running:
                self._gate = threading.Lock()
                self._gate.acquire()
            self._watch_over(thread)  # its first step may be the one that blocks
            if running:
                self._rouse()
            else:
                gate = self._gate
                self._thread = threading.Thread(target=self._run, args=(gate,), name="taskwatt-watch", daemon=True)
                self._thread.start()

    def _watch_over(self, thread: LoopThread) -> _Watched:
        before = self._watched.get(thread.ident)
        if before is not None:
            self._unused.append(before.reader)
        watched = self._watched[thread.ident] = _Watched(thread, ThreadReader(thread.native_id, self._returned))
        return watched

    def ended(self, thread: LoopThread) -> None:
        """It runs no longer, on its thread: it is not kept alive."""
        watched = self._watched.get(thread.ident)
        if watched is not None and watched.thread is thread:
            self._watched.pop(thread.ident, None)
            self._unused.append(watched.reader)

    def stop(self) -> None:
        """Leave no thread and no descriptor."""
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():
            with suppress(RuntimeError):
                self._gate.release()
            thread.join(2.0)
        self._let_go()

    def _let_go(self) -> None:
        for one in list(self._watched.values()):
            self.ended(one.thread)
            one.thread.guarded = False
            resting = one.thread.resting
            if resting is not None:
                resting.resume(perf_counter())
        self._close_unused()
        self.interpreter.close()

    def _close_unused(self) -> None:
        while self._unused:
            self._unused.popleft().close()

    def forget(self) -> None:
        """In a process that was just forked: nothing of the parent's is used again, its descriptors are closed."""
        readers = [*self._unused, *(one.reader for one in self._watched.values())]
        self._reset()
        for one in readers:
            one.close()
        self.interpreter.close()

    def seen(self, thread: LoopThread, start: float, duration_s: float) -> Seen | None:
        """What is known of a step that has just ended; on its thread. None for a loop that is not watched (yet)."""
        watched = self._watched.get(thread.ident)
        if watched is None or watched.thread is not thread:
            return None
        # First of all: reading gives the interpreter away, and this thread is looked at again.
        # What an eager task does at first is within the step that made it, which runs on.
        outer = thread.step_since
        steps = [
            one
            for one in (watched.step, watched.former)
            if start <= one.began <= start + duration_s or (one.began and one.began == outer)
        ]
        step = next((one for one in steps if one.began == start), steps[0] if steps else _Step(0.0))
        now = watched.reader.read(wake_ups=True)
        before = next((one for one in reversed(tuple(watched.readings)) if one.at <= start), None)
        looks = step.asleep + step.awake
        asleep = step.asleep / looks if looks else math.nan
        return Seen(step.sightings, step.first, before, now, asleep, step.span, step.row)

    # The watchdog's thread.

    def _run(self, gate: threading.Lock) -> None:
        try:
            self._watch(gate)
        except Exception as error:
            log.warning("taskwatt stopped looking at loops that block: %r", error, exc_info=error)
        finally:
            if gate is self._gate:
                self._let_go()

    def _watch(self, gate: threading.Lock) -> None:
        self._ident = threading.get_ident()
        now = idle_since = perf_counter()
        wait_s = LOOK_AFTER_S
        self._look(now, 0.0)  # a step may keep the interpreter since this thread was started
        self.interpreter.open(self._returned)
        while gate is self._gate:  # or another thread has taken over
            if loop_threads.running:
                idle_since = now
            elif now - idle_since > LINGER_S and self._may_end():
                return
            wait_s = min(wait_s, self._visit_all(now))
            if wait_s >= TICK_S and self._may_sleep(now):
                wait_s = SLEEP_S
            late_s, roused = self._wait(gate, wait_s)
            if roused and self._thread is not threading.current_thread():
                return
            now = perf_counter()
            self._asleep = False
            # Before anything else: reading a file gives the interpreter away, and a step that kept it ends.
            looked = self._look(now, late_s)
            late_s = self.interpreter.probed(now, late_s, counts=not roused)
            for step in looked if self._looked_at == now else ():
                step.sightings.waited(late_s)
            wait_s = TICK_S

    def _wait(self, gate: threading.Lock, wait_s: float) -> tuple[float, bool]:
        """How late it woke up; did another thread wake it?"""
        asked = perf_counter()
        if self._asleep:
            resting = tuple(one.reader.resting() for one in list(self._watched.values()) if one.rests())
            late_s = doze(gate.acquire, wait_s, TICK_S if resting else wait_s, resting, self._waited)
        else:
            late_s = None if gate.acquire(timeout=wait_s) else perf_counter() - asked - wait_s
        if late_s is None:
            return perf_counter() - max(asked, self._roused_at), True
        return late_s, False

    def _waited(self, now: float) -> None:
        for one in list(self._watched.values()):
            resting = one.thread.resting
            if resting is not None and one.rests():
                resting.waited(now)

    def _returned(self) -> None:
        """Of a call that gave the interpreter to others: who kept it is looked at as after a sleep."""
        late_s = perf_counter() - self._looked_at
        if late_s > GIVEN_AWAY_S and threading.get_ident() == self._ident:
            self._look(self._looked_at + late_s, late_s)

    def _look(self, now: float, late_s: float) -> list[_Step]:
        """At every loop that runs; the steps that were met. Nothing in here gives the interpreter away.

        `late_s`: for how long the interpreter may have been somebody else's.
        """
        self._looked_at = now
        looked: list[_Step] = []
        frames: dict[int, FrameType] | None = None
        for ident, watched in list(self._watched.items()):
            thread, step = watched.thread, watched.step
            if loop_threads.running.get(ident) is not thread:
                continue
            began = _began(thread, now)
            if began != step.began:
                watched.former, step = step, _Step(began)
                watched.step = step
            if not began or now - began < LOOK_AFTER_S:
                continue
            if frames is None:
                frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]  # documented
            step.sightings.add(stack_of(frames.get(ident)), now - step.looked, late_s)
            step.looked = now
            context = _context_of(thread)
            if context is not None:
                step.row = row_in(context) or step.row
                if step.span is None:
                    step.span = self.read_span(context)
            looked.append(step)
        return looked

    def _may_sleep(self, now: float) -> bool:
        """Does every loop wait, and will wake this thread, or be seen, when it has something to do?"""
        if not self.interpreter.used_cpus < QUIET_CPUS:
            return False
        self._asleep = True  # from here on whoever starts says so
        running = list(loop_threads.running.values())
        waiting = {thread: thread.idle_since for thread in running if not self._rests(thread)}
        if running and all(since and now - since > WAITING_S for since in waiting.values()):
            for thread in waiting:
                thread.rouse = self._rouse
            # One that has gone on meanwhile may not have seen it.
            self._asleep = all(thread.idle_since == since for thread, since in waiting.items())
        else:
            self._asleep = False
        return self._asleep

    def _rests(self, thread: LoopThread) -> bool:
        watched = self._watched.get(thread.ident)
        return watched is not None and watched.thread is thread and watched.rests()

    def _rouse(self) -> None:
        """On the thread of a loop that goes on, or starts."""
        if self._asleep:
            self._roused_at = perf_counter()
            with suppress(RuntimeError):  # another loop has done so
                self._gate.release()

    def _may_end(self) -> bool:
        """False when a loop has started just now and found this thread alive."""
        with self._starting:
            if not loop_threads.running:
                self._thread = None
            return self._thread is None

    def _visit_all(self, now: float) -> float:
        """How long to wait until the next time."""
        self._close_unused()
        running = dict(loop_threads.running)
        for ident, one in list(self._watched.items()):
            if running.get(ident) is not one.thread:
                self.ended(one.thread)
        wait_s = TICK_S
        for ident, thread in running.items():
            watched = self._watched.get(ident)
            if watched is None:  # it was interrupted by a loop that ran inside of one of its steps, or is just starting
                with self._starting:
                    watched = self._watched.get(ident) or self._watch_over(thread)
                if loop_threads.running.get(ident) is not thread:  # it ended while files were opened
                    self.ended(thread)
                    continue
            wait_s = min(wait_s, self._visit(watched, now))
        return wait_s

    def _visit(self, watched: _Watched, now: float) -> float:
        step = watched.step
        if not step.began or now - step.began < YOUNG_S:
            reading = watched.reader.read_after(watched.readings[-1])
            watched.readings.append(reading)
            if watched.thread.kind == "uvloop":
                _guard(watched, now, reading.cpu_s)
            return TICK_S
        watched.rested_cpu_s = math.nan
        if step.looked >= now:
            asleep = watched.reader.asleep()
            if asleep is not None and _began(watched.thread, now) == step.began:
                step.asleep += asleep
                step.awake += not asleep
        if step.first is None:
            step.first = watched.reader.read(wake_ups=True)
            watched.readings.append(step.first)
        resting = watched.thread.resting
        if resting is not None:
            resting.resume(step.began)
        age = now - step.began
        if age < LOOK_AFTER_S:
            return LOOK_AFTER_S - max(0.0, age)
        return min(max(age / 10, LOOK_EVERY_S), LOOK_RARELY_S)


def _guard(watched: _Watched, now: float, cpu_s: float) -> None:
    """`cpu_s`: what its thread has used."""
    thread, before_s, waits = watched.thread, watched.rested_cpu_s, watched.reader.waits_for_events
    watched.rested_cpu_s = math.nan
    resting = thread.resting
    if resting is None:
        thread.guarded = thread.guarded or waits()
    elif (cpu_s == before_s or (math.isnan(before_s) and not math.isnan(cpu_s))) and waits():
        watched.rested_cpu_s = cpu_s
        resting.waited(now)
    else:
        resting.resume(now)


def _began(thread: LoopThread, now: float) -> float:
    """When the running step did, or where steps are not seen, when a timer of ours should have run; 0.0 for none."""
    return thread.step_since or (thread.due if 0.0 < thread.due < now else 0.0)


def _context_of(thread: LoopThread) -> Context | None:
    """In which the step runs: its task's, which is not its handle's for an eager task; or its handle's.

    Where handles are not Python's (uvloop) there is none. Before Python 3.12 a task's context is only found among what
    it refers to.
    """
    handle: Any = thread.handle
    task: Any = asyncio.current_task(thread.loop) if thread.step_since else None
    get_context = getattr(task, "get_context", None)  # from Python 3.12
    if get_context is not None:
        return cast(Context, get_context())
    if handle is not None:
        return cast(Context, handle._context)
    return next((one for one in gc.get_referents(task) if type(one) is Context), None)


def _nothing(_: Context) -> None:
    return None
