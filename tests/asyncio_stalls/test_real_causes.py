"""Why a loop stalled, with real hogs in the process and real neighbours on the machine."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import pytest

from taskwatt.observations import StallCause
from tests.asyncio_stalls.conftest import Told

pytestmark = pytest.mark.alone

STALLS = 7


@contextmanager
def hogs(number: int) -> Generator[None]:
    """Threads that want the interpreter all the time."""
    done = threading.Event()

    def hog() -> None:
        while not done.is_set():
            sum(range(100))

    threads = [threading.Thread(target=hog, name=f"hog {one}") for one in range(number)]
    for thread in threads:
        thread.start()
    yield
    done.set()
    for thread in threads:
        thread.join()


@contextmanager
def neighbours(number: int) -> Generator[None]:
    """Other processes that want a CPU all the time."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    yield
    for process in processes:
        process.kill()
        process.wait()


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def stall_in(block: Callable[[], None]) -> None:
    async def blocking() -> None:
        block()

    async def main() -> None:
        for _ in range(STALLS):
            await asyncio.create_task(blocking())
            await asyncio.sleep(0.05)

    asyncio.run(main())


def fair(
    told: Told, block: Callable[[], None], *around: AbstractContextManager[None], most_s: float = math.inf
) -> list[StallCause]:
    """Causes of stalls in which no CPU was missing: the machine may have other work than this test's.

    `most_s`: what lasted longer was held up by more than `block`, as by a hog that has the interpreter and no CPU.
    """
    with ExitStack() as stack:
        for one in around:
            stack.enter_context(one)
        stall_in(block)
    found = told()
    assert len(found) == STALLS
    judged = [one.cause for one in found if one.run_delay_s < 0.25 * one.duration_s and one.duration_s < most_s]
    if not judged:
        pytest.skip("the host had no CPU for any of the stalls: that was their cause")
    return judged


BESIDE: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "alone": nullcontext,
    "a hog": lambda: hogs(1),
    "three hogs": lambda: hogs(3),
    "six processes": lambda: neighbours(6),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_a_call_that_sleeps_is_blocking_whatever_runs_beside_it(told: Told, unbounded: None, beside: str) -> None:
    found = fair(told, lambda: time.sleep(0.15), BESIDE[beside](), most_s=0.25)
    assert set(found) == {"blocking"}


def test_many_short_sleeps_beside_a_hog_are_blocking(told: Told, unbounded: None) -> None:
    def naps() -> None:
        for _ in range(8):
            time.sleep(0.02)

    found = fair(told, naps, hogs(1))
    assert found.count("blocking") >= 0.8 * len(found)


@pytest.mark.parametrize("number", [2, 5])
def test_hogs_that_keep_the_interpreter_are_gil(told: Told, unbounded: None, number: int) -> None:
    found = fair(told, lambda: burn(0.06), hogs(number))
    assert found.count("gil") >= 0.8 * len(found)


def test_processes_that_keep_the_cpus_starve_it(told: Told, unbounded: None) -> None:
    with neighbours(3 * (os.cpu_count() or 2)):
        stall_in(lambda: burn(0.08))
    found = told()
    assert len(found) == STALLS
    starved = [one for one in found if one.run_delay_s > one.cpu_s]
    assert {one.cause for one in starved} == {"starved"}


def test_its_own_cpu_is_own_cpu_unless_the_machine_is_busy(told: Told, unbounded: None) -> None:
    """On a machine where others want the CPUs, too, a stall is the one that got the larger part."""
    stall_in(lambda: burn(0.15))
    found = told()
    assert len(found) == STALLS
    assert [one.cause for one in found] == ["starved" if one.run_delay_s > one.cpu_s else "own_cpu" for one in found]
