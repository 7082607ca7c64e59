"""What workers of the end-to-end tests run: the tasks of the other tests, a request that goes on, 500 task types."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any

from celery.signals import after_setup_logger, worker_process_init
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.support.tasks import app, burn_for

TYPES = 500


@after_setup_logger.connect(weak=False)
def say_less(**_: object) -> None:
    """No two lines for each attempt: the CPU that they take is wanted for more attempts."""
    for name in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(name).setLevel(logging.WARNING)


@worker_process_init.connect(weak=False)
def provide(**_: object) -> None:
    """Where a test asks for it, each pool process has a tracer provider of the user's."""
    if "SHOP_PROVIDER" in os.environ:
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=200))
        trace.set_tracer_provider(provider)


@app.task(name="tests.charge", bind=True, max_retries=None)
def charge(self: Any, until: float, burn_s: float = 0.002) -> None:
    """The provider is down until then, and each attempt is followed by the next one at once."""
    burn_for(burn_s)
    if time.time() < until:
        raise self.retry(countdown=0)


@app.task(name="tests.order")
def order() -> None:
    """One request that goes on in two more tasks."""
    burn_for(0.02)
    app.send_task("tests.pack")
    app.send_task("tests.bill")


@app.task(name="tests.pack")
def pack() -> None:
    burn_for(0.03)


@app.task(name="tests.bill", bind=True, max_retries=3)
def bill(self: Any) -> None:
    """Is refused twice before it goes through."""
    burn_for(0.01)
    if self.request.retries < 2:
        raise self.retry(countdown=0.2)


@app.task(name="tests.ship")
def ship(order_id: int) -> None:
    """Part of its work is an event loop's, with a span of its own, through the provider of the pool process."""
    burn_for(0.02)
    asyncio.run(_label(order_id))


async def _label(order_id: int) -> None:
    tracer = trace.get_tracer("shop")

    async def printed() -> None:
        with tracer.start_as_current_span("print label", attributes={"order": order_id}):
            burn_for(0.02)
            await asyncio.sleep(0.01)
            burn_for(0.02)

    await asyncio.create_task(printed())


@app.task(name="tests.talk")
def talk() -> None:
    """Tells its span more than there is room for when many do so at a time."""
    trace.get_current_span().set_attributes({f"users.{number}": "word" * 50 for number in range(30)})


def _a_type(number: int) -> None:
    @app.task(name=f"tests.type_{number:03d}")
    def run(*_: object) -> None:
        """Nothing."""


for _number in range(TYPES):
    _a_type(_number)

__all__ = ["app"]
