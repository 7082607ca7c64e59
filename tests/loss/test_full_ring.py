"""More attempts than a ring holds between two looks at it: each is counted, and those without a span as well."""

from __future__ import annotations

import signal

import pytest

from tests.loss.books import Told, Truth
from tests.loss.conftest import StartWorker
from tests.support.processes import wait_for

pytestmark = pytest.mark.alone

ATTEMPTS = 307
SMALL = "taskwatt.segments.layout.RING_SLOTS=128"
"""A ring with room for 96 attempts instead of 992."""


def everything_is_counted(told: Told) -> None:
    wait_for(lambda: told.counted >= ATTEMPTS, 30, "a count of every attempt")
    assert told.counted == ATTEMPTS
    assert 0 < len(told.spans) < ATTEMPTS
    assert set(told.spans.values()) == {1}


def test_attempts_that_find_the_ring_full_are_counted_though_they_have_no_span(
    start: StartWorker, truth: Truth, told: Told
) -> None:
    worker = start("--concurrency", "1", TEST_CONSTANTS=f"{SMALL} taskwatt.agent.TICK_S=600.0")
    for _ in range(ATTEMPTS):
        worker.send("finish")
    truth.wait_for_finished(ATTEMPTS)
    worker.end()
    everything_is_counted(told)
    assert len(told.spans) + told.dropped["span_ring_full"] == ATTEMPTS


@pytest.mark.parametrize("interval", ["1000", "60000"])
def test_their_count_survives_the_main_process_and_is_not_told_twice(
    start: StartWorker, truth: Truth, told: Told, interval: str
) -> None:
    """Killed after its first look, which was late: told already (at 1 s), or in nobody's books but its own."""
    constants = f"{SMALL} taskwatt.agent.TICK_S=4.0"
    worker = start("--concurrency", "1", TEST_CONSTANTS=constants, OTEL_METRIC_EXPORT_INTERVAL=interval)
    for _ in range(ATTEMPTS):
        worker.send("finish")
    truth.wait_for_finished(ATTEMPTS)
    wait_for(lambda: told.spans, 40, "the first look")
    if interval == "1000":
        wait_for(lambda: told.counted == ATTEMPTS, 30, "a count of every attempt")
    worker.end(signal.SIGKILL)
    worker.start()
    worker.end()
    everything_is_counted(told)
