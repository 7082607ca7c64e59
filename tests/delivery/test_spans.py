"""The spans of a stock application: their names, ids, relations, statuses and attributes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import wait_for
from tests.support.receiver import ReceivedSpan, Receiver
from tests.support.traced import ELSEWHERE
from tests.support.worker import Worker

INTERNAL, PRODUCER, CONSUMER = 1, 4, 5
UNSET, ERROR = 0, 2
SECRET = "the-secret-in-the-arguments"
FROM_OUTSIDE = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
DONE = "tests.encode"
"""Sent last: when its span is here, so are the others."""


@pytest.fixture(scope="module")
def worker(start_traced: Callable[..., Worker], module_receiver: Receiver) -> Worker:
    """One that has done everything the tests below ask about."""
    worker = start_traced(
        OTEL_EXPORTER_OTLP_ENDPOINT=module_receiver.endpoint,
        OTEL_METRIC_EXPORT_INTERVAL="1000",
        OTEL_SERVICE_NAME="shop",
        TASKWATT_EXCLUDED_TASKS="tests.le*,tests.go_between",
        TEST_RECEIVER=module_receiver.endpoint,
        TEST_TRACING="logging",
    )
    secret = {"kwargs": {"key": SECRET}}
    worker.publish(
        ("noop", [], {"task_id": "not-a-uuid"}),
        ("retry", [2], {}),
        ("fail", [], {}),
        ("expected", [], {}),
        ("exhausted", [SECRET], secret),
        ("fail_without_words", [], {}),
        ("annotate", [], {}),
        ("nest", [], {}),
        ("go_between", [], {"headers": {"traceparent": f"00-{FROM_OUTSIDE[0]}-{FROM_OUTSIDE[1]}-01"}}),
        ("which_provider", [], {}),
        ("length", [SECRET], {}),
        ("echo", [SECRET], secret),
        ("kill_itself", [0.05], {}),
    )
    wait_for(lambda: module_receiver.named("run/tests.kill_itself"), 60, "the killed attempt")
    wait_for(lambda: len(module_receiver.named("run/tests.retry")) == 3, 60, "the last retry")
    worker.send("encode", 1)
    wait_for(lambda: module_receiver.named(f"run/{DONE}"), 60, "the last attempt")
    return worker


@pytest.fixture
def receiver(worker: Worker, module_receiver: Receiver) -> Receiver:
    return module_receiver


def only(receiver: Receiver, name: str) -> ReceivedSpan:
    spans = receiver.named(name)
    assert len(spans) == 1, [span.name for span in receiver.spans]
    return spans[0]


def test_an_attempt_is_a_consumer_span_below_the_publish_span_of_its_producer(receiver: Receiver) -> None:
    run, publish = only(receiver, "run/tests.fail"), only(receiver, "apply_async/tests.fail")
    assert (run.kind, publish.kind) == (CONSUMER, PRODUCER)
    assert (run.trace_id, run.parent_id) == (publish.trace_id, publish.span_id)
    assert publish.parent_id == ""
    assert publish.start_ns <= publish.end_ns
    assert publish.start_ns <= run.start_ns < run.end_ns
    assert run.scope == publish.scope == "taskwatt"


def test_an_attempt_without_an_instrumented_producer_is_a_root(receiver: Receiver) -> None:
    run = only(receiver, f"run/{DONE}")
    assert (run.parent_id, run.links) == ("", ())
    assert int(run.trace_id, 16) != 0 != int(run.span_id, 16)


def test_a_span_has_every_public_attribute(receiver: Receiver) -> None:
    runs = [
        span for span in receiver.named("run/tests.noop") if span.attributes["messaging.message.id"] == "not-a-uuid"
    ]
    assert len(runs) == 1
    measured = {
        "taskwatt.cpu.time", "taskwatt.cpu.serialization_time", "taskwatt.queue.wait", "taskwatt.memory.max_rss",
        "messaging.message.body.size", "taskwatt.cpu.time_bucket", "taskwatt.queue.wait_bucket",
    }  # fmt: skip
    attributes = {key: value for key, value in runs[0].attributes.items() if key != "taskwatt.keep"}  # of each type one
    assert {key: value for key, value in attributes.items() if key not in measured} == {
        "celery.task_name": "tests.noop",
        "celery.state": "SUCCESS",
        "messaging.message.id": "not-a-uuid",
        "messaging.destination.name": "celery",
        "taskwatt.task.attempt": 1,
        "taskwatt.task.outcome": "useful",
        "taskwatt.task.redelivered": False,
    }
    assert measured <= attributes.keys()
    assert 0 < attributes["taskwatt.cpu.serialization_time"] < attributes["taskwatt.cpu.time"] < 60
    assert 0 < attributes["taskwatt.queue.wait"] < 60
    assert 1 << 20 < attributes["taskwatt.memory.max_rss"] < 1 << 34
    assert 10 < attributes["messaging.message.body.size"] < 1000


def test_a_publish_span_says_what_was_sent_where(receiver: Receiver) -> None:
    publish = only(receiver, "apply_async/tests.fail")
    assert publish.attributes == {
        "celery.task_name": "tests.fail",
        "messaging.message.id": only(receiver, "run/tests.fail").attributes["messaging.message.id"],
        "messaging.destination.name": "celery",
    }


def test_retries_are_siblings_each_linked_to_the_attempt_before(receiver: Receiver) -> None:
    runs = sorted(receiver.named("run/tests.retry"), key=lambda span: span.start_ns)
    publishes = sorted(receiver.named("apply_async/tests.retry"), key=lambda span: span.start_ns)
    assert [span.attributes["taskwatt.task.attempt"] for span in runs] == [1, 2, 3]
    assert [span.attributes["celery.state"] for span in runs] == ["RETRY", "RETRY", "SUCCESS"]
    assert [span.attributes["taskwatt.task.outcome"] for span in runs] == ["retried", "retried", "useful"]
    assert {span.attributes["messaging.message.id"] for span in runs} == {
        publishes[0].attributes["messaging.message.id"]
    }
    assert {(span.trace_id, span.parent_id) for span in runs} == {(publishes[0].trace_id, publishes[0].span_id)}
    assert [span.links for span in runs] == [
        (),
        ((runs[0].trace_id, runs[0].span_id),),
        ((runs[1].trace_id, runs[1].span_id),),
    ]
    assert [span.parent_id for span in publishes] == ["", runs[0].span_id, runs[1].span_id]


def test_a_retry_and_a_success_are_unset_and_a_final_failure_is_an_error(receiver: Receiver) -> None:
    assert {span.status for span in receiver.named("run/tests.retry")} == {UNSET}
    fail = only(receiver, "run/tests.fail")
    assert (fail.status, fail.status_message) == (ERROR, "meant to fail")
    assert [(name, dict(attributes)) for name, attributes in fail.events] == [
        ("exception", {"exception.type": "ValueError", "exception.message": "meant to fail"})
    ]
    killed = only(receiver, "run/tests.kill_itself")
    assert (killed.status, killed.attributes["taskwatt.task.outcome"]) == (ERROR, "cancelled")


def test_an_exception_that_cannot_be_printed_fails_its_own_attempt_and_nothing_else(receiver: Receiver) -> None:
    span = only(receiver, "run/tests.fail_without_words")
    assert (span.status, span.status_message) == (ERROR, "")
    assert [dict(attributes) for _, attributes in span.events] == [
        {"exception.type": "tests.support.traced.Wordless", "exception.message": ""}
    ]


def test_an_exception_that_the_task_expects_is_no_error(receiver: Receiver) -> None:
    span = only(receiver, "run/tests.expected")
    assert (span.status, span.events) == (UNSET, ())
    assert (span.attributes["celery.state"], span.attributes["taskwatt.task.outcome"]) == ("FAILURE", "failed")


def test_what_user_code_sets_on_the_current_span_arrives(receiver: Receiver) -> None:
    span = only(receiver, "renamed by its user")
    users = {key: value for key, value in span.attributes.items() if key.startswith("users.")}
    assert users == {"users.number": 7, "users.list": ["a", "b"], "users.text": "yes"}
    assert (span.status, span.status_message) == (ERROR, "the user says so")
    assert [name for name, _ in span.events] == ["users.event", "exception"]
    assert span.events[0][1] == {"users.detail": 1.5}
    assert (span.events[1][1]["exception.type"], span.events[1][1]["exception.message"]) == (
        "KeyError",
        "'users.key'",
    )
    assert "exception.stacktrace" in span.events[1][1]
    assert span.links == ((f"{ELSEWHERE.trace_id:032x}", f"{ELSEWHERE.span_id:016x}"),)
    assert span.attributes["taskwatt.task.outcome"] == "useful"
    assert span.kind == CONSUMER


def test_spans_of_another_instrumentation_are_children_of_the_attempt(receiver: Receiver) -> None:
    run, inner = only(receiver, "run/tests.nest"), only(receiver, "inner")
    assert (inner.trace_id, inner.parent_id) == (run.trace_id, run.span_id)
    assert run.start_ns <= inner.start_ns <= inner.end_ns <= run.end_ns
    publish = next(span for span in receiver.named("apply_async/tests.noop") if span.trace_id == run.trace_id)
    assert publish.parent_id == inner.span_id
    child = next(span for span in receiver.named("run/tests.noop") if span.trace_id == run.trace_id)
    assert child.parent_id == publish.span_id


def test_log_records_within_a_task_carry_the_ids_of_its_span(receiver: Receiver) -> None:
    run, inner = only(receiver, "run/tests.nest"), only(receiver, "inner")
    said = {record["body"]: (record["trace_id"], record["span_id"]) for record in receiver.log_records}
    assert said["said inside"] == (run.trace_id, inner.span_id)
    assert said["said after"] == (run.trace_id, run.span_id)


def test_the_process_is_left_without_a_global_provider(receiver: Receiver) -> None:
    assert only(receiver, "run/tests.which_provider").attributes["users.provider"] == "ProxyTracerProvider"


def test_an_excluded_task_has_no_span_and_is_in_the_ledger_all_the_same(receiver: Receiver) -> None:
    assert not [span.name for span in receiver.spans if "tests.length" in span.name]
    attempts = {"taskwatt__task__name": "tests.length"}
    wait_for(lambda: receiver.total("celery.task.attempts", **attempts) == 1, 20, "the excluded attempt")
    assert receiver.total("taskwatt.cpu.time", **attempts) > 0


def test_what_an_excluded_task_starts_is_below_what_the_task_itself_is_below(receiver: Receiver) -> None:
    wait_for(lambda: receiver.named("run/tests.burn"), 20, "the task that the excluded one published")
    between, publish = only(receiver, "between"), only(receiver, "apply_async/tests.burn")
    assert (between.trace_id, between.parent_id) == FROM_OUTSIDE
    assert (publish.trace_id, publish.parent_id) == (between.trace_id, between.span_id)
    assert only(receiver, "run/tests.burn").parent_id == publish.span_id


def test_arguments_and_results_are_in_nothing_that_leaves_the_process(receiver: Receiver, worker: Worker) -> None:
    assert only(receiver, "run/tests.echo").attributes["celery.state"] == "SUCCESS"
    exhausted = only(receiver, "run/tests.exhausted")
    assert exhausted.events[0][1]["exception.type"] == "celery.exceptions.MaxRetriesExceededError"
    assert "tests.exhausted" in exhausted.status_message
    secret = SECRET.encode()
    ours = [
        body for path, body in receiver.bodies if path != "/v1/logs"
    ]  # the user's logs show results; Celery does that
    assert any(b"MaxRetriesExceeded" in body for body in ours)
    assert any(b"tests.echo" in body for body in ours)
    assert [body for body in ours if secret in body] == []
    files = [path for path in Path(worker.directory).rglob("*") if path.is_file()]
    assert any(path.suffix == ".jsonl" for path in files), files
    assert [path for path in files if secret in path.read_bytes()] == []


def test_every_span_belongs_to_the_service_that_the_user_named(receiver: Receiver) -> None:
    ours = [span for span in receiver.spans if span.scope == "taskwatt"]
    assert {span.resource["service.name"] for span in ours} == {"shop"}
    assert all(span.resource["service.instance.id"] for span in ours)


def test_no_two_spans_share_an_id(receiver: Receiver) -> None:
    ids = [span.span_id for span in receiver.spans]
    assert len(ids) == len(set(ids))
