"""A busy worker's ledger against the kernel and the tasks themselves: by task type, by activity, by outcome."""

from __future__ import annotations

import pytest

from tests.ledger.measuring import ACTIVITIES, Measure

pytestmark = pytest.mark.alone

NEAR = 0.03
"""How far a task type's CPU may be from what its tasks noted."""


def test_a_mix_of_burning_json_heavy_collecting_and_sleeping_tasks_is_told_apart(measure: Measure) -> None:
    run = measure("--concurrency", "2")
    for index in range(200):
        run.worker.send("burn", 0.010)
        run.worker.send("encode")
        if index % 2 == 0:
            run.worker.send("encode")
        if index % 8 == 0:
            run.worker.send("sleep", 0.005)
            run.worker.send("collect", 5000)
    run.settled(550)
    measured = run.end()
    error = measured.activity_error({activity: measured.noted(activity=activity) for activity in ACTIVITIES})
    print(f"L1 error of the activities: {error:.2%}")

    assert measured.attempts == {
        ("tests.burn", "useful"): 200,
        ("tests.encode", "useful"): 300,
        ("tests.sleep", "useful"): 25,
        ("tests.collect", "useful"): 25,
    }
    assert -0.01 <= measured.unattributed <= 0.10
    assert measured.ledger() == pytest.approx(measured.reported_s, rel=0.01)
    assert measured.ledger("tests.burn", activity="business") == pytest.approx(measured.noted("tests.burn"), rel=NEAR)
    encoded = measured.noted("tests.encode", activity="serialization")
    assert measured.ledger("tests.encode", activity="serialization") == pytest.approx(encoded, rel=2 * NEAR)
    collected = measured.noted("tests.collect", activity="gc")
    assert measured.ledger("tests.collect", activity="gc") == pytest.approx(collected, rel=2 * NEAR)
    assert measured.ledger("tests.sleep", activity="business") <= 0.02
    assert error <= 0.05


def test_each_outcome_holds_what_its_attempts_burned(measure: Measure) -> None:
    run = measure("--concurrency", "2")
    for _ in range(10):
        run.worker.send("retry", 3, 0.05)
        run.worker.send("fail", 0.05)
        run.worker.send("ignore", 0.05)
        run.worker.send("burn", 0.05)
    run.settled(70)
    measured = run.end()

    assert measured.attempts == {
        ("tests.retry", "retried"): 30,
        ("tests.retry", "useful"): 10,
        ("tests.fail", "failed"): 10,
        ("tests.ignore", "useful"): 10,
        ("tests.burn", "useful"): 10,
    }
    assert -0.01 <= measured.unattributed <= 0.10
    assert measured.ledger() == pytest.approx(measured.reported_s, rel=0.01)
    for task, outcome in measured.attempts:
        noted = measured.noted(task, outcome)
        assert measured.ledger(task, outcome, "business") == pytest.approx(noted, rel=NEAR), (task, outcome)


def test_threads_subprocesses_and_killed_attempts_are_booked_to_their_task(measure: Measure) -> None:
    run = measure("--concurrency", "2")
    for _ in range(8):
        run.worker.send("burn_in_threads", 0.1, 3)
        run.worker.send("burn_in_subprocess", 0.15)
    for _ in range(3):
        run.worker.send("kill_itself", 0.3)
    run.settled(19)
    measured = run.end()

    assert measured.attempts == {
        ("tests.burn_in_threads", "useful"): 8,
        ("tests.burn_in_subprocess", "useful"): 8,
        ("tests.kill_itself", "cancelled"): 3,
    }
    assert -0.01 <= measured.unattributed <= 0.10
    assert measured.ledger() == pytest.approx(measured.reported_s, rel=0.01)
    for task in ("tests.burn_in_threads", "tests.burn_in_subprocess"):
        noted = measured.noted(task)
        assert measured.ledger(task, "useful", "business") == pytest.approx(noted, rel=NEAR), task
    # A killed process is charged for its own dismantling too: 2 to 9 ms of kernel work after the last line of the task.
    killed = measured.noted("tests.kill_itself")
    assert 0.99 * killed <= measured.ledger("tests.kill_itself", "cancelled", "business") <= 1.05 * killed
    named = [span.attributes["taskwatt.cpu.time"] for span in run.receiver.named("run/tests.kill_itself")]
    assert [0.3 <= seconds <= 0.35 for seconds in named] == [True] * 3, named
