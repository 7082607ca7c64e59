"""With opentelemetry-instrumentation-celery active its spans are enriched, and none is made twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers import RedisServer
from tests.support.processes import wait_for
from tests.support.receiver import ReceivedSpan, Receiver
from tests.support.worker import Worker

from .conftest import TRACED, worker_url

OFFICIAL = "opentelemetry.instrumentation.celery"
CONSUMER = 5


@pytest.fixture(scope="module", params=["import,official_main", "worker_process_init,official"])
def tracing(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def receiver(tracing: str) -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.start()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def worker(
    tracing: str, broker: RedisServer, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    with Worker(
        worker_url(broker),
        tmp_path_factory.mktemp("official"),
        app=TRACED,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_METRIC_EXPORT_INTERVAL="1000",
        OTEL_SERVICE_NAME="shop",
        TEST_RECEIVER=receiver.endpoint,
        TEST_TRACING=tracing,
    ) as worker:
        worker.send("noop")
        worker.send("retry", 1)
        worker.send("fail")
        worker.send("nest")
        wait_for(lambda: len(receiver.named("run/tests.retry")) == 2, 60, "the retry")
        wait_for(lambda: len(receiver.named("run/tests.noop")) == 2, 60, "what nest published")
        worker.send("kill_itself", 0.05)
        wait_for(lambda: receiver.named("run/tests.kill_itself"), 60, "the killed attempt")
        wait_for(lambda: receiver.total("celery.task.attempts") == 7, 60, "all attempts")
        yield worker


@pytest.fixture(scope="module")
def spans(worker: Worker, receiver: Receiver) -> list[ReceivedSpan]:
    return receiver.spans


def test_every_attempt_has_one_span_and_it_is_the_official_one(spans: list[ReceivedSpan]) -> None:
    made = Counter((span.name, span.scope) for span in spans if span.kind == CONSUMER)
    assert made == {
        ("run/tests.noop", OFFICIAL): 2,
        ("run/tests.retry", OFFICIAL): 2,
        ("run/tests.fail", OFFICIAL): 1,
        ("run/tests.nest", OFFICIAL): 1,
        ("run/tests.kill_itself", "taskwatt"): 1,
    }
    publishes = Counter((span.name, span.scope) for span in spans if span.name.startswith("apply_async/"))
    assert publishes == {("apply_async/tests.retry", OFFICIAL): 1, ("apply_async/tests.noop", OFFICIAL): 1}


def test_the_official_span_carries_what_taskwatt_measured(spans: list[ReceivedSpan]) -> None:
    runs = [span for span in spans if span.kind == CONSUMER and span.scope == OFFICIAL]
    outcomes = Counter((span.name, span.attributes["taskwatt.task.outcome"]) for span in runs)
    assert outcomes == {
        ("run/tests.noop", "useful"): 2,
        ("run/tests.retry", "retried"): 1,
        ("run/tests.retry", "useful"): 1,
        ("run/tests.fail", "failed"): 1,
        ("run/tests.nest", "useful"): 1,
    }
    for span in runs:
        assert {
            "celery.task_name", "celery.state", "messaging.message.id", "messaging.destination.name",
            "messaging.message.body.size", "taskwatt.task.attempt", "taskwatt.task.outcome", "taskwatt.cpu.time",
            "taskwatt.cpu.serialization_time", "taskwatt.task.redelivered", "taskwatt.memory.max_rss",
        } <= span.attributes.keys()  # fmt: skip
        assert span.attributes["taskwatt.cpu.time"] > 0
    retried = next(span for span in runs if span.attributes["taskwatt.task.outcome"] == "retried")
    assert (retried.attributes["celery.state"], retried.status) == ("RETRY", 0)


def test_a_killed_attempt_whose_official_span_died_with_it_has_ours(spans: list[ReceivedSpan]) -> None:
    killed = next(span for span in spans if span.name == "run/tests.kill_itself")
    assert (killed.status, killed.attributes["taskwatt.task.outcome"]) == (2, "cancelled")
    assert killed.attributes["taskwatt.cpu.time"] >= 0.05


def test_the_ledger_counts_what_the_official_spans_show(receiver: Receiver, worker: Worker) -> None:
    assert receiver.total("celery.task.attempts", taskwatt__task__name="tests.noop") == 2
    assert receiver.total("celery.task.attempts", taskwatt__task__outcome="retried") == 1
    assert worker.warnings == []


def test_without_any_provider_the_official_instrumentation_hides_no_attempt(
    broker: RedisServer, tmp_path: Path, module_receiver: Receiver
) -> None:
    """It is switched on, but nobody configured tracing: its spans record nothing and reach nobody."""
    receiver = module_receiver
    with Worker(
        worker_url(broker),
        tmp_path,
        app=TRACED,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        TEST_RECEIVER=receiver.endpoint,
        TEST_TRACING="official",
    ) as worker:
        worker.publish(("annotate", [], {}), ("nest", [], {}), TEST_TRACING="")
        wait_for(lambda: receiver.named("run/tests.nest") and receiver.named("inner"), 60, "the attempt")
    spans = {span.name: span for span in receiver.spans}
    assert spans["run/tests.nest"].parent_id == spans["apply_async/tests.nest"].span_id
    assert spans["inner"].parent_id == spans["run/tests.nest"].span_id
    assert spans["renamed by its user"].attributes["users.number"] == 7
