"""The usual attempt's span context is made of bytes; it must say what the objects it saves would have said."""

from __future__ import annotations

import random
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from taskwatt.export import exporters
from taskwatt.export.context import NO_IDS, Sample, Scope, enter_attempt, env_sampler, follow_parent
from taskwatt.export.span import RecordedSpan, UnsampledSpan

NO_PARENT = SpanContext(0, 0, False)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def entered(previous: str | None = None, **headers: str) -> Scope:
    return enter_attempt("a", headers, previous, 0, Sample(None, light=follow_parent))


def test_the_span_continues_the_trace_of_its_message_and_is_current_until_left() -> None:
    scope = entered(traceparent=f"00-{TRACE}-{PARENT}-01")
    try:
        context = trace.get_current_span().get_span_context()
        assert (f"{context.trace_id:032x}", context.is_valid, context.trace_flags) == (TRACE, True, 1)
        assert scope.context == context
        assert (scope.context_ids[0].hex(), scope.context_ids[1].hex()) == (TRACE, f"{context.span_id:016x}")
        assert (scope.parent_id.hex(), scope.sampled) == (PARENT, True)
        assert isinstance(scope.span, RecordedSpan)
    finally:
        scope.leave()
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_parent_that_is_not_sampled_is_followed() -> None:
    scope = entered(traceparent=f"00-{TRACE}-{PARENT}-00")
    try:
        context = trace.get_current_span().get_span_context()
        assert (f"{context.trace_id:032x}", context.trace_flags, scope.sampled) == (TRACE, 0, False)
        assert not trace.get_current_span().is_recording()
    finally:
        scope.leave()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-2]}  -{PARENT}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
    ],
)
def test_a_malformed_header_begins_a_trace_of_its_own(header: str) -> None:
    scope = entered(header, traceparent=header)
    scope.leave()
    assert scope.context_ids[0] not in (bytes.fromhex(TRACE), NO_IDS[0])
    assert (scope.parent_id, scope.link_ids, scope.sampled) == (NO_IDS[1], NO_IDS, True)


def test_the_attempt_before_is_linked() -> None:
    scope = entered(f"00-{TRACE}-{PARENT}-01")
    scope.leave()
    assert (scope.link_ids[0].hex(), scope.link_ids[1].hex()) == (TRACE, PARENT)


@pytest.mark.parametrize(
    ("sampler", "argument"),
    [
        ("always_on", ""),
        ("always_off", ""),
        ("traceidratio", "0.3"),
        ("parentbased_always_on", ""),
        ("parentbased_always_off", ""),
        ("parentbased_traceidratio", "0.3"),
        ("parentbased_traceidratio", "1"),
    ],
)
def test_the_standard_samplers_decide_without_the_sdk_as_they_do_with_it(
    monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    light, sdk = env_sampler().light, TracerProvider(shutdown_on_exit=False).sampler
    assert light is not None
    dice = random.Random(sampler)
    for flags in (None, 0, 1):
        for trace_id in [dice.getrandbits(128) for _ in range(50)]:
            parent = SpanContext(trace_id, 1, True, TraceFlags(flags or 0)) if flags is not None else NO_PARENT
            context = trace.set_span_in_context(NonRecordingSpan(parent), Context())
            decided = sdk.should_sample(context, trace_id, "run/a").decision is Decision.RECORD_AND_SAMPLE
            assert light(flags, trace_id.to_bytes(16, "big")) == decided


def test_a_sampler_of_the_user_s_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Sampler):
        def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
            return SamplingResult(Decision.DROP)

        def get_description(self) -> str:
            return "AlwaysOnSampler"

    monkeypatch.setattr("opentelemetry.sdk.trace.sampling._get_from_env_or_default", Mine)
    sample = env_sampler()
    assert (sample.light, sample(NO_PARENT, 1, "run/a", Context())) == (None, False)


def test_a_span_that_is_not_sampled_carries_its_ids_and_records_nothing() -> None:
    span = UnsampledSpan((bytes.fromhex(TRACE), bytes.fromhex(PARENT)))
    span.set_attribute("a", 1)
    context = span.get_span_context()
    assert (f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags) == (TRACE, PARENT, 0)
    assert (span.is_recording(), TRACE in repr(span)) == (False, True)


def test_a_resource_hashed_once_equals_and_hashes_as_the_sdk_s_own() -> None:
    ours = exporters.resource({"service.name": "a"})
    theirs = Resource(ours.attributes, ours.schema_url)
    assert ours == theirs
    assert theirs == ours
    assert hash(ours) == hash(theirs)
