"""Loops are found whichever way they start, and let go of when they end."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import taskwatt_asyncio
from taskwatt_asyncio import loop_threads
from tests.support.loops import coroutines, loops, run


async def counts() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def told() -> Iterator[list[tuple[str, str]]]:
    """What listeners were told: (start or end, name of the thread)."""
    said: list[tuple[str, str]] = []

    def start(thread: Any) -> None:
        said.append(("start", thread.name))

    def end(thread: Any) -> None:
        said.append(("end", thread.name))

    loop_threads.on_start.append(start)
    loop_threads.on_end.append(end)
    yield said
    for listeners, one in ((loop_threads.on_start, start), (loop_threads.on_end, end)):
        if one in listeners:
            listeners.remove(one)


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_loop_is_measured_from_start_to_end(kind: str, told: list[tuple[str, str]]) -> None:
    async def main() -> None:
        (thread,) = loop_threads.running.values()
        assert thread.loop is asyncio.get_running_loop()
        assert (thread.kind, thread.ident, thread.native_id, thread.detail) == (
            kind,
            threading.get_ident(),
            threading.get_native_id(),
            False,
        )
        assert loops()["MainThread"].running
        await counts()

    run(main(), kind)
    assert loop_threads.running == {}
    assert told[:2] == [("start", "MainThread"), ("end", "MainThread")]
    one = loops()["MainThread"]
    assert (one.kind, one.running, bool(one.partial)) == (kind, False, kind == "uvloop")
    assert coroutines()["main"].completed == 1


def test_a_loop_in_a_thread_bears_its_name() -> None:
    thread = threading.Thread(target=asyncio.run, args=(counts(),), name="worker")
    thread.start()
    thread.join()
    assert set(loops()) == {"worker"}


def test_a_loop_that_already_runs_is_met(tmp_path: object) -> None:
    taskwatt_asyncio.uninstall()

    async def main() -> None:
        waiting = asyncio.create_task(asyncio.Event().wait())
        await asyncio.sleep(0)
        taskwatt_asyncio.install()
        assert coroutines()["wait"].live == 1
        await asyncio.create_task(counts())
        waiting.cancel()

    asyncio.run(main())
    types = coroutines()
    assert (types["counts"].steps, types["counts"].completed) == (11, 1)
    assert (types["wait"].live, types["main"].completed, types["main"].live) == (0, 1, 0)


def test_a_loop_that_already_runs_in_another_thread_is_met_and_let_go_again() -> None:
    taskwatt_asyncio.uninstall()
    loop = asyncio.new_event_loop()
    selector: Any = loop._selector  # type: ignore[attr-defined]
    thread = threading.Thread(target=loop.run_forever, name="elsewhere")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(counts(), loop).result(10)
        taskwatt_asyncio.install()
        asyncio.run_coroutine_threadsafe(counts(), loop).result(10)
        asyncio.run_coroutine_threadsafe(counts(), loop).result(10)
        assert coroutines()["counts"].completed == 2
        assert loops()["elsewhere"].iterations > 0
        assert "select" in vars(selector)
        taskwatt_asyncio.uninstall()
        assert "select" not in vars(selector)
        asyncio.run_coroutine_threadsafe(counts(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_thousand_loops_one_after_another_share_their_figures() -> None:
    for _ in range(1_000):
        asyncio.run(counts())
    assert set(loops()) == {"MainThread"}
    assert coroutines()["counts"].completed == 1_000


def test_loops_of_many_threads_stay_bounded_and_nothing_is_told_twice() -> None:
    def in_threads(first: int, number: int) -> None:
        for one in range(first, first + number):
            thread = threading.Thread(target=asyncio.run, args=(counts(),), name=f"worker-{one}")
            thread.start()
            thread.join()

    seen = {name: one.iterations for name, one in loops().items()}
    total = 0
    for first in range(0, 200, 50):
        in_threads(first, 50)
        now = {name: one.iterations for name, one in loops().items()}
        total += sum(max(0, number - seen.get(name, 0)) for name, number in now.items())
        seen = now
    assert len(seen) <= 65
    once = run_once()
    assert total == 200 * once


def run_once() -> int:
    """Iterations of one such loop."""
    before = loops()["MainThread"].iterations if "MainThread" in loops() else 0
    asyncio.run(counts())
    return loops()["MainThread"].iterations - before


def test_a_loop_that_is_never_closed_is_let_go_of() -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(counts())
    assert loop_threads.running == {}
    assert "select" not in vars(loop._selector)  # type: ignore[attr-defined]
    loop.close()


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_closed_loop_is_not_kept_alive(kind: str) -> None:
    import uvloop

    loop = uvloop.new_event_loop() if kind == "uvloop" else asyncio.new_event_loop()
    gone = weakref.ref(loop)
    loop.run_until_complete(counts())
    loop.close()
    gc.disable()
    try:
        del loop
        for _ in range(5_000):
            if gone() is None:
                break
            time.sleep(0.001)  # the thread that watches loops may be about to let go of it
        assert gone() is None
    finally:
        gc.enable()


def test_a_loop_of_ones_own_making_runs_as_ever() -> None:
    class Own(asyncio.SelectorEventLoop):
        rounds = 0

        def _run_once(self) -> None:
            self.rounds += 1
            super()._run_once()  # type: ignore[misc]

    loop = Own()
    loop.run_until_complete(counts())
    rounds = loop.rounds
    loop.close()
    assert (loops()["MainThread"].iterations, coroutines()["counts"].completed) == (rounds, 1)


def test_a_loop_nested_in_a_step_suspends_the_outer_one(told: list[tuple[str, str]]) -> None:
    async def outer() -> None:
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        inner = asyncio.new_event_loop()
        inner.run_until_complete(counts())
        inner.close()
        asyncio._set_running_loop(loop)
        await counts()

    asyncio.run(outer())
    assert loop_threads.running == {}
    assert loop_threads.here.suspended == ()
    assert set(loops()) == {"MainThread", "MainThread (nested)"}
    assert coroutines()["outer"].completed == 1
    assert [what for what, _ in told[:3]] == ["start", "start", "end"]


def test_the_same_loop_run_inside_its_own_step_is_measured_on() -> None:
    """As nest_asyncio does it."""

    async def outer() -> None:
        loop: Any = asyncio.get_running_loop()
        task = asyncio.create_task(counts())
        this = asyncio.current_task()
        assert this is not None
        asyncio.tasks._leave_task(loop, this)
        while not task.done():
            loop._run_once()
        asyncio.tasks._enter_task(loop, this)
        await counts()

    asyncio.run(outer())
    types = coroutines()
    assert (types["counts"].completed, types["counts"].steps, types["outer"].completed) == (1, 11, 1)
    assert loop_threads.running == {}


def test_a_fork_from_inside_a_loop_starts_from_nothing() -> None:
    async def main() -> int:
        await counts()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio._set_running_loop(None)
                fresh = coroutines() == {} and loops() == {}
                asyncio.run(counts())
                code = 0 if fresh and coroutines()["counts"].completed == 1 and set(loops()) == {"MainThread"} else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)  # noqa: ASYNC222
        await counts()
        return os.waitstatus_to_exitcode(status)

    assert asyncio.run(main()) == 0
    assert coroutines()["main"].completed == 1


def test_a_listener_that_raises_is_taken_out_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def fails(thread: object) -> None:
        raise ZeroDivisionError

    loop_threads.on_start.append(fails)
    asyncio.run(counts())
    asyncio.run(counts())
    assert fails not in loop_threads.on_start
    assert [record.message.partition(" with ")[0] for record in caplog.records if record.name == "taskwatt"] == [
        "taskwatt stopped watching loops"
    ]
