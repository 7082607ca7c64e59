"""The arithmetic of the score, on numbers written down by hand."""

from __future__ import annotations

from typing import cast

import pytest

from tests.faults.case import Arrival, Expectation
from tests.faults.kernel import Kernel, Sample
from tests.faults.notes import Note, Notes
from tests.faults.score import Judgement, Result, Totals, error, judge, percentile, total
from tests.faults.verdicts import Opened

SECOND = 10**9
STORM = Expectation("retry_storm", "shop.charge", wasted=True, amplification=True)
SILENCE = Expectation()


def kernel(*samples: Sample) -> Kernel:
    recorder = Kernel(list, list)
    recorder.samples.extend(samples)
    return recorder


def test_the_right_cause_for_the_right_task_is_a_hit_timed_from_the_onset() -> None:
    said = [Opened(12 * SECOND, "retry_storm", "shop.charge"), Opened(15 * SECOND, "retry_storm", "shop.charge")]
    assert judge(STORM, said, 10 * SECOND, crowded=0.0) == Judgement(1, 0, 0, (), 2.0)


def test_the_right_cause_for_the_wrong_task_is_a_miss_and_counts_twice_against_precision() -> None:
    said = [Opened(12 * SECOND, "retry_storm", "shop.resize")]
    assert judge(STORM, said, 10 * SECOND, crowded=0.0) == Judgement(0, 1, 2, (("retry_storm", "shop.resize"),), None)


def test_a_finding_before_its_onset_is_a_false_one() -> None:
    said = [Opened(9 * SECOND, "retry_storm", "shop.charge")]
    wrong = (("retry_storm before its onset", "shop.charge"),)
    assert judge(STORM, said, 10 * SECOND, crowded=0.0) == Judgement(0, 1, 2, wrong, None)


def test_a_false_alarm_on_a_healthy_case_counts_once() -> None:
    said = [Opened(12 * SECOND, "starved", ""), Opened(13 * SECOND, "useful_compute", "shop.resize")]
    assert judge(SILENCE, said, 10 * SECOND, crowded=0.0) == Judgement(0, 0, 1, (("starved", ""),), None)


def test_starved_is_true_where_strangers_filled_the_machine() -> None:
    said = [Opened(12 * SECOND, "starved", "")]
    assert judge(SILENCE, said, 10 * SECOND, crowded=0.7) == Judgement(0, 0, 0, (), None)


def test_cpu_between_two_moments_is_read_off_the_line_between_samples() -> None:
    recorder = kernel(
        Sample(0, 1.0, 0, 0, 0, 0), Sample(10 * SECOND, 5.0, 0, 0, 0, 0), Sample(20 * SECOND, 6.0, 0, 0, 0, 0)
    )
    assert recorder.own(5 * SECOND, 15 * SECOND) == pytest.approx(2.5)
    assert recorder.own(-5 * SECOND, 30 * SECOND) == 5.0


def test_strangers_count_only_while_the_machine_is_full() -> None:
    quiet, full = Sample(0, 0.0, 0.0, 0.0, 0.0, 0.0), Sample(10 * SECOND, 5.0, 1.0, 19.0, 0.0, 1.0)
    assert kernel(quiet, full).crowded() == pytest.approx(1.3)
    assert kernel(quiet, full._replace(idle_s=9.0)).crowded() == 0.0


def test_niced_strangers_count_where_waiting_is_the_question() -> None:
    quiet, full = Sample(0, 0.0, 0.0, 0.0, 0.0, 0.0), Sample(10 * SECOND, 5.0, 1.0, 6.0, 13.0, 1.0)
    assert kernel(quiet, full).crowded() == 0.0
    assert kernel(quiet, full).crowded(niced=True) == pytest.approx(1.3)


def test_amplification_is_attempts_for_each_new_id_inside_the_window() -> None:
    ends = [(1, 0), (2, 1), (3, 2), (4, 0), (5, 3), (6, 0)]
    notes = Notes(
        [Note(at, "shop.charge", 7, retries, "retry") for at, retries in ends] + [Note(3, "shop.resize", 7, 0, "ok")]
    )
    assert notes.amplification("shop.charge", 1, 5) == 4 / 1
    assert notes.amplification("shop.charge", 0, 6) == 6 / 3


def test_an_arrival_is_served_once_and_what_a_task_publishes_itself_is_none() -> None:
    ends = [(5, "shop.charge", 1, 1), (2, "shop.charge", 1, 0), (4, "shop.page", 8, 0), (3, "shop.page", 7, 0)]
    notes = Notes([Note(at, task, number, retries, "ok") for at, task, number, retries in ends])
    assert notes.served([Arrival(0, "shop.charge", (1,)), Arrival(0, "shop.page", (7,))]) == [2, 3]


@pytest.mark.parametrize(("retried", "fires"), [(2, False), (3, True)])
def test_the_plain_rule_fires_above_its_share(retried: int, fires: bool) -> None:
    notes = Notes(
        [Note(number, "shop.charge", number, 0, "retry" if number < retried else "ok") for number in range(23)]
    )
    assert notes.retry_rate_exceeds(0.10) is fires


def test_an_error_is_relative_to_the_truth() -> None:
    assert error((1.1, 1.0)) == pytest.approx(0.1)
    assert (error((0.0, 0.0)), error((1.0, 0.0))) == (0.0, float("inf"))


def test_a_percentile_is_the_nearest_rank() -> None:
    assert (percentile([1.0, 2.0, 3.0, 4.0], 0.5), percentile([1.0, 2.0, 3.0, 4.0], 0.95), percentile([], 0.5)) == (
        2,
        4,
        0,
    )


def test_the_totals_add_up_cases() -> None:
    found = Judgement(1, 0, 0, (), 4.0)
    missed = Judgement(0, 1, 2, (("starved", ""),), None)
    accused = Judgement(0, 0, 1, (("starved", ""),), None)
    results = [
        Result("retry_storm", 1, found, wasted=(1.1, 1.0), amplification=(9.0, 10.0), code="right", plain=(True, True)),
        Result(
            "retry_storm", 2, found, wasted=(0.98, 1.0), amplification=(10.0, 10.0), code="none", plain=(True, True)
        ),
        Result("retry_storm", 3, missed, ("missed",), code="wrong", plain=(False, True)),
        Result("retry_storm twin", 1, accused, ("accused",), plain=(True, False)),
    ]
    assert total(results) == Totals(
        precision=2 / 5,
        recall=2 / 3,
        detection_s=(4.0, 4.0),
        wasted_error=cast(float, pytest.approx(0.06)),
        amplification_error=cast(float, pytest.approx(0.05)),
        code=(1, 1, 1),
        plain=(2 / 3, 2 / 3),
    )
