"""CPU of steps, requests and blocks in the agent's own process, and of what lies around them."""

from __future__ import annotations

from typing import Any

import pytest

from taskwatt import accounts, own_work
from taskwatt.observations import CoroutineTally, LoopTally, Tallies
from taskwatt.own_work import OwnWork, Rest
from taskwatt.windows.ledger import Ledger
from taskwatt.windows.tasks import TaskWindows


def readings(rest: Rest, *figures: float, running: bool = False) -> list[tuple[float, float]]:
    return [rest.read(figure, running=running) for figure in figures]


def test_what_no_step_explained_for_a_while_is_booked() -> None:
    assert readings(Rest(3), 1.0, 1.5, 2.0, 2.5) == [(0.0, 1.0), (0.0, 1.5), (1.0, 1.0), (0.5, 1.0)]


def test_a_step_that_runs_is_live_until_it_is_billed() -> None:
    """It lifts the figure by 5 s and takes them along when it ends."""
    assert readings(Rest(3), 1.0, 1.0, 1.0, 6.0, 1.0, 1.25) == [
        (0.0, 1.0),
        (0.0, 1.0),
        (1.0, 0.0),
        (0.0, 5.0),
        (0.0, 0.0),
        (0.0, 0.25),
    ]


def test_a_step_that_surely_runs_books_nothing_however_long_it_takes() -> None:
    rest = Rest(3)
    assert readings(rest, 1.0, 1.0, 1.0)[-1] == (1.0, 0.0)
    assert readings(rest, *map(float, range(2, 70)), running=True)[-1] == (0.0, 68.0)
    assert readings(rest, 1.0, 1.5) == [(0.0, 0.0), (0.0, 0.5)]


def test_the_last_reading_books_everything() -> None:
    assert Rest(3).read(2.5, running=False, final=True) == (2.5, 0.0)


def test_a_figure_that_lost_what_was_booked_of_it_goes_on_from_there() -> None:
    """A thread ended, and its clock with it."""
    rest = Rest(2)
    assert readings(rest, 4.0, 4.0, 1.0, 1.0, 1.5, 2.0)[1:] == [
        (4.0, 0.0),
        (0.0, 0.0),
        (0.0, 0.0),
        (0.0, 0.5),
        (0.5, 0.5),
    ]


def test_what_somebody_else_has_booked_is_not_booked_again() -> None:
    rest = Rest(1)
    rest.begin(7.0)
    assert readings(rest, 7.5) == [(0.5, 0.0)]


class Process:
    """Own work with hand-made tallies; threads use nothing that is not said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ledger, self.tasks = Ledger(), TaskWindows()
        self.coroutines: dict[str, CoroutineTally] = {}
        self.loops: dict[str, LoopTally] = {}
        self.work = OwnWork(lambda: Tallies(dict(self.coroutines), dict(self.loops), {}))
        self.threads = Clocks()
        monkeypatch.setattr(self.work, "_threads", self.threads)

    def tick(self) -> float:
        self.work.read()
        return self.work.book("web", self.ledger, self.tasks)

    def rows(self) -> dict[tuple[str, str], float]:
        return {(task, outcome): seconds for (_, task, outcome, _), seconds in self.ledger.cells.items()}


class Clocks:
    agent = others = 0.0

    def read(self) -> None:
        """Set by hand."""


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Any:
    accounts.forget()
    yield Process(monkeypatch)
    accounts.account.set(None)
    accounts.forget()


def test_a_type_s_own_cpu_is_booked_once(process: Process) -> None:
    process.coroutines["shop.poll"] = CoroutineTally("task", steps=7, cpu_s=2.0, own_cpu_s=1.5)
    assert [process.tick(), process.tick()] == [1.5, 0.0]
    process.coroutines["shop.poll"] = CoroutineTally("task", steps=9, cpu_s=3.0, own_cpu_s=1.75)
    assert process.tick() == 0.25
    assert process.rows() == {("shop.poll", "useful"): 1.75}
    process.tasks.roll()
    (window,) = process.tasks.over(1, {}, {}, {}, {})
    assert (window.task, window.attempts, window.firsts) == ("shop.poll", {"useful": 9}, 9)


def test_a_figure_that_goes_back_takes_nothing_out_of_the_books(process: Process) -> None:
    process.coroutines["shop.poll"] = CoroutineTally("task", own_cpu_s=1.5)
    process.tick()
    process.coroutines["shop.poll"] = CoroutineTally("task", own_cpu_s=1.25)
    assert process.tick() == 0.0
    process.coroutines["shop.poll"] = CoroutineTally("task", own_cpu_s=1.75)
    assert (process.tick(), process.rows()) == (0.25, {("shop.poll", "useful"): 1.75})


def test_a_request_is_pending_until_it_ends_and_then_booked_by_its_outcome(process: Process) -> None:
    request = accounts.open_account("GET /items")
    request.bill(0.5)
    assert (process.tick(), process.work.pending, process.work.open) == (0.0, {"GET /items": 0.5}, {"GET /items": 1})
    request.bill(0.25)
    request.close("failed")
    assert (process.tick(), process.work.pending, process.work.open) == (0.75, {}, {})
    assert process.rows() == {("GET /items", "failed"): 0.75}
    assert process.work.rows == {"GET /items"}
    process.tasks.roll()
    (window,) = process.tasks.over(1, {}, {}, {}, {})
    assert (window.task, window.attempts, window.firsts) == ("GET /items", {"failed": 1}, 1)


def test_around_the_steps_of_a_loop_lie_its_machinery_and_the_other_threads(process: Process) -> None:
    """Of 10 s on Python's threads 6 are steps, 1 the loop's own; one of the steps' seconds is a request's."""
    process.loops["MainThread"] = LoopTally("asyncio", True, iterations=1)
    process.tick()
    assert not process.work.tells_threads_apart()
    process.work.begin()
    assert process.work.tells_threads_apart()
    request = accounts.open_account("GET /items")
    request.bill(1.0)
    request.close()
    process.coroutines["shop.poll"] = CoroutineTally("task", steps=7, cpu_s=6.0, own_cpu_s=5.0)
    process.loops["MainThread"] = LoopTally("asyncio", True, iterations=9, cpu_s=7.0)
    process.threads.others = 10.0
    process.tick()
    assert process.work.around("web", process.ledger, final=False) == {
        ("web", "", "none", "framework"): 1.0,
        ("web", "", "none", "business"): 3.0,
    }
    process.tick()
    assert process.work.around("web", process.ledger, final=True) == {
        ("web", "", "none", "framework"): 0.0,
        ("web", "", "none", "business"): 0.0,
    }
    assert dict(process.ledger.cells) == {
        ("web", "shop.poll", "useful", "business"): 5.0,
        ("web", "GET /items", "useful", "business"): 1.0,
        ("web", "", "none", "framework"): 1.0,
        ("web", "", "none", "business"): 3.0,
    }


def test_the_step_in_which_a_loop_is_stuck_is_pending(process: Process) -> None:
    process.loops["MainThread"] = LoopTally("asyncio", True, iterations=9, cpu_s=1.0)
    process.tick()
    process.work.begin()
    process.loops["MainThread"] = LoopTally("asyncio", True, iterations=9, cpu_s=2.0)
    process.threads.others = 1.0
    process.tick()
    assert process.work.around("web", process.ledger, final=False) == {
        ("web", "", "pending", "business"): 1.0,
        ("web", "", "none", "business"): 0.0,
    }


def test_who_fails_to_count_is_not_asked_again(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def broken() -> Tallies:
        asked.append(1)
        raise RuntimeError("broken")

    process.work = own_work.OwnWork(broken)
    assert [process.tick(), process.tick()] == [0.0, 0.0]
    assert (len(asked), [record.message for record in caplog.records]) == (
        1,
        ["taskwatt stopped asking what event loops count: RuntimeError('broken')"],
    )
