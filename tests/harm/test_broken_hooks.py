"""Whatever part of the agent fails: the worker runs on, one line says so, and tasks do not notice."""

from __future__ import annotations

import pytest

from tests.harm.breakage import PARTS
from tests.harm.conftest import StartWorker
from tests.support.processes import wait_for
from tests.support.receiver import Receiver
from tests.support.worker import Worker

BROKEN = "MeantToBreak('broken on purpose')"
ATTEMPTS = f"taskwatt stopped measuring attempts in this process: its hook failed: {BROKEN}"
PUBLISHES = f"taskwatt stopped watching publishes in this process: its hook failed: {BROKEN}"
TICK = f"taskwatt failed to evaluate one tick: {BROKEN}"

LINES = {
    "begin": ATTEMPTS,
    "end": ATTEMPTS,
    "body": ATTEMPTS,
    "publish": PUBLISHES,
    "published": PUBLISHES,
    "child": f"taskwatt could not prepare this pool process: {BROKEN}",
    "main": f"taskwatt could not prepare this worker: {BROKEN}",
    "agent": f"taskwatt could not start its agent in process {{pid}}: {BROKEN}",
    "tick": TICK,
    "drain": TICK,
    "export": f"taskwatt's export failed and goes on: {BROKEN}",
    "received": f"taskwatt stopped noting what messages cost: {BROKEN}",
    "reaping": f"taskwatt cannot read the CPU of ended children: {BROKEN}",
}

GROUPS = (
    ("begin", "published", "tick"),
    ("end", "publish", "export"),
    ("body", "received", "drain"),
    ("child",),
    ("main",),
    ("agent", "reaping"),
)
"""Parts that do not hide each other, so that one worker can have all of them broken."""


def test_every_broken_part_is_tried() -> None:
    assert sorted(part for group in GROUPS for part in group) == sorted(PARTS) == sorted(LINES)


@pytest.mark.parametrize("group", GROUPS, ids="-".join)
def test_a_bug_of_ours_costs_one_line_and_no_task(
    worker: StartWorker, receiver: Receiver, group: tuple[str, ...]
) -> None:
    broken = worker(TEST_BREAK=",".join(group), OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    assert [outcome(broken, "add", 1, n) for n in range(3)] == [("SUCCESS", 1 + n) for n in range(3)]
    published = outcome(broken, "publish")[1]
    assert broken.app.AsyncResult(str(published)).get(timeout=20) == 23
    assert outcome(broken, "fail")[0] == "FAILURE"
    assert outcome(broken, "retry", 2)[0] == "SUCCESS"
    if "reaping" in group:
        assert outcome(broken, "kill_itself")[0] == "FAILURE"
        assert outcome(broken, "add", 2, 2) == ("SUCCESS", 4)
    wait_for(lambda: len(broken.warnings) >= len(group), 10, "a line about each broken part")
    pid = broken.pid
    assert broken.end() == 0
    said = sorted(line.rpartition("] ")[2] for line in broken.warnings)
    assert said == sorted(LINES[part].format(pid=pid) for part in group)


def outcome(worker: Worker, task: str, *args: object) -> tuple[str, object]:
    result = worker.app.AsyncResult(worker.send(task, *args))
    value = result.get(timeout=20, propagate=False)
    return result.status, value
