"""Which of the two carriers measures the steps of this process's loops: the accelerator in C, or pure Python.

The accelerator is taken where it is installed, was built for this interpreter, knows how it lays out tasks and handles,
and has counted a few known steps right; everything else is measured in pure Python, with the same algorithm and
figures. Decided when the first loop runs; one line in the log says which and why, and so do the figures.
"""

from __future__ import annotations

import logging
import sys
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sized
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol

from taskwatt.accelerator import unusable
from taskwatt_asyncio import looks, selecting, steps, types
from taskwatt_asyncio.loop_threads import LoopThread

if TYPE_CHECKING:
    from taskwatt_asyncio.figures import LoopFigures

log = logging.getLogger("taskwatt")

IN_C: Final = "C: Handle._run and the entries of tasks (the accelerator, taskwatt-fast)"
IN_PYTHON: Final = "pure Python: Handle._run"


class Carrier(Protocol):
    """What measures steps. On the loop's thread, but for the first two and `flush`."""

    def install(self) -> None:
        """Hook the steps of all loops."""

    def uninstall(self) -> None:
        """Leave everything as it was, also while steps run. Idempotent."""

    def thread(self, loop: AbstractEventLoop, kind: str, figures: LoopFigures) -> LoopThread:
        """What is going on in a loop that begins to run in this thread."""
        ...

    def watched(self, thread: LoopThread, select: Callable[..., Any], ready: Sized) -> Callable[..., Any]:
        """What stands in for the `select` of its loop's selector."""
        ...

    def enter(self, thread: LoopThread) -> None:
        """From now on this is the loop that runs here."""

    def leave(self, thread: LoopThread) -> None:
        """It is no more."""

    def pause(self, thread: LoopThread) -> None:
        """Another loop begins to run inside of its running step."""

    def resume(self, thread: LoopThread) -> None:
        """That one has ended."""

    def flush(self) -> None:
        """Bring the figures of `types` up to date, and when they are looked at next; any thread."""

    def forget(self) -> None:
        """After a fork: the types are gone."""

    @property
    def hooks_tasks(self) -> bool:
        """Are steps of tasks seen without the help of the loop (uvloop)?"""
        ...


class PurePython:
    """steps.py, which needs none of this."""

    hooks_tasks = False

    def install(self) -> None:
        steps.install()

    def uninstall(self) -> None:
        steps.uninstall()

    def thread(self, loop: AbstractEventLoop, kind: str, figures: LoopFigures) -> LoopThread:
        return LoopThread(loop, kind, figures)

    def watched(self, thread: LoopThread, select: Callable[..., Any], ready: Sized) -> Callable[..., Any]:
        return selecting.watched(thread, select, ready)

    def enter(self, thread: LoopThread) -> None: ...

    def leave(self, thread: LoopThread) -> None: ...

    def pause(self, thread: LoopThread) -> None:
        steps.pause(thread)

    def resume(self, thread: LoopThread) -> None:
        steps.resume(thread)

    def flush(self) -> None:
        now = perf_counter()
        for stats in tuple(types.by_name.values()):
            looks.plan(stats, now)

    def forget(self) -> None: ...


current: Carrier = PurePython()
sentence = IN_PYTHON
"""Which one, and why."""

_said: set[str] = set()


def install() -> None:
    """Choose, hook, and say so once a process."""
    global current, sentence
    current, sentence = _chosen()
    uvloop_loops = sys.modules.get("taskwatt_asyncio.uvloop_loops")
    if current.hooks_tasks and uvloop_loops is not None:
        uvloop_loops.leave_steps_alone()
    if sentence not in _said:
        _said.add(sentence)
        log.info("taskwatt measures the steps of event loops with %s", sentence)


def uninstall() -> None:
    """Leave everything as it was, also while steps run."""
    global current
    current.uninstall()
    current = PurePython()


def _chosen() -> tuple[Carrier, str]:
    refused: str
    try:
        carrier, refused = _accelerated()
        if carrier is not None:
            carrier.install()
            return carrier, IN_C
    except Exception as error:
        log.warning("taskwatt's accelerator failed to install and is off: %r", error, exc_info=error)
        refused = f"the accelerator failed: {error!r}"
    pure = PurePython()
    pure.install()
    return pure, f"{IN_PYTHON} ({refused})"


def _accelerated() -> tuple[Carrier | None, str]:
    """The accelerator, ready to be installed; or why it is not taken."""
    why = unusable()
    if why:
        return None, why
    from taskwatt_asyncio.accelerated import Accelerated
    from taskwatt_fast import Refused

    make: Callable[[], Carrier] = Accelerated
    try:
        return make(), ""
    except Refused as refusal:
        return None, f"the accelerator was not taken: {refusal}"
