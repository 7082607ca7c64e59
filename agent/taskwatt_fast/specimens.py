"""Live tasks, coroutines and handles to look at and to try the hooks on: no event loop, no descriptor, no thread."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any


class Quiet:
    """What tasks and handles need of a loop: it keeps what they schedule, for `run_all`."""

    def __init__(self) -> None:
        self.ready: list[events.Handle] = []
        self.failures: list[dict[str, Any]] = []

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> events.Handle:
        handle = self.handle(callback, *args, context=context)
        self.ready.append(handle)
        return handle

    def handle(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> events.Handle:
        return events.Handle(callback, args, self, context or copy_context())  # type: ignore[arg-type]

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)

    def run_all(self, run: Callable[[Any], object] | None = None) -> None:
        """Run what is scheduled, and what that schedules."""
        while self.ready:
            ready, self.ready = self.ready, []
            for handle in ready:
                if run is None:
                    handle._run()
                else:
                    run(handle)

    def task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.Task(coroutine, loop=self, name="taskwatt")  # type: ignore[arg-type]


class Bare:
    """Awaiting it yields to the loop once, as `asyncio.sleep(0)` does."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Expected(Exception):
    """What the failing ones fail with."""


async def returning() -> int:
    await Bare()
    return 1


async def failing() -> None:
    await Bare()
    raise Expected


async def waiting(future: asyncio.Future[Any]) -> Any:
    return await future


async def once(future: asyncio.Future[Any], also: int = 0) -> Any:
    """Not the same code as `waiting`."""
    await Bare()
    return (await future, also)


def future(loop: Quiet) -> asyncio.Future[Any]:
    return asyncio.Future(loop=loop)  # type: ignore[arg-type]


def ended(task: asyncio.Future[Any]) -> BaseException | None:
    """The exception that a task failed with. No traceback is kept: its frames would hold on to all that called us."""
    try:
        task.result()  # which, other than `exception()`, lets go of the task's own traceback
    except (Expected, asyncio.CancelledError) as error:
        error.__traceback__ = None
        return error if isinstance(error, Expected) else None
    return None


def callback() -> None: ...


def failing_callback(*_: object) -> None:
    raise Expected


def leaving_callback() -> None:
    raise SystemExit
