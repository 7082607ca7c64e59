"""The span that user code meets during an attempt keeps what is set on it, in any shape, and never raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from taskwatt.export.span import RecordedSpan

CONTEXT = SpanContext(1, 2, False, TraceFlags(1))
LIMIT = 7_000


@pytest.fixture
def span() -> RecordedSpan:
    return RecordedSpan(CONTEXT)


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no words")


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def kept(span: RecordedSpan, limit: int = LIMIT) -> dict[str, Any]:
    """As it arrives on the other side."""
    found = json.loads(json.dumps(span.user_data(limit)))
    assert isinstance(found, dict)
    return found


def test_a_span_that_nobody_touched_has_nothing_to_say(span: RecordedSpan) -> None:
    assert (kept(span), span.is_recording(), span.get_span_context()) == ({}, True, CONTEXT)


def test_everything_that_was_set_is_kept(span: RecordedSpan) -> None:
    span.set_attribute("order", 7)
    span.set_attributes({"paid": True, "total": 1.5, "tags": ("a", "b"), "raw": b"\xffx"})
    span.add_event("asked", {"n": 1}, 1_764_000_000_000_000_000)
    span.add_link(SpanContext(3, 4, True, TraceFlags(1)), {"why": "x"})
    span.add_link(SpanContext(0, 0, True))
    span.update_name("renamed")
    span.set_status(StatusCode.ERROR, "declined")
    span.end()
    assert kept(span) == {
        "name": "renamed",
        "status": [2, "declined"],
        "links": [["00000000000000000000000000000003", "0000000000000004", {"why": "x"}]],
        "attributes": {"order": 7, "paid": True, "total": 1.5, "tags": ["a", "b"], "raw": "\ufffdx"},
        "events": [["asked", 1_764_000_000_000_000_000, {"n": 1}]],
    }


@pytest.mark.parametrize(
    ("set_to", "status"),
    [
        ([StatusCode.ERROR, StatusCode.UNSET], [2, None]),
        ([StatusCode.OK, StatusCode.ERROR], [1, None]),
        ([Status(StatusCode.ERROR, "x"), Status(StatusCode.OK)], [1, None]),
        ([StatusCode.UNSET], None),
    ],
)
def test_a_status_is_final_when_it_is_ok_and_unset_says_nothing(
    span: RecordedSpan, set_to: list[Status | StatusCode], status: list[Any] | None
) -> None:
    for one in set_to:
        span.set_status(one)
    assert kept(span).get("status") == status


def test_an_exception_is_kept_as_the_event_of_that_name(span: RecordedSpan) -> None:
    try:
        raise KeyError("card")
    except KeyError as error:
        span.record_exception(error, {"attempt": 2})
    ((name, _, attributes),) = kept(span)["events"]
    assert (name, attributes["exception.type"], attributes["exception.message"]) == ("exception", "KeyError", "'card'")
    assert (attributes["attempt"], attributes["exception.stacktrace"][-16:]) == (2, "KeyError: 'card'\n"[-16:])


VALUES: dict[str, Any] = {
    "surrogate": "\udcff",
    "unspeakable": Unspeakable(),
    "large": 2**70,
    "small": -(2**63) - 1,
    "huge": 10**6_000,
    "none": None,
    "dict": {"a": 1},
    "nested": [[[1]]],
    "unspeakable list": [Unspeakable()],
    "nan": float("nan"),
    "type": object,
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_no_value_raises_or_cannot_be_written(span: RecordedSpan, value: Any) -> None:
    span.set_attribute("key", value)
    span.set_attribute(value if value.__hash__ else "other", 1)
    span.add_event(value, {"key": value}, value)
    span.update_name(value)
    span.set_status(StatusCode.ERROR, value)
    json.dumps(kept(span), ensure_ascii=False).encode()


def test_a_list_that_holds_itself_is_no_trap(span: RecordedSpan) -> None:
    value: list[Any] = []
    value.append(value)
    span.set_attribute("key", value)
    assert kept(span) == {"attributes": {"key": ["[[...]]"]}}


def test_an_error_without_words_is_recorded_by_its_type(span: RecordedSpan) -> None:
    span.record_exception(UnspeakableError())
    ((_, _, attributes),) = kept(span)["events"]
    assert attributes["exception.message"] == "<UnspeakableError>"


def test_counts_and_lengths_are_bounded(span: RecordedSpan) -> None:
    for number in range(1_000):
        span.set_attribute(f"key {number}", "x" * 10_000)
        span.add_event(f"event {number}")
        span.add_link(CONTEXT)
    span.set_attribute("key 3", list(range(1_000)))
    found = kept(span, 10**9)
    assert [len(found[part]) for part in ("attributes", "events", "links")] == [128, 128, 128]
    assert (len(found["attributes"]["key 1"]), len(found["attributes"]["key 3"])) == (2_048, 128)


def test_what_does_not_fit_is_left_out_events_first(span: RecordedSpan) -> None:
    span.update_name("renamed")
    span.set_attribute("order", 7)
    for _ in range(10):
        span.add_event("x" * 1_000)
    assert kept(span) == {"name": "renamed", "attributes": {"order": 7}, "cut": True}


def test_a_text_without_end_does_not_push_the_rest_out(span: RecordedSpan) -> None:
    span.update_name("é" * 10**6)
    span.set_status(StatusCode.ERROR, "é" * 10**6)
    span.set_attribute("order", 7)
    found = kept(span, 1_000)
    assert (found["attributes"], found["cut"]) == ({"order": 7}, True)
    assert len(json.dumps(found)) < 1_100
