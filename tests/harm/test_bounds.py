"""Names, tasks and children without end: what the agent keeps stays bounded, and it leaves nothing behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from taskwatt.agent import Agent
from taskwatt.export.context import env_sampler
from taskwatt.observations import OTHER
from taskwatt.segments import RuntimeDirectory, SegmentWriter, layout
from taskwatt.settings import Settings
from taskwatt.windows.ledger import MAX_TASKS
from taskwatt_celery.attempt import Recorder
from taskwatt_celery.outcome import USEFUL
from tests.harm.conftest import StartWorker
from tests.support.processes import wait_for
from tests.support.worker import Worker

NAMES = 2_000
ATTEMPTS = 20_000


def test_two_thousand_names_and_twenty_thousand_attempts_stay_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real segment and a real agent, ticked by hand: a tick is a second, so that after 61 of them no window grows.

    500 names that are busy every second are the most that the ledger keeps apart; then it holds 12.5 MB.
    """
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    tmp_path.chmod(0o700)
    runtime, _ = RuntimeDirectory.open(tmp_path)
    directory = runtime.agent(os.getpid())
    writer = SegmentWriter(directory.owner_segment, layout.OWNER, "worker")
    agent = Agent(runtime, directory, writer, Settings(), "worker", "harm", {}, lambda _: None, dict)
    recorder = Recorder(writer, env_sampler())
    resident = psutil.Process().memory_info().rss
    blocks: list[int] = []
    for number in range(ATTEMPTS):
        task_id = f"{number:08x}-0000-0000-0000-000000000000"
        run = recorder.begin(f"shop.tasks.number_{number % NAMES:05d}", task_id, {"id": task_id}, b"[]")
        recorder.end(run, USEFUL, 1, task_id)
        if number % 200 == 199:
            agent.tick(float(number))
        if number % 5_000 == 4_999:
            blocks.append(sys.getallocatedblocks())
    counted = sum(agent.ledger.attempts.values())
    names = {key[1] for key in agent.ledger.attempts}
    assert counted == ATTEMPTS
    assert (len(names), OTHER in names) == (MAX_TASKS + 1, True)
    assert agent.dropped["name"] > 0
    assert agent.dropped.get("damaged", 0) == 0
    assert blocks[3] <= blocks[2] * 1.01
    assert psutil.Process().memory_info().rss - resident < 20 << 20
    agent.start()
    agent.stop()
    assert list((tmp_path / "agents").iterdir()) == []


ONE_CHILD = 2
"""A child that is just being replaced: its segment is not yet open, or still."""


def test_recycled_children_leave_no_file_and_no_descriptor(worker: StartWorker) -> None:
    watched = worker(options=("--concurrency", "1", "--max-tasks-per-child", "4"))
    run(watched, 13)
    before, of_ours = descriptors(watched)
    run(watched, 23)
    _, of_ours_later = descriptors(watched)
    wait_for(lambda: psutil.Process(watched.pid).num_fds() <= before + ONE_CHILD, 15, "no more descriptors than before")
    # A fork takes along what the agent has open for microseconds: now its marks, now its history, never the same twice.
    assert of_ours & of_ours_later == {"child"}, "a child holds its own segment, and no file of the agent's for good"
    assert watched.end() == 0
    left = [path.relative_to(watched.directory) for path in watched.directory.rglob("*") if path.is_file()]
    assert {path.parts[0] for path in left} <= {"history"}
    assert watched.warnings == []


def run(worker: Worker, tasks: int) -> None:
    results = [worker.app.AsyncResult(worker.send("add", number, 1)) for number in range(tasks)]
    assert [result.get(timeout=60) for result in results] == [number + 1 for number in range(tasks)]


def segments(worker: Worker) -> list[Path]:
    return list(worker.directory.glob("agents/*/*.seg"))


def descriptors(worker: Worker) -> tuple[int, set[str]]:
    """How many the main process has, and what its child has open in the agent's directory."""
    opened = worker.app.AsyncResult(worker.send("descriptors")).get(timeout=30)
    wait_for(lambda: len(segments(worker)) == 2, 15, "a segment for the main process and one for its child")
    ours = {Path(one).name for one in opened if one.startswith(str(worker.directory))}
    children = {path.name for path in segments(worker)} - {"owner.seg"}
    return psutil.Process(worker.pid).num_fds(), {"child" if name in children else name for name in ours}
