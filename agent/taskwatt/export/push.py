"""Metrics collected at one moment and exported at leisure.

OpenTelemetry's own periodic reader does both in one call, and whoever must hold a lock for the moment of collecting
would hold it while a receiver does not answer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, cast

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
)

from taskwatt.export.histogram import Counted, beside

log = logging.getLogger("taskwatt")

SCOPE: Final = "taskwatt"
"""Of every metric of ours."""

KEPT: Final = 64
"""Failed exports of deltas that are kept: an hour of the default interval."""


class Push(MetricReader):
    """`collect`, then `export`.

    What a failed export of *deltas* held is in no later one, so it is kept and sent first the next time. Of cumulative
    sums the newest says all.
    """

    def __init__(self, exporter: MetricExporter) -> None:
        temporality = exporter._preferred_temporality  # pyright: ignore[reportPrivateUsage]  # as the SDK's readers do
        aggregation = exporter._preferred_aggregation  # pyright: ignore[reportPrivateUsage]
        super().__init__(preferred_temporality=temporality, preferred_aggregation=aggregation)
        self.counted: Sequence[Counted] = ()
        self._exporter = cast(Any, exporter)  # its stubs leave the types of keyword arguments out
        self._deltas = AggregationTemporality.DELTA in (temporality or {}).values()
        self._waiting: list[MetricsData] = []
        self.dropped = 0
        """Failed exports of deltas that exceeded the bound."""

    def export(self) -> bool:
        """Send what was collected; did the receiver take all of it?"""
        while self._waiting:
            try:
                taken: bool = self._exporter.export(self._waiting[0]) is MetricExportResult.SUCCESS
            except Exception as error:
                log.warning("taskwatt could not export metrics: %r", error)
                taken = False
            if not taken:
                return False
            del self._waiting[0]
        return True

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:  # noqa: ARG002
        """Called by `collect`."""
        if self.counted:
            metrics_data = beside(metrics_data, SCOPE, self.counted)
        if not self._deltas:
            self._waiting.clear()
        self._waiting.append(metrics_data)
        if len(self._waiting) > KEPT:
            del self._waiting[0]
            self.dropped += 1

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:  # noqa: ARG002
        self._exporter.shutdown(timeout_millis)
