"""Two axes, each summing to what the kernel charged, at every moment and over every span."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from taskwatt.observations import ACTIVITIES, OUTCOMES, Attempt, Cpu, Outcome
from taskwatt.windows.ledger import MAX_TASKS, NO_TASK, Kept, Key, Ledger, Served, Snapshot, weight


def attempt(task: str = "shop.pay", cpu: Cpu | None = None, **changed: Any) -> Attempt:
    """A successful first attempt, but for what is `changed`."""
    plain: dict[str, Any] = {
        "task_id": "id",
        "outcome": "useful",
        "state": "SUCCESS",
        "start_ns": 1,
        "duration_s": 0.5,
        "queue": "celery",
        "queue_wait_s": None,
        "retries": 0,
        "nesting": 0,
        "redelivered": False,
        "retry_delay_s": None,
        "depth": 0,
        "args_hash": 0,
        "body_size": 0,
        "max_rss": 0,
        "trace_id": bytes(16),
        "span_id": bytes(8),
        "parent_span_id": bytes(8),
        "link_trace_id": bytes(16),
        "link_span_id": bytes(8),
        "sampled": True,
        "exported": False,
        "user_data": b"",
    }
    return Attempt(task=task, cpu=cpu or Cpu(business=0.25), **(plain | changed))


def by_axis(cells: Mapping[Key, float], axis: int) -> dict[str, float]:
    sums: dict[str, float] = {}
    for key, seconds in cells.items():
        sums[key[axis]] = sums.get(key[axis], 0.0) + seconds
    return sums


def test_an_attempt_is_booked_by_outcome_and_by_activity() -> None:
    ledger = Ledger()
    ledger.settle("worker", attempt(cpu=Cpu(1.0, 2.0, 4.0, 8.0, 16.0, 32.0), outcome="retried", state="RETRY"))
    assert dict(ledger.cells) == {
        ("worker", "shop.pay", "retried", "business"): 33.0,
        ("worker", "shop.pay", "retried", "serialization"): 2.0,
        ("worker", "shop.pay", "retried", "gc"): 4.0,
        ("worker", "shop.pay", "retried", "framework"): 8.0,
        ("worker", "shop.pay", "retried", "agent"): 16.0,
    }
    assert dict(ledger.attempts) == {("worker", "shop.pay", "retried", "RETRY"): 1}
    assert dict(ledger.kernel) == {"worker": 32.0}  # reaped subprocesses are on no clock that the drainer reads


@pytest.mark.parametrize("seed", range(10))
def test_both_axes_sum_to_what_was_booked(seed: int) -> None:
    dice = random.Random(seed)
    ledger, booked = Ledger(), 0.0
    for number in range(200):
        cpu = Cpu(*(dice.random() for _ in Cpu._fields))
        outcome = dice.choice(OUTCOMES)
        ledger.settle("worker", attempt(f"task {number % 7}", cpu, outcome=outcome))
        served = [Served("worker", f"task {number % 7}", outcome, number % 2 == 0, dice.uniform(1, 9))]
        spent = {activity: dice.random() for activity in ACTIVITIES}
        ledger.apportion("worker", spent, served * dice.choice([0, 1, 5]))
        booked += cpu.total + sum(spent.values())
    for axis in range(4):
        assert sum(by_axis(ledger.cells, axis).values()) == pytest.approx(booked)
    assert sum(ledger.attempts.values()) == 200


def test_the_main_process_s_cpu_goes_to_those_it_served_by_weight() -> None:
    ledger = Ledger()
    served = [
        Served("worker", "small", "useful", False, 1.0),
        Served("worker", "small", "useful", False, 1.0),
        Served("worker", "large", "failed", True, 6.0),
    ]
    shares = ledger.apportion("worker", {"framework": 4.0, "agent": 0.5, "gc": 0.0}, served)
    assert shares == {("small", "useful", False): 1.0, ("large", "failed", True): 3.0}
    assert dict(ledger.cells) == {
        ("worker", "small", "useful", "framework"): 1.0,
        ("worker", "large", "failed", "framework"): 3.0,
        ("worker", NO_TASK, "none", "agent"): 0.5,
    }


def test_cpu_that_served_nobody_is_nobody_s() -> None:
    ledger = Ledger()
    assert ledger.apportion("worker", {"framework": 4.0, "gc": -1.0}, []) == {}
    assert dict(ledger.cells) == {("worker", NO_TASK, "none", "framework"): 4.0}


def test_a_long_message_weighs_as_much_as_the_messages_it_costs() -> None:
    assert [weight(attempt(body_size=size)) for size in (0, 65_536, 3 << 20)] == [1.0, 2.0, 49.0]


def test_task_names_are_bounded_and_the_rest_is_other() -> None:
    ledger = Ledger()
    for number in range(MAX_TASKS + 23):
        ledger.settle("worker", attempt(f"task {number}"))
    ledger.settle("worker", attempt("task 3"))
    assert len(by_axis(ledger.cells, 1)) == MAX_TASKS + 1
    assert ledger.attempts["worker", "other", "useful", "SUCCESS"] == 23
    assert ledger.attempts["worker", "task 3", "useful", "SUCCESS"] == 2
    assert ledger.name(NO_TASK) == NO_TASK


def test_unattributed_is_what_the_kernel_charged_and_nobody_explains() -> None:
    ledger = Ledger()
    ledger.settle("worker", attempt(cpu=Cpu(business=3.0)))
    ledger.kernel["worker"] = 4.0
    ledger.kernel["web"] = 1.0
    snapshot = ledger.snapshot({("worker", "shop.slow", "pending", "business"): 0.5})
    assert [snapshot.unattributed(name) for name in ("worker", "web", "job")] == [0.5, 1.0, 0.0]
    assert sum(ledger.cells.values()) == 3.0  # looking books nothing


def test_what_is_kept_says_later_what_it_said_then_whatever_was_booked_since() -> None:
    ledger = Ledger()
    live: dict[Key, float] = {PENDING: 0.5, key("useful"): 0.25}
    ledger.settle("worker", attempt(cpu=Cpu(business=3.0)))
    ledger.kernel["worker"] = 4.0
    then, kept = ledger.snapshot(live), ledger.keep(live)
    ledger.settle("worker", attempt("shop.new", cpu=Cpu(business=1.0)))
    ledger.settle("worker", attempt(cpu=Cpu(business=2.0)))
    ledger.kernel["worker"] = 9.0
    assert kept.snapshot() == then

    gained = Snapshot({key("useful"): 1.0, key("failed", "shop.old"): 2.0}, {"worker": 3.0})
    assert kept.plus(gained).snapshot() == Snapshot(
        {key("useful"): 4.25, PENDING: 0.5, key("failed", "shop.old"): 2.0}, {"worker": 7.0}
    )


PENDING: Key = ("worker", "shop.pay", "pending", "business")
IDLE: Key = ("worker", NO_TASK, "none", "framework")


def span(before: Mapping[Key, float], after: Mapping[Key, float]) -> dict[Key, float]:
    return dict(Snapshot(after, {"worker": 2.0}).since(Snapshot(before, {"worker": 0.5})).cells)


def key(outcome: Outcome, task: str = "shop.pay") -> Key:
    return ("worker", task, outcome, "business")


def test_a_span_is_the_difference_of_two_moments() -> None:
    assert span({key("useful"): 1.0}, {key("useful"): 1.5, key("failed"): 0.25}) == {
        key("useful"): 0.5,
        key("failed"): 0.25,
    }
    assert Snapshot({}, {"worker": 2.0}).since(Snapshot({}, {"worker": 0.5})).kernel == {"worker": 1.5}


def test_nothing_happened_in_a_span_without_change() -> None:
    cells = {key("useful"): 1.0, PENDING: 0.5}
    assert span(cells, cells) == {}


def test_cpu_that_had_been_pending_before_is_not_burned_again_when_it_settles() -> None:
    assert span({PENDING: 5.0}, {key("failed"): 5.75}) == {key("failed"): 0.75}


def test_what_it_settled_as_is_reduced_in_proportion() -> None:
    framework: Key = ("worker", "shop.pay", "failed", "framework")
    assert span({PENDING: 2.0}, {key("failed"): 3.0, framework: 1.0}) == {key("failed"): 1.5, framework: 0.5}


def test_an_estimate_that_was_too_high_is_taken_from_the_class_and_never_below_zero() -> None:
    other = key("useful", "shop.mail")
    assert span({PENDING: 2.0}, {key("failed"): 1.5, other: 3.0}) == {other: 2.5}
    assert span({PENDING: 2.0}, {key("failed"): 1.5}) == {}


def test_what_an_idle_process_held_is_taken_from_the_attempt_it_became_part_of() -> None:
    assert span({IDLE: 0.5}, {key("useful"): 2.0}) == {key("useful"): 1.5}


def test_another_class_does_not_pay() -> None:
    web: Key = ("web", "shop.pay", "useful", "business")
    assert span({PENDING: 2.0}, {web: 3.0}) == {web: 3.0}


@pytest.mark.parametrize("seed", range(20))
def test_over_any_span_no_cell_is_negative_and_the_sums_hold(seed: int) -> None:
    """Attempts run for several ticks, are pending meanwhile, then settle as something."""
    dice = random.Random(seed)
    ledger = Ledger()
    running: dict[str, float] = {}
    kernel = 0.0
    moments: list[tuple[Kept, float]] = []
    for _ in range(40):
        for task in ("a", "b", "c"):
            burned = dice.random()
            kernel += burned
            running[task] = running.get(task, 0.0) + burned
            if dice.random() < 0.3:
                cpu = running.pop(task)
                ledger.settle(
                    "worker", attempt(task, Cpu(business=0.75 * cpu, gc=0.25 * cpu), outcome=dice.choice(OUTCOMES))
                )
        live: dict[Key, float] = {("worker", task, "pending", "business"): cpu for task, cpu in running.items()}
        moments.append((ledger.keep(live), kernel))
    for early in range(0, 40, 3):
        for late in range(early, 40, 5):
            cells = moments[late][0].snapshot().since(moments[early][0].snapshot()).cells
            assert min(cells.values(), default=0.0) >= 0.0
            assert sum(cells.values()) == pytest.approx(moments[late][1] - moments[early][1])
