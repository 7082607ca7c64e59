"""The application of `tasks`, with OpenTelemetry as its owner set it up.

TEST_TRACING names how, a comma between several:

- `import`, `worker_init`, `worker_ready`, `worker_process_init`: the user's provider is set there;
- `official`: opentelemetry-instrumentation-celery is switched on in each pool process;
- `official_main`: the same in the main process, before it forks;
- `logging`: opentelemetry-instrumentation-logging in each pool process.

TEST_RECEIVER is where the user's own exporters send.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from typing import Any

from celery import Task, signals
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from tests.support.tasks import app, burn_for

TRACING = os.environ.get("TEST_TRACING", "").split(",")
RECEIVER = os.environ.get("TEST_RECEIVER", "")
ELSEWHERE = trace.SpanContext(0xABC, 0xDEF, True, trace.TraceFlags(trace.TraceFlags.SAMPLED))

app.conf.update(result_backend=os.environ.get("TEST_RESULTS"))
log = logging.getLogger("users.module")


def users_provider() -> TracerProvider:
    """What a user would write: a resource, a processor, an exporter."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "users"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{RECEIVER}/v1/traces")))
    return provider


def set_provider(**_: Any) -> None:
    trace.set_tracer_provider(users_provider())


def instrument_celery(**_: Any) -> None:
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    instrumentor: Any = CeleryInstrumentor  # not typed
    instrumentor().instrument()


def instrument_logging(**_: Any) -> None:
    from opentelemetry._logs import set_logger_provider
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.instrumentation.logging import LoggingInstrumentor
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

    provider = LoggerProvider(resource=Resource({"service.name": "users"}))
    provider.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(f"{RECEIVER}/v1/logs")))
    set_logger_provider(provider)
    LoggingInstrumentor().instrument(inject_trace_context=True)


if "import" in TRACING:
    set_provider()
if "worker_init" in TRACING:
    signals.worker_init.connect(set_provider, weak=False)
if "worker_ready" in TRACING:
    signals.worker_ready.connect(set_provider, weak=False)
if "worker_process_init" in TRACING:
    signals.worker_process_init.connect(set_provider, weak=False)
if "official_main" in TRACING:
    signals.worker_init.connect(instrument_celery, weak=False)
if "official" in TRACING:
    signals.worker_process_init.connect(instrument_celery, weak=False)
if "logging" in TRACING:
    signals.worker_process_init.connect(instrument_logging, weak=False)


class Expected(Exception):
    """Named in `throws`."""


class Wordless(Exception):
    """Fails when it is printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@functools.cache
def library() -> trace.Tracer:
    """The tracer of another instrumentation, with a provider that is nobody's default."""
    return users_provider().get_tracer("users.library")


@app.task(name="tests.expected", throws=(Expected,))
def expected() -> None:
    raise Expected("part of the day's work")


@app.task(name="tests.exhausted", bind=True, max_retries=0)
def exhausted(self: Any, *_: Any, **__: Any) -> None:
    """Celery's own exception says with which arguments the task was called."""
    raise self.retry(countdown=0)


@app.task(name="tests.fail_without_words")
def fail_without_words() -> None:
    raise Wordless


@app.task(name="tests.annotate")
def annotate() -> None:
    """Says everything that a span can be told."""
    span = trace.get_current_span()
    span.update_name("renamed by its user")
    span.set_attribute("users.number", 7)
    span.set_attributes({"users.list": ["a", "b"], "users.text": "yes"})
    span.add_event("users.event", {"users.detail": 1.5})
    span.record_exception(KeyError("users.key"))
    span.add_link(ELSEWHERE)
    span.set_status(trace.Status(trace.StatusCode.ERROR, "the user says so"))


@app.task(name="tests.nest")
def nest() -> None:
    """A span of another instrumentation, with a log line and a publish within."""
    with library().start_as_current_span("inner"):
        log.warning("said inside")
        app.send_task("tests.noop")
    log.warning("said after")


@app.task(name="tests.go_between")
def go_between() -> None:
    """Left out of spans in some tests: what it starts hangs below whatever it hangs below."""
    with library().start_as_current_span("between"):
        app.send_task("tests.burn", (0.001,))


@app.task(name="tests.provider_set_late")
def provider_set_late() -> None:
    set_provider()
    with trace.get_tracer("users.module").start_as_current_span("late"):
        pass


@app.task(name="tests.which_provider")
def which_provider() -> None:
    trace.get_current_span().set_attribute("users.provider", type(trace.get_tracer_provider()).__name__)


@app.task(name="tests.echo", ignore_result=False)
def echo(*args: Any, **kwargs: Any) -> Any:
    burn_for(0.001)
    return [args, kwargs]


@app.task(name="tests.add", ignore_result=False)
def add(*terms: int) -> int:
    return sum(terms)


@app.task(name="tests.wait_and_add", ignore_result=False)
def wait_and_add(seconds: float, *terms: int) -> int:
    time.sleep(seconds)
    return sum(terms) or 1


@app.task(name="tests.wait_for_file")
def wait_for_file(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.05)


@app.task(name="tests.total", ignore_result=False)
def total(terms: list[int]) -> int:
    return sum(terms)


@app.task(name="tests.replaced", bind=True, ignore_result=False)
def replaced(self: Task[..., Any], term: int) -> Any:
    return self.replace(add.s(term, 1))


__all__ = ["app"]
