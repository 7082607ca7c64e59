"""A real OTLP/HTTP receiver: takes what is posted, decodes it, and can refuse or hang like one in trouble."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class ReceivedSpan:
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for a root."""
    start_ns: int
    end_ns: int
    status: int
    """0 unset, 1 ok, 2 error."""
    status_message: str
    attributes: Attributes
    events: tuple[tuple[str, Attributes], ...]
    links: tuple[tuple[str, str], ...]
    """(trace id, span id)."""
    resource: Attributes
    scope: str


@dataclass(frozen=True)
class Point:
    attributes: Attributes
    value: float
    """A counter's or gauge's value; of a histogram the count."""
    sum: float = 0.0
    start_ns: int = 0
    """When a counter began: a later one is a new counter, whatever its attributes."""


@dataclass(frozen=True)
class Metric:
    name: str
    unit: str
    description: str
    points: tuple[Point, ...]
    resource: Attributes


@dataclass
class Receiver:
    """Everything that arrived, newest last.

    `refusing` answers 503, `refusing_spans` to spans only; `hanging_s` answers late.
    """

    refusing: bool = False
    refusing_spans: bool = False
    hanging_s: float = 0.0
    requests: int = 0
    received: list[ReceivedSpan] = field(default_factory=list)
    metric_exports: list[tuple[Metric, ...]] = field(default_factory=list)
    log_records: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[tuple[str, bytes]] = field(default_factory=list)
    """Path and decompressed body of every request."""

    def start(self, port: int = 0) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # What tests ask.

    @property
    def spans(self) -> list[ReceivedSpan]:
        """Each span once: it may arrive again with the same ids."""
        return list({(span.trace_id, span.span_id): span for span in list(self.received)}.values())

    def named(self, name: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.name == name]

    def metric(self, name: str) -> Metric | None:
        """The newest export of one metric."""
        for export in reversed(list(self.metric_exports)):
            for metric in export:
                if metric.name == name:
                    return metric
        return None

    def everything(self, name: str) -> list[Metric]:
        """All exports of one metric, oldest first."""
        return [metric for export in list(self.metric_exports) for metric in export if metric.name == name]

    def total(self, name: str, **attributes: str) -> float:
        """Sum of the newest points of a metric whose attributes include these (`__` stands for a dot)."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        metric = self.metric(name)
        points = metric.points if metric is not None else ()
        return sum(point.value for point in points if wanted.items() <= point.attributes.items())

    # What exporters do.

    def take(self, path: str, body: bytes) -> None:
        self.bodies.append((path, body))
        if path.endswith("/v1/traces"):
            self.received.extend(_spans(ExportTraceServiceRequest.FromString(body)))
        elif path.endswith("/v1/metrics"):
            self.metric_exports.append(tuple(_metrics(ExportMetricsServiceRequest.FromString(body))))
        elif path.endswith("/v1/logs"):
            self.log_records.extend(_logs(ExportLogsServiceRequest.FromString(body)))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests += 1
                if receiver.hanging_s:
                    time.sleep(receiver.hanging_s)
                if receiver.refusing or (receiver.refusing_spans and self.path.endswith("/v1/traces")):
                    self.send_response(503)
                else:
                    if self.headers.get("Content-Encoding") == "gzip":
                        body = gzip.decompress(body)
                    receiver.take(self.path, body)
                    self.send_response(200)
                    self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Silent."""

        return Handler


def _spans(request: ExportTraceServiceRequest) -> Iterable[ReceivedSpan]:
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield ReceivedSpan(
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    status=span.status.code,
                    status_message=span.status.message,
                    attributes=_attributes(span.attributes),
                    events=tuple((event.name, _attributes(event.attributes)) for event in span.events),
                    links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    resource=resource,
                    scope=scope_spans.scope.name,
                )


def _metrics(request: ExportMetricsServiceRequest) -> Iterable[Metric]:
    for resource_metrics in request.resource_metrics:
        resource = _attributes(resource_metrics.resource.attributes)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                points = tuple(_points(metric))
                yield Metric(metric.name, metric.unit, metric.description, points, resource)


def _points(metric: Any) -> Iterable[Point]:
    kind = metric.WhichOneof("data")
    for point in getattr(metric, kind).data_points:
        attributes = _attributes(point.attributes)
        if kind in {"histogram", "exponential_histogram"}:
            yield Point(attributes, float(point.count), point.sum, point.start_time_unix_nano)
        else:
            value = float(getattr(point, point.WhichOneof("value")))
            yield Point(attributes, value, start_ns=point.start_time_unix_nano)


def _logs(request: ExportLogsServiceRequest) -> Iterable[dict[str, Any]]:
    for resource_logs in request.resource_logs:
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                yield {
                    "body": _value(record.body),
                    "trace_id": record.trace_id.hex(),
                    "span_id": record.span_id.hex(),
                    "attributes": _attributes(record.attributes),
                }


def _attributes(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
