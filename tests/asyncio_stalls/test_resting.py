"""On uvloop the timer that tells how late anything is rests while the watchdog sees its loop wait."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
import uvloop

from taskwatt.observations import LoopTally
from taskwatt_asyncio import loop_threads
from taskwatt_asyncio.loop_threads import LoopThread, Rest
from taskwatt_asyncio.stalls import watchdog
from taskwatt_asyncio.tallying import tallies
from taskwatt_asyncio.uvloop_loops import IDLE_PERIOD_S
from tests.asyncio_stalls.conftest import Told
from tests.support.processes import wait_for

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("carrier")]

WAITS_S = 1.5
ROUNDS = 3


def tally() -> LoopTally:
    (found,) = [one for one in tallies().loops.values() if one.running]
    return found


def until_it_rests() -> None:
    wait_for(lambda: any(one.resting for one in loop_threads.running.values()), 30, "its rest")


def test_it_does_not_run_while_the_loop_waits_and_the_time_is_idle_time(told: Told) -> None:
    async def main() -> tuple[LoopTally, LoopTally, float]:
        await asyncio.to_thread(until_it_rests)
        await asyncio.sleep(0.5)  # its first end wakes the loop
        before, began = tally(), time.perf_counter()
        await asyncio.sleep(WAITS_S)
        after, lasted = tally(), time.perf_counter() - began
        return before, after, lasted

    before, after, lasted = uvloop.run(main())
    assert after.iterations - before.iterations < WAITS_S / IDLE_PERIOD_S / 2
    assert lasted - 0.3 < after.idle_s - before.idle_s < lasted + 0.3


def test_a_protocol_that_blocks_a_loop_that_has_waited_for_long_is_met(told: Told) -> None:
    def block() -> None:
        time.sleep(0.5)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        class Blocking(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                block()
                done.set_result(None)

        here, there = socket.socketpair()
        transport, _ = await loop.create_connection(Blocking, sock=here)

        def send() -> None:
            until_it_rests()
            there.send(b"x")

        await asyncio.to_thread(send)
        await done
        transport.close()
        there.close()

    for _ in range(ROUNDS):
        uvloop.run(main())
        ((cause, code),) = [(one.cause, one.code) for one in told()]
        assert (cause, code.function if code is not None else "") == ("blocking", block.__qualname__)


def test_a_step_that_blocks_a_loop_that_has_waited_for_long_is_busy_time_and_lag(told: Told) -> None:
    async def main() -> tuple[LoopTally, LoopTally]:
        await asyncio.to_thread(until_it_rests)
        await asyncio.sleep(0.5)  # the end of this thread woke the loop
        before = tally()
        time.sleep(0.5)  # noqa: ASYNC251  # what is tested
        await asyncio.sleep(0.3)
        return before, tally()

    for _ in range(ROUNDS):
        before, after = uvloop.run(main())
        assert 0.4 < after.busy_s - before.busy_s < 0.7
        assert sum(after.delay[8:]) - sum(before.delay[8:]) > 0.2
        assert [(one.cause, one.duration_s > 0.4) for one in told()] == [("blocking", True)]


def test_a_loop_that_ends_while_the_watchdog_tells_what_it_saw_is_left_alone(told: Told) -> None:
    def met() -> tuple[LoopThread, Rest]:
        until_it_rests()
        (thread,) = loop_threads.running.values()
        assert thread.resting is not None
        return thread, thread.resting

    async def main() -> tuple[LoopThread, Rest]:
        return await asyncio.to_thread(met)

    for tell in (Rest.waited, Rest.resume):
        thread, resting = uvloop.run(main())
        idle_s = thread.figures.idle_s
        getattr(resting, tell.__name__)(time.perf_counter())
        assert (thread.figures.idle_s, thread.due, thread.resting) == (idle_s, 0.0, None)


def test_a_loop_that_is_let_go_while_it_rests_goes_on(told: Told) -> None:
    async def main() -> str:
        await asyncio.to_thread(until_it_rests)
        await asyncio.sleep(0.5)
        assert [one for one in loop_threads.running.values() if one.resting]
        watchdog.stop()
        await asyncio.sleep(0.2)
        assert not any(one.resting or one.guarded for one in loop_threads.running.values())
        before = tally().iterations
        await asyncio.sleep(0.5)
        return "probed" if tally().iterations > before else "left alone"

    assert uvloop.run(main()) == "probed"
