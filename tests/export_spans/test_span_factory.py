"""From records to the spans that a receiver gets, through the real OTLP encoder."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from taskwatt.export.attributes import finish_span
from taskwatt.export.spans import SpanFactory
from taskwatt.observations import CodeSite, Cpu, Publish
from tests.support.segments import START_NS
from tests.windows.test_ledger import attempt

IDS: dict[str, Any] = {"trace_id": b"t" * 16, "span_id": b"s" * 8, "start_ns": START_NS}


@pytest.fixture
def factory() -> SpanFactory:
    return SpanFactory(
        Resource({"service.name": "shop"}),
        excluded=lambda task: task == "quiet",
        incident_of={"shop.pay": "inc-1"}.get,
        code_of={"shop.pay": CodeSite("shop.pay", "sign", "shop/pay.py", 7, 0.9, 30)}.get,
    )


def made(factory: SpanFactory, data: Any = None, **changed: Any) -> ReadableSpan:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode() if data is not None else b""
    span = factory.span(attempt(**(IDS | changed), user_data=raw))
    encode_spans([span])
    return span


def test_an_attempt_becomes_a_consumer_span_of_the_public_contract(factory: SpanFactory) -> None:
    span = made(
        factory,
        task_id="id-1",
        outcome="retried",
        state="RETRY",
        retries=3,
        redelivered=True,
        queue_wait_s=-0.5,
        cpu=Cpu(1.0, 0.5),
        body_size=100,
        max_rss=200,
        parent_span_id=b"p" * 8,
        link_trace_id=b"l" * 16,
        link_span_id=b"k" * 8,
    )
    assert (span.name, span.kind, span.status.status_code) == ("run/shop.pay", SpanKind.CONSUMER, StatusCode.UNSET)
    assert (span.start_time, span.end_time) == (START_NS, START_NS + 500_000_000)
    assert span.context is not None
    assert span.parent is not None
    assert (span.context.trace_id, span.context.span_id) == (int.from_bytes(b"t" * 16), int.from_bytes(b"s" * 8))
    assert (span.parent.trace_id, span.parent.span_id) == (int.from_bytes(b"t" * 16), int.from_bytes(b"p" * 8))
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [
        (int.from_bytes(b"l" * 16), int.from_bytes(b"k" * 8))
    ]
    assert dict(span.attributes or {}) == {
        "celery.task_name": "shop.pay",
        "code.file.path": "shop/pay.py",
        "code.function.name": "sign",
        "code.line.number": 7,
        "celery.state": "RETRY",
        "messaging.message.id": "id-1",
        "messaging.destination.name": "celery",
        "messaging.message.body.size": 100,
        "taskwatt.task.attempt": 4,
        "taskwatt.task.outcome": "retried",
        "taskwatt.cpu.time": 1.5,
        "taskwatt.cpu.time_bucket": "1s-10s",
        "taskwatt.cpu.serialization_time": 0.5,
        "taskwatt.task.redelivered": True,
        "taskwatt.queue.wait": -0.5,
        "taskwatt.queue.wait_bucket": "<1ms",
        "taskwatt.memory.max_rss": 200,
        "taskwatt.incident.id": "inc-1",
    }


def test_a_root_without_a_former_attempt_has_neither_parent_nor_link(factory: SpanFactory) -> None:
    span = made(factory)
    assert (span.parent, span.links, "taskwatt.queue.wait" in (span.attributes or {})) == (None, (), False)


def test_a_publish_becomes_a_producer_span(factory: SpanFactory) -> None:
    publish = Publish("shop.pay", "id-1", "q", START_NS, 0.25, "", 0, False, b"t" * 16, b"s" * 8, b"p" * 8, True, False)
    span = factory.span(publish)
    encode_spans([span])
    assert (span.name, span.kind, span.end_time) == ("apply_async/shop.pay", SpanKind.PRODUCER, START_NS + 250_000_000)
    assert dict(span.attributes or {}) == {
        "celery.task_name": "shop.pay",
        "messaging.message.id": "id-1",
        "messaging.destination.name": "q",
    }


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [({}, True), ({"sampled": False}, False), ({"exported": True}, False), ({"task": "quiet"}, False)],
)
def test_spans_of_others_unsampled_and_excluded_ones_are_not_wanted(
    factory: SpanFactory, changed: dict[str, Any], wanted: bool
) -> None:
    assert factory.wanted(attempt(**changed)) is wanted


def test_what_cannot_be_decoded_is_not_wanted(factory: SpanFactory) -> None:
    assert not factory.wanted(None)


@pytest.mark.parametrize(
    ("outcome", "state", "data", "status"),
    [
        ("useful", "SUCCESS", None, (StatusCode.UNSET, None)),
        ("polling", "RETRY", None, (StatusCode.UNSET, None)),
        ("failed", "FAILURE", None, (StatusCode.ERROR, "failed")),
        ("failed", "REJECTED", None, (StatusCode.ERROR, "rejected")),
        ("cancelled", "REVOKED", None, (StatusCode.ERROR, "revoked")),
        ("failed", "FAILURE", {"exception": ["KeyError", "'card'"]}, (StatusCode.ERROR, "'card'")),
        ("failed", "FAILURE", {"status": [1, None]}, (StatusCode.OK, None)),
        ("useful", "SUCCESS", {"status": [2, "declined"]}, (StatusCode.ERROR, "declined")),
    ],
)
def test_the_status_is_the_user_s_or_that_of_the_outcome(
    factory: SpanFactory, outcome: str, state: str, data: Any, status: tuple[StatusCode, str | None]
) -> None:
    span = made(factory, data, outcome=outcome, state=state)
    assert (span.status.status_code, span.status.description) == status


def test_what_user_code_set_arrives_and_does_not_replace_what_was_measured(factory: SpanFactory) -> None:
    data = {
        "name": "renamed",
        "attributes": {"order": 7, "taskwatt.cpu.time": 99.0},
        "events": [["asked", START_NS + 1, {"n": 1}]],
        "links": [["0" * 31 + "3", "0" * 15 + "4", {"why": "x"}]],
        "exception": ["KeyError", "'card'"],
    }
    span = made(factory, data, outcome="failed", state="FAILURE")
    attributes = span.attributes or {}
    assert (span.name, attributes["order"], attributes["taskwatt.cpu.time"]) == ("renamed", 7, 0.25)
    assert [(one.name, dict(one.attributes or {})) for one in span.events] == [
        ("asked", {"n": 1}),
        ("exception", {"exception.type": "KeyError", "exception.message": "'card'"}),
    ]
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [(3, 4)]


def test_an_exception_that_the_user_recorded_is_not_told_twice(factory: SpanFactory) -> None:
    data = {"events": [["exception", START_NS, {}]], "exception": ["KeyError", "'card'"]}
    assert len(made(factory, data, outcome="failed").events) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"garbage",
        b"\xff\xff",
        [1],
        {"attributes": [1]},
        {"links": [["zz", "yy", {}]]},
        {"links": [1]},
        {"events": {"a": 1}},
        {"status": [99, "x"]},
        {"status": 1},
        {"exception": [1]},
    ],
)
def test_a_span_whose_user_data_is_damaged_goes_without_them(factory: SpanFactory, data: Any) -> None:
    span = made(factory, data, outcome="failed", state="FAILURE")
    assert (span.name, (span.attributes or {})["celery.task_name"]) == ("run/shop.pay", "shop.pay")


@pytest.mark.parametrize(
    "data",
    [
        {"exception": ["OSError", "No such file: '/srv/\udcff'"]},
        {"name": "\ud800"},
        {"status": [2, "\udcff"]},
        {"events": [["\udcff", 1, {"a": "\udcff"}]]},
        {"attributes": {"\udcff": "\udcff"}},
    ],
)
def test_text_that_utf8_cannot_carry_stops_no_export(factory: SpanFactory, data: dict[str, Any]) -> None:
    made(factory, data, outcome="failed", state="FAILURE")


def test_emoji_survive_beside_text_that_cannot_be_carried(factory: SpanFactory) -> None:
    assert made(factory, {"name": "🙂\udcff"}).name == "🙂?"


def test_a_span_of_the_user_s_provider_is_ended_with_what_is_told_of_the_error() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    finish_span(provider.get_tracer("t").start_span("run/shop.pay"), {"order": 7}, None)
    finish_span(provider.get_tracer("t").start_span("run/shop.pay"), {"order": 8}, ("ValueError", "no", "Traceback"))
    fine, failed = exporter.get_finished_spans()
    assert (dict(fine.attributes or {}), fine.status.status_code, fine.events) == ({"order": 7}, StatusCode.UNSET, ())
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "no")
    assert [dict(event.attributes or {}) for event in failed.events] == [
        {"exception.type": "ValueError", "exception.message": "no", "exception.stacktrace": "Traceback"}
    ]


def test_an_attempt_that_burned_little_carries_no_line(factory: SpanFactory) -> None:
    assert "code.function.name" not in (made(factory, cpu=Cpu(0.09)).attributes or {})
