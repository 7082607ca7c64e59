"""The standard OTEL_* variables choose the sampler, the protocol and the exporters, and nothing else needs to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.grpc_receiver import GrpcReceiver
from tests.support.processes import free_port, wait_for
from tests.support.receiver import Receiver
from tests.support.worker import Worker

from .conftest import VENV_BIN

NOOPS = 23
ALWAYS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NEVER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
LOW = "00-00000000000000000000000000000001-b7ad6b7169203331-01"
"""A trace id that every ratio samples."""
HIGH = "00-ffffffffffffffffffffffffffffffff-b7ad6b7169203331-01"
"""A trace id that no ratio below 1 samples."""


@pytest.fixture
def grpc_receiver() -> Iterator[GrpcReceiver]:
    receiver = GrpcReceiver()
    receiver.start()
    yield receiver
    receiver.stop()


def attempts(receiver: Receiver) -> Counter[str]:
    """Settled attempts by task."""
    metric = receiver.metric("celery.task.attempts")
    found = Counter[str]()
    for point in metric.points if metric is not None else ():
        found[point.attributes["taskwatt.task.name"]] += int(point.value)
    return found


@pytest.mark.parametrize(
    ("sampler", "argument", "sampled"),
    [
        ("always_off", "", set()),
        ("traceidratio", "0.5", {"noop"}),
        ("parentbased_always_off", "", {"noop", "sleep"}),
    ],
)
def test_the_sampler_decides_on_spans_and_metrics_count_everything(
    start_worker: Callable[..., Worker], receiver: Receiver, sampler: str, argument: str, sampled: set[str]
) -> None:
    worker = start_worker(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_METRIC_EXPORT_INTERVAL="1000",
        OTEL_TRACES_SAMPLER=sampler,
        OTEL_TRACES_SAMPLER_ARG=argument,
    )
    worker.send("noop", headers={"traceparent": LOW})
    worker.send("sleep", 0, headers={"traceparent": HIGH})
    worker.send("burn", 0, headers={"traceparent": NEVER.replace("0af7", "ffff")})
    if sampler != "traceidratio":
        worker.send("length", "")
    expected = 3 if sampler == "traceidratio" else 4
    wait_for(lambda: attempts(receiver).total() == expected, 60, "all attempts")
    assert worker.end() == 0  # sends what is left
    assert {span.name.removeprefix("run/tests.") for span in receiver.spans} == sampled


def test_grpc_delivers_to_a_real_server_also_from_children_that_were_recycled(
    start_worker: Callable[..., Worker], grpc_receiver: GrpcReceiver
) -> None:
    worker = start_worker(
        options=("--concurrency", "2", "--max-tasks-per-child", "5"),
        OTEL_EXPORTER_OTLP_ENDPOINT=grpc_receiver.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_METRIC_EXPORT_INTERVAL="1000",
    )
    for _ in range(NOOPS):
        worker.send("noop")
    wait_for(lambda: attempts(grpc_receiver)["tests.noop"] == NOOPS, 60, "all attempts")
    wait_for(lambda: len(grpc_receiver.named("run/tests.noop")) == NOOPS, 60, "all spans")
    assert worker.end() == 0
    assert worker.warnings == []


def test_the_main_process_serves_prometheus(start_worker: Callable[..., Worker]) -> None:
    port = free_port()
    worker = start_worker(
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_PROMETHEUS_HOST="127.0.0.1",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
    )
    for _ in range(NOOPS):
        worker.send("noop")
    worker.send("fail")

    def scrape() -> str:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            return str(response.read().decode())

    def useful() -> float:
        counted = re.findall(r"^celery_task_attempts_total\{(.*)\} (\S+)$", scrape(), re.MULTILINE)
        wanted = 'taskwatt_task_name="tests.noop"'
        return sum(float(value) for labels, value in counted if wanted in labels and 'outcome="useful"' in labels)

    wait_for(lambda: useful() == NOOPS, 60, "all attempts")
    wait_for(lambda: "celery_queue_depth" in scrape(), 60, "the queue's depth")
    text = scrape()
    assert "celery_task_duration_seconds_count{" in text
    assert "taskwatt_cpu_time_seconds_total{" in text
    assert worker.warnings == []


@pytest.mark.parametrize("mode", ["provider", "none"])
def test_opentelemetry_instrument_finds_the_agent(
    start_worker: Callable[..., Worker], receiver: Receiver, mode: str
) -> None:
    """No TASKWATT_ENABLED; with a provider that its distribution sets, and without any.

    That provider sends in batches: what a pool process still holds when it ends in order is not lost either.
    """
    given = {
        "provider": {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery"},
        "none": {"OTEL_PYTHON_CONFIGURATOR": "none"},
    }[mode]
    worker = start_worker(
        launcher=(str(VENV_BIN / "opentelemetry-instrument"),),
        TASKWATT_ENABLED="",
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_METRIC_EXPORT_INTERVAL="1000",
        OTEL_SERVICE_NAME="shop",
        **given,
    )
    for _ in range(NOOPS):
        worker.send("noop")
    worker.send("retry", 1)
    wait_for(lambda: attempts(receiver).total() == NOOPS + 2, 60, "all attempts")
    assert worker.end() == 0
    names = Counter(span.name for span in receiver.spans if span.name.startswith("run/"))
    assert names == {"run/tests.noop": NOOPS, "run/tests.retry": 2}
    assert worker.warnings == []


def test_nothing_leaves_the_machine_without_an_otel_variable(
    start_worker: Callable[..., Worker], receiver: Receiver, tmp_path: Path
) -> None:
    worker = start_worker()
    worker.send("noop")
    wait_for(lambda: "succeeded" in worker.log, 60, "the attempt")
    assert worker.end() == 0
    assert receiver.requests == 0
    history = [path.read_text() for path in worker.directory.rglob("*.jsonl")]
    assert any("celery.task.attempts" in lines and "tests.noop" in lines for lines in history)
