"""What a window says of a task: repeats, lineage and delays, within a bounded memory."""

from __future__ import annotations

from typing import Any

import pytest

from taskwatt.observations import CodeSite, Cpu, Outcome, ProcessClass
from taskwatt.windows import TaskWindow
from taskwatt.windows.tasks import TaskWindows
from tests.windows.test_ledger import attempt


def fold(tasks: TaskWindows, task: str = "shop.pay", **changed: Any) -> None:
    one = attempt(task, **changed)
    one = one._replace(outcome=tasks.outcome(one))
    tasks.fold("worker", task, one)


def window(tasks: TaskWindows, slices: int = 1, cpu: dict[Outcome, float] | None = None) -> TaskWindow:
    """The one task's window; `cpu` is what the ledger says of the span."""
    tasks.roll()
    (found,) = tasks.over(slices, {("worker", "shop.pay"): cpu or {}}, {}, {}, {})
    return found


@pytest.fixture
def tasks() -> TaskWindows:
    return TaskWindows()


def test_attempts_are_summed_by_outcome_and_their_cpu_is_the_ledgers(tasks: TaskWindows) -> None:
    for number in range(3):
        fold(tasks, task_id=f"{number}", cpu=Cpu(0.5, subprocesses=0.25))
    fold(tasks, task_id="9", outcome="retried", state="RETRY", cpu=Cpu(1.0))
    fold(tasks, task_id="9", outcome="failed", retries=1, cpu=Cpu(2.0))
    found = window(tasks, cpu={"useful": 2.25, "retried": 1.0, "failed": 2.0})
    assert (found.attempts, found.firsts, found.settled) == ({"useful": 3, "retried": 1, "failed": 1}, 4, 5)
    assert found.cpu == {"useful": 2.25, "retried": 1.0, "failed": 2.0}
    assert (found.repeat_attempts, found.repeat_wasted_cpu, found.repeat_useful) == (1, 2.0, 0)


@pytest.mark.parametrize(
    ("changed", "first"),
    [({}, 1), ({"retries": 1}, 0), ({"nesting": 1}, 0), ({"redelivered": True}, 0)],
)
def test_only_the_attempt_with_which_an_id_began_is_a_first(
    tasks: TaskWindows, changed: dict[str, Any], first: int
) -> None:
    fold(tasks, **changed)
    found = window(tasks)
    assert (found.firsts, found.repeat_attempts, found.repeat_useful) == (first, 1 - first, 1 - first)


def test_a_redelivered_success_of_an_id_that_had_succeeded_is_a_duplicate(tasks: TaskWindows) -> None:
    for changed in ({}, {"redelivered": True}, {"redelivered": True, "nesting": 1}, {"redelivered": True}):
        fold(tasks, task_id="one", **changed)
    fold(tasks, task_id="two", redelivered=True)
    assert window(tasks).attempts == {"useful": 3, "duplicate": 2}


def test_attempts_whose_id_was_lost_are_no_duplicates_and_no_endless_task(tasks: TaskWindows) -> None:
    for _ in range(20):
        fold(tasks, task_id="", redelivered=True)
        fold(tasks, task_id="", outcome="retried", retry_delay_s=1.0)
    found = window(tasks)
    assert found.attempts == {"useful": 20, "retried": 20}
    assert found.unsettled_attempts == 0


def test_delays_and_their_growth_are_those_of_one_id(tasks: TaskWindows) -> None:
    for retries, delay in enumerate((1.0, 2.0, 8.0)):
        fold(tasks, task_id="a", outcome="retried", retries=retries, retry_delay_s=delay)
        fold(tasks, task_id="b", outcome="retried", retries=retries, retry_delay_s=0.0)
    fold(tasks, task_id="c", outcome="retried", retry_delay_s=None)
    found = window(tasks)
    assert (found.retry_delays, found.retry_growth) == ((1.0, 0.0, 2.0, 0.0, 8.0, 0.0), (2.0, 4.0))


def test_delays_are_a_bounded_sample_of_each_slice(tasks: TaskWindows) -> None:
    for _ in range(2):
        for number in range(1_000):
            fold(tasks, task_id=f"{number}", outcome="retried", retry_delay_s=1.0)
        tasks.roll()
    (found,) = tasks.over(2, {}, {}, {}, {})
    assert (len(found.retry_delays), found.attempts) == (128, {"retried": 2_000})


def test_an_id_that_does_not_end_is_counted_across_slices_until_it_does(tasks: TaskWindows) -> None:
    seen: list[int] = []
    for retries in range(12):
        fold(tasks, task_id="a", outcome="retried", retries=retries)
        fold(tasks, task_id=f"b{retries}", outcome="retried")
        seen.append(window(tasks).unsettled_attempts)
    fold(tasks, task_id="a", outcome="failed", retries=12)
    fold(tasks, task_id="a", outcome="retried")
    seen.append(window(tasks).unsettled_attempts)
    assert seen == [*range(1, 13), 1]


def test_deaths_of_one_message_count_once_it_has_come_back_and_until_it_ends(tasks: TaskWindows) -> None:
    seen: list[int] = []
    for number in range(4):
        fold(tasks, task_id="a", outcome="cancelled", redelivered=number > 0)
        fold(tasks, task_id=f"other {number}", outcome="cancelled")
        seen.append(window(tasks).deaths)
    fold(tasks, task_id="a", redelivered=True)
    for _ in range(61):
        tasks.roll()
    fold(tasks, task_id="a", outcome="cancelled", redelivered=True)
    found = window(tasks)
    assert (seen, found.deaths, found.unsettled_attempts) == ([0, 2, 3, 4], 0, 0)


def test_a_message_that_is_sent_anew_has_not_come_back(tasks: TaskWindows) -> None:
    for _ in range(5):
        fold(tasks, task_id="a", outcome="cancelled")
    assert window(tasks).deaths == 0


def test_an_id_that_goes_on_is_not_forgotten_among_thousands_that_began_later(tasks: TaskWindows) -> None:
    for retries in range(12):
        fold(tasks, task_id="stuck", outcome="retried", retries=retries)
        for number in range(1_000):
            fold(tasks, task_id=f"{retries} {number}", outcome="retried")
    assert window(tasks).unsettled_attempts == 12


def test_a_task_that_enqueues_itself_with_the_same_arguments_repeats_them(tasks: TaskWindows) -> None:
    for depth in range(24):
        fold(tasks, task_id=f"{depth}", depth=depth, args_hash=7)
    found = window(tasks)
    assert (found.self_published, found.repeated_args, found.max_depth) == (23, 22, 23)


def test_a_pagination_repeats_none_also_when_it_starts_over(tasks: TaskWindows) -> None:
    for run in range(3):
        for page in range(24):
            fold(tasks, task_id=f"{run} {page}", depth=page, args_hash=1 + page)
    found = window(tasks)
    assert (found.self_published, found.repeated_args, found.max_depth) == (69, 0, 23)


def test_a_retry_of_a_generation_is_not_another_generation(tasks: TaskWindows) -> None:
    fold(tasks, depth=1, args_hash=7)
    fold(tasks, depth=2, args_hash=7, retries=1)
    fold(tasks, depth=2, args_hash=0, task_id="unknown arguments")
    found = window(tasks)
    assert (found.self_published, found.repeated_args) == (2, 0)


def test_cells_count_like_the_attempts_they_stand_for(tasks: TaskWindows) -> None:
    tasks.add_cells("worker", "shop.pay", "failed", attempts=8, firsts=2, cpu_s=4.0)
    tasks.add_cells("worker", "shop.pay", "useful", attempts=5, firsts=4, cpu_s=1.0)
    found = window(tasks, cpu={"failed": 4.0, "useful": 1.0})
    assert (found.attempts, found.firsts, found.cpu) == ({"failed": 8, "useful": 5}, 6, {"failed": 4.0, "useful": 1.0})
    assert (found.repeat_attempts, found.repeat_wasted_cpu, found.repeat_useful) == (7, 3.0, 1)


def test_of_an_attempt_that_began_before_the_span_only_what_was_burned_in_it_is_waste(tasks: TaskWindows) -> None:
    fold(tasks, outcome="failed", retries=1, cpu=Cpu(60.0))
    fold(tasks, outcome="failed", cpu=Cpu(20.0))
    assert window(tasks, cpu={"failed": 12.0}).repeat_wasted_cpu == pytest.approx(9.0)


def test_the_main_process_s_share_counts_with_its_attempts(tasks: TaskWindows) -> None:
    shares = {("shop.pay", outcome, repeat): 1.0 for outcome in ("useful", "failed") for repeat in (False, True)}
    tasks.add_share("worker", shares)  # type: ignore[arg-type]
    found = window(tasks, cpu={"useful": 2.0, "failed": 2.0})
    assert (found.cpu, found.repeat_wasted_cpu, found.settled) == ({"useful": 2.0, "failed": 2.0}, 1.0, 0)


def test_a_window_is_the_sum_of_its_newest_closed_slices(tasks: TaskWindows) -> None:
    for number in range(70):
        for _ in range(number):
            fold(tasks)
        tasks.roll()
    fold(tasks)  # still open
    sums = [sum(one.settled for one in tasks.over(slices, {}, {}, {}, {})) for slices in (1, 10, 61, 1_000)]
    assert sums == [69, sum(range(60, 70)), sum(range(9, 70)), sum(range(9, 70))]


def test_what_runs_is_pending_also_for_a_task_that_never_settled(tasks: TaskWindows) -> None:
    tasks.roll()
    site = CodeSite("shop.slow", "spin", "shop/slow.py", 7, 1.0, 10)
    key: tuple[ProcessClass, str] = ("worker", "shop.slow")
    (found,) = tasks.over(10, {key: {"pending": 12.5}}, {key: (2, 30.0)}, {"shop.slow": site}, {})
    assert (found.task, found.in_flight, found.oldest_in_flight_s) == ("shop.slow", 2, 30.0)
    assert (found.cpu, found.code) == ({"pending": 12.5}, site)


def test_memory_is_bounded_whatever_the_ids_and_arguments(tasks: TaskWindows) -> None:
    for number in range(20_000):
        fold(tasks, task_id=f"ok {number}")
        fold(tasks, task_id=f"retry {number}", outcome="retried", depth=1, args_hash=number + 1)
        if number % 100 == 0:
            tasks.roll()
    remembered = [len(one._items) for one in (tasks._succeeded, tasks._unsettled, tasks._arguments)]
    assert remembered == [8192, 8192, 8192]
    assert len(tasks._slices) == 61
