"""The one export pipeline of an agent: spans from the journal, metrics from its state, on a thread of its own.

A receiver that is down, slow or black-holed costs this thread its patience and nobody else anything: records wait in
the journal, within its bound.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from opentelemetry import metrics as otel_metrics
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from taskwatt.export.exporters import exporting, listening, metric_exporters, resource, span_exporters
from taskwatt.export.findings import incident_span
from taskwatt.export.history import HistoryWriter
from taskwatt.export.metrics import Instruments, Observed
from taskwatt.export.spans import SpanFactory
from taskwatt.gauges import Probe, Reading
from taskwatt.incidents import Incident, Transition
from taskwatt.journal import Journal
from taskwatt.observations import Attempt
from taskwatt.segments.records import decode
from taskwatt.windows import Window

log = logging.getLogger("taskwatt")

BATCH: Final = 512
HISTORY_S: Final = 10.0
PROBE_S: Final = 5.0
EXIT_S: Final = 1.5
"""Longest wait of a process's exit for a receiver that does not answer.

The last tick and the end of the interpreter come on top; 2 s is the budget for all of it.
"""
_BACKOFF_MAX_S: Final = 5.0


class Pipeline:
    """Owned by the agent; `start` it once, `stop` it once."""

    def __init__(
        self,
        observed: Observed,
        journal: Journal,
        history: HistoryWriter,
        *,
        service: str,
        excluded: Callable[[str], bool],
        incident_of: Callable[[str], str | None],
        environ: Mapping[str, str],
    ) -> None:
        self._journal = journal
        self._history = history
        self.readings: list[Reading] = []
        self._probes: list[Probe] = []
        instance = f"{socket.gethostname()}/{service}"
        self.resource = resource({"service.name": service.split("@", 1)[0], "service.instance.id": instance})
        self._factory = SpanFactory(self.resource, excluded, incident_of)
        self._span_exporters: list[SpanExporter] = span_exporters(environ)
        self._interval_s = _milliseconds(environ.get("OTEL_METRIC_EXPORT_INTERVAL"), 60.0)
        self._collecting = 0
        self._readers: list[MetricReader] = []
        self._provider = self._make_provider(environ)
        meter = (self._provider or otel_metrics.get_meter_provider()).get_meter("taskwatt")
        self.instruments = Instruments(meter, observed)
        self._incidents: list[tuple[Incident, Window]] = []
        self._links: dict[str, tuple[int, int]] = {}
        self._retry_at = 0.0
        self._backoff_s = 0.5
        self._reported = False
        self._exchange = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="taskwatt-export", daemon=True)

    def _make_provider(self, environ: Mapping[str, str]) -> MeterProvider | None:
        """A private provider, or None when the user has set one: then its readers export our instruments as well."""
        found = metric_exporters(environ)
        if not found and isinstance(otel_metrics.get_meter_provider(), MeterProvider):
            return None
        for one in found:
            if isinstance(one, MetricExporter):
                exporter = listening(one, self._metrics_exported)
                self._readers.append(PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf))
            else:
                self._readers.append(one)
        history = PeriodicExportingMetricReader(self._history.metric_exporter(), export_interval_millis=math.inf)
        self._history_reader = history
        return MeterProvider([*self._readers, history], self.resource, shutdown_on_exit=False)

    @property
    def native_id(self) -> int | None:
        return self._thread.ident

    def start(self) -> None:
        self._thread.start()

    def add_probe(self, probe: Probe) -> None:
        self._probes.append(probe)

    def record(self, task: str, attempt: Attempt) -> None:
        self.instruments.record(task, attempt)

    def tell(self, transition: Transition, window: Window) -> None:
        """An incident opened, goes on, or is resolved."""
        self._incidents.append((transition.incident, window))
        self._wake.set()

    def stop(self) -> bool:
        """Send what is left, for EXIT_S at the most. True when every receiver has everything."""
        self._stopping = True
        self._wake.set()
        self._thread.join(EXIT_S)
        return (
            not self._thread.is_alive() and self._journal.waiting == 0 and self._journal.metrics >= self._journal.last
        )

    def _run(self) -> None:
        next_metrics = time.monotonic() + self._interval_s
        next_history = time.monotonic() + HISTORY_S
        next_probe = 0.0
        while not self._stopping:
            self._wake.wait(1.0)
            self._wake.clear()
            now = time.monotonic()
            try:
                if now >= next_probe:
                    self._probe()
                    next_probe = now + PROBE_S
                with exporting():
                    self._send_incidents()
                    self._send_spans()
                    if now >= next_metrics:
                        self._collect()
                        next_metrics = now + self._interval_s
                    if now >= next_history:
                        self._collect_history()
                        next_history = now + HISTORY_S
            except Exception as error:
                log.warning("taskwatt's export failed and goes on: %r", error, exc_info=error)
        self._finish()

    def _finish(self) -> None:
        try:
            with exporting():
                self._retry_at = 0.0
                self._send_incidents()
                self._send_spans()
                self._collect()
                self._collect_history()
                for exporter in self._span_exporters:
                    exporter.shutdown()
        except Exception as error:
            log.warning("taskwatt could not send its last data: %r", error)

    def _probe(self) -> None:
        readings: list[Reading] = []
        for probe in self._probes:
            try:
                readings.extend(probe())
            except Exception as error:
                self._probes.remove(probe)
                log.warning("taskwatt stopped a reading that failed: %r", error, exc_info=error)
                break
        self.readings = readings

    def _send_spans(self) -> None:
        journal = self._journal
        if not self._span_exporters:
            journal.accept(spans=journal.last)
            return
        while journal.waiting and time.monotonic() >= self._retry_at:
            spans: list[ReadableSpan] = []
            read_to = journal.spans
            for number, record in journal.read(journal.spans, BATCH):
                read_to = number
                observed = decode(record)
                if observed is not None and self._factory.wanted(observed):
                    spans.append(self._factory.span(observed))
            if read_to == journal.spans:  # what was missing was dropped by the bound
                journal.accept(spans=journal.last)
                return
            if spans and not self._export(spans):
                return
            journal.accept(spans=read_to)

    def _send_incidents(self) -> None:
        while self._incidents:
            incident, window = self._incidents[0]
            span = incident_span(incident, window, self.resource, self._links.get(incident.id))
            self._history.incident(span)
            if span.context is not None:
                self._links[incident.id] = (span.context.trace_id, span.context.span_id)
            provider = trace.get_tracer_provider()
            if self._span_exporters:
                self._export([span])
            elif not isinstance(provider, trace.ProxyTracerProvider):
                tracer = provider.get_tracer("taskwatt")
                copy = tracer.start_span(
                    span.name, attributes=span.attributes, links=span.links, start_time=span.start_time
                )
                copy.set_status(span.status)
                copy.end(span.end_time)
            self._incidents.pop(0)

    def _export(self, spans: list[ReadableSpan]) -> bool:
        """True when every exporter took them. Repeats after a failure carry the same ids."""
        taken = all(exporter.export(spans) is SpanExportResult.SUCCESS for exporter in self._span_exporters)
        if taken:
            self._backoff_s = 0.5
            if self._reported:
                self._reported = False
                log.warning("taskwatt's span receiver answers again")
        else:
            self._retry_at = time.monotonic() + self._backoff_s
            self._backoff_s = min(self._backoff_s * 2, _BACKOFF_MAX_S)
            if not self._reported:
                self._reported = True
                log.warning(
                    "taskwatt's span receiver does not take spans; they wait, up to a bound: see OTEL_EXPORTER_OTLP_*"
                )
        return taken

    def _collect(self) -> None:
        """Push metrics once; what was folded before this moment is then with the receiver."""
        with self._exchange:
            self._collecting = self._journal.last
            if not any(isinstance(reader, PeriodicExportingMetricReader) for reader in self._readers):
                self._journal.accept(metrics=self._journal.last)
            for reader in self._readers:
                if isinstance(reader, PeriodicExportingMetricReader):
                    reader.collect()

    def _metrics_exported(self, taken: bool) -> None:
        if taken:
            self._journal.accept(metrics=self._collecting)

    def _collect_history(self) -> None:
        if self._provider is not None:
            self._history_reader.collect()


def _milliseconds(text: str | None, default_s: float) -> float:
    try:
        value = float(text) / 1000 if text else default_s
    except ValueError:
        log.warning("OTEL_METRIC_EXPORT_INTERVAL=%r is not a number of milliseconds; using %g s", text, default_s)
        return default_s
    return value if value > 0 else default_s
