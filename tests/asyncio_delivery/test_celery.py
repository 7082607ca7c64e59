"""A loop inside of a Celery task: its figures arrive, and its CPU is the attempt's and nobody else's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.processes import wait_for
from tests.support.receiver import Receiver
from tests.support.worker import Worker

SHORT, FETCHES = 7, 3
LONG = 100


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_what_a_loop_counts_in_a_task_is_told_and_its_cpu_is_the_attempt_s(
    start_worker: Callable[..., Worker], receiver: Receiver, pool: str
) -> None:
    worker = start_worker(
        app="tests.asyncio_delivery.celery_app",
        options=("--concurrency", "1", "--pool", pool),
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_METRIC_EXPORT_INTERVAL="1000",
    )
    for _ in range(SHORT):
        worker.send("run", FETCHES)
    worker.send("run", LONG)
    name = "tests.asyncio_delivery.celery_app.fetch"

    def steps() -> float:
        return receiver.total("asyncio.task.steps", taskwatt__task__name=name)

    total = SHORT * FETCHES + LONG
    wait_for(lambda: 0 < steps() < total, 60, "what the long loop counts while it runs")
    wait_for(lambda: steps() == 2 * total, 60, "all steps")
    wait_for(lambda: receiver.total("celery.task.attempts") == SHORT + 1, 60, "all attempts")
    cpu = {
        str(point.attributes["taskwatt.task.name"]): point.value
        for point in getattr(receiver.metric("taskwatt.cpu.time"), "points", ())
        if point.value > 0.02  # the agent may look in the middle of a step
        and point.attributes["taskwatt.task.outcome"] == "useful"
        and point.attributes["taskwatt.cpu.activity"] == "business"
    }
    assert list(cpu) == ["tests.run"]
    assert cpu["tests.run"] == pytest.approx(0.02 * total, rel=0.15)
    assert worker.document()["loops"][0]["name"] == "MainThread"
    assert worker.end() == 0
    assert worker.warnings == []
