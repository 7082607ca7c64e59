"""Items of thread pools are billed to whoever submitted them, and run as they would without us."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import traceback
import weakref
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

from taskwatt import accounts
from taskwatt.observations import ExecutorTally
from taskwatt.runtime import runtime
from taskwatt_asyncio import executors, types
from tests.support.burner import burn

pytestmark = pytest.mark.usefixtures("measured")


def row(name: str) -> float:
    return sum(row.cpu_s for key, row in accounts.rows().items() if key[0] == name)


def own(what: Any) -> float:
    """CPU that the type of a function, or of a coroutine function, pays for itself."""
    return -types.of_callback(what).paid_s


def nobody() -> None:
    pass


class Held:
    """A pool of one thread that is busy until `release`."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self._gate = threading.Event()
        begun = threading.Event()

        def wait() -> None:
            begun.set()
            self._gate.wait(30)

        self.pool.submit(wait)
        begun.wait(30)

    def release(self) -> None:
        self._gate.set()


def test_the_row_that_submits_pays_before_anybody_knows_the_result() -> None:
    with ThreadPoolExecutor() as pool:
        request = accounts.open_account("GET /")
        truth = pool.submit(burn, 0.05).result()
        paid = request.cpu_s
        request.close()
    assert paid == pytest.approx(truth, rel=0.03)
    assert row("GET /") == paid


def test_a_task_pays_for_its_to_thread_and_its_run_in_executor() -> None:
    truth: list[float] = []

    async def submits() -> None:
        truth.append(await asyncio.to_thread(burn, 0.05))
        truth.append(await asyncio.get_running_loop().run_in_executor(None, burn, 0.05))

    before = own(submits)
    asyncio.run(submits())
    assert own(submits) - before == pytest.approx(sum(truth), rel=0.03)


def test_without_a_task_the_function_pays_itself() -> None:
    def function() -> float:
        return burn(0.05)

    with ThreadPoolExecutor() as pool:
        truth = pool.submit(function).result()
    assert own(function) == pytest.approx(truth, rel=0.03)


def test_an_item_submitted_by_an_item_is_paid_by_who_submitted_that() -> None:
    truth: list[float] = []
    with ThreadPoolExecutor() as inner:

        async def submits() -> None:
            await asyncio.to_thread(lambda: truth.append(inner.submit(burn, 0.05).result()))

        asyncio.run(submits())
    assert own(submits) == pytest.approx(truth[0], rel=0.03)


def test_a_thread_that_opens_an_account_itself_is_told_apart() -> None:
    truth: list[float] = []

    def function() -> None:
        truth.append(burn(0.03))
        inner = accounts.open_account("inner")
        truth.append(burn(0.05))
        inner.close()

    with ThreadPoolExecutor() as pool:
        outer = accounts.open_account("outer")
        pool.submit(function).result()
        outer.close()
    assert [row("outer"), row("inner")] == pytest.approx(truth, rel=0.03)
    assert outer.cpu_s == pytest.approx(row("outer") + row("inner"), abs=1e-9)


def test_an_account_that_an_item_leaves_open_is_not_the_next_ones() -> None:
    with ThreadPoolExecutor(1) as pool:
        left = pool.submit(accounts.open_account, "left").result()
        assert pool.submit(accounts.current).result() is None
    left.close()


def test_a_celery_attempt_pays_for_its_threads_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "attempts_pay", lambda: True)

    async def submits() -> None:
        await asyncio.to_thread(burn, 0.005)

    asyncio.run(submits())
    assert own(submits) == 0.0
    assert accounts.rows() == {}
    assert executors.tallies()["ThreadPoolExecutor"].submitted == 1


def test_what_waits_and_what_was_done_is_counted() -> None:
    held = Held()
    waiting = [held.pool.submit(nobody) for _ in range(5)]
    assert executors.tallies()["ThreadPoolExecutor"]._replace(wait_s=0.0) == ExecutorTally(submitted=6, queued_now=5)
    held.release()
    held.pool.shutdown()
    tally = executors.tallies()["ThreadPoolExecutor"]
    assert tally._replace(wait_s=0.0) == ExecutorTally(submitted=6)
    assert tally.wait_s > 0.0
    assert [one.result() for one in waiting] == [None] * 5


def test_items_that_never_run_do_not_wait_for_ever() -> None:
    held = Held()
    cancelled = held.pool.submit(nobody)
    assert cancelled.cancel()
    dropped = held.pool.submit(nobody)
    held.pool.shutdown(wait=False, cancel_futures=True)
    held.release()
    held.pool.shutdown()
    for one in (cancelled, dropped):
        with pytest.raises(CancelledError):
            one.result(10)
    assert executors.tallies()["ThreadPoolExecutor"]._replace(wait_s=0.0) == ExecutorTally(submitted=3)


def test_a_traceback_shows_no_frame_of_ours() -> None:
    def fails() -> None:
        raise ValueError("as it was")

    with ThreadPoolExecutor() as pool:
        error = pool.submit(fails).exception()
    assert error is not None
    files = [frame.filename.rpartition("/")[2] for frame in traceback.extract_tb(error.__traceback__)]
    assert files == ["thread.py", "test_executors.py"]


def test_a_failed_item_is_freed_without_the_garbage_collector() -> None:
    class Payload:
        pass

    def fails(payload: Payload) -> None:
        raise ValueError

    gc.disable()
    try:
        with ThreadPoolExecutor() as pool:
            payload = Payload()
            alive = weakref.ref(payload)
            future = pool.submit(fails, payload)
            assert isinstance(future.exception(), ValueError)
            del future, payload
        assert alive() is None
    finally:
        gc.enable()


def test_futures_callbacks_initializers_and_the_users_context_are_as_they_were() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    variable.set("the submitter's")
    ready: list[int] = []
    done: list[Any] = []
    with ThreadPoolExecutor(1, initializer=ready.append, initargs=(7,)) as pool:
        future = pool.submit(variable.get)
        future.add_done_callback(done.append)
        assert type(future) is Future
        assert future.result() == "unset"
    assert ready == [7]
    assert done == [future]
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(nobody)
    assert list(inspect.signature(ThreadPoolExecutor.submit).parameters) == ["self", "fn", "args", "kwargs"]


def test_a_subclass_with_a_submit_of_its_own_is_measured_once() -> None:
    class Pool(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            return super().submit(lambda: fn(*args, **kwargs))

    with Pool() as pool:
        request = accounts.open_account("GET /")
        truth = pool.submit(burn, 0.05).result()
        request.close()
    assert row("GET /") == pytest.approx(truth, rel=0.03)


def test_a_loop_that_runs_within_an_item_is_measured_by_itself(measured_loops: None) -> None:
    truth: list[float] = []

    async def inside() -> None:
        truth.append(burn(0.15))

    def function() -> None:
        truth.append(burn(0.1))
        asyncio.run(inside())
        truth.append(burn(0.1))

    asyncio.run(asyncio.sleep(0))  # what the first loop of a process prepares is used by the item that runs it
    with ThreadPoolExecutor() as pool:
        request = accounts.open_account("GET /")
        pool.submit(function).result()
        request.close()
    assert row("GET /") == pytest.approx(sum(truth), rel=0.03)


def test_items_that_wait_while_the_hook_is_taken_out_run() -> None:
    held = Held()
    future = held.pool.submit(int, "7")
    executors.uninstall()
    held.release()
    assert future.result(30) == 7
    held.pool.shutdown()


def test_a_hook_that_fails_is_off_says_so_once_and_the_item_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> Any:
        raise OSError("no")

    monkeypatch.setattr(executors, "payer", broken)
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(int, "123")) == [1, 2, 3]
    assert [record.message for record in caplog.records] == ["taskwatt stopped measuring thread pools: OSError('no')"]


def test_items_of_the_agent_s_own_threads_are_nobody_s() -> None:
    def submit() -> None:
        with ThreadPoolExecutor() as pool:
            pool.submit(nobody).result()

    thread = threading.Thread(target=submit, name="taskwatt")
    thread.start()
    thread.join()
    assert executors.tallies() == {}
