"""Collector, Jaeger and Prometheus go away in turn while load runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.conftest import Backends, all_running
from tests.support.processes import wait_for
from tests.support.worker import Worker

SERVICE = "steady"
PAUSE_S = 0.05


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    """Backends of their own, and a collector that keeps every trace: what is missing is lost."""
    with all_running(tmp_path_factory.mktemp("counted"), keep_all=True) as found:
        yield found


@contextmanager
def load(worker: Worker) -> Iterator[list[str]]:
    """Tasks without a pause for long; the ids of those that were sent."""
    ids: list[str] = []
    over = threading.Event()

    def send() -> None:
        while not over.wait(PAUSE_S):
            ids.append(worker.send("burn", 0.001))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield ids
    finally:
        over.set()
        thread.join()


def sent(ids: list[str], more: int) -> None:
    before = len(ids)
    wait_for(lambda: len(ids) >= before + more, 60, f"{more} more tasks")


def test_what_was_spooled_arrives_whoever_was_away(counted: Backends, start_shop: Callable[..., Worker]) -> None:
    jaeger, prometheus, collector = counted.jaeger, counted.prometheus, counted.collector
    worker = start_shop(counted, SERVICE)

    def arrived() -> set[str]:
        found = jaeger.search(SERVICE, "run/tests.burn")
        return {str(one.tags["messaging.message.id"]) for trace in found for one in trace}

    attempts = f'sum(celery_task_attempts_total{{job="{SERVICE}"}})'
    with load(worker) as ids:
        sent(ids, 100)
        collector.stop()
        sent(ids, 300)  # longer than an exporter tries on its own
        collector.start()
        sent(ids, 50)
        before_jaeger_is_away = len(ids)
        wait_for(lambda: set(ids[:before_jaeger_is_away]) <= arrived(), 90, "what was sent before and in the outage")

        jaeger.stop()  # and forgets what it had: it is the one in memory
        away_from = len(ids)
        sent(ids, 100)
        jaeger.start()
        sent(ids, 50)
        wait_for(lambda: set(ids[away_from : away_from + 150]) <= arrived(), 90, "what was sent while Jaeger was away")

        prometheus.stop()
        sent(ids, 100)
        prometheus.start()
        sent(ids, 50)
    wait_for(lambda: prometheus.value(attempts) == len(ids), 90, "every attempt in Prometheus")
    wait_for(lambda: set(ids[away_from:]) <= arrived(), 90, "the rest in Jaeger")
    assert worker.alive
    dropped = prometheus.query(f'sum by (reason) (taskwatt_agent_dropped_total{{job="{SERVICE}"}})')
    assert (("reason", "journal"),) in dropped
    assert set(dropped.values()) == {0.0}
    assert "taskwatt's receiver answers again" in worker.log
