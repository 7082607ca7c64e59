"""The web half of the end-to-end tests: a FastAPI service that hands work to a worker, and blocks its loop if asked.

Its spans are those of OpenTelemetry's own instrumentation, through a provider of the application's, as in many a
service; taskwatt adds to them.
"""

from __future__ import annotations

import asyncio
import os
import time

from celery import Celery
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.support.tasks import burn_for

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=200))
trace.set_tracer_provider(provider)

app = FastAPI()
FastAPIInstrumentor.instrument_app(app)
celery = Celery(broker=os.environ["TEST_BROKER"])

ROUTE_CPU_S = 0.03


@app.get("/orders/{order_id}")
async def order(order_id: int) -> dict[str, int]:
    burn_for(ROUTE_CPU_S)
    await asyncio.to_thread(celery.send_task, "tests.ship", (order_id,))
    return {"order": order_id}


@app.get("/report")
async def report() -> dict[str, str]:
    """Blocks the loop."""
    time.sleep(0.15)  # noqa: ASYNC251  # that is the bug
    return {"report": "done"}


@app.get("/fine")
async def fine() -> dict[str, str]:
    """The same wait, where it blocks nobody."""
    await asyncio.to_thread(time.sleep, 0.15)
    return {"report": "done"}
