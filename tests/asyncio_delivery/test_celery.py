"""A loop inside of a Celery task: its figures arrive, and its CPU is the attempt's and nobody else's."""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

import pytest

from tests.support.brokers import RedisServer
from tests.support.processes import at_once, wait_for
from tests.support.receiver import Receiver
from tests.support.worker import Worker

SHORT, FETCHES = 7, 3
LONG = 100
TOTAL = SHORT * FETCHES + LONG
POOLS = ("prefork", "solo")


class Told(NamedTuple):
    cpu: dict[str, float]
    """Useful business of task types, in seconds."""
    loop: str
    exit_code: int
    warnings: list[str]


@pytest.fixture(scope="module")
def told(broker: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """What arrives from a worker with each pool, while the long loop runs and at its end."""

    def run(pool: str) -> Told:
        receiver = Receiver()
        with ExitStack() as stack:
            receiver.start()
            stack.callback(receiver.stop)
            worker = Worker(
                f"redis://127.0.0.1:{broker.port}/{POOLS.index(pool)}",
                tmp_path_factory.mktemp(pool),
                app="tests.asyncio_delivery.celery_app",
                options=("--concurrency", "1", "--pool", pool),
                OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
                OTEL_METRIC_EXPORT_INTERVAL="1000",
            )
            return measured(stack.enter_context(worker), receiver)

    return dict(zip(POOLS, at_once(run, POOLS), strict=True))


def measured(worker: Worker, receiver: Receiver) -> Told:
    for _ in range(SHORT):
        worker.send("run", FETCHES)
    worker.send("run", LONG)
    name = "tests.asyncio_delivery.celery_app.fetch"

    def steps() -> float:
        return receiver.total("asyncio.task.steps", taskwatt__task__name=name)

    wait_for(lambda: 0 < steps() < TOTAL, 60, "what the long loop counts while it runs")
    wait_for(lambda: steps() == 2 * TOTAL, 60, "all steps")
    wait_for(lambda: receiver.total("celery.task.attempts") == SHORT + 1, 60, "all attempts")
    cpu = {
        str(point.attributes["taskwatt.task.name"]): point.value
        for point in getattr(receiver.metric("taskwatt.cpu.time"), "points", ())
        if point.value > 0.02  # the agent may look in the middle of a step
        and point.attributes["taskwatt.task.outcome"] == "useful"
        and point.attributes["taskwatt.cpu.activity"] == "business"
    }
    loop = worker.document()["loops"][0]["name"]
    return Told(cpu, loop, worker.end(), worker.warnings)


@pytest.mark.parametrize("pool", POOLS)
def test_what_a_loop_counts_in_a_task_is_told_and_its_cpu_is_the_attempt_s(told: dict[str, Told], pool: str) -> None:
    found = told[pool]
    assert found.cpu == {"tests.run": pytest.approx(0.02 * TOTAL, rel=0.15)}
    assert found._replace(cpu={}) == Told({}, "MainThread", 0, [])
