"""The accelerator does no harm: it runs what the standard library runs, lets go of everything, and never grows."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import traceback
import tracemalloc
from asyncio import Handle, events
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import taskwatt_asyncio
from taskwatt_asyncio import carriers, types
from tests.support.loops import coroutines, measured

pytestmark = pytest.mark.usefixtures("c")


@pytest.fixture
def measuring(tmp_path: Path) -> Iterator[None]:
    with measured(tmp_path):
        yield
        assert carriers.sentence == carriers.IN_C


async def yields(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def fails() -> None:
    await asyncio.sleep(0)
    raise ValueError("fails")


async def everything() -> None:
    """Every way through the hooks once."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(yields(3)), loop.create_task(fails()), loop.create_task(asyncio.Event().wait())]
    loop.call_soon(tasks[-1].cancel)
    loop.call_soon(int, "1")
    loop.call_soon(raises)
    loop.call_later(0, lambda *_: None, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    loop.set_exception_handler(lambda *_: None)
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(int)


def raises() -> None:
    raise ValueError("raises")


def test_a_traceback_is_the_one_of_the_standard_library(tmp_path: Path) -> None:
    def told() -> list[str]:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(
                lambda _, context: lines.extend(traceback.format_exception(context["exception"]))
            )
            loop.call_soon(raises)
            await asyncio.sleep(0)
            loop.call_soon(sys.exit, 3)
            await asyncio.sleep(1)

        lines: list[str] = []
        try:
            asyncio.run(main())
        except SystemExit as error:
            lines += traceback.format_exception(error)
        return lines

    before = told()
    with measured(tmp_path):
        assert told() == before
    assert "in _run" in "".join(before)


def test_the_handler_runs_while_the_exception_is_handled(measuring: None) -> None:
    async def main() -> None:
        def handler(_: object, context: dict[str, Any]) -> None:
            seen.append((sys.exc_info()[1], context["exception"]))
            raise KeyError("a handler of the user's fails too")

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(handler)
        loop.call_soon(raises)
        await asyncio.sleep(0)
        seen.append((sys.exc_info()[1], None))

    seen: list[tuple[BaseException | None, BaseException | None]] = []
    asyncio.run(main())
    assert seen[0][0] is seen[0][1]
    assert seen[1] == (None, None)


def test_a_context_that_is_entered_already_is_refused_as_ever(tmp_path: Path) -> None:
    import contextvars

    def told() -> list[str]:
        async def main() -> None:
            def handler(_: object, context: dict[str, Any]) -> None:
                seen.append(repr(type(context["exception"])))

            loop = asyncio.get_running_loop()
            loop.set_exception_handler(handler)
            context = contextvars.copy_context()
            handle = loop.call_soon(int, context=context)
            context.run(handle._run)
            await asyncio.sleep(0)

        seen: list[str] = []
        asyncio.run(main())
        return seen

    before = told()
    with measured(tmp_path):
        assert told() == before


def test_an_exception_that_a_signal_raised_reaches_the_program_after_the_step(
    measuring: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_coroutine(coroutine: Any) -> types.CoroutineType:
        if coroutine.__name__ == "yields":
            raise KeyboardInterrupt
        return original(coroutine)

    original = types.of_coroutine
    monkeypatch.setattr(types, "of_coroutine", of_coroutine)
    loop = asyncio.new_event_loop()
    task = loop.create_task(yields(0))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    assert task.done()
    loop.close()


def test_steps_end_as_they_began_whenever_the_hooks_are_taken_out(tmp_path: Path) -> None:
    async def takes_out() -> int:
        await asyncio.sleep(0)
        taskwatt_asyncio.uninstall()
        await asyncio.sleep(0)
        taskwatt_asyncio.install()
        await asyncio.sleep(0)
        return 1

    async def main() -> list[int | None]:
        return await asyncio.gather(*(takes_out() for _ in range(7)), *(yields(20) for _ in range(7)))

    with measured(tmp_path):
        assert asyncio.run(main()) == [1] * 7 + [None] * 7


def test_what_was_taken_out_is_all_as_it_was(c: Any, tmp_path: Path) -> None:
    run = vars(Handle)["_run"]
    assert isinstance(run, FunctionType)
    with measured(tmp_path):
        asyncio.run(everything())
        assert (vars(Handle)["_run"], c.hooked()) != (run, 0)
        kept = vars(Handle)["_run"]
    assert (vars(Handle)["_run"], c.hooked()) == (run, 0)

    loop = asyncio.new_event_loop()
    seen: list[int] = []
    kept(loop.call_soon(seen.append, 1))  # whoever has kept ours may go on calling it
    loop.run_until_complete(yields(1))
    loop.close()
    assert seen == [1, 1]


def test_a_method_put_around_ours_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Handle._run
    with monkeypatch.context() as context:
        taskwatt_asyncio.install()
        asyncio.run(yields(1))
        inner = Handle._run

        def _run(self: Handle) -> None:
            inner(self)

        context.setattr(Handle, "_run", _run)
        taskwatt_asyncio.uninstall()
        assert Handle._run is _run
        asyncio.run(everything())
        Handle._run = original  # type: ignore[method-assign]
    Handle._run = original  # type: ignore[method-assign]


def test_nothing_is_kept_of_what_ran(measuring: None) -> None:
    import weakref

    async def main() -> None:
        task = asyncio.create_task(yields(2))
        handle = asyncio.get_running_loop().call_soon(raises)
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        kept.append(weakref.ref(task))
        kept.append(weakref.ref(handle))
        kept.append(weakref.ref(asyncio.get_running_loop()))
        await task

    kept: list[weakref.ref[Any]] = []
    asyncio.run(main())
    asyncio.run(yields(1))
    gc.collect()
    assert [one() for one in kept] == [None, None, None]


def growth(act: Callable[[], object], rounds: int) -> int:
    """Bytes that are allocated more after so many rounds than before them; the least of three times, after a first.

    Threads that other tests left behind allocate as well; a leak is there each time.
    """
    held: list[int] = []
    for _ in range(4):
        for _ in range(rounds):
            act()
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    return min(after - before for before, after in pairwise(held))


@pytest.fixture
def tracing() -> Iterator[None]:
    tracemalloc.start(1)
    yield
    tracemalloc.stop()


def test_steps_leave_nothing_allocated(measuring: None, tracing: None) -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    pairs = sys.getrefcount(None), sys.getrefcount(yields.__code__)
    assert growth(lambda: loop.run_until_complete(yields(50)), 20) < 3_000
    loop.close()
    assert abs(sys.getrefcount(yields.__code__) - pairs[1]) < 5


def test_installing_again_and_again_leaves_nothing_allocated(tracing: None) -> None:
    from taskwatt_asyncio.accelerated import Accelerated

    def once() -> None:
        carrier = Accelerated()
        carrier.install()
        asyncio.run(yields(3))
        carrier.uninstall()

    assert growth(once, 400) < 40_000  # free lists fill; 100 bytes each time would be a leak


def test_code_made_without_end_is_let_go_of(measuring: None) -> None:
    import weakref

    async def main() -> None:
        for number in range(20_000):
            names: dict[str, Any] = {}
            exec(compiled.replace("NUMBER", str(number % 7)), names)
            if number % 1_000 == 0:
                codes.append(weakref.ref(names["one"].__code__))
            await asyncio.create_task(names["one"]())

    compiled = "async def one(): return NUMBER"
    codes: list[weakref.ref[Any]] = []
    asyncio.run(main())
    gc.collect()
    alive = [one for one in codes if one() is not None]
    assert len(alive) <= 13  # the table's 8,192, and the 4,000 that types keep
    assert coroutines()["one"].completed == 20_000


def test_loops_of_many_threads_have_clocks_of_their_own(measuring: None) -> None:
    def work() -> None:
        asyncio.run(yields(100))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = coroutines()["yields"]
    assert (counted.steps, counted.started, counted.completed) == (808, 8, 8)


def test_steps_within_steps_are_bounded(measuring: None) -> None:
    def deeper(left: int) -> None:
        if left:
            events.Handle(deeper, (left - 1,), loop)._run()
        else:
            reached.append(left)

    reached: list[int] = []
    loop = asyncio.new_event_loop()
    loop.call_soon(deeper, 60)
    loop.run_until_complete(yields(1))
    loop.close()
    assert reached == [0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_that_goes_on_with_its_parents_loop_runs_on(measuring: None) -> None:
    async def main() -> int:
        await asyncio.sleep(0)
        pid = os.fork()
        if pid == 0:
            await yields(5)
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222  # it has to block

    assert asyncio.run(main()) == 7
    assert coroutines()["main"].completed == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_an_eager_task_pays_for_its_first_step_and_a_class_derived_meanwhile_goes_on(measuring: None) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()

        class Late(asyncio.Task[Any]):
            """Derived while the hooks are in; it outlives them."""

        derived.append(Late)
        loop.set_task_factory(vars(asyncio)["eager_task_factory"])
        assert loop.create_task(yields(0)).done()
        with pytest.raises(ValueError, match="fails"):
            await loop.create_task(fails())

    derived: list[Any] = []
    asyncio.run(main())
    counted = coroutines()
    assert (counted["yields"].steps, counted["yields"].completed) == (1, 1)
    assert (counted["fails"].steps, counted["fails"].failed) == (2, 1)
    taskwatt_asyncio.uninstall()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(derived[0](yields(3), loop=loop))
    loop.close()
    taskwatt_asyncio.install()
