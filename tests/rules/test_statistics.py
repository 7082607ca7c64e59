"""The numbers that rules stand on."""

from __future__ import annotations

import math
import statistics

import pytest

from taskwatt.rules.statistics import confidence, growth_at_most, median, percentile, steps, wilson_lower
from taskwatt.windows import HostWindow, TaskWindow, Window


def window(*, settled: int = 0, dropped: int = 0, cpu: float = 0.0, unattributed: float = 0.0) -> Window:
    task = TaskWindow("a", "worker", attempts={"useful": settled})
    host = HostWindow(effective_cpus=2, own_cpu=None, own_run_delay=None)
    return Window(10, "worker", (task,), host, cpu, 0.0, unattributed, dropped=dropped)


@pytest.mark.parametrize(
    ("successes", "n", "bound"),
    [(0, 0, 0.0), (0, 10, 0.0), (5, 10, 0.2366), (10, 10, 0.7225), (20, 20, 0.8389), (81, 263, 0.2553)],
)
def test_the_wilson_bound_agrees_with_published_values(successes: int, n: int, bound: float) -> None:
    assert wilson_lower(successes, n) == pytest.approx(bound, abs=5e-5)


def test_a_step_from_or_to_a_draw_of_zero_says_nothing() -> None:
    assert steps([math.inf, 500.0, 50.0, 2.0, 1.0, 0.5, 0.002, 0.0, math.nan]) == (50.0, 2.0, 1.0, 0.5)


def test_growth_is_the_upper_bound_of_the_geometric_mean_of_the_steps() -> None:
    assert growth_at_most([]) == 1.0
    assert growth_at_most([2.0, 2.0, 2.0]) == pytest.approx(2.0)
    assert growth_at_most([2.0, 0.5]) == pytest.approx(2.0**1.96)
    assert growth_at_most([2.0, 0.5] * 50) == pytest.approx(2.0 ** (1.96 / 99**0.5))


def test_the_median_is_the_standard_library_s() -> None:
    samples = ([3.0], [5.0, 1.0], [9.0, 1.0, 4.0], [8.0, 1.0, 2.0, 5.0])
    assert [median(one) for one in samples] == [statistics.median(one) for one in samples]
    assert median(()) == 0.0


def test_a_percentile_is_an_observed_value() -> None:
    assert percentile([], 0.9) == 0.0
    assert percentile([3.0], 0.9) == 3.0
    assert percentile(range(1, 11), 0.9) == 9
    assert percentile([5.0, 1.0, 3.0], 0.5) == 3.0


def test_confidence_is_coverage_times_kept_times_the_weight_of_the_sample() -> None:
    assert confidence(0, window()) == 0.0
    assert confidence(6, window()) == pytest.approx(0.6)
    assert confidence(20, window(cpu=10, unattributed=1)) == pytest.approx(0.9 * 20 / 24)
    assert confidence(20, window(settled=30, dropped=10)) == pytest.approx(0.75 * 20 / 24)
    assert confidence(20, window(settled=0, dropped=10)) == 0.0
