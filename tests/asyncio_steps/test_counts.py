"""What is counted of each type: how its tasks begin and end, what woke them, where they wait, what was lost."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import warnings
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

from tests.support.loops import coroutines, run


async def good() -> None:
    await asyncio.sleep(0)


async def bad() -> None:
    raise ValueError("bad")


async def endless() -> None:
    await asyncio.Event().wait()


def test_how_tasks_end_is_counted() -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(one) for one in (good(), good(), bad(), endless(), endless())]
        await asyncio.sleep(0.001)
        tasks[-1].cancel()
        await asyncio.wait(tasks[:3] + tasks[-1:])
        tasks[2].exception()
        live.update({name: one.live for name, one in coroutines().items()})

    live: dict[str, int] = {}
    asyncio.run(main())
    types = coroutines()
    ends = {
        name: (types[name].started, types[name].completed, types[name].failed, types[name].cancelled)
        for name in ("main", "good", "bad", "endless")
    }
    assert ends == {"main": (1, 1, 0, 0), "good": (2, 2, 0, 0), "bad": (1, 0, 1, 0), "endless": (2, 0, 0, 2)}
    assert (live["main"], live["good"], live["bad"], live["endless"]) == (1, 0, 0, 1)


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_bare_yield_is_told_from_being_woken(kind: str) -> None:
    async def spins() -> None:
        for _ in range(23):
            await asyncio.sleep(0)

    async def waits() -> None:
        for _ in range(7):
            await asyncio.sleep(0.001)

    async def main() -> None:
        await asyncio.gather(spins(), waits())

    run(main(), kind)
    types = coroutines()
    told = {name: (types[name].steps, types[name].self_wakes) for name in ("spins", "waits")}
    assert told == {"spins": (24, 23), "waits": (8, 0)}
    waits_ = types["waits"]
    assert (waits_.looks, waits_.sleeping, waits_.waits, waits_.same_line) == (7, 7, 7, 7)
    assert 1 <= waits_.short_waits <= 7  # on a busy host some take longer
    assert waits_.resumed_at is not None
    assert waits_.resumed_at[0].endswith("waits")
    assert (types["spins"].sleeping, types["spins"].same_line, types["spins"].looks) == (0, 23, 23)


@pytest.mark.parametrize("wait", ["wait_for", "timeout", "wait"])
def test_a_wait_that_timed_out_is_known(wait: str) -> None:
    async def polls() -> None:
        event = asyncio.Event()
        pending = asyncio.ensure_future(event.wait())
        for _ in range(5):
            if wait == "wait":
                await asyncio.wait([pending], timeout=0.001)
            elif wait == "wait_for":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(pending), 0.001)
            else:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await asyncio.shield(pending)
        event.set()
        await pending

    asyncio.run(polls())
    assert coroutines()["polls"].timed_out >= 5


def test_other_methods_of_a_task_are_no_steps() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(endless())
        await asyncio.sleep(0)
        loop.call_soon(task.cancel)
        await asyncio.wait([task])
        loop.call_soon(task.cancel, "again")
        await asyncio.sleep(0.001)

    asyncio.run(main())
    one = coroutines()["endless"]
    assert (one.steps, one.started, one.cancelled, one.completed) == (2, 1, 1, 0)


def test_what_is_lost_is_counted_and_python_still_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        asyncio.create_task(bad())  # noqa: RUF006
        await asyncio.sleep(0.001)

    def strand() -> None:
        loop = asyncio.new_event_loop()
        loop.create_task(endless())  # noqa: RUF006
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        asyncio.run(main())
        strand()
        good()  # type: ignore[unused-coroutine]
        gc.collect()
    types = coroutines()
    assert (types["bad"].never_retrieved, types["endless"].destroyed_pending, types["good"].never_awaited) == (1, 1, 1)
    assert types["endless"].started == 1
    assert [(one.category, str(one.message), one.filename) for one in said] == [
        (RuntimeWarning, f"coroutine '{good.__qualname__}' was never awaited", __file__)
    ]
    logged = [record.getMessage().splitlines()[0] for record in caplog.records if record.levelno >= logging.ERROR]
    assert logged == ["Task exception was never retrieved", "Task was destroyed but it is pending!"]


def test_a_decorators_wrapper_does_not_lump_what_it_wraps() -> None:
    def wrapped(function: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
        @functools.wraps(function)
        async def wrapper() -> None:
            await function()

        return wrapper

    async def main() -> None:
        await asyncio.gather(wrapped(good)(), wrapped(good)(), wrapped(plain)())

    async def plain() -> None:
        pass

    asyncio.run(main())
    types = coroutines()
    assert (types["good"].completed, types["plain"].completed) == (2, 1)


def test_a_coroutine_without_a_code_object_is_named_by_its_type() -> None:
    class Foreign(Coroutine[Any, Any, int]):
        """As an extension module's might be."""

        def __init__(self) -> None:
            self.left = 3

        def send(self, value: object) -> None:
            self.left -= 1
            if not self.left:
                raise StopIteration(23)

        def throw(self, *error: Any) -> None:
            raise error[0]

        def close(self) -> None:
            pass

        def __await__(self) -> Generator[Any, None, int]:
            raise NotImplementedError

    async def main() -> int:
        return await asyncio.create_task(Foreign())

    assert asyncio.run(main()) == 23
    one = coroutines()["Foreign"]
    assert (one.steps, one.completed) == (3, 1)


def test_types_are_bounded_and_the_rest_is_other() -> None:
    async def main() -> None:
        for number in range(1_500):
            scope: dict[str, Any] = {}
            exec(f"async def task_{number}(): pass", scope)
            await asyncio.create_task(scope[f"task_{number}"]())

    asyncio.run(main())  # which runs two of its own at its end
    types = coroutines()
    assert len(types) <= 1_001
    assert sum(one.completed for name, one in types.items() if name.startswith(("task_", "other"))) == 1_502


def test_many_tasks_cost_no_memory_of_ours() -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(endless()) for _ in range(20_000)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        live.append(coroutines()["endless"].live)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    live: list[int] = []
    asyncio.run(main())
    assert live == [20_000]
    assert coroutines()["endless"].live == 0
