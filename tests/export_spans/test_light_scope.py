"""The usual attempt's span context is made of bytes; it must say what the objects it saves would have said."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource

from taskwatt.export import exporters
from taskwatt.export.context import NO_IDS, Sample, Scope, enter_attempt, follow_parent
from taskwatt.export.span import RecordedSpan

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def entered(previous: str | None = None, **headers: str) -> Scope:
    return enter_attempt("a", headers, previous, 0, Sample(follow_parent))


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


def test_a_resource_hashed_once_equals_and_hashes_as_the_sdk_s_own() -> None:
    ours = exporters.resource({"service.name": "a"})
    theirs = Resource(ours.attributes, ours.schema_url)
    assert ours == theirs
    assert theirs == ours
    assert hash(ours) == hash(theirs)
