"""Looks at the specimens, then has the hooks measure some of them: the figures are known beforehand.

On any difference between what `Handle._run` does and what the method in C does, on any figure that is not the expected
one, and when anything is not put back, there is no accelerator.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import events
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, TypeAlias

from taskwatt_fast import specimens
from taskwatt_fast.refusal import Refused
from taskwatt_fast.specimens import Quiet

Run: TypeAlias = Callable[[Any], object]

HAS_EAGER_TASKS = sys.version_info >= (3, 12)


def look_at(carrier: Any) -> None:
    """Have the places found; ValueError names what was not."""
    loop = Quiet()
    ends = [specimens.future(loop) for _ in range(4)]
    pending = [loop.task(specimens.waiting(ends[0])), loop.task(specimens.once(ends[1]))]
    cancelled = [loop.task(specimens.waiting(ends[2])), loop.task(specimens.once(ends[3]))]
    finished = [loop.task(specimens.returning()), loop.task(specimens.returning())]
    failed = [loop.task(specimens.failing()), loop.task(specimens.failing())]
    created: tuple[Any, ...] = specimens.waiting(ends[0]), specimens.once(ends[0]), specimens.returning()
    stepped = [*pending, *cancelled, *finished, *failed]
    steps = [handle._callback for handle in loop.ready]  # type: ignore[attr-defined]
    example = loop.handle(specimens.callback, 1)
    try:
        loop.run_all()
        wakeups = [getattr(ends[index], "_callbacks")[0][0] for index in (0, 1)]  # noqa: B009
        for task in cancelled:
            task.cancel()
        loop.run_all()
        errors = tuple(error for task in failed if (error := specimens.ended(task)) is not None)
        coroutines = tuple(task.get_coro() for task in pending)
        codes = tuple(coroutine.cr_code for coroutine in created)
        names = tuple(coroutine.__qualname__ for coroutine in created)
        tasks = tuple(pending), tuple(cancelled), tuple(finished), tuple(failed)
        looked_at = tuple(steps), tuple(stepped), wakeups[0], pending[0], example, events.Handle
        carrier.probe(*tasks, errors, coroutines, created, codes, names, coroutines, *looked_at)
    finally:
        for coroutine in created:
            coroutine.close()
        for end in ends:
            end.cancel()
        loop.run_all()
        for task in (*pending, *cancelled):
            specimens.ended(task)


def place_of_the_call(original: FunctionType) -> tuple[int, int]:
    """Instruction and line of `_run` at which the traceback of a failing callback begins."""
    loop = Quiet()
    original(loop.handle(specimens.failing_callback))
    (_, _, line, instruction), *_ = frames(loop.failures[0]["exception"])
    return instruction, line


def try_out(carrier: Any, original: FunctionType, method: Run) -> None:
    """Refused when anything differs from what it should be."""
    if told(original) != told(method):
        raise Refused("a handle does not run as the standard library's does")
    for run in (method, by_entry):
        if (counted := measured(carrier, run)) != EXPECTED:
            raise Refused(f"the steps of known tasks were counted as {counted}")
    if HAS_EAGER_TASKS and (counted := measured_eagerly(carrier)) != EXPECTED_EAGERLY:
        raise Refused(f"the steps of a known eager task were counted as {counted}")
    if carrier.hooked():
        raise Refused("a hook could not be taken out again")


def told(run: Run) -> list[object]:
    """What a loop hears of callbacks that end in each way."""
    loop = Quiet()
    log: list[object] = []
    for callback, arguments in (
        (log.append, ("ran",)),
        (specimens.failing_callback, ()),
        (specimens.failing_callback, tuple(range(9))),
    ):
        log.append(run(loop.handle(callback, *arguments)))
    cancelled = loop.handle(specimens.callback)
    cancelled.cancel()
    log.append(run(cancelled))
    try:
        run(loop.handle(specimens.leaving_callback))
    except SystemExit as error:
        log.append(frames(error))
    for failure in loop.failures:
        raised: BaseException = failure.pop("exception")
        handle: object = failure.pop("handle")
        log.append((failure, repr(raised), frames(raised), handle.__class__))
    return log


def frames(error: BaseException) -> list[tuple[str, str, int, int]]:
    """Where the exception was seen, from `_run` on. It forgets."""
    seen: list[tuple[str, str, int, int]] = []
    traceback, error.__traceback__ = error.__traceback__, None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if seen or code.co_filename == events.Handle.__init__.__code__.co_filename:
            seen.append((code.co_filename, code.co_name, traceback.tb_lineno, traceback.tb_lasti))
        traceback = traceback.tb_next
    return seen


def by_entry(handle: Any) -> None:
    """As a loop does that has no Python handles."""
    handle._context.run(handle._callback, *handle._args)


Counted: TypeAlias = dict[str, tuple[int, int, int, int, int, int]]
"""By function: steps, self-wakes; tasks started, completed, failed, cancelled."""

EXPECTED: Counted = {
    "returning": (6, 3, 3, 3, 0, 0),
    "failing": (4, 2, 2, 0, 2, 0),
    "waiting": (4, 0, 2, 1, 0, 1),
    "set_result": (1, 0, 0, 0, 0, 0),
    "callback": (2, 0, 0, 0, 0, 0),
}
EXPECTED_EAGERLY: Counted = {"returning": (2, 1, 1, 1, 0, 0)}
_CALLBACKS = frozenset({"set_result", "callback"})


def measured(carrier: Any, run: Run) -> Counted:
    """What is counted of tasks and callbacks whose handles are run by `run`; callbacks need the one in C."""
    with counting(carrier) as counted:
        loop = Quiet()
        ends = [specimens.future(loop), specimens.future(loop)]
        tasks = [loop.task(specimens.returning()) for _ in range(3)]
        tasks += [loop.task(specimens.failing()) for _ in range(2)]
        tasks += [loop.task(specimens.waiting(end)) for end in ends]
        loop.run_all(run)
        loop.call_soon(ends[0].set_result, None)
        loop.call_soon(specimens.callback)
        loop.call_soon(specimens.callback)
        tasks[-1].cancel()
        loop.run_all(run)
    for task in tasks:
        specimens.ended(task)
    if run is by_entry:
        counted.update((name, EXPECTED[name]) for name in _CALLBACKS if name not in counted)
    return counted


def measured_eagerly(carrier: Any) -> Counted:
    with counting(carrier) as counted:
        loop = Quiet()
        task: Any = asyncio.Task
        task(specimens.returning(), loop=loop, name="taskwatt", eager_start=True)
        loop.run_all(by_entry)
    return counted


@contextmanager
def counting(carrier: Any) -> Generator[Counted]:
    """Fills what it yields when it ends. Steps of other threads, and what runs there meanwhile, are not counted."""
    counted: Counted = {}
    figures: dict[str, Any] = {}
    errors: list[BaseException] = []

    def resolve(subject: Any, *_: object) -> Any:
        name = subject.__name__
        return figures.setdefault(name, carrier.Figures(Sums()))

    def broken(error: BaseException) -> bool:
        errors.append(error)
        return False

    clock = carrier.Clock()
    carrier.start(resolve, None, None, None, broken, 3600.0, (), object, ())
    try:
        carrier.attach(clock)
        yield counted
    finally:
        carrier.detach()
        carrier.stop()
    if errors:
        raise Refused(f"it failed: {errors[0]!r}")
    for name, one in figures.items():
        one.flush()
        sums = one.owner
        if not 0.0 <= sums.paid_s <= sums.wall_s + sums.correction_s or sums.correction_s > 0.0:
            raise Refused(f"{sums.correction_s} s do not correct {sums.wall_s} s")
        counted[name] = (sums.steps, sums.self_wakes, sums.started, sums.completed, sums.failed, sums.cancelled)


class Sums:
    """What the part in C adds its figures to."""

    def __init__(self) -> None:
        self.steps = self.self_wakes = self.started = self.completed = self.failed = self.cancelled = 0
        self.wall_s = self.correction_s = self.paid_s = self.longest_s = 0.0
        self.costs: list[tuple[int, float]] = []
