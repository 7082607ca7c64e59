"""What an arrival would wait, from the loop's own iterations and weighted by time."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from taskwatt.observations import DELAY_BUCKETS
from taskwatt_asyncio import loop_threads
from taskwatt_asyncio.figures import LoopFigures, delays
from tests.support.loops import loops, run

Slow = tuple[str, float, float]


@pytest.fixture
def slow() -> Iterator[list[Slow]]:
    """(type, seconds, CPU seconds) of what `on_slow` was told."""
    told: list[Slow] = []

    def listen(thread: Any, name: str, start: float, duration: float, cpu: float) -> None:
        told.append((name.rpartition(".")[2], duration, cpu))

    loop_threads.on_slow.append(listen)
    yield told
    loop_threads.on_slow.remove(listen)


def test_a_busy_period_adds_its_seconds_to_the_buckets_up_to_its_length() -> None:
    figures = LoopFigures("asyncio")
    for seconds in (0.002, 0.012, 20.0):
        figures.long_period(seconds)
    mass = delays(30.0, figures.long_periods, figures.long_s)
    assert sum(mass) == pytest.approx(30.0)
    assert mass[-1] == pytest.approx(10.0)  # of the 20 seconds, those in which one waits more than 10
    assert mass[1:5] == pytest.approx((3 * 0.0005, 0.001 + 2 * 0.0015, 2 * 0.0025, 2 * 0.005))
    assert mass[5] == pytest.approx(0.002 + 0.015)
    assert mass[16] == pytest.approx(5.0)


def test_a_stall_is_found_with_its_length(slow: list[Slow]) -> None:
    async def main() -> None:
        await asyncio.sleep(0.01)
        time.sleep(0.2)  # noqa: ASYNC251  # what is tested
        await asyncio.sleep(0.01)

    asyncio.run(main())
    one = loops()["MainThread"]
    for low, high, seconds in zip(DELAY_BUCKETS, DELAY_BUCKETS[1:], one.delay[1:], strict=False):
        if high <= 0.15:
            assert seconds >= (high - low) * 0.999
    assert sum(one.delay) == pytest.approx(one.busy_s + one.idle_s)
    assert one.busy_s >= 0.2
    assert one.idle_s >= 0.015
    ((name, duration, cpu),) = slow
    assert (one.slow_steps, one.slow_s) == (1, duration)
    assert name == "main"
    assert duration >= 0.2
    assert cpu < 0.1


def test_a_stall_that_still_lasts_is_in_the_figures() -> None:
    async def main() -> None:
        await asyncio.sleep(0.001)
        time.sleep(0.02)  # noqa: ASYNC251  # what is tested
        during.append(loops()["MainThread"].busy_s)

    during: list[float] = []
    asyncio.run(main())
    assert during[0] >= 0.02


def test_waiting_is_idle_and_asking_is_not() -> None:
    async def main() -> None:
        await asyncio.sleep(0.05)
        for _ in range(2_000):
            await asyncio.sleep(0)

    asyncio.run(main())
    one = loops()["MainThread"]
    assert one.idle_s >= 0.045
    assert one.iterations >= 2_000
    assert one.ready[1] > one.ready[2]


def test_depth_is_what_is_ready_in_one_iteration() -> None:
    async def main() -> None:
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(500)))

    asyncio.run(main())
    one = loops()["MainThread"]
    assert 500 <= one.ready_max < 520
    assert one.ready[4] > 0


def test_a_blocking_protocol_callback_is_caught_on_uvloop_too(slow: list[Slow]) -> None:
    class Blocks(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            time.sleep(0.2)
            done.set()

    async def main() -> None:
        done_ = asyncio.Event()
        global done
        done = done_
        ours, theirs = socket.socketpair()
        with ours, theirs:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(Blocks, ours)
            await asyncio.sleep(0.03)
            theirs.send(b"x")
            await done_.wait()
            transport.close()
            await asyncio.sleep(0.03)

    late_s = 0.0
    for kind in ("uvloop", "asyncio"):
        slow.clear()
        run(main(), kind)
        assert [name for name, _, _ in slow] == [{"uvloop": "", "asyncio": "data_received"}[kind]]
        assert slow[0][1] >= 0.12
        late_s = slow[0][1] if kind == "uvloop" else late_s
        assert loops()["MainThread"].late_s == late_s
        assert sum(loops()["MainThread"].delay[8:]) > 0.02


def test_on_uvloop_short_steps_of_tasks_that_hold_it_are_time_of_no_long_step(slow: list[Slow]) -> None:
    """A second of them, one after another, and a long one of a task that tells of itself."""

    async def short() -> None:
        time.sleep(0.005)  # noqa: ASYNC251  # what is tested

    async def long() -> None:
        time.sleep(0.2)  # noqa: ASYNC251  # what is tested

    async def main() -> None:
        await asyncio.sleep(0.03)
        await asyncio.gather(*(short() for _ in range(200)))
        await asyncio.sleep(0.03)
        await asyncio.create_task(long())
        await asyncio.sleep(0.03)

    run(main(), "uvloop")
    late_s = sum(seconds for name, seconds, _ in slow if not name)
    one = loops()["MainThread"]
    assert "long" in [name for name, _, _ in slow]
    assert late_s >= 0.9
    assert one.late_s == pytest.approx(late_s)
    assert one.slow_steps == len(slow)
    assert one.slow_s == pytest.approx(sum(seconds for _, seconds, _ in slow))


done: asyncio.Event
