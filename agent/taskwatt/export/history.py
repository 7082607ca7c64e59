"""The bounded history of this machine: OTLP-JSON lines, which the CLI reads and a collector can replay.

One file an agent, rolled over once; all files together stay within a bound, the oldest go first. Windows are metrics,
incidents are spans, and the verdicts of every cause are one log record whose body is the triage document.
"""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any, Final, cast

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan

from taskwatt.history import EVENT

FILE_BYTES: Final = 4 << 20
ALL_BYTES: Final = 32 << 20


class HistoryWriter:
    """Appends lines to one file; a full disk loses lines (counted), never raises."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.path = folder / f"{name}.jsonl"
        self.dropped = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _trim(folder)
        except OSError:
            self.dropped += 1

    def metric_exporter(self) -> MetricExporter:
        return _HistoryMetrics(self)

    def incident(self, span: ReadableSpan) -> None:
        self.append(_hex_ids(MessageToDict(encode_spans([span]))))

    def verdicts(self, document: dict[str, Any], resource: dict[str, Any]) -> None:
        """The triage document, as a log record."""
        attributes = [{"key": key, "value": {"stringValue": str(value)}} for key, value in resource.items()]
        record = {
            "timeUnixNano": str(time.time_ns()),
            "severityNumber": 9,
            "eventName": EVENT,
            "body": {"stringValue": json.dumps(document)},
        }
        scope = {"scope": {"name": "taskwatt"}, "logRecords": [record]}
        self.append({"resourceLogs": [{"resource": {"attributes": attributes}, "scopeLogs": [scope]}]})

    def append(self, line: dict[str, Any]) -> None:
        """One OTLP-JSON document, as one line."""
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                written = os.write(descriptor, data)
                size = os.fstat(descriptor).st_size
                if written < len(data):  # no room for the rest; half a line would spoil the next one
                    os.ftruncate(descriptor, size - written)
                    self.dropped += 1
            finally:
                os.close(descriptor)
            if size > FILE_BYTES:
                self.path.replace(self.path.with_suffix(".1.jsonl"))
                _trim(self.folder)
        except OSError:
            self.dropped += 1


class _HistoryMetrics(MetricExporter):
    def __init__(self, history: HistoryWriter) -> None:
        super().__init__()
        self._history = history

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,  # noqa: ARG002  # MetricExporter's signature, here and below
        **_: Any,
    ) -> MetricExportResult:
        if any(scope.metrics for one in metrics_data.resource_metrics for scope in one.scope_metrics):
            self._history.append(_hex_ids(MessageToDict(encode_metrics(metrics_data))))
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing is held back."""


def _hex_ids(value: Any) -> Any:
    """OTLP-JSON writes ids in hex where protobuf's own JSON has base64."""
    if isinstance(value, dict):
        return {
            key: base64.b64decode(item).hex() if key in {"traceId", "spanId", "parentSpanId"} else _hex_ids(item)
            for key, item in cast(dict[str, Any], value).items()
        }
    if isinstance(value, list):
        return [_hex_ids(item) for item in cast(list[object], value)]
    return value


def _trim(folder: Path) -> None:
    files = sorted((path for path in folder.glob("*.jsonl")), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in files:
        total += path.stat().st_size
        if total > ALL_BYTES:
            path.unlink(missing_ok=True)
