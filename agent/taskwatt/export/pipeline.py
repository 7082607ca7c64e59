"""The one export pipeline of an agent: spans from the journal, metrics from its state, on a thread of its own.

A receiver that is down, slow or black-holed costs this thread its patience and nobody else anything: records wait in
the journal, within its bound.
"""

from __future__ import annotations

import logging
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, cast

from opentelemetry import metrics as otel_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from taskwatt.export import provider
from taskwatt.export.encoder import Encoder, Told
from taskwatt.export.evidence import Evidence
from taskwatt.export.exporters import exporting, metric_exporters, resource, span_exporters
from taskwatt.export.findings import incident_span
from taskwatt.export.histogram import lay_beside, takes_counted
from taskwatt.export.history import HistoryWriter
from taskwatt.export.metrics import Instruments, Observed
from taskwatt.export.push import SCOPE, Push
from taskwatt.export.spans import SpanFactory
from taskwatt.gauges import Probe, Reading
from taskwatt.incidents import Incident, Transition
from taskwatt.journal import MAX_BYTES, Journal
from taskwatt.observations import Attempt, CodeSite, Stall
from taskwatt.segments.reader import Drained
from taskwatt.segments.records import Observed as Record
from taskwatt.segments.records import decode
from taskwatt.windows import Window

log = logging.getLogger("taskwatt")

BATCH: Final = 512
HISTORY_S: Final = 10.0
HISTORY_IDLE_S: Final = 60.0
"""The same while no attempt settles: nobody learns anything from a line that says what the last one said."""
PROBE_S: Final = 5.0
EXIT_S: Final = 1.5
"""Longest wait of a process's exit for a receiver that does not answer.

The last tick and the end of the interpreter come on top; 2 s is the budget for all of it.
"""
INCIDENTS: Final = 256
"""Incident spans that wait for a receiver; the local history has all of them."""
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
        code_of: Callable[[str], CodeSite | None],
        environ: Mapping[str, str],
    ) -> None:
        self._observed = observed
        self._journals = [journal]
        """The agent's own, then those it inherited from dead ones, until their receivers have everything."""
        self._lost = 0
        self.folding = threading.Lock()
        """Held while records go into a journal *and* into the ledger, and while metrics are read.

        So what an export says and the mark of how far it goes are always of one moment.
        """
        self._history = history
        self.readings: list[Reading] = []
        self._probes: list[Probe] = []
        instance = f"{socket.gethostname()}/{service}"
        self.resource = resource({"service.name": service.split("@", 1)[0], "service.instance.id": instance})
        self._evidence = Evidence(time.monotonic)
        self._factory = SpanFactory(
            self.resource, excluded=excluded, incident_of=incident_of, code_of=code_of, keep=self._keep
        )
        self._span_exporters: list[SpanExporter] = span_exporters(environ)
        encoder = Encoder(self._factory)
        direct = bool(self._span_exporters) and all(encoder.used_by(one) for one in self._span_exporters)
        self._make: Callable[[Record], Told] = encoder.span if direct else self._factory.span
        self._interval_s = _milliseconds(environ.get("OTEL_METRIC_EXPORT_INTERVAL"), 60.0)
        self._pushes: list[Push] = []
        self._pulled: list[MetricReader] = []
        self._history_push = Push(history.metric_exporter())
        self._counted = False
        """Do the histograms count for themselves?"""
        self._provider = self._make_provider(environ)
        meter = (self._provider or otel_metrics.get_meter_provider()).get_meter(SCOPE)
        self.instruments = Instruments(meter, observed, counted=self._counted)
        if self._counted:
            for push in (*self._pushes, self._history_push):
                push.counted = self.instruments.histograms
            for pulled in self._pulled:
                lay_beside(pulled, SCOPE, self.instruments.histograms, self.folding)
        self._incidents: list[tuple[Incident, Window]] = []
        self._incident_spans: deque[ReadableSpan] = deque()
        self._links: dict[str, tuple[int, int]] = {}
        self._retry_at = 0.0
        self._backoff_s = 0.5
        self._batch = BATCH
        self._refused: set[str] = set()
        self._failed = False
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="taskwatt-export", daemon=True)

    def _make_provider(self, environ: Mapping[str, str]) -> MeterProvider | None:
        """A private provider, or None when the user has set one: then its readers export our instruments as well."""
        found = metric_exporters(environ)
        if not found and isinstance(otel_metrics.get_meter_provider(), MeterProvider):
            return None
        self._pushes = [Push(one) for one in found if isinstance(one, MetricExporter)]
        self._pulled = [one for one in found if not isinstance(one, MetricExporter)]
        readers = [*self._pulled, *self._pushes, self._history_push]
        self._counted = all(takes_counted(one) for one in readers)
        return MeterProvider(readers, self.resource, shutdown_on_exit=False)

    def start(self) -> None:
        self._thread.start()

    def add_probe(self, probe: Probe) -> None:
        self._probes.append(probe)

    def inherit(self, journals: Iterable[Journal]) -> None:
        """Send also what dead agents had not sent; each journal's folder goes when its receivers have everything."""
        self._journals.extend(journals)
        left = MAX_BYTES
        for one in reversed(self._journals[1:]):
            one.trim(max(0, left))
            left -= one.size

    @property
    def lost(self) -> int:
        """Records dropped before a span receiver had them."""
        return self._lost + sum(one.dropped for one in list(self._journals))

    def record(self, task: str, attempt: Attempt) -> None:
        self.instruments.record(task, attempt)

    def tick(self) -> None:
        """Once a tick, when everything was folded: while something waits for a receiver, it is tried as often."""
        self.instruments.tick()
        if self._something_waits:
            self._wake.set()

    def tell(self, transition: Transition, window: Window) -> None:
        """An incident opened, goes on, or is resolved."""
        self._incidents.append((transition.incident, window))
        self._wake.set()

    def stop(self) -> bool:
        """Send what is left, for EXIT_S at the most. True when every receiver has everything."""
        self._stopping = True
        self._wake.set()
        self._thread.join(EXIT_S)
        return not self._thread.is_alive() and all(one.done for one in self._journals)

    def _run(self) -> None:
        next_metrics = time.monotonic() + self._interval_s
        next_history = time.monotonic() + HISTORY_S
        next_probe = 0.0
        told = -1
        while not self._stopping:
            rest = min(next_probe, next_metrics, next_history) - time.monotonic()
            self._wake.wait(min(max(rest, 1.0), PROBE_S))
            self._wake.clear()
            now = time.monotonic()
            try:
                if now >= next_probe:
                    self._probe()
                    next_probe = now + PROBE_S
                settled = sum(one.last for one in self._journals)
                history = now >= next_history + (HISTORY_IDLE_S - HISTORY_S if settled == told else 0.0)
                if self._something_waits or now >= next_metrics or history:
                    with exporting():
                        if not self._refused:
                            self._send_spans()  # first, so that an incident finds its evidence there
                        self._send_incidents()
                        self._send_spans()
                        if now >= next_metrics:
                            self._collect()
                            next_metrics = now + self._interval_s
                        if history:
                            self._collect_history()
                            next_history, told = now + HISTORY_S, settled
            except Exception as error:
                self._report_failure(error)
        self._finish()

    @property
    def _something_waits(self) -> bool:
        return bool(self._incidents or self._incident_spans or any(one.waiting for one in self._journals))

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
                if self._provider is not None:
                    self._provider.shutdown()
        except Exception as error:
            self._report_failure(error)

    def _report_failure(self, error: Exception) -> None:
        """A bug of ours, or of an exporter; the first one says where to look."""
        if not self._failed:
            self._failed = True
            log.warning("taskwatt's export failed and goes on: %r", error, exc_info=error)

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
        for journal in self._journals:
            if not self._span_exporters and not provider.is_set():
                journal.accept(spans=journal.last)
            while time.monotonic() >= self._retry_at and (records := journal.unsent(self._batch)):
                spans = [span for _, record in records if (span := self._span(record)) is not None]
                if spans and not self._export(spans):
                    return
                journal.accept(spans=records[-1][0])

    def _span(self, record: Drained) -> Told | None:
        """None for a record without a span of ours, and for one whose bytes are no span's: that is counted."""
        try:
            observed = decode(record)
            return self._make(observed) if observed is not None and self._factory.wanted(observed) else None
        except Exception as error:
            self._drop_span(error)
            return None

    def _keep(self, observed: Attempt | Stall, in_incident: bool) -> bool:
        kept = self._evidence.keep(observed, in_incident)
        if kept and isinstance(observed, Attempt):
            self.instruments.exemplify(observed)
        return kept

    def _encodable(self, spans: Sequence[Told]) -> Sequence[Told]:
        """Those of a refused batch that are not to blame."""
        found: list[Told] = []
        for span in spans:
            try:
                if isinstance(span, ReadableSpan):
                    encode_spans([span])
            except Exception as error:
                self._drop_span(error)
            else:
                found.append(span)
        return found

    def _drop_span(self, error: Exception) -> None:
        if not self._observed.dropped.get("span"):
            log.warning("taskwatt dropped a span that cannot be encoded: %r", error)
        self._drop("span")

    def _send_incidents(self) -> None:
        while self._incidents:
            incident, window = self._incidents.pop(0)
            evidence = self._evidence.of(incident.finding.task)
            span = incident_span(incident, window, self.resource, self._links.get(incident.id), evidence)
            self._history.incident(span)
            if span.context is not None:
                self._links[incident.id] = (span.context.trace_id, span.context.span_id)
            if self._span_exporters or provider.is_set():
                self._incident_spans.append(span)
        while len(self._incident_spans) > INCIDENTS:
            self._incident_spans.popleft()
            self._drop("incident")
        while self._incident_spans and time.monotonic() >= self._retry_at:
            if not self._export([self._incident_spans[0]]):
                return
            self._incident_spans.popleft()

    def _export(self, spans: Sequence[Told]) -> bool:
        """True when every exporter took them. Repeats after a failure carry the same ids.

        Without an exporter of our own they go to the provider that the user has set here, if any.
        Exporters answer a span that cannot be encoded like a receiver that is down. Such a one is dropped and counted:
        it must not hold up all that follow.
        """
        known = cast(Sequence[ReadableSpan], spans)  # unless every exporter uses our encoder
        if not self._span_exporters and provider.is_set():
            for span in known:
                provider.send(span)
            return True
        reason = ""
        try:
            taken = all(exporter.export(known) is SpanExportResult.SUCCESS for exporter in self._span_exporters)
        except Exception as error:
            taken, reason = False, f" ({error})"
        if not taken:
            sound = self._encodable(spans)
            if len(sound) < len(spans):
                return not sound or self._export(sound)
        if taken:
            self._backoff_s = 0.5
            self._batch = min(BATCH, self._batch * 2)
        else:
            self._retry_at = time.monotonic() + self._backoff_s
            self._backoff_s = min(self._backoff_s * 2, _BACKOFF_MAX_S)
            self._batch = max(1, self._batch // 2)  # perhaps it was too large
        self._report("spans", taken, reason)
        return taken

    def _report(self, signal: str, taken: bool, reason: str = "") -> None:
        """One line when the receiver begins to refuse, whichever signal meets it first, and one when it takes all."""
        refused = bool(self._refused)
        (self._refused.discard if taken else self._refused.add)(signal)
        if not taken and not refused:
            log.warning(
                "taskwatt's receiver does not take %s%s; they wait, up to a bound: see OTEL_EXPORTER_OTLP_*",
                signal,
                reason,
            )
        elif refused and not self._refused:
            log.warning("taskwatt's receiver answers again")

    def _drop(self, reason: str, count: int = 1) -> None:
        self._observed.dropped[reason] = self._observed.dropped.get(reason, 0) + count

    def _collect(self) -> None:
        """Push metrics once; what was folded when they were read is then with the receivers."""
        if not self._pushes and self._provider is not None:
            return  # the history is the receiver
        read_to = self._read(self._pushes)
        taken = [push.export() for push in self._pushes]  # each has its turn, also after one that failed
        if self._pushes:
            self._report("metrics", all(taken))
        if all(taken):
            self._accept(read_to)

    def _collect_history(self) -> None:
        if self._provider is None:
            return
        read_to = self._read([self._history_push])
        if self._history_push.export() and not self._pushes:
            self._accept(read_to)

    def _read(self, pushes: list[Push]) -> list[tuple[Journal, int]]:
        with self.folding:
            for push in pushes:
                push.collect()
            return [(journal, journal.last) for journal in self._journals]

    def _accept(self, read_to: list[tuple[Journal, int]]) -> None:
        for journal, number in read_to:
            journal.accept(metrics=number)
        with self.folding:
            for journal in [one for one in self._journals[1:] if one.done]:
                self._lost += journal.dropped
                self._journals.remove(journal)
                journal.close()
                shutil.rmtree(journal.folder, ignore_errors=True)


def _milliseconds(text: str | None, default_s: float) -> float:
    try:
        value = float(text) / 1000 if text else default_s
    except ValueError:
        log.warning(
            "taskwatt: OTEL_METRIC_EXPORT_INTERVAL=%r is not a number of milliseconds; using %g s", text, default_s
        )
        return default_s
    return value if value > 0 else default_s
