"""An agent of which nothing is to be said spends little, and misses nothing that begins."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from taskwatt import pacing
from taskwatt.agent import WINDOWS, Agent
from taskwatt.observations import CoroutineTally, LoopTally, Tallies
from taskwatt.pacing import QUIET_EVERY_S, QUIET_SLICES
from taskwatt.report.freshness import STALE_S
from taskwatt.segments import AgentDirectory, RuntimeDirectory, SegmentWriter, layout
from taskwatt.settings import Settings
from tests.support.segments import finish, record


class Worker:
    """An agent whose seconds pass by hand, and the segment of a child."""

    def __init__(self, folder: Path) -> None:
        runtime, _ = RuntimeDirectory.open(folder)
        self.directory: AgentDirectory = runtime.agent(os.getpid())
        own = SegmentWriter(self.directory.owner_segment, layout.OWNER, "worker")
        self.child = SegmentWriter(self.directory.child_segment(os.getpid()), layout.CHILD, "worker")
        settings = Settings.from_environ({})
        self.loop: LoopTally | None = None
        self.agent = Agent(
            runtime, self.directory, own, settings, "worker", "shop@here", {}, lambda _: None, dict, self.tallies
        )
        self.now = 1000.0

    def tallies(self) -> Tallies | None:
        if self.loop is None:
            return None
        return Tallies({"shop.poll": CoroutineTally("task", self.loop.iterations)}, {"MainThread": self.loop}, {})

    def tick(self, seconds: int = 1) -> Any:
        """The document after so many seconds, in each of which the loop, if there is one, goes round once."""
        for _ in range(seconds):
            self.now += 1.0
            if self.loop is not None:
                self.loop = self.loop._replace(iterations=self.loop.iterations + 1, idle_s=self.loop.idle_s + 1.0)
            self.agent.beat(self.now)
        return json.loads(self.directory.latest.read_bytes())


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(pacing, "QUIET_CORES", 1e9)  # this process does more than wait
    worker = Worker(tmp_path / "taskwatt")
    yield worker
    worker.agent.give_back_descriptors()
    worker.child.close()


def written(worker: Worker, seconds: int) -> int:
    """How often the document was written in so many seconds."""
    seen = {json.loads(worker.directory.latest.read_bytes())["agent"]["updated_ns"]}
    seen |= {worker.tick()["agent"]["updated_ns"] for _ in range(seconds)}
    return len(seen) - 1


def test_a_young_agent_and_one_that_has_worked_are_judged_every_second(worker: Worker) -> None:
    worker.tick()
    assert written(worker, 30) == 30
    finish(worker.child, 1)
    assert written(worker, max(WINDOWS)) == max(WINDOWS)


def test_a_quiet_one_is_judged_often_enough_to_be_fresh(worker: Worker) -> None:
    worker.tick(2 * max(WINDOWS) + 2)
    assert written(worker, 36) == 36 / QUIET_EVERY_S
    assert QUIET_EVERY_S < STALE_S / 2


def test_a_quiet_one_still_says_when_it_last_lived(worker: Worker) -> None:
    """By the time of its file: what recovers a dead agent's attempts takes that for their end."""
    worker.tick(2 * max(WINDOWS) + 2)
    for _ in range(int(QUIET_EVERY_S)):
        os.utime(worker.directory.latest, (1, 1))
        worker.tick(QUIET_SLICES)
        assert worker.directory.latest.stat().st_mtime > 1


def test_a_quiet_one_ticks_every_third_second(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.tick(2 * max(WINDOWS) + 2)
    ticked: list[float] = []
    tick = worker.agent.tick

    def noted(now: float) -> None:
        ticked.append(now)
        tick(now)

    monkeypatch.setattr(worker.agent, "tick", noted)
    worker.tick(9)
    assert [after - before for before, after in pairwise(ticked)] == [QUIET_SLICES, QUIET_SLICES]
    monkeypatch.setattr(pacing, "QUIET_CORES", -1.0)  # as if it used CPU
    worker.tick(3)
    assert len(ticked) == 3 + 3


@pytest.mark.parametrize("rested", range(QUIET_SLICES))
def test_the_seconds_in_which_it_rested_are_seconds_of_its_windows(worker: Worker, rested: int) -> None:
    worker.tick(2 * max(WINDOWS) + 2 + rested)
    finish(worker.child, 1)
    worker.tick()
    assert worker.agent.window is not None
    assert worker.agent.window.seconds == WINDOWS[0]


def test_ticks_that_fail_while_it_is_quiet_leave_nothing_behind(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.tick(2 * max(WINDOWS) + 2)

    def fails() -> object:
        raise OSError("no such thing")

    monkeypatch.setattr(worker.agent._drainer, "collect", fails)
    for _ in range(20):
        with suppress(OSError):
            worker.tick()
    monkeypatch.undo()
    assert len(worker.agent._snapshots) == len(worker.agent._drops) == max(WINDOWS) + 1


def test_what_ends_in_a_quiet_worker_is_told_at_the_next_tick(worker: Worker) -> None:
    for quiet in range(1, int(QUIET_EVERY_S) + 1):
        worker.tick(2 * max(WINDOWS) + quiet)
        finish(worker.child, quiet, task=f"task {quiet}", cpu_at_exit=float(quiet))
        assert f"task {quiet}" in {row["task"] for row in worker.tick()["ledger"]["rows"]}


def test_what_begins_in_a_quiet_worker_is_judged_from_the_next_tick_on(worker: Worker) -> None:
    worker.tick(2 * max(WINDOWS) + 2)
    worker.child.begin(record(task=worker.child.string("slow")), 1, 0.0, 0.0)
    assert written(worker, 10) == 10


def test_a_worker_that_burns_cpu_without_a_task_is_not_quiet(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.tick(2 * max(WINDOWS) + 2)
    monkeypatch.setattr(pacing, "QUIET_CORES", 0.0)
    assert written(worker, 10) == 10


def test_a_loop_that_waits_is_quiet_and_one_that_is_held_up_without_using_cpu_is_not(worker: Worker) -> None:
    worker.loop = LoopTally("asyncio", True)
    worker.tick(2 * max(WINDOWS) + 2)
    assert written(worker, 36) == 36 / QUIET_EVERY_S
    assert worker.loop is not None
    worker.loop = worker.loop._replace(slow_steps=1)
    worker.tick(QUIET_SLICES)
    assert written(worker, 10) == 10
