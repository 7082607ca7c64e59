"""Why a loop stalled, from figures that were measured beside real hogs and neighbours."""

from __future__ import annotations

import math

import pytest

from taskwatt.observations import StallCause
from taskwatt_asyncio.causes import Figures, cause_of

pytestmark = pytest.mark.alone


def of_200_ms(cpu: float, run_delay: float, others_cpu: float, wake_ups: float, asleep: float = 0.0) -> Figures:
    """Shares of the stall, and wake-ups of its thread."""
    return Figures(0.2, cpu * 0.2, run_delay * 0.2, others_cpu * 0.2, wake_ups, asleep)


@pytest.mark.parametrize(
    ("figures", "cause"),
    [
        # A call that sleeps: alone, beside hogs, beside other processes; in one piece or in many.
        (of_200_ms(0.0, 0.0, 0.0, 1, 1.0), "blocking"),
        (of_200_ms(0.0, 0.0, 1.0, 2, 1.0), "blocking"),
        (of_200_ms(0.0, 0.01, 1.01, 13, 1.0), "blocking"),
        (of_200_ms(0.0, 0.0, 0.0, 40, 1.0), "blocking"),
        (of_200_ms(0.0, 0.02, 1.0, 75, 0.8), "blocking"),
        (of_200_ms(0.0, 0.32, 0.0, 17, 1.0), "blocking"),
        (of_200_ms(0.0, 0.0, 1.0, 1, 0.0), "blocking"),  # a lock: it waits for a futex, and wakes once
        # Own CPU: alone, beside some other process.
        (of_200_ms(0.97, 0.0, 0.0, 11), "own_cpu"),
        (of_200_ms(0.64, 0.36, 0.0, 2), "own_cpu"),
        (of_200_ms(0.75, 0.0, 0.3, 20), "own_cpu"),
        # The interpreter was taken: by one thread, by three, by eight.
        (of_200_ms(0.52, 0.0, 0.48, 54), "gil"),
        (of_200_ms(0.18, 0.03, 0.64, 18), "gil"),
        (of_200_ms(0.08, 0.03, 0.86, 34), "gil"),
        (of_200_ms(0.03, 0.38, 0.55, 40), "gil"),
        # Other processes had the CPUs.
        (of_200_ms(0.26, 0.72, 0.0, 11), "starved"),
        (of_200_ms(0.13, 0.87, 0.0, 2), "starved"),
    ],
)
def test_the_largest_part_of_a_stall_is_its_cause(figures: Figures, cause: StallCause) -> None:
    assert cause_of(figures) == cause


@pytest.mark.parametrize(
    ("figures", "cause"),
    [
        (Figures(0.2, 0.19), "own_cpu"),
        (Figures(0.2, 0.05), "unknown"),
        (Figures(0.2, 0.0, others_cpu_s=0.0), "blocking"),
        (Figures(0.2, 0.02, others_cpu_s=0.18), "gil"),
        (Figures(0.2, 0.0, 0.0), "blocking"),
        (Figures(0.2, 0.02, 0.0, 0.18, math.nan, 1.0), "blocking"),
    ],
)
def test_what_is_not_known_is_not_claimed(figures: Figures, cause: StallCause) -> None:
    assert cause_of(figures) == cause
