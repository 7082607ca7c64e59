"""The application that every variant runs: one task that does nothing.

With BENCH_VARIANT=official it is traced by opentelemetry-instrumentation-celery, set up as its documentation says:
providers and instrumentation in `worker_process_init`, spans in batches and metrics, both over OTLP/HTTP. With
BENCH_VARIANT=sdk it only imports what an exporting program imports (for memory).
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import worker_process_init

VARIANT = os.environ.get("BENCH_VARIANT", "plain")

app = Celery("bench", broker=os.environ.get("BENCH_BROKER", "memory://"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(name="bench.noop")
def noop() -> None:
    """Nothing."""


def instrument(**_: Any) -> None:
    """In a pool child (and in a publisher): the official instrumentation with export."""
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))
    instrumentor: Any = CeleryInstrumentor
    instrumentor().instrument()


if VARIANT == "official":
    worker_process_init.connect(instrument, weak=False)
elif VARIANT == "sdk":
    import opentelemetry.exporter.otlp.proto.http.metric_exporter
    import opentelemetry.exporter.otlp.proto.http.trace_exporter
    import opentelemetry.sdk.metrics.export
    import opentelemetry.sdk.trace.export  # noqa: F401  # what is loaded is what is measured


if __name__ == "__main__":  # publish one message as this variant's own publisher would
    if VARIANT == "official":
        instrument()
    noop.apply_async()
