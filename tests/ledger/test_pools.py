"""Sums hold however the pool works: children that are replaced, no children at all, threads that nobody joins."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.ledger.measuring import Measure
from tests.support.processes import wait_for

pytestmark = pytest.mark.alone

NEAR = 0.03


def test_the_start_of_replaced_children_is_booked_to_nobody(measure: Measure) -> None:
    run = measure("--concurrency", "1", "--max-tasks-per-child", "7")
    for _ in range(28):
        run.worker.send("burn", 0.14)
    run.settled(28)
    measured = run.end()

    assert measured.attempts == {("tests.burn", "useful"): 28}
    assert -0.01 <= measured.unattributed <= 0.10
    assert measured.ledger() == pytest.approx(measured.reported_s, rel=0.01)
    assert measured.ledger("tests.burn", activity="business") == pytest.approx(measured.noted("tests.burn"), rel=NEAR)


def test_the_solo_pool_sums_as_well(measure: Measure) -> None:
    run = measure("--pool", "solo")
    for _ in range(100):
        run.worker.send("burn", 0.010)
        run.worker.send("encode")
    run.worker.send("burn", 2.5)
    run.settled(201)
    measured = run.end()

    assert measured.attempts == {("tests.burn", "useful"): 101, ("tests.encode", "useful"): 100}
    assert -0.01 <= measured.unattributed <= 0.10
    assert measured.ledger() == pytest.approx(measured.reported_s, rel=0.01)
    assert measured.ledger(activity="unattributed") <= 0.01 * measured.kernel_s
    assert measured.ledger("tests.burn", activity="business") == pytest.approx(measured.noted("tests.burn"), rel=NEAR)
    encoded = measured.noted("tests.encode", activity="serialization")
    assert measured.ledger("tests.encode", activity="serialization") == pytest.approx(encoded, rel=2 * NEAR)
    assert measured.ledger("tests.burn", activity="serialization") <= 0.1 * encoded


def test_a_thread_that_outlives_its_attempt_is_booked_to_nobody(measure: Measure) -> None:
    run = measure("--concurrency", "1")
    run.worker.send("leave_a_thread", 2.0)
    for _ in range(100):
        run.worker.send("burn", 0.010)
    run.settled(101)
    wait_for(lambda: run.noted().get(("tests.leave_a_thread", "none", "framework")), 30, "the end of the thread")
    measured = run.end()

    left = measured.noted("tests.leave_a_thread", "none")
    assert -0.01 <= measured.unattributed <= 0.10
    assert measured.ledger() == pytest.approx(measured.reported_s, rel=0.01)
    assert measured.ledger("tests.leave_a_thread") <= 0.1 * left
    assert measured.ledger("tests.burn", activity="business") == pytest.approx(measured.noted("tests.burn"), rel=NEAR)
    assert measured.ledger(outcome="none") >= left


def test_what_is_in_flight_is_pending_until_it_settles(measure: Measure) -> None:
    run = measure("--concurrency", "2")
    for _ in range(2):
        run.worker.send("burn", 3.0)

    def ledger() -> dict[str, Any]:
        """Of the triage document, as the agent leaves it once a second."""
        documents = list(run.worker.directory.glob("agents/*/latest.json"))
        return dict(json.loads(documents[0].read_text())["ledger"]) if documents else {"rows": []}

    def rows(outcome: str) -> float:
        found = [row for row in ledger()["rows"] if (row["task"], row["outcome"]) == ("tests.burn", outcome)]
        return sum(float(row["cpu_s"]) for row in found)

    wait_for(lambda: rows("pending") > 1, 30, "an attempt seen in flight")
    shown = ledger()
    run.settled(2)
    wait_for(lambda: rows("useful") > 2, 30, "the attempts to settle")
    settled = rows("pending")
    measured = run.end()

    explained = sum(float(row["cores"]) for row in shown["rows"])
    assert -0.01 <= shown["unattributed_ratio"] <= 0.10
    assert explained == pytest.approx(shown["total_cores"] * (1 - shown["unattributed_ratio"]), rel=0.001)
    assert settled == 0
    assert measured.ledger("tests.burn", "useful", "business") == pytest.approx(measured.noted("tests.burn"), rel=NEAR)
    assert measured.ledger(outcome="pending") == 0
