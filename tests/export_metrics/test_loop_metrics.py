"""Event loops and coroutine types as metrics: pushed, pulled, and through a provider that records for itself."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, MetricReader, NumberDataPoint
from prometheus_client import CollectorRegistry, generate_latest

from taskwatt.export.histogram import lay_beside, takes_counted
from taskwatt.export.loop_metrics import LoopInstruments
from taskwatt.journal import Journal
from taskwatt.observations import (
    DELAY_BUCKETS,
    CoroutineTally,
    ExecutorTally,
    InterpreterTally,
    LoopTally,
    ProcessClass,
    Tallies,
)
from taskwatt.windows import LoopWindow
from taskwatt.windows.loops import LoopWindows
from tests.support.pipeline import Idle, pipeline_of
from tests.support.processes import wait_for
from tests.support.receiver import Receiver

DELAY = [0.0] * (len(DELAY_BUCKETS) + 1)
DELAY[0], DELAY[8], DELAY[-1] = 0.5, 1.5, 0.25
COUNTED = Tallies(
    {
        "shop.poll": CoroutineTally(
            "task",
            steps=101,
            self_wakes=17,
            started=13,
            completed=5,
            never_retrieved=3,
            destroyed_pending=1,
            delays=50,
            delay_s=0.125,
        ),
        "shop.on_data": CoroutineTally("io", steps=7),
    },
    {"MainThread": LoopTally("asyncio", True, iterations=9, busy_s=1.5, idle_s=0.75, delay=tuple(DELAY), ready_max=5)},
    {"to_thread": ExecutorTally(submitted=11, wait_s=0.5, queued_now=4)},
    InterpreterTally(),
)


class Web(Idle):
    """An agent whose loops have counted something."""

    process_class: ProcessClass = "web"
    loop_windows: Sequence[LoopWindow] = (LoopWindow("MainThread", busy_s=1.5, idle_s=0.5), LoopWindow("Thread-1"))

    def __init__(self) -> None:
        super().__init__()
        self.loops = LoopWindows((10,))
        self.loops.fold("", COUNTED)
        self.loops.roll()


Told = dict[str, list[tuple[dict[str, Any], float]]]


def told(reader: InMemoryMetricReader) -> Told:
    """Points of each metric: attributes without the process class, and value or number."""
    found: Told = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found[metric.name] = [_point(point) for point in metric.data.data_points]
    return found


def _point(point: Any) -> tuple[dict[str, Any], float]:
    attributes = dict(point.attributes)
    assert attributes.pop("taskwatt.process.class") == "web"
    assert isinstance(point, (HistogramDataPoint, NumberDataPoint))
    return attributes, point.count if isinstance(point, HistogramDataPoint) else point.value


EVERYTHING: Mapping[str, list[tuple[dict[str, str], float]]] = {
    "asyncio.eventloop.time": [({"state": "busy"}, 1.5), ({"state": "idle"}, 0.75)],
    "asyncio.eventloop.utilization": [({}, 0.75)],
    "asyncio.eventloop.ready": [({}, 5)],
    "asyncio.eventloop.delay": [({}, 2250)],
    "asyncio.task.steps": [({"taskwatt.task.name": "shop.poll"}, 101), ({"taskwatt.task.name": "shop.on_data"}, 7)],
    "asyncio.task.self_wakes": [({"taskwatt.task.name": "shop.poll"}, 17)],
    "asyncio.task.live": [({"taskwatt.task.name": "shop.poll"}, 7)],
    "asyncio.task.lost": [
        ({"taskwatt.task.name": "shop.poll", "reason": "never_retrieved"}, 3),
        ({"taskwatt.task.name": "shop.poll", "reason": "destroyed_pending"}, 1),
    ],
    "asyncio.task.schedule_delay": [({"taskwatt.task.name": "shop.poll"}, 50)],
    "asyncio.executor.queue": [({"asyncio.executor.kind": "to_thread"}, 4)],
    "asyncio.executor.wait": [({"asyncio.executor.kind": "to_thread"}, 7)],
}


def instruments(reader: MetricReader, *, counted: bool) -> LoopInstruments:
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("taskwatt")
    found = LoopInstruments(meter, Web(), counted=counted)
    if counted:
        assert takes_counted(reader)
        lay_beside(reader, "taskwatt", found.histograms, threading.Lock())
    return found


def test_everything_that_was_counted_is_told() -> None:
    reader = InMemoryMetricReader()
    instruments(reader, counted=True)
    assert told(reader) == EVERYTHING


def test_every_declared_metric_is_told() -> None:
    meter = Declaring("declaring")
    LoopInstruments(meter, Web(), counted=True)
    assert sorted(meter.names) == sorted(EVERYTHING)


class Declaring(NoOpMeter):
    """Notes what is declared on it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.names: list[str] = []

    def _declare(self, name: str, *_: Any, **__: Any) -> Any:
        self.names.append(name)

    create_histogram = create_observable_counter = create_observable_gauge = _declare
    create_counter = create_gauge = create_observable_up_down_counter = create_up_down_counter = _declare


def test_a_provider_that_records_for_itself_is_told_the_same_shares() -> None:
    reader = InMemoryMetricReader()
    loops = instruments(reader, counted=False)
    loops.tell()
    loops.tell()
    one_a_tick = {"asyncio.task.schedule_delay": 1, "asyncio.executor.wait": 1, "asyncio.eventloop.delay": 225}
    expected = {
        name: [(attributes, one_a_tick.get(name, value)) for attributes, value in points]
        for name, points in EVERYTHING.items()
    }
    assert told(reader) == expected


def test_the_buckets_of_the_delay_are_weighed_by_time() -> None:
    loops = instruments(InMemoryMetricReader(), counted=True)
    metric = loops.histograms[0].metric()
    assert metric is not None
    (point,) = metric.data.data_points
    assert isinstance(point, HistogramDataPoint)
    assert (list(point.bucket_counts), point.explicit_bounds) == ([int(s * 1000) for s in DELAY], DELAY_BUCKETS)
    assert point.sum == pytest.approx(500 * 0.00025 + 1500 * 0.0875 + 250 * 10.0)


def test_prometheus_is_served_with_explicit_buckets() -> None:
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry)
    instruments(reader, counted=True)
    lines = generate_latest(registry).decode().splitlines()
    delays = [line for line in lines if line.startswith("asyncio_eventloop_delay_seconds_bucket")]
    assert len(delays) == len(DELAY_BUCKETS) + 1
    assert [line.rpartition(" ")[2] for line in delays if 'le="0.1"' in line or 'le="+Inf"' in line] == [
        "2000.0",
        "2250.0",
    ]
    waits = {line.partition("{")[0]: line.rpartition(" ")[2] for line in lines if "executor_wait" in line}
    assert waits["asyncio_executor_wait_seconds_sum"] == "0.5"
    assert waits["asyncio_executor_wait_seconds_count"] == "7.0"


def test_a_receiver_and_the_local_history_get_them(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    pipeline = pipeline_of(Web(), Journal(tmp_path), tmp_path)
    pipeline.start()
    wait_for(lambda: receiver.total("asyncio.eventloop.delay") == 2250, what="the delay")
    pipeline.stop()
    history = (tmp_path / "history" / "agent.jsonl").read_text()
    for name in EVERYTHING:
        metric = receiver.metric(name)
        assert metric is not None
        assert metric.description
        assert f'"{name}"' in history
