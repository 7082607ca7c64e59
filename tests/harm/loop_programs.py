"""Programs that would show it if somebody stood between them and asyncio.

`python -m tests.harm.loop_programs NAME LOOP`: what each prints has to be the same with the agent and without, to the
letter, tracebacks and warnings included.
"""

from __future__ import annotations

import asyncio
import collections.abc
import contextvars
import gc
import inspect
import os
import signal
import sys
import threading
import time
import traceback
import types
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

NUMBER: contextvars.ContextVar[int] = contextvars.ContextVar("NUMBER", default=0)

LONG_S = 1.5
"""So long a wait, and nothing wakes up for it any more."""


def show(*what: object) -> None:
    print(*what, flush=True)


async def fail(after: float = 0.0) -> None:
    await asyncio.sleep(after)
    raise ValueError("meant to fail")


async def forever() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError as error:
        show("cancelled:", error.args)
        raise


async def task_groups() -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(), name="one")
            group.create_task(forever(), name="two")
            group.create_task(fail(), name="three")
    except* ValueError as errors:
        traceback.print_exception(errors)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0, number)) for number in range(5)]
    show([task.result() for task in tasks], asyncio.all_tasks() == {asyncio.current_task()})


async def timeouts() -> None:
    try:
        async with asyncio.timeout(0.01) as limit:
            await forever()
    except TimeoutError as error:
        show(limit.expired(), repr(error), repr(error.__cause__))
        traceback.print_exception(error)
    try:
        await asyncio.wait_for(forever(), 0.01)
    except TimeoutError as error:
        show(repr(error))
    show(await asyncio.wait_for(asyncio.sleep(0, "in time"), 60))
    async with asyncio.timeout(None) as limit:
        limit.reschedule(asyncio.get_running_loop().time() + 60)
        await asyncio.sleep(0)
    show(limit.expired())
    done, pending = await asyncio.wait(
        [asyncio.create_task(asyncio.sleep(n / 100, n)) for n in (0, 1, 90)], timeout=0.3
    )
    show(sorted(task.result() for task in done), len(pending))
    for task in pending:
        task.cancel("enough")


async def cancellation() -> None:
    task = asyncio.create_task(forever(), name="forever")
    await asyncio.sleep(0)
    show(task.cancel("please"), task.cancelling(), task.cancelled())
    try:
        await task
    except asyncio.CancelledError as error:
        show(error.args, task.cancelled())
        traceback.print_exception(error)
    shielded = asyncio.ensure_future(asyncio.sleep(0.01, "done all the same"))
    outer = asyncio.ensure_future(asyncio.shield(shielded))
    await asyncio.sleep(0)
    outer.cancel()
    show(await shielded, outer.cancelled())

    async def stubborn() -> str:
        with_one = asyncio.current_task()
        assert with_one is not None
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return f"stayed, {with_one.uncancel()} left"
        return "was not asked"

    task_two = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    task_two.cancel()
    show(await task_two)
    unstarted = asyncio.create_task(forever())
    unstarted.cancel()
    show(await asyncio.gather(unstarted, return_exceptions=True))
    thread = asyncio.create_task(asyncio.to_thread(time.sleep, 0.05))
    await asyncio.sleep(0.01)
    thread.cancel()
    show(await asyncio.gather(thread, return_exceptions=True))


async def context_variables() -> None:
    loop = asyncio.get_running_loop()

    async def child(number: int) -> int:
        NUMBER.set(number)
        await asyncio.sleep(0)
        return NUMBER.get()

    NUMBER.set(1)
    show(await asyncio.gather(*[child(number) for number in (2, 3)]), NUMBER.get())
    context = contextvars.copy_context()
    context.run(NUMBER.set, 7)
    show(await asyncio.create_task(child(8), context=context), context[NUMBER])
    seen: list[int] = []
    loop.call_soon(lambda: seen.append(NUMBER.get()))
    loop.call_soon(lambda: seen.append(NUMBER.get()), context=context)
    loop.call_later(0, lambda: NUMBER.set(9))
    await asyncio.sleep(0.01)
    show(seen, NUMBER.get(), await asyncio.to_thread(NUMBER.get), await loop.run_in_executor(None, NUMBER.get))
    show(sorted(variable.name for variable in contextvars.copy_context()))


def raising_callback() -> None:
    raise LookupError("meant to fail in a callback")


async def exceptions() -> None:
    """Failing callbacks and tasks, retrieved and not, by the loop's own handler and by one of the program's."""
    loop = asyncio.get_running_loop()
    loop.call_soon(raising_callback)
    await asyncio.sleep(0.01)
    loop.call_later(0.001, raising_callback)
    await asyncio.sleep(0.02)
    task = asyncio.create_task(fail(), name="never retrieved")
    await asyncio.sleep(0.01)
    del task
    gc.collect()
    loop.set_exception_handler(lambda _, context: show(sorted(context), repr(context.get("exception"))))
    loop.call_soon(raising_callback)
    task = asyncio.create_task(fail(), name="retrieved")
    await asyncio.wait([task])
    traceback.print_exception(task.exception())
    asyncio.create_task(fail(), name="never retrieved")  # noqa: RUF006  # that is the fault
    await asyncio.sleep(0.01)
    gc.collect()
    asyncio.gather(fail(), fail())
    await asyncio.sleep(0.01)
    gc.collect()


async def lost() -> None:
    """Never awaited; destroyed while pending."""
    warnings.simplefilter("always")
    fail()  # type: ignore[unused-coroutine]  # that is the fault
    gc.collect()
    loop = asyncio.get_running_loop()

    async def pending(future: asyncio.Future[None]) -> None:
        await future

    task = asyncio.create_task(pending(loop.create_future()), name="pending")
    await asyncio.sleep(0)
    del task
    gc.collect()
    await asyncio.sleep(0.01)


async def looking() -> None:
    """What a debugger looks at."""
    task = asyncio.create_task(forever(), name="looked at")
    await asyncio.sleep(0)
    task.print_stack(file=sys.stdout)
    coroutine: Any = task.get_coro()
    show(
        [frame.f_code.co_qualname for frame in task.get_stack()],
        coroutine.cr_code.co_name,
        inspect.iscoroutine(coroutine),
    )
    show(sorted(one.get_name() for one in asyncio.all_tasks()), asyncio.current_task())
    show(task, asyncio.get_running_loop().get_task_factory())
    loop = asyncio.get_running_loop()
    show(type(loop).__mro__, repr(loop.call_soon), inspect.signature(loop.create_task))
    show(repr(loop.call_later(60, raising_callback)).split(" when")[0])
    task.cancel()
    await asyncio.wait([task])


async def freed() -> None:
    """Nothing lives longer than it would."""

    class Result:
        pass

    async def give() -> Result:
        await asyncio.sleep(0)
        return Result()

    gc.disable()
    task = asyncio.create_task(give())
    result: Result | None = await task
    dead = weakref.ref(result, lambda _: show("the result is gone"))
    coroutine = weakref.ref(task.get_coro(), lambda _: show("the coroutine is gone"))
    gone = weakref.ref(task, lambda _: show("the task is gone"))
    del result, task
    await asyncio.sleep(0)
    show(dead(), coroutine(), gone())
    held = Result()
    dead = weakref.ref(held, lambda _: show("the argument is gone"))
    asyncio.get_running_loop().call_soon(lambda _: None, held)
    del held
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    show(dead())


class Written(collections.abc.Coroutine[Any, Any, str]):
    """A coroutine that is no coroutine of the interpreter's, as Cython makes them: it has no code object."""

    def __init__(self) -> None:
        self._inner: Generator[Any, Any, str] = asyncio.sleep(0.001, "of its own kind").__await__()

    def send(self, value: Any) -> Any:
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        return self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, str]:
        return self._inner


class Awaitable:
    def __await__(self) -> Generator[Any, Any, str]:
        yield from asyncio.sleep(0).__await__()
        return "awaited"


@types.coroutine
def generated() -> Generator[Any, Any, str]:
    yield
    return "generated"


async def numbers() -> AsyncIterator[int]:
    for number in range(3):
        await asyncio.sleep(0)
        yield number


async def strangers() -> None:
    """Awaitables without a code object."""
    show(await asyncio.create_task(Written()))
    show(await asyncio.gather(Awaitable(), Written()), await generated())
    ahead: Any = anext(aiter(numbers()))
    show(await asyncio.ensure_future(ahead))
    failing = asyncio.create_task(Written())
    failing.cancel()
    show(await asyncio.gather(failing, return_exceptions=True))
    future = asyncio.get_running_loop().create_future()
    future.add_done_callback(print)
    future.set_result("a builtin as callback")
    await asyncio.sleep(0)
    seen: set[int] = set()
    asyncio.get_running_loop().call_soon(seen.add, 3)
    asyncio.get_running_loop().call_soon(int)
    asyncio.get_running_loop().call_soon(type("Callable", (), {"__call__": lambda _: show("called")})())
    await asyncio.sleep(0.001)
    show(seen)


async def factories() -> None:
    """Tasks of the program's own making, and eager ones where there are."""
    loop = asyncio.get_running_loop()

    class Mine(asyncio.Task[Any]):
        pass

    def make(loop: Any, coroutine: Any, **options: Any) -> Any:
        show("made", coroutine.__name__, sorted(options))
        return Mine(coroutine, loop=loop, **options)

    loop.set_task_factory(make)
    task = asyncio.create_task(asyncio.sleep(0, "mine"))
    show(type(task).__name__, await task, loop.get_task_factory() is make)
    loop.set_task_factory(None)
    eager = getattr(asyncio, "eager_task_factory", None)
    if eager is not None:
        loop.set_task_factory(eager)
        task = asyncio.create_task(asyncio.sleep(0, "at once"))
        show(await task, loop.get_task_factory() is eager)
        with_one = asyncio.create_task(context_of(3))
        show(with_one.done(), await with_one)
        failed = asyncio.create_task(fail_at_once())
        traceback.print_exception(failed.exception())


async def context_of(number: int) -> int | None:
    current = asyncio.current_task()
    assert current is not None
    return number


async def fail_at_once() -> None:
    raise OSError("meant to fail at once")


async def closed_in_a_step() -> None:
    loop = asyncio.get_running_loop()
    try:
        loop.close()
    except RuntimeError as error:
        show(repr(error))
    loop.call_soon(loop.stop)
    loop.call_soon(show, "in the last iteration")
    loop.call_soon(loop.call_soon, show, "never")


async def debugger() -> None:
    """Another loop within a step, as debuggers and notebooks do it; then this one goes on."""
    outer = asyncio.get_running_loop()
    current = asyncio.current_task()
    assert current is not None
    asyncio.tasks._leave_task(outer, current)
    asyncio._set_running_loop(None)
    inner = asyncio.new_event_loop()
    try:
        show(inner.run_until_complete(asyncio.wait_for(asyncio.sleep(0.01, "within"), 5)))
        try:
            inner.run_until_complete(fail())
        except ValueError as error:
            traceback.print_exception(error)
    finally:
        inner.close()
        asyncio._set_running_loop(outer)
        asyncio.tasks._enter_task(outer, current)
    show(asyncio.get_running_loop() is outer, await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0, 2)))


async def forked() -> None:
    """A process forked by a step runs a loop of its own; this one waits for it and goes on."""
    pid = os.fork()
    if pid == 0:
        try:
            show("in the child:", asyncio._get_running_loop())
            show("in the child:", asyncio.new_event_loop().run_until_complete(asyncio.sleep(0, 3)))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(3)
    status = os.waitpid(pid, 0)[1]  # noqa: ASYNC222  # the loop has nothing else to do
    show("ended with", os.waitstatus_to_exitcode(status), await asyncio.sleep(0, 4))


async def forked_while_it_waits() -> None:
    """A process forked by a thread, while the loop has waited for a while, runs a loop of its own."""

    def fork() -> int:
        time.sleep(LONG_S)
        pid = os.fork()
        if pid == 0:
            try:
                show("in the child:", asyncio.new_event_loop().run_until_complete(asyncio.sleep(LONG_S, 3)))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(3)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    show("ended with", await asyncio.to_thread(fork), await asyncio.sleep(LONG_S, 4))


async def threads() -> None:
    """Loops in threads, calls from one to the other."""
    loop = asyncio.get_running_loop()

    def run() -> None:
        async def inner() -> int:
            return asyncio.run_coroutine_threadsafe(asyncio.sleep(0, 5), loop).result()

        results.append(asyncio.run(inner()))

    results: list[int] = []
    thread = threading.Thread(target=run, name="another")
    thread.start()
    await asyncio.to_thread(thread.join)
    show(results, sorted(one.name for one in threading.enumerate() if not one.name.startswith("taskwatt")))
    try:
        await asyncio.to_thread(raising_callback)
    except LookupError as error:
        traceback.print_exception(error)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", "print(input())", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    show(await process.communicate(b"to a process and back\n"), process.returncode)


async def debug_mode() -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.05
    loop.call_soon(time.sleep, 0.1)
    loop.call_soon(raising_callback)
    await asyncio.sleep(0.01)
    show(repr(loop.call_soon(raising_callback)))
    await asyncio.sleep(0.01)


async def interrupted() -> None:
    """Control-C, as the runner handles it."""
    asyncio.get_running_loop().call_later(0.01, signal.raise_signal, signal.SIGINT)
    await forever()


async def left_by_exit() -> None:
    async def leave() -> None:
        raise SystemExit(7)

    await asyncio.gather(forever(), leave())


async def left_by_exit_in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 8)
    await forever()


async def uncaught() -> None:
    await fail()


def never_stopped(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """The program ends while a loop waits in a thread that is not waited for."""
    thread = threading.Thread(target=factory().run_forever, daemon=True)
    thread.start()
    time.sleep(LONG_S)
    show("ended")


def never_closed(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    warnings.simplefilter("always")
    loop = factory()
    show(loop.run_until_complete(asyncio.sleep(0, "never closed")))
    loop.create_task(forever())
    loop.call_soon(loop.stop)
    loop.run_forever()


COROUTINES: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
    one.__name__: one
    for one in (
        task_groups,
        timeouts,
        cancellation,
        context_variables,
        exceptions,
        lost,
        looking,
        freed,
        strangers,
        factories,
        closed_in_a_step,
        debugger,
        forked,
        forked_while_it_waits,
        threads,
        debug_mode,
        interrupted,
        left_by_exit,
        left_by_exit_in_a_callback,
        uncaught,
    )
}
FUNCTIONS = {one.__name__: one for one in (never_stopped, never_closed)}
PROGRAMS = (*COROUTINES, *FUNCTIONS)


def main(name: str, kind: str) -> None:
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if kind == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    if name in FUNCTIONS:
        FUNCTIONS[name](factory)
        return
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(COROUTINES[name]())
    show("ended")


if __name__ == "__main__":
    main(*sys.argv[1:])
