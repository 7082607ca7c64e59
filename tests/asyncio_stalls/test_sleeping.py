"""Where all loops wait for long the watchdog sleeps, too, until one of them goes on.

A uvloop loop does not say so: there it looks up from time to time.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop

from taskwatt_asyncio import loop_threads
from taskwatt_asyncio.loop_threads import LoopThread
from taskwatt_asyncio.stalls import watchdog
from taskwatt_asyncio.watchdog import SLEEP_S, TICK_S, WAITING_S
from tests.asyncio_stalls.conftest import Told
from tests.support.processes import wait_for

pytestmark = [pytest.mark.alone, pytest.mark.usefixtures("carrier")]

ROUNDS = 3
"""By luck it wakes up in time for one."""

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    """Runs a loop of this kind."""
    return asyncio.run if request.param == "asyncio" else uvloop.run


BLOCKS_S: dict[Run[Any], float] = {asyncio.run: 0.2, uvloop.run: 0.5}
"""A plain callback of uvloop's is known by what it has held up since the watchdog looked up."""
KNOWN_S: dict[Run[Any], float] = {asyncio.run: 0.2, uvloop.run: 0.25}
"""At least so long is what is told of them."""


def block(seconds: float) -> None:
    time.sleep(seconds)


def until_it_sleeps() -> None:
    wait_for(lambda: watchdog._asleep, 30, "the watchdog to sleep")


def stalls_after(wait: Callable[[], object], told: Told, run: Run[Any] = asyncio.run) -> list[tuple[str, str]]:
    """(cause, function) of what is told of a loop that blocks right after it was woken from a long wait.

    Not of shorter steps, nor of what the host had no CPU for: a busy one makes stalls of its own.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        blocked = loop.create_future()

        def first() -> None:
            block(BLOCKS_S[run])
            blocked.set_result(None)

        def wake() -> None:
            wait()
            loop.call_soon_threadsafe(first)

        await asyncio.to_thread(wake)
        await blocked

    run(main())
    found = [one for one in told() if one.duration_s >= KNOWN_S[run] and one.cause != "starved"]
    return [(one.cause, one.code.function if one.code is not None else "") for one in found]


def test_it_wakes_up_rarely_while_they_wait(told: Told, run: Run[Any]) -> None:
    async def main() -> int:
        await asyncio.sleep(WAITING_S + TICK_S)
        before = watchdog.interpreter.tally().probes
        await asyncio.sleep(3 * SLEEP_S)
        return watchdog.interpreter.tally().probes - before

    assert 1 <= run(main()) < 3 * SLEEP_S / TICK_S / 2


def test_the_first_step_after_a_long_wait_is_met_while_it_blocks(told: Told, run: Run[Any]) -> None:
    for _ in range(ROUNDS):
        assert stalls_after(until_it_sleeps, told, run) == [("blocking", "block")]


def test_a_loop_that_starts_meanwhile_is_watched(told: Told, run: Run[Any]) -> None:
    async def main() -> list[tuple[str, str]]:
        def other() -> list[tuple[str, str]]:
            until_it_sleeps()
            return stalls_after(lambda: None, told)

        return await asyncio.to_thread(other)

    for _ in range(ROUNDS):
        assert run(main()) == [("blocking", "block")]


def test_a_loop_that_starts_just_when_it_lies_down_is_watched(
    told: Told, run: Run[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked who waits, and the other loop is not among them."""
    ready, go_on, started = threading.Event(), threading.Event(), threading.Event()

    class Running(dict[int, LoopThread]):
        def values(self) -> Any:
            found = dict(self).values()
            if ready.is_set() and threading.current_thread().name == "taskwatt-watch":
                ready.clear()
                go_on.set()
                started.wait(30)
            return found

    def note(thread: LoopThread) -> None:
        if go_on.is_set():
            started.set()

    async def main() -> list[tuple[str, str]]:
        loop_threads.on_start.append(note)  # behind the watchdog

        def other() -> list[tuple[str, str]]:
            until_it_sleeps()
            ready.set()
            assert go_on.wait(30)
            return stalls_after(lambda: None, told)

        return await asyncio.to_thread(other)

    monkeypatch.setattr(loop_threads, "running", Running())
    try:
        assert run(main()) == [("blocking", "block")]
    finally:
        loop_threads.on_start.remove(note)


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
