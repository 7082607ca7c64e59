"""anyio's worker threads, as Starlette uses them."""

from __future__ import annotations

import asyncio
import threading
import traceback
from functools import partial

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from taskwatt import accounts
from taskwatt.observations import ExecutorTally
from taskwatt.runtime import runtime
from taskwatt_asyncio import anyio_threads, executors, types
from tests.support.burner import burn

pytestmark = pytest.mark.usefixtures("measured")


def row(name: str) -> float:
    return sum(row.cpu_s for key, row in accounts.rows().items() if key[0] == name)


def tally() -> ExecutorTally:
    return executors.tallies()["anyio"]._replace(wait_s=0.0)


def nobody() -> None:
    pass


def test_the_row_that_asks_for_a_thread_pays_before_it_has_the_result() -> None:
    async def serve(name: str, cpu_s: float) -> tuple[float, float]:
        request = accounts.open_account(name)
        truth = await anyio.to_thread.run_sync(burn, cpu_s)
        paid = request.cpu_s
        request.close()
        return truth, paid

    async def serve_all() -> tuple[tuple[float, float], ...]:
        return await asyncio.gather(serve("GET /a", 0.05), serve("GET /b", 0.08), serve("GET /c", 0.03))

    found = asyncio.run(serve_all())
    assert [row(f"GET /{name}") for name in "abc"] == pytest.approx([truth for truth, _ in found], rel=0.03)
    assert [row(f"GET /{name}") for name in "abc"] == [paid for _, paid in found]


def test_without_a_row_the_task_pays() -> None:
    truth: list[float] = []

    async def asks() -> None:
        truth.append(await anyio.to_thread.run_sync(burn, 0.02))
        truth.append(await anyio.to_thread.run_sync(burn, 0.03))

    asyncio.run(asks())
    assert -types.of_callback(asks).paid_s == pytest.approx(sum(truth), rel=0.03)


def test_a_celery_attempt_pays_for_its_threads_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "attempts_pay", lambda: True)

    async def asks() -> None:
        await anyio.to_thread.run_sync(burn, 0.005)

    asyncio.run(asks())
    assert types.of_callback(asks).paid_s == 0.0
    assert accounts.rows() == {}


def test_waiting_for_the_limiter_is_waiting_in_a_queue() -> None:
    begun, gate = threading.Event(), threading.Event()
    seen: list[ExecutorTally] = []

    def wait() -> None:
        begun.set()
        gate.wait(30)

    async def asks() -> None:
        limiter = anyio.CapacityLimiter(1)
        run = partial(anyio.to_thread.run_sync, limiter=limiter)
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(run, wait)
            while limiter.statistics().tasks_waiting < 3 or not begun.is_set():  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
            seen.append(tally())
            gate.set()

    asyncio.run(asks())
    assert seen == [ExecutorTally(submitted=4, queued_now=3)]
    assert tally() == ExecutorTally(submitted=4)
    assert executors.tallies()["anyio"].wait_s > 0.0


def test_a_call_that_is_cancelled_while_it_waits_does_not_wait_for_ever() -> None:
    async def asks() -> None:
        limiter = anyio.CapacityLimiter(1)
        await limiter.acquire_on_behalf_of("somebody else")
        with anyio.move_on_after(0.01):
            await anyio.to_thread.run_sync(nobody, limiter=limiter)

    asyncio.run(asks())
    assert "anyio" not in executors.tallies() or tally().queued_now == 0


def test_a_traceback_shows_no_frame_of_ours() -> None:
    def fails() -> None:
        raise ValueError("as it was")

    async def asks() -> list[str]:
        try:
            await anyio.to_thread.run_sync(fails)
        except ValueError as error:
            return [frame.filename.rpartition("/")[2] for frame in traceback.extract_tb(error.__traceback__)]
        raise AssertionError

    assert asyncio.run(asks()) == [
        "test_anyio_threads.py",
        "to_thread.py",
        "_asyncio.py",
        "_asyncio.py",
        "test_anyio_threads.py",
    ]


def test_a_thread_that_calls_back_into_the_loop_and_a_portal_work() -> None:
    async def answer() -> int:
        return 7

    async def asks() -> int:
        return await anyio.to_thread.run_sync(anyio.from_thread.run, answer)

    with anyio.from_thread.start_blocking_portal() as portal:
        assert portal.call(asks) == 7


def test_threads_that_live_on_when_the_hook_is_taken_out_serve_on() -> None:
    async def asks() -> list[str]:
        first = await anyio.to_thread.run_sync(threading.current_thread)
        anyio_threads.uninstall()
        second = await anyio.to_thread.run_sync(threading.current_thread)
        assert first is second
        return [first.name]

    assert asyncio.run(asks()) == ["AnyIO worker thread"]
