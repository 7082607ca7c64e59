"""Whose span is current, and what a message's headers may make of it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, TraceFlags

from taskwatt.export import context
from taskwatt.export.context import OWN, Sample, enter_attempt, enter_publish, env_sampler, traceparent
from taskwatt.export.span import RecordedSpan

TRACE, SPAN = "0123456789abcdef0123456789abcdef", "0123456789abcdef"
GOOD = f"00-{TRACE}-{SPAN}-01"


def _always(*_: object) -> bool:
    return True


always = Sample(_always)


def never(*_: object) -> bool:
    return False


def begun(headers: dict[str, Any], previous: str | None = None, sample: Any = always) -> context.Scope:
    scope = enter_attempt("shop.pay", headers, previous, 1, sample)
    scope.leave()
    return scope


def test_an_attempt_goes_on_in_the_trace_of_its_message() -> None:
    scope = begun({"traceparent": GOOD})
    assert (scope.context.trace_id, scope.parent.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert scope.context.span_id not in (0, scope.parent.span_id)


def test_without_headers_an_attempt_is_the_root_of_a_new_trace() -> None:
    first, second = begun({}), begun({})
    assert (first.parent.is_valid, first.context.is_valid, first.link.is_valid) == (False, True, False)
    assert first.context.trace_id != second.context.trace_id


MALFORMED = [
    "",
    "garbage",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE}--{SPAN[1:]}-01",
    f"00--{TRACE[1:]}-{SPAN}-01",
    f"00-{TRACE}-+{SPAN[1:]}-01",
    f"00-0x{TRACE[2:]}-{SPAN}-01",
    f"00-{TRACE[:16]}_{TRACE[17:]}-{SPAN}-01",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-0",
    f"00-{TRACE}-{SPAN}-011",
    f"00-{TRACE}-{SPAN}-zz",
    f" 00-{TRACE}-{SPAN}-01",
    f"00-{TRACE}-{chr(0x0661) * 16}-01",
    None,
    7,
    b"00-bytes",
    [GOOD],
]


@pytest.mark.parametrize("value", MALFORMED)
def test_a_malformed_header_begins_a_new_trace_and_fits_a_record(value: Any) -> None:
    scope = begun({"traceparent": value}, previous=value)
    assert (scope.parent.trace_id, scope.parent.span_id, scope.link.span_id) == (0, 0, 0)
    scope.context.trace_id.to_bytes(16, "big"), scope.context.span_id.to_bytes(8, "big")


@pytest.mark.parametrize("value", [GOOD, f"{GOOD}-of-a-later-version", f"01-{TRACE}-{SPAN}-03"])
def test_a_good_header_is_taken_also_of_a_later_version(value: str) -> None:
    assert begun({"traceparent": value}).parent.trace_id == int(TRACE, 16)


def test_the_attempt_before_is_a_link() -> None:
    scope = begun({}, previous=GOOD)
    assert (scope.link.trace_id, scope.link.span_id, scope.parent.is_valid) == (int(TRACE, 16), int(SPAN, 16), False)


def test_baggage_and_state_of_the_message_are_current_during_the_attempt() -> None:
    headers = {"traceparent": GOOD, "tracestate": "shop=1", "baggage": "customer=7", "retries": 3}
    scope = enter_attempt("shop.pay", headers, None, 1, always)
    seen = baggage.get_baggage("customer"), dict(trace.get_current_span().get_span_context().trace_state)
    scope.leave()
    assert seen == ("7", {"shop": "1"})
    assert baggage.get_baggage("customer") is None


def test_the_span_of_an_attempt_is_current_until_it_is_left() -> None:
    scope = enter_attempt("shop.pay", {"traceparent": GOOD}, None, 1, always)
    during = trace.get_current_span()
    scope.leave()
    scope.leave()
    assert (during, scope.mode, scope.recorded is during) == (scope.span, OWN, True)
    assert not trace.get_current_span().get_span_context().is_valid


def test_an_unsampled_attempt_records_nothing_and_says_so_downstream() -> None:
    scope = begun({"traceparent": GOOD}, sample=Sample(never))
    assert (scope.sampled, scope.recorded, isinstance(scope.span, RecordedSpan)) == (False, None, False)
    assert traceparent(scope.context).endswith("-00")


def test_a_publish_hands_its_context_to_the_consumer() -> None:
    headers: dict[str, Any] = {}
    scope = enter_publish("shop.pay", headers, 1, always, keep_parent=False)
    assert headers["traceparent"] == traceparent(scope.context)


def test_a_publish_within_an_attempt_is_its_child() -> None:
    attempt = enter_attempt("shop.pay", {}, None, 1, always)
    headers: dict[str, Any] = {"traceparent": GOOD}
    publish = enter_publish("shop.mail", headers, 1, always, keep_parent=False)
    attempt.leave()
    assert (publish.parent.trace_id, publish.parent.span_id) == (attempt.context.trace_id, attempt.context.span_id)
    assert headers["traceparent"] == traceparent(publish.context)


def test_a_retry_leaves_the_context_of_the_first_publish_in_the_message() -> None:
    headers: dict[str, Any] = {"traceparent": GOOD}
    enter_publish("shop.pay", headers, 1, always, keep_parent=True)
    assert headers == {"traceparent": GOOD}


def test_a_traceparent_comes_back_as_it_was_written() -> None:
    written = traceparent(SpanContext(int(TRACE, 16), int(SPAN, 16), False, TraceFlags(1)))
    assert (written, begun({"traceparent": written}).parent.span_id) == (GOOD, int(SPAN, 16))


PARENTS = {
    "none": SpanContext(0, 0, False),
    "sampled": SpanContext(1, 2, True, TraceFlags(1)),
    "not": SpanContext(1, 2, True, TraceFlags(0)),
}


@pytest.mark.parametrize(
    ("sampler", "argument", "decisions"),
    [
        (None, None, {"none": True, "sampled": True, "not": False}),
        ("parentbased_always_on", None, {"none": True, "sampled": True, "not": False}),
        ("always_on", None, {"none": True, "sampled": True, "not": True}),
        ("always_off", None, {"none": False, "sampled": False, "not": False}),
        ("parentbased_always_off", None, {"none": False, "sampled": True, "not": False}),
        ("traceidratio", "0", {"none": False, "sampled": False, "not": False}),
        ("parentbased_traceidratio", "1", {"none": True, "sampled": True, "not": False}),
    ],
)
def test_the_standard_sampler_variable_decides(
    monkeypatch: pytest.MonkeyPatch, sampler: str | None, argument: str | None, decisions: dict[str, bool]
) -> None:
    for name, value in (("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    sample = env_sampler()
    found = {
        name: sample(parent, 7, "run/x", trace.set_span_in_context(trace.NonRecordingSpan(parent), Context()))
        for name, parent in PARENTS.items()
    }
    assert found == decisions


MODES = """
from opentelemetry import trace
from taskwatt.export.context import mode
seen = [mode()]
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.instrumentation.celery import CeleryInstrumentor
trace.set_tracer_provider(TracerProvider())
seen.append(mode())
CeleryInstrumentor().instrument()
seen.append(mode())
CeleryInstrumentor().uninstrument()
seen.append(mode())
print(seen)
"""


def test_the_mode_follows_what_the_user_installs_at_any_time() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", MODES], capture_output=True, text=True, check=True)
    assert done.stdout == "[1, 2, 3, 2]\n"
