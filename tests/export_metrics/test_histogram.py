"""The histogram that counts for itself says to a real receiver what the SDK's own would have said."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric, MetricsData

from taskwatt.export.histogram import Histogram, beside
from taskwatt.journal import Journal
from taskwatt.segments.records import decode
from tests.export_spans.test_pipeline import drained
from tests.support.pipeline import Idle, pipeline_of
from tests.support.processes import wait_for
from tests.support.receiver import Receiver

KEYS = ("task", "outcome")
BOUNDS = (0.001, 0.1, 1.0)
MEASURED = 997


def test_a_histogram_that_counts_for_itself_is_the_sdks_own() -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("taskwatt")
    by_sdk = Histogram(meter, "by_sdk", "How long.", KEYS, BOUNDS, counted=False)
    counted = Histogram(meter, "counted", "How long.", KEYS, BOUNDS, counted=True)
    rng = random.Random(3)
    for _ in range(MEASURED):
        seconds = rng.choice([0.0, *BOUNDS, rng.expovariate(3.0)])
        values = rng.choice("abc"), rng.choice(["useful", "failed"])
        by_sdk.record(seconds, *values)
        counted.record(seconds, *values)
    collected = reader.get_metrics_data()
    assert collected is not None

    told = metrics(beside(collected, "taskwatt", [counted]))

    assert [one.name for one in told] == ["by_sdk", "counted"]
    assert replace(told[0], name="counted", data=None) == replace(told[1], data=None)  # type: ignore[arg-type]
    assert comparable(told[0]) == comparable(told[1])
    assert sum(point.count for point in points(told[1])) == MEASURED


def test_what_was_told_does_not_change_with_what_is_counted_later() -> None:
    """An export waits while its receiver does not answer."""
    meter = MeterProvider([], shutdown_on_exit=False).get_meter("taskwatt")
    counted = Histogram(meter, "counted", "How long.", KEYS, BOUNDS, counted=True)
    counted.record(0.5, "a", "useful")
    told = counted.metric()
    counted.record(0.5, "a", "useful")
    assert told is not None
    assert [(point.count, tuple(point.bucket_counts)) for point in points(told)] == [(1, (0, 0, 1, 0))]


def test_a_histogram_without_a_measurement_is_not_told() -> None:
    meter = MeterProvider([], shutdown_on_exit=False).get_meter("taskwatt")
    assert Histogram(meter, "counted", "How long.", KEYS, BOUNDS, counted=True).metric() is None


def test_the_newest_kept_span_of_each_bucket_is_its_exemplar() -> None:
    meter = MeterProvider([], shutdown_on_exit=False).get_meter("taskwatt")
    counted = Histogram(meter, "counted", "How long.", KEYS, BOUNDS, counted=True)
    for seconds in (0.5, 0.75, 0.05):
        counted.record(seconds, "a", "useful")
    for number, seconds in enumerate((0.5, 0.05, 0.75), 1):
        counted.exemplify(seconds, (bytes([number] * 16), bytes([number] * 8)), 7_000 + number, "a", "useful")
    counted.exemplify(0.5, (b"t" * 16, b"s" * 8), 7_004, "b", "useful")  # was never recorded
    told = counted.metric()
    assert told is not None
    assert [(one.value, one.time_unix_nano, one.trace_id, one.span_id) for one in points(told)[0].exemplars] == [
        (0.05, 7_002, int.from_bytes(b"\2" * 16, "big"), int.from_bytes(b"\2" * 8, "big")),
        (0.75, 7_003, int.from_bytes(b"\3" * 16, "big"), int.from_bytes(b"\3" * 8, "big")),
    ]
    assert len(points(told)) == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram"),
    ],
)
def test_a_receiver_gets_the_histograms_it_asked_for(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    monkeypatch.setenv(variable, value)
    attempt = decode(drained(1))
    assert attempt is not None
    pipeline = pipeline_of(Idle(), Journal(tmp_path), tmp_path)
    for _ in range(7):
        pipeline.record("pay", attempt)  # type: ignore[arg-type]
    pipeline.start()
    wait_for(lambda: receiver.total("celery.task.duration", taskwatt__task__name="pay") == 7, what="seven durations")
    pipeline.stop()
    kind = pipeline.instruments.histograms[0].metric()
    assert (kind is not None) == (value == "cumulative")


def metrics(data: MetricsData) -> list[Metric]:
    return [one for resource in data.resource_metrics for scope in resource.scope_metrics for one in scope.metrics]


def points(metric: Metric) -> Sequence[HistogramDataPoint]:
    assert isinstance(metric.data, HistogramData)
    return metric.data.data_points


def comparable(metric: Metric) -> dict[frozenset[object], HistogramDataPoint]:
    """Points by their attributes, without the moments at which they were made; sums of floats to the last digits."""
    return {
        frozenset((point.attributes or {}).items()): replace(
            point,
            start_time_unix_nano=0,
            time_unix_nano=0,
            sum=round(point.sum, 9),
            bucket_counts=tuple(point.bucket_counts),
            exemplars=(),
        )
        for point in points(metric)
    }
