"""Steps run as without us, whatever fails."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from asyncio import Handle
from contextvars import ContextVar

import pytest

import taskwatt_asyncio
from taskwatt_asyncio import looks, loops, steps, types
from tests.support.loops import coroutines

value: ContextVar[int] = ContextVar("value", default=0)


async def counts() -> int:
    total = 0
    for number in range(5):
        await asyncio.sleep(0)
        total += number
    return total


@pytest.mark.parametrize(("part", "name"), [(types, "of_coroutine"), (steps, "count_end")])
def test_a_part_that_fails_ends_the_measuring_and_no_step(
    part: object, name: str, carrier: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if part is steps and carrier == "C":
        pytest.skip("the accelerator sees by itself how tasks end")

    def fails(*arguments: object) -> None:
        raise ZeroDivisionError

    async def main() -> list[int]:
        return list(await asyncio.gather(counts(), counts()))

    original = Handle._run
    asyncio.run(counts())
    monkeypatch.setattr(part, name, fails)
    assert asyncio.run(main()) == [10, 10]
    monkeypatch.undo()
    assert Handle._run is getattr(original, "__wrapped__", original)
    said = [record.message for record in caplog.records if record.name == "taskwatt"]
    assert [line.partition(":")[0] for line in said] == ["taskwatt stopped measuring the steps of event loops"]


def test_a_look_that_fails_ends_the_looks_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(looks, "_chain", fails)
    asyncio.run(counts())
    first = coroutines()["counts"]  # after a reading every type would be looked at again
    asyncio.run(counts())
    told = coroutines()["counts"]
    assert (told.steps, told.completed, told.looks) == (12, 2, first.looks)
    said = [record.message for record in caplog.records if record.name == "taskwatt"]
    assert [line.partition(":")[0] for line in said] == ["taskwatt looks at no more steps of event loops"]


def test_uninstalled_in_the_middle_of_a_step_it_ends_as_it_began() -> None:
    async def main() -> int:
        taskwatt_asyncio.uninstall()
        return await counts()

    assert asyncio.run(main()) == 10


def test_exceptions_show_no_frame_of_ours() -> None:
    class Leave(BaseException):
        pass

    async def leaves() -> None:
        raise SystemExit(3)

    def raises() -> None:
        raise KeyboardInterrupt

    async def calls() -> None:
        asyncio.get_running_loop().call_soon(raises)
        await asyncio.sleep(0.01)

    for main, kind in ((leaves, SystemExit), (leaves, SystemExit), (calls, KeyboardInterrupt)):
        with pytest.raises(kind) as caught:
            asyncio.run(main())
        shown = "".join(traceback.format_exception(caught.value))
        assert "taskwatt" not in shown
        assert "handle._run()" in shown


def test_an_exception_in_a_task_has_no_context_of_ours() -> None:
    async def main() -> BaseException | None:
        try:
            raise ValueError
        except ValueError as error:
            return error.__context__

    assert asyncio.run(main()) is None


def test_an_exception_in_a_callback_is_handed_to_the_handler_as_ever() -> None:
    told: list[tuple[str, BaseException]] = []

    def raises() -> None:
        raise ValueError("callback")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append((context["message"], context["exception"])))
        loop.call_soon(raises)
        await asyncio.sleep(0.001)

    asyncio.run(main())
    ((message, error),) = told
    assert message.startswith("Exception in callback test_an_exception_in_a_callback")
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["_run", "raises"]


def test_contexts_names_factories_and_cancellation_stay() -> None:
    class Named(asyncio.Task):  # type: ignore[type-arg]
        pass

    async def child() -> int:
        value.set(value.get() + 1)
        await asyncio.sleep(0)
        return value.get()

    async def main() -> tuple[object, ...]:
        value.set(7)
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coroutine, **options: Named(coroutine, loop=loop, **options))
        task = asyncio.create_task(child(), name="Bert")
        inside = await task
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        return type(task), task.get_name(), inside, value.get(), getattr(task.get_coro(), "__name__", "")

    assert asyncio.run(main()) == (Named, "Bert", 8, 7, "child")
    assert coroutines()["child"].completed == 1


def test_a_handle_that_runs_itself_is_left_alone() -> None:
    ran: list[str] = []

    class Own(asyncio.Handle):
        def _run(self) -> None:
            ran.append("own")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop._ready.append(Own(print, (), loop))  # type: ignore[attr-defined]
        await asyncio.sleep(0.001)

    asyncio.run(main())
    assert ran == ["own"]


def test_a_python_task_is_measured_like_one_in_c() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        python_task = asyncio.tasks._PyTask  # type: ignore[attr-defined]
        loop.set_task_factory(lambda loop, coroutine, **options: python_task(coroutine, loop=loop, **options))
        return int(await asyncio.create_task(counts()))

    assert asyncio.run(main()) == 10
    one = coroutines()["counts"]
    assert (one.steps, one.self_wakes, one.started, one.completed) == (6, 5, 1, 1)


def test_loops_in_many_threads_add_up() -> None:
    async def main() -> None:
        for _ in range(100):
            await asyncio.sleep(0)

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one = coroutines()["main"]
    assert (one.steps, one.self_wakes, one.completed) == (808, 800, 8)


def test_a_loop_that_starts_while_the_hooks_are_put_in_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        for _ in range(100):
            await asyncio.sleep(0)

    first = loops._first
    is_first, both = threading.Event(), threading.Event()

    def slowly() -> None:
        is_first.set()
        both.wait(0.2)  # nothing sets it: the other loop cannot run before this has returned
        first()

    def second() -> None:
        is_first.wait(10)
        asyncio.run(main())
        both.set()

    monkeypatch.setattr(loops, "_first", slowly)
    threads = [threading.Thread(target=asyncio.run, args=(main(),)), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one = coroutines()["main"]
    assert (one.steps, one.self_wakes, one.completed) == (202, 200, 2)


def test_debug_mode_says_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    async def slow() -> None:
        import time

        time.sleep(0.02)  # noqa: ASYNC251  # what is tested

    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.01
        await asyncio.create_task(slow(), name="slow")

    with caplog.at_level(logging.WARNING, "asyncio"):
        asyncio.run(main(), debug=True)
    assert any(record.message.startswith("Executing <Task finished name='slow'") for record in caplog.records)
