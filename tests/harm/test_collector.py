"""A collector that is wrong or away costs one line, no task, and no time at the end."""

from __future__ import annotations

import time
from typing import NamedTuple

import pytest

from tests.harm.conftest import StartWorker
from tests.support.processes import at_once, free_port, wait_for

NOBODY = f"http://127.0.0.1:{free_port()}"

BROKEN = {
    "not a URL": {"OTEL_EXPORTER_OTLP_ENDPOINT": "not a url"},
    "another scheme": {"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://127.0.0.1/"},
    "nobody listens": {"OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY},
    "metrics only, nobody listens": {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{NOBODY}/v1/metrics"},
    "no such exporter": {"OTEL_TRACES_EXPORTER": "carrier-pigeon", "OTEL_METRICS_EXPORTER": "none"},
    "nonsense in the interval": {"OTEL_METRIC_EXPORT_INTERVAL": "often"},
    "gRPC, nobody listens": {"OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
}


class Ended(NamedTuple):
    results: list[int]
    failed: str
    exit_code: int
    warnings: list[str]
    tracebacks: int


@pytest.fixture(scope="module")
def ended(module_workers: StartWorker) -> dict[str, Ended]:
    """What became of a worker with each of them."""

    def run(kind: str) -> Ended:
        fast = {} if kind == "nonsense in the interval" else {"OTEL_METRIC_EXPORT_INTERVAL": "500"}
        worker = module_workers(**fast, **BROKEN[kind], OTEL_EXPORTER_OTLP_TIMEOUT="1")
        results = [worker.app.AsyncResult(worker.send("add", number, 1)).get(timeout=30) for number in range(3)]
        wait_for(lambda: worker.warnings, 30, f"a line about {kind}")
        time.sleep(1.5)  # more attempts to export, none of which may say it again
        error = worker.app.AsyncResult(worker.send("fail")).get(timeout=30, propagate=False)
        return Ended(results, str(error), worker.end(), worker.warnings, worker.log.count("Traceback"))

    return dict(zip(BROKEN, at_once(run, BROKEN), strict=True))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_collector_costs_one_line_and_no_task(ended: dict[str, Ended], kind: str) -> None:
    found = ended[kind]
    assert (found.results, found.failed, found.exit_code) == ([1, 2, 3], "meant to fail", 0)
    assert len(found.warnings) == 1, found.warnings
    assert found.tracebacks == 1  # that of the failing task
