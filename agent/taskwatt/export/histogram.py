"""A histogram that the agent counts itself, once, and lays beside what the SDK collects.

The SDK takes about 4 us for each measurement and each reader (it cleans, sorts and hashes the attributes, asks for
views and considers an exemplar), which was half of what an attempt cost the agent's thread. Where every reader is our
own and wants cumulative explicit buckets, there is nothing left of that to decide; everywhere else the SDK's own
instrument records.

Exemplars are of spans that a sampling backend keeps (see evidence.py): one that leads to a dropped trace is none.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    MetricReader,
    MetricsData,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.view import Aggregation, DefaultAggregation, ExplicitBucketHistogramAggregation

from taskwatt.export.span import Ids


@dataclass(slots=True)
class _Point:
    counts: list[int]
    since_ns: int = field(default_factory=time.time_ns)
    total: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")
    exemplars: dict[int, Exemplar] = field(default_factory=dict[int, Exemplar])
    """The newest of each bucket."""


class Histogram:
    """Seconds by the values of some attributes. One thread records at a time, and not while another reads `metric`."""

    def __init__(
        self, meter: Meter, name: str, description: str, keys: Sequence[str], bounds: Sequence[float], *, counted: bool
    ) -> None:
        """`counted`: here, and not by the SDK."""
        self._sdk = meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=bounds)
        self._name, self._description, self._keys, self._bounds = name, description, tuple(keys), tuple(bounds)
        self._counted = counted
        self._points: dict[tuple[str, ...], _Point] = {}

    def record(self, seconds: float, *values: str) -> None:
        """`values` of the attributes, in the order of their keys."""
        if not self._counted:
            self._sdk.record(seconds, dict(zip(self._keys, values, strict=True)))
            return
        point = self._points.get(values)
        if point is None:
            point = self._points[values] = _Point([0] * (len(self._bounds) + 1))
        point.counts[bisect_left(self._bounds, seconds)] += 1
        point.total += seconds
        if seconds < point.least:
            point.least = seconds
        if seconds > point.most:
            point.most = seconds

    def exemplify(self, seconds: float, ids: Ids, at_ns: int, *values: str) -> None:
        """Show the span of these ids as an example of what was recorded under `values`. On the thread that reads."""
        point = self._points.get(values)
        if point is not None:
            trace_id, span_id = (int.from_bytes(one, "big") for one in ids)
            point.exemplars[bisect_left(self._bounds, seconds)] = Exemplar({}, seconds, at_ns, span_id, trace_id)

    def metric(self) -> Metric | None:
        """Everything counted so far; None when nothing was."""
        if not self._points:
            return None
        now = time.time_ns()
        points = [
            HistogramDataPoint(
                attributes=dict(zip(self._keys, values, strict=True)),
                start_time_unix_nano=point.since_ns,
                time_unix_nano=now,
                count=sum(point.counts),
                sum=point.total,
                bucket_counts=tuple(point.counts),
                explicit_bounds=self._bounds,
                min=point.least,
                max=point.most,
                exemplars=[one for _, one in sorted(point.exemplars.items())],
            )
            for values, point in self._points.items()
        ]
        return Metric(self._name, self._description, "s", HistogramData(points, AggregationTemporality.CUMULATIVE))


class Counted(Protocol):
    """A histogram that counts for itself."""

    def metric(self) -> Metric | None: ...


def takes_counted(reader: MetricReader) -> bool:
    """Can a histogram that counts for itself say what this reader wants to hear?

    Readers keep their preferences by classes that the SDK does not export.
    """
    preferred: Any = reader
    temporality: Mapping[type, AggregationTemporality] = preferred._instrument_class_temporality
    aggregation: Mapping[type, Aggregation] = preferred._instrument_class_aggregation
    how = {kind.__name__.lstrip("_"): wanted for kind, wanted in temporality.items()}.get("Histogram")
    buckets = {kind.__name__.lstrip("_"): wanted for kind, wanted in aggregation.items()}.get("Histogram")
    usual = buckets is None or isinstance(buckets, (DefaultAggregation, ExplicitBucketHistogramAggregation))
    return usual and how is not AggregationTemporality.DELTA


def lay_beside(
    reader: MetricReader, scope: str, histograms: Sequence[Counted], lock: AbstractContextManager[Any]
) -> None:
    """Have a reader that is asked from outside (Prometheus) collect these as well. `lock` is held meanwhile."""
    readers: Any = reader
    collect = readers._collect
    if collect is None:
        return

    def collect_all(*args: Any, **kwargs: Any) -> MetricsData | None:
        with lock:
            collected: MetricsData | None = collect(*args, **kwargs)
            return None if collected is None else beside(collected, scope, histograms)

    readers._set_collect_callback(collect_all)


def beside(collected: MetricsData, scope: str, histograms: Sequence[Counted]) -> MetricsData:
    """What the SDK collected, with these histograms among the metrics of `scope`."""
    counted = [metric for one in histograms if (metric := one.metric()) is not None]
    resources = [
        replace(
            resource,
            scope_metrics=[
                replace(one, metrics=[*one.metrics, *counted]) if one.scope.name == scope else one
                for one in resource.scope_metrics
            ],
        )
        for resource in collected.resource_metrics
    ]
    return replace(collected, resource_metrics=resources)
