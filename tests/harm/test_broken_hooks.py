"""Whatever part of the agent fails: the worker runs on, one line says so, and tasks do not notice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from billiard.exceptions import WorkerLostError

from tests.harm.breakage import PARTS
from tests.harm.conftest import StartWorker
from tests.support.processes import at_once, wait_for
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
    "drain": f"taskwatt failed to read a segment and leaves it out: {BROKEN}",
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


class Ended(NamedTuple):
    outcomes: list[tuple[str, object]]
    exit_code: int
    said: list[str]
    expected: list[str]


@pytest.fixture(scope="module")
def ended(module_workers: StartWorker) -> Iterator[dict[tuple[str, ...], Ended]]:
    """What became of a worker with each group of parts broken."""
    receiver = Receiver()
    receiver.start()

    def run(group: tuple[str, ...]) -> Ended:
        broken = module_workers(TEST_BREAK=",".join(group), OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
        outcomes = [outcome(broken, "add", 1, 2), outcome(broken, "fail"), outcome(broken, "retry", 2)]
        published = outcome(broken, "publish")[1]
        outcomes.append(("published", broken.app.AsyncResult(str(published)).get(timeout=30)))
        if "reaping" in group:
            outcomes.append(outcome(broken, "kill_itself"))
        if "received" in group:  # a message that takes a while to decode
            broken.send("add", "x" * 10_000, "")
        outcomes.append(outcome(broken, "add", 3, 4))
        wait_for(lambda: len(broken.warnings) >= len(group), 20, f"a line about each of {group}")
        expected = sorted(LINES[part].format(pid=broken.pid) for part in group)
        exit_code = broken.end()
        return Ended(outcomes, exit_code, sorted(line.rpartition("] ")[2] for line in broken.warnings), expected)

    yield dict(zip(GROUPS, at_once(run, GROUPS), strict=True))
    receiver.stop()


@pytest.mark.parametrize("group", GROUPS, ids="-".join)
def test_a_bug_of_ours_costs_one_line_and_no_task(ended: dict[tuple[str, ...], Ended], group: tuple[str, ...]) -> None:
    found = ended[group]
    assert found.outcomes == [
        ("SUCCESS", "3"),
        ("FAILURE", "meant to fail"),
        ("SUCCESS", "retried 2 times"),
        ("published", 23),
        *([("FAILURE", "worker lost")] if "reaping" in group else []),
        ("SUCCESS", "7"),
    ]
    assert (found.exit_code, found.said) == (0, found.expected)


def outcome(worker: Worker, task: str, *args: object) -> tuple[str, object]:
    result = worker.app.AsyncResult(worker.send(task, *args))
    value = result.get(timeout=30, propagate=False)
    if isinstance(value, dict):
        value = f"retried {value['retries']} times"
    return result.status, "worker lost" if isinstance(value, WorkerLostError) else str(value)
