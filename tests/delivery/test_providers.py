"""A tracer provider of the user's, set wherever users set theirs: it keeps working and it gets the attempts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers import RedisServer
from tests.support.processes import wait_for
from tests.support.receiver import ReceivedSpan, Receiver
from tests.support.worker import Worker

from .conftest import TRACED, worker_url

IN_CHILDREN = ("import", "worker_init", "worker_process_init")
BY_MAIN = ("worker_ready",)
"""Set when the pool processes had been forked: they have none, the main process does."""


@pytest.fixture(scope="module", params=IN_CHILDREN + BY_MAIN)
def where(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def receiver(where: str) -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def worker(
    where: str, broker: RedisServer, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    """No OTEL_* variable is set: whatever arrives went through the user's provider."""
    with Worker(
        worker_url(broker),
        tmp_path_factory.mktemp(where),
        app=TRACED,
        TASKWATT_EXCLUDED_TASKS="tests.length",
        TEST_RECEIVER=receiver.endpoint,
        TEST_TRACING=where,
    ) as worker:
        worker.publish(
            ("noop", [], {}),
            ("retry", [1], {}),
            ("fail", [], {}),
            ("exhausted", ["a secret"], {}),
            ("expected", [], {}),
            ("annotate", [], {}),
            ("nest", [], {}),
            ("length", [""], {}),
            ("which_provider", [], {}),
            ("kill_itself", [0.05], {}),
            TEST_TRACING="import",
        )
        wait_for(lambda: len(receiver.named("run/tests.retry")) == 2, 60, "the retry")
        wait_for(lambda: len(receiver.named("run/tests.noop")) == 2, 60, "what nest published")
        if where != "worker_process_init":
            wait_for(lambda: receiver.named("run/tests.kill_itself"), 60, "the killed attempt")
        yield worker


@pytest.fixture(scope="module")
def spans(worker: Worker, receiver: Receiver) -> list[ReceivedSpan]:
    return receiver.spans


def only(spans: list[ReceivedSpan], name: str) -> ReceivedSpan:
    named = [span for span in spans if span.name == name]
    assert len(named) == 1, [span.name for span in spans]
    return named[0]


def test_the_users_provider_gets_every_attempt_once(spans: list[ReceivedSpan], where: str) -> None:
    killed = [] if where == "worker_process_init" else ["run/tests.kill_itself"]
    expected = [
        *("run/tests.exhausted", "run/tests.expected", "run/tests.fail", "run/tests.nest", "run/tests.noop"),
        *("run/tests.noop", "run/tests.retry", "run/tests.retry", "run/tests.which_provider"),
        *("renamed by its user", *killed),
    ]
    runs = [span for span in spans if span.kind == 5]
    assert sorted(span.name for span in runs) == sorted(expected)
    made_here = {span.resource["service.name"] for span in spans}
    assert made_here == {"users"}


def test_an_attempt_there_is_what_it_is_anywhere(spans: list[ReceivedSpan]) -> None:
    publish = only(spans, "apply_async/tests.fail")
    fail = only(spans, "run/tests.fail")
    assert (fail.trace_id, fail.parent_id) == (publish.trace_id, publish.span_id)
    assert (fail.status, fail.status_message) == (2, "meant to fail")
    assert [attributes["exception.type"] for _, attributes in fail.events] == ["ValueError"]
    assert {
        "celery.task_name", "celery.state", "messaging.message.id", "messaging.destination.name",
        "messaging.message.body.size", "taskwatt.task.attempt", "taskwatt.task.outcome", "taskwatt.cpu.time",
        "taskwatt.cpu.serialization_time", "taskwatt.queue.wait", "taskwatt.task.redelivered",
        "taskwatt.memory.max_rss", "taskwatt.cpu.time_bucket", "taskwatt.queue.wait_bucket",
    } == fail.attributes.keys() - {"taskwatt.keep"}  # fmt: skip  # where the main process sends it, it is evidence
    assert (only(spans, "run/tests.expected").status, only(spans, "run/tests.expected").events) == (0, ())


def test_retries_are_linked_siblings_there_too(spans: list[ReceivedSpan]) -> None:
    first, second = sorted((span for span in spans if span.name == "run/tests.retry"), key=lambda span: span.start_ns)
    assert (first.status, first.attributes["celery.state"]) == (0, "RETRY")
    assert second.parent_id == first.parent_id != ""
    assert second.links == ((first.trace_id, first.span_id),)


def test_what_a_task_starts_is_below_its_attempt(spans: list[ReceivedSpan]) -> None:
    run, inner = only(spans, "run/tests.nest"), only(spans, "inner")
    assert (inner.trace_id, inner.parent_id) == (run.trace_id, run.span_id)
    publish = next(span for span in spans if span.name == "apply_async/tests.noop" and span.trace_id == run.trace_id)
    child = next(span for span in spans if span.name == "run/tests.noop" and span.trace_id == run.trace_id)
    assert (publish.parent_id, child.parent_id) == (inner.span_id, publish.span_id)


def test_what_user_code_sets_on_the_current_span_is_kept(spans: list[ReceivedSpan]) -> None:
    span = only(spans, "renamed by its user")
    assert (span.attributes["users.number"], span.status, span.status_message) == (7, 2, "the user says so")
    assert [name for name, _ in span.events] == ["users.event", "exception"]
    assert len(span.links) == 1


def test_a_killed_attempt_goes_to_the_provider_of_the_main_process(spans: list[ReceivedSpan], where: str) -> None:
    if where == "worker_process_init":
        assert [span for span in spans if span.name == "run/tests.kill_itself"] == []  # nobody left could send it
        return
    killed, publish = only(spans, "run/tests.kill_itself"), only(spans, "apply_async/tests.kill_itself")
    assert (killed.parent_id, killed.status) == (publish.span_id, 2)
    assert killed.attributes["taskwatt.task.outcome"] == "cancelled"
    assert killed.attributes["taskwatt.cpu.time"] >= 0.05


def test_an_excluded_task_has_no_span_there(spans: list[ReceivedSpan]) -> None:
    assert [span.name for span in spans if "length" in span.name] == []


def test_arguments_stay_out(receiver: Receiver, spans: list[ReceivedSpan]) -> None:
    assert only(spans, "run/tests.exhausted").status == 2
    assert [path for path, body in receiver.bodies if b"a secret" in body] == []


def test_the_user_set_it_and_nobody_was_before(worker: Worker, spans: list[ReceivedSpan], where: str) -> None:
    expected = "ProxyTracerProvider" if where in BY_MAIN else "TracerProvider"
    assert only(spans, "run/tests.which_provider").attributes["users.provider"] == expected
    assert "Overriding of current TracerProvider" not in worker.log
    assert worker.warnings == []


def test_a_provider_set_within_an_attempt_gets_the_next_one(
    broker: RedisServer, tmp_path: Path, module_receiver: Receiver
) -> None:
    receiver = module_receiver
    with Worker(
        worker_url(broker),
        tmp_path,
        app=TRACED,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_SERVICE_NAME="shop",
        TEST_RECEIVER=receiver.endpoint,
    ) as worker:
        worker.send("provider_set_late")
        worker.send("which_provider")
        names = ["late", "run/tests.provider_set_late", "run/tests.which_provider"]
        wait_for(lambda: sorted(span.name for span in receiver.spans) == names, 60, "three spans")
    spans = receiver.spans
    late, run, following = (only(spans, name) for name in names)
    assert (late.trace_id, late.parent_id) == (run.trace_id, run.span_id)
    assert [span.resource["service.name"] for span in (late, run, following)] == ["users", "shop", "users"]
    assert following.attributes["users.provider"] == "TracerProvider"
