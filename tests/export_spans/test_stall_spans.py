"""A stall becomes a span of its own, through the real OTLP encoder, the pipeline, and a provider of the user's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from taskwatt.export.spans import SpanFactory
from taskwatt.journal import Journal
from taskwatt.observations import Stall
from taskwatt.segments import SegmentReader
from taskwatt.segments.stall_records import put_stall
from tests.support.pipeline import Idle, pipeline_of
from tests.support.processes import wait_for
from tests.support.receiver import Receiver
from tests.support.segments import START_NS, child
from tests.support.stalls import STALL

ATTRIBUTES = {
    "taskwatt.task.name": "shop.pay",
    "taskwatt.process.class": "web",
    "taskwatt.stall.cause": "gil",
    "taskwatt.stall.duration": 0.5,
    "taskwatt.stall.duration_bucket": "100ms-1s",
    "taskwatt.stall.run_delay": 0.25,
    "taskwatt.stall.others_cpu": 0.375,
    "taskwatt.cpu.time": 0.125,
    "taskwatt.cpu.time_bucket": "100ms-1s",
    "thread.name": "MainThread",
    "code.function.name": "sign",
    "code.file.path": "/shop/pay.py",
    "code.line.number": 7,
    "code.stacktrace": STALL.stack,
}


def made(stall: Stall) -> ReadableSpan:
    factory = SpanFactory(
        Resource({}),
        excluded=lambda task: task == "quiet",
        incident_of={"shop.slow": "inc-1"}.get,
        code_of=lambda _: None,
        keep=lambda _, in_incident: in_incident,
    )
    assert factory.wanted(stall) is ("quiet" not in (stall.task, stall.row))
    span = factory.span(stall)
    encode_spans([span])
    return span


def test_a_stall_is_a_root_linked_to_the_span_that_was_active() -> None:
    span = made(STALL)
    assert span.context is not None
    assert (span.name, span.kind, span.parent) == ("asyncio.stall", SpanKind.INTERNAL, None)
    assert (span.start_time, span.end_time) == (START_NS, START_NS + 500_000_000)
    assert span.context.trace_id.to_bytes(16, "big") == STALL.trace_id
    assert [link.context.span_id.to_bytes(8, "big") for link in span.links] == [STALL.link_span_id]
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == ATTRIBUTES


def test_what_is_not_known_is_left_out() -> None:
    span = made(
        STALL._replace(
            code=None,
            stack="",
            run_delay_s=math.nan,
            others_cpu_s=math.nan,
            link_trace_id=bytes(16),
            link_span_id=bytes(8),
        )
    )
    unknown = {"code.stacktrace", "taskwatt.stall.run_delay", "taskwatt.stall.others_cpu"}
    unknown |= {key for key in ATTRIBUTES if key.startswith("code.")}
    assert dict(span.attributes or {}) == {key: value for key, value in ATTRIBUTES.items() if key not in unknown}
    assert span.links == ()


def test_an_open_incident_marks_the_stalls_of_its_type() -> None:
    marks = {"taskwatt.incident.id": "inc-1", "taskwatt.keep": True, "taskwatt.task.name": "shop.slow"}
    assert dict(made(STALL._replace(task="shop.slow")).attributes or {}) == ATTRIBUTES | marks


def test_a_stall_in_a_row_is_the_row_s() -> None:
    marks = {"taskwatt.incident.id": "inc-1", "taskwatt.keep": True, "taskwatt.task.name": "shop.slow"}
    assert dict(made(STALL._replace(row="shop.slow")).attributes or {}) == ATTRIBUTES | marks


def test_types_and_rows_that_are_excluded_get_no_span() -> None:
    made(STALL._replace(task="quiet"))
    made(STALL._replace(row="quiet"))
    made(STALL._replace(task="quiet", row="GET /"))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """With one stall, as a segment and a drainer bring it there."""
    segment = child(tmp_path / "1-1.seg")
    put_stall(segment, STALL)
    journal = Journal(tmp_path)
    journal.append(SegmentReader(segment.path, segment.descriptor).drain())
    segment.close()
    yield journal
    journal.close()


def run(journal: Journal, tmp_path: Path) -> None:
    pipeline = pipeline_of(Idle(), journal, tmp_path)
    pipeline.start()
    wait_for(lambda: journal.waiting == 0, what="an empty journal")
    pipeline.stop()


def test_a_receiver_gets_it(
    tmp_path: Path, receiver: Receiver, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    run(journal, tmp_path)
    (span,) = receiver.named("asyncio.stall")
    assert span.attributes == ATTRIBUTES | {"taskwatt.keep": True}
    assert span.links == ((STALL.link_trace_id.hex(), STALL.link_span_id.hex()),)


def test_the_provider_of_the_user_gets_it(tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    run(journal, tmp_path)
    (span,) = kept.get_finished_spans()
    assert span.context is not None
    assert (span.name, span.context.span_id.to_bytes(8, "big")) == ("asyncio.stall", STALL.span_id)
    assert dict(span.attributes or {}) == ATTRIBUTES | {"taskwatt.keep": True}
    provider.shutdown()
