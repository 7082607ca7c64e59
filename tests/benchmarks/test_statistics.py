"""Intervals around medians, and what they say about a budget."""

from __future__ import annotations

import random

import pytest

from benchmarks.statistics import Interval, combined, interval


def test_samples_that_are_all_alike_leave_no_doubt() -> None:
    assert interval([[3.0] * 4, [3.0] * 4]) == Interval(3.0, 3.0, 3.0)


def test_no_samples_are_no_figure() -> None:
    with pytest.raises(ValueError, match="no samples"):
        interval([])


def test_the_interval_holds_the_true_median_in_most_of_50_repetitions() -> None:
    held = 0
    for seed in range(50):
        chance = random.Random(seed)
        found = interval([[chance.gauss(10.0, 2.0)] for _ in range(15)])
        held += found.low <= 10.0 <= found.high
    assert 43 <= held <= 50


def test_processes_that_differ_widen_the_interval_however_many_rounds_each_ran() -> None:
    alike = interval([[1.0, 2.0, 3.0] * 30 for _ in range(4)])
    apart = interval([[shift + 1.0, shift + 2.0, shift + 3.0] * 30 for shift in (0.0, 5.0, 10.0, 15.0)])
    assert alike.high - alike.low < 1.0 < 5.0 < apart.high - apart.low


def test_a_quotient_of_two_samplings_carries_the_doubt_of_both() -> None:
    quotient = combined(lambda medians: medians[0] / medians[1], [[8.0], [10.0], [12.0]], [[100.0], [100.0], [100.0]])
    assert (quotient.low, quotient.middle, quotient.high) == pytest.approx((0.08, 0.1, 0.12))


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (Interval(1.0, 2.0, 3.0), "met"),
        (Interval(2.0, 3.5, 5.0), "undecided"),
        (Interval(3.1, 4.0, 5.0), "not met"),
    ],
)
def test_a_budget_inside_the_interval_decides_nothing(found: Interval, verdict: str) -> None:
    assert found.against(3.0) == verdict
