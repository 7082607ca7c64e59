"""The watchdog's sleep beside threads that wait for events, in C and in Python."""

from __future__ import annotations

import importlib.util
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from taskwatt import accounts
from taskwatt_asyncio import dozing as chosen
from taskwatt_asyncio.readings import ThreadReader
from tests.support.carriers import part_in_c
from tests.support.processes import wait_for

PERIOD_S = 0.02
LONG_S = 60.0
"""Nothing here lasts so long."""
ROUNDS = 3


@pytest.fixture(params=["C", "Python"])
def dozing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """taskwatt_asyncio.dozing as a process with, or without, the accelerator has it."""
    if request.param == "C":
        monkeypatch.setattr(accounts, "part_in_c", part_in_c())
    monkeypatch.setattr(accounts, "IN_C", request.param == "C")
    specification = importlib.util.spec_from_file_location("taskwatt_dozing_anew", chosen.__file__)
    assert specification is not None
    assert specification.loader is not None
    anew = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(anew)
    return anew


class Waiting:
    """A thread in epoll's call. What it is given to do it does, and then waits again, until it is given nothing."""

    def __init__(self) -> None:
        self._reads, self._writes = os.pipe()
        self._work: list[Callable[[], object] | None] = []
        self.done = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.reader = ThreadReader(self._thread.native_id or 0)
        self.until_it_waits()

    def _run(self) -> None:
        poll = select.epoll()
        poll.register(self._reads)
        while True:
            poll.poll()
            os.read(self._reads, 1)
            work = self._work.pop(0)
            self.done += 1
            if work is None:
                break
            work()
        poll.close()

    def until_it_waits(self) -> None:
        wait_for(self.reader.waits_for_events, 30, "the thread to wait")

    def give(self, work: Callable[[], object] | None) -> None:
        """Returns when it has begun."""
        done = self.done
        self._work.append(work)
        os.write(self._writes, b"x")
        wait_for(lambda: self.done > done, 30, "the thread to go on")

    def end(self) -> None:
        if self._thread.is_alive():
            self.give(None)
        self._thread.join()

    def close(self) -> None:
        self.end()
        self.reader.close()
        os.close(self._reads)
        os.close(self._writes)


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    one = Waiting()
    yield one
    one.close()


@pytest.fixture
def lock() -> threading.Lock:
    """Held: the one that is released to rouse who dozes."""
    one = threading.Lock()
    one.acquire()
    return one


def looks_until(happens: Callable[[], object], dozing: ModuleType, waiting: Waiting, lock: threading.Lock) -> int:
    """How often it looked up and saw the thread wait, when something happens in the third of them."""
    while True:
        looked: list[float] = []

        def waited(now: float, looked: list[float] = looked) -> None:
            looked.append(now)
            if len(looked) == ROUNDS:
                happens()

        late_s = dozing.doze(lock.acquire, LONG_S, PERIOD_S, (waiting.reader.resting(),), waited)
        assert late_s is not None
        if len(looked) >= ROUNDS:
            return len(looked)
        assert late_s >= dozing.LATE_S  # where the host has no CPU for it it returns as well


def test_it_ends_when_it_is_roused(dozing: ModuleType, waiting: Waiting, lock: threading.Lock) -> None:
    roused = threading.Timer(5 * PERIOD_S, lock.release)
    roused.start()
    while dozing.doze(lock.acquire, LONG_S, PERIOD_S, (waiting.reader.resting(),), float) is not None:
        pass  # where the host has no CPU for it
    assert lock.locked()
    roused.join()


def test_it_ends_when_its_time_is_up(dozing: ModuleType, waiting: Waiting, lock: threading.Lock) -> None:
    looked: list[float] = []
    began = time.perf_counter()
    late_s = dozing.doze(lock.acquire, 5 * PERIOD_S, PERIOD_S, (waiting.reader.resting(),), looked.append)
    assert late_s >= 0.0
    assert len(looked) <= 5
    moments = [began, *looked, time.perf_counter()]
    assert moments == sorted(moments)


def test_beside_nobody_it_sleeps(dozing: ModuleType, lock: threading.Lock) -> None:
    looked: list[float] = []
    assert dozing.doze(lock.acquire, PERIOD_S, PERIOD_S, (), looked.append) >= 0.0
    assert looked == []


def test_it_ends_when_a_thread_waits_for_something_else(
    dozing: ModuleType, waiting: Waiting, lock: threading.Lock
) -> None:
    released = threading.Event()
    try:
        assert looks_until(lambda: waiting.give(released.wait), dozing, waiting, lock) == ROUNDS
    finally:
        released.set()


def test_it_ends_beside_a_thread_that_waits_for_something_else_from_the_start(
    dozing: ModuleType, waiting: Waiting, lock: threading.Lock
) -> None:
    released = threading.Event()
    looked: list[float] = []
    waiting.give(released.wait)
    wait_for(lambda: waiting.reader.asleep() is False, 30, "the thread to wait for the event")
    assert dozing.doze(lock.acquire, LONG_S, PERIOD_S, (waiting.reader.resting(),), looked.append) is not None
    released.set()
    assert looked == []


def test_it_ends_when_a_thread_has_gone_round(dozing: ModuleType, waiting: Waiting, lock: threading.Lock) -> None:
    def go_round() -> None:
        waiting.give(lambda: None)
        waiting.until_it_waits()

    assert looks_until(go_round, dozing, waiting, lock) == ROUNDS


def test_it_ends_when_a_thread_ends(dozing: ModuleType, waiting: Waiting, lock: threading.Lock) -> None:
    assert looks_until(waiting.end, dozing, waiting, lock) == ROUNDS


def test_it_ends_when_what_it_looks_at_was_closed(dozing: ModuleType, waiting: Waiting, lock: threading.Lock) -> None:
    _, clock = waiting.reader.resting()
    assert looks_until(waiting.reader.close, dozing, waiting, lock) == ROUNDS
    assert dozing.doze(lock.acquire, LONG_S, PERIOD_S, ((-1, clock),), float) is not None


def test_it_ends_when_it_wakes_up_late(dozing: ModuleType, waiting: Waiting) -> None:
    def acquire(_: bool, timeout: float) -> bool:
        time.sleep(timeout + 2 * dozing.LATE_S)
        return False

    looked: list[float] = []
    late_s = dozing.doze(acquire, LONG_S, PERIOD_S, (waiting.reader.resting(),), looked.append)
    assert late_s >= 2 * dozing.LATE_S
    assert looked == []


def test_what_is_raised_meanwhile_is_raised(dozing: ModuleType, waiting: Waiting, lock: threading.Lock) -> None:
    class Rang(Exception):
        pass

    def ring(*_: object) -> bool:
        raise Rang

    with pytest.raises(Rang):
        looks_until(ring, dozing, waiting, lock)
    with pytest.raises(Rang):
        dozing.doze(ring, LONG_S, PERIOD_S, (waiting.reader.resting(),), float)
