"""Which process says something: its instance in OpenTelemetry, and whether it may say anything at all."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.processes import wait_for
from tests.support.receiver import Receiver
from tests.support.worker import Worker


def test_two_workers_of_one_service_are_two_instances(start_worker: Callable[..., Worker], receiver: Receiver) -> None:
    environ = {
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    for name in ("one", "two"):
        start_worker(options=("--concurrency", "1", "--hostname", f"{name}@here"), **environ)

    def instances() -> set[tuple[str, str]]:
        resources = [metric.resource for export in list(receiver.metric_exports) for metric in export]
        return {(one["service.name"], one["service.instance.id"].rpartition("/")[2]) for one in resources}

    wait_for(lambda: len(instances()) >= 2, 30, "metrics of both workers")
    assert instances() == {("shop", "one@here"), ("shop", "two@here")}


def test_a_worker_of_a_pool_that_is_not_measured_says_so_and_stays_out(start_worker: Callable[..., Worker]) -> None:
    worker = start_worker(options=("--pool", "threads", "--concurrency", "1"))
    task_id = worker.send("retry", 1)  # publishes from within the worker
    wait_for(lambda: f"[{task_id}] succeeded" in worker.log, 30, "the task")
    assert "taskwatt does not measure the 'thread' pool; this worker runs without it" in worker.log
    assert list(worker.directory.glob("agents/*")) == []
    assert worker.triage().returncode == 2
