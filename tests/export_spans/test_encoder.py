"""Spans that go straight to OTLP are those that the SDK would have made; nobody else's exporter is touched."""

from __future__ import annotations

import random
import uuid
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter

from taskwatt.export.encoder import MAX_KINDS, Encoder
from taskwatt.export.spans import HOT_ATTEMPT_S, SpanFactory
from taskwatt.observations import Attempt, CodeSite, Cpu
from tests.support.receiver import Receiver
from tests.support.segments import START_NS
from tests.windows.test_ledger import attempt

USUAL: dict[str, Any] = {"trace_id": b"t" * 16, "span_id": b"s" * 8, "start_ns": START_NS, "cpu": Cpu(0.001)}
ENDS = [
    ("useful", "SUCCESS"),
    ("retried", "RETRY"),
    ("failed", "FAILURE"),
    ("cancelled", "REVOKED"),
    ("none", "IGNORED"),
]


@pytest.fixture
def factory() -> SpanFactory:
    return SpanFactory(
        Resource({"service.name": "shop"}),
        excluded=lambda _: False,
        incident_of={"shop.storm": "inc-1"}.get,
        code_of={"shop.pay": CodeSite("shop.pay", "sign", "shop/pay.py", 7, 0.9, 30)}.get,
    )


def any_attempt(rng: random.Random) -> Attempt:
    """Ids, times and figures of all sizes; everything that may be missing is, now and then."""
    outcome, state = rng.choice(ENDS)
    linked = rng.random() < 0.5
    return attempt(
        rng.choice(["shop.pay", "shop.storm", "grüße"]),
        cpu=Cpu(*(rng.random() / 100 for _ in range(6))),
        outcome=outcome,
        state=state,
        task_id=rng.choice([str(uuid.UUID(int=rng.getrandbits(128))), "", "ünique"]),
        queue=rng.choice(["celery", ""]),
        queue_wait_s=rng.choice([None, 0.0, -0.25, rng.random()]),
        start_ns=rng.getrandbits(61),
        duration_s=rng.choice([0.0, rng.random(), 1e6]),
        retries=rng.choice([0, 1, 2**32 - 1]),
        redelivered=rng.random() < 0.5,
        expected=rng.random() < 0.5,
        max_rss=rng.choice([0, rng.getrandbits(40)]),
        body_size=rng.choice([0, 2**63 - 1, rng.getrandbits(20)]),
        trace_id=rng.randbytes(16),
        span_id=rng.randbytes(8),
        parent_span_id=rng.choice([bytes(8), rng.randbytes(8)]),
        link_trace_id=rng.randbytes(16) if linked else bytes(16),
        link_span_id=rng.randbytes(8) if linked else bytes(8),
    )


def test_a_span_from_a_template_is_the_one_the_sdk_would_have_encoded(factory: SpanFactory) -> None:
    encoder, rng = Encoder(factory), random.Random(11)
    attempts = [any_attempt(rng) for _ in range(3000)]
    told = [encoder.span(one) for one in attempts]
    for one, span in zip(attempts, told, strict=True):
        assert encoder.request([span]) == encode_spans([factory.span(one)])
    assert sum(isinstance(span, Span) for span in told) > 300


def test_one_request_holds_spans_of_either_making(factory: SpanFactory) -> None:
    encoder = Encoder(factory)
    told = [encoder.span(attempt(**USUAL | {"span_id": bytes([n]) * 8})) for n in range(1, 6)]
    sent = encoder.request([*told, encoder.span(attempt(**USUAL, user_data=b'{"name": "custom"}'))])
    spans = [span for resource in sent.resource_spans for scope in resource.scope_spans for span in scope.spans]
    assert sorted((span.span_id, span.name) for span in spans) == [
        *((bytes([n]) * 8, "run/shop.pay") for n in range(1, 6)),
        (b"s" * 8, "custom"),
    ]
    assert {one.resource.SerializeToString() for one in sent.resource_spans} == {
        sent.resource_spans[0].resource.SerializeToString()
    }


@pytest.mark.parametrize("unusual", [{"user_data": b'{"attributes": {"a": 1}}'}, {"cpu": Cpu(HOT_ATTEMPT_S)}])
def test_an_unusual_attempt_is_told_by_the_sdk(factory: SpanFactory, unusual: dict[str, Any]) -> None:
    encoder = Encoder(factory)
    for _ in range(2):
        encoder.span(attempt(**USUAL))
    assert isinstance(encoder.span(attempt(**USUAL)), Span)
    assert isinstance(encoder.span(attempt(**USUAL | unusual)), ReadableSpan)


def test_templates_are_bounded(factory: SpanFactory) -> None:
    encoder = Encoder(factory)
    for number in range(2 * MAX_KINDS):
        encoder.span(attempt(f"task {number}"))
    assert len(encoder._templates) <= MAX_KINDS  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("kind", [HttpExporter, GrpcExporter])
def test_opentelemetrys_own_exporters_let_us_encode(factory: SpanFactory, kind: type[SpanExporter]) -> None:
    """Fails with a release of theirs that encodes otherwise: spans then go through the SDK, at twice the price."""
    ours, others = kind(), kind()
    assert Encoder(factory).used_by(ours)
    assert [name for name in ("export", "_translate_data") if name in vars(others)] == []
    for one in (ours, others):
        one.shutdown()


def test_an_exporter_that_is_none_of_theirs_stays_as_it_is(factory: SpanFactory) -> None:
    class Wrapped(HttpExporter):
        def export(self, spans: Any) -> Any:
            return super().export(spans)

    exporters: list[SpanExporter] = [ConsoleSpanExporter(), Wrapped()]
    assert [Encoder(factory).used_by(one) for one in exporters] == [False, False]
    assert [list(vars(one).keys() & {"export", "_translate_data"}) for one in exporters] == [[], []]
    for one in exporters:
        one.shutdown()


def test_what_an_exporter_sends_is_what_was_encoded(factory: SpanFactory, receiver: Receiver) -> None:
    encoder, exporter = Encoder(factory), HttpExporter(f"{receiver.endpoint}/v1/traces")
    assert encoder.used_by(exporter)
    told: list[Any] = [encoder.span(attempt(**USUAL | {"span_id": bytes([n]) * 8})) for n in range(1, 24)]
    exporter.export(told)
    exporter.shutdown()  # type: ignore[no-untyped-call]
    assert len({span.span_id for span in receiver.spans}) == 23
