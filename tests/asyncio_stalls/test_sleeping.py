"""Where all loops wait for long the watchdog sleeps, too, until one of them goes on."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable

import pytest

from taskwatt_asyncio.stalls import watchdog
from taskwatt_asyncio.watchdog import SLEEP_S, TICK_S, WAITING_S
from tests.asyncio_stalls.conftest import Told
from tests.support.processes import wait_for

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("carrier")]

ROUNDS = 3
"""By luck it wakes up in time for one."""


def block() -> None:
    time.sleep(0.2)


def until_it_sleeps() -> None:
    wait_for(lambda: watchdog._asleep, 30, "the watchdog to sleep")


def stalls_after(wait: Callable[[], None], told: Told) -> list[tuple[str, str]]:
    """(cause, function) of what is told of a loop that blocks right after it was woken from a long wait."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        blocked = loop.create_future()

        def first() -> None:
            block()
            blocked.set_result(None)

        def wake() -> None:
            wait()
            loop.call_soon_threadsafe(first)

        await asyncio.to_thread(wake)
        await blocked

    asyncio.run(main())
    return [(one.cause, one.code.function if one.code is not None else "") for one in told()]


def test_it_wakes_up_rarely_while_they_wait(told: Told) -> None:
    async def main() -> int:
        await asyncio.sleep(WAITING_S + TICK_S)
        before = watchdog.interpreter.tally().probes
        await asyncio.sleep(3 * SLEEP_S)
        return watchdog.interpreter.tally().probes - before

    assert 1 <= asyncio.run(main()) < 3 * SLEEP_S / TICK_S / 2


def test_the_first_step_after_a_long_wait_is_met_while_it_blocks(told: Told) -> None:
    for _ in range(ROUNDS):
        assert stalls_after(until_it_sleeps, told) == [("blocking", "block")]


def test_a_loop_that_starts_meanwhile_is_watched(told: Told) -> None:
    async def main() -> list[tuple[str, str]]:
        def other() -> list[tuple[str, str]]:
            until_it_sleeps()
            return stalls_after(lambda: None, told)

        return await asyncio.to_thread(other)

    for _ in range(ROUNDS):
        assert asyncio.run(main()) == [("blocking", "block")]


def test_a_signal_handler_that_ends_the_waiting_ends_it_as_ever(told: Told) -> None:
    class Rang(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rang

    def send() -> None:
        until_it_sleeps()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, ring)
    loop = asyncio.new_event_loop()
    sender = threading.Thread(target=send)
    sender.start()
    try:
        with pytest.raises(Rang):
            loop.run_forever()
        assert loop.run_until_complete(asyncio.sleep(0.01, "goes on")) == "goes on"
    finally:
        signal.signal(signal.SIGALRM, before)
        sender.join()
        loop.close()


def test_it_wakes_up_as_ever_while_another_thread_computes(told: Told) -> None:
    done = threading.Event()

    def hog() -> None:
        while not done.is_set():
            sum(range(100))

    async def main() -> bool:
        thread = threading.Thread(target=hog)
        thread.start()
        await asyncio.sleep(WAITING_S + 2 * TICK_S)
        slept = watchdog._asleep
        await asyncio.sleep(SLEEP_S)
        slept = slept or watchdog._asleep
        done.set()
        thread.join()
        return slept

    assert not asyncio.run(main())
