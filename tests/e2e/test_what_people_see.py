"""One request through Jaeger, retries from any attempt, and lists that stay short."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.backends import JaegerSpan
from tests.e2e.conftest import Backends
from tests.e2e.shop import TYPES
from tests.support.processes import wait_for
from tests.support.worker import Worker

SERVICE = "shop"


@pytest.fixture(scope="module")
def order(backends: Backends, start_shop: Callable[..., Worker]) -> list[JaegerSpan]:
    """The trace of one request, published by a program that is watched: an order, packed and billed by other tasks."""
    worker = start_shop(backends, SERVICE)
    worker.publish(("order", [], {}), OTEL_SERVICE_NAME="front")
    jaeger = backends.jaeger

    def traces() -> list[list[JaegerSpan]]:
        return [one for one in jaeger.search(SERVICE, "run/tests.bill") if len(one) == 10]

    wait_for(traces, 60, "the whole trace")
    (trace,) = traces()
    return trace


def test_one_request_is_one_trace_across_processes_with_cpu_on_each_part(order: list[JaegerSpan]) -> None:
    ids = {one.span_id: one for one in order}
    (root,) = [one for one in order if not one.references]
    assert (root.operation, root.service, root.tags["span.kind"]) == ("apply_async/tests.order", "front", "producer")

    def above(one: JaegerSpan) -> str:
        parents = [ids[span_id] for kind, _, span_id in one.references if kind == "CHILD_OF"]
        return parents[0].operation if parents else ""

    assert sorted((one.operation, above(one)) for one in order) == [
        ("apply_async/tests.bill", "run/tests.bill"),
        ("apply_async/tests.bill", "run/tests.bill"),
        ("apply_async/tests.bill", "run/tests.order"),
        ("apply_async/tests.order", ""),
        ("apply_async/tests.pack", "run/tests.order"),
        ("run/tests.bill", "apply_async/tests.bill"),
        ("run/tests.bill", "apply_async/tests.bill"),
        ("run/tests.bill", "apply_async/tests.bill"),
        ("run/tests.order", "apply_async/tests.order"),
        ("run/tests.pack", "apply_async/tests.pack"),
    ]
    burnt = {"run/tests.order": 0.02, "run/tests.pack": 0.03, "run/tests.bill": 0.01}
    for one in order:
        if one.operation in burnt:
            assert one.tags["taskwatt.cpu.time"] >= burnt[one.operation]
            assert one.tags["taskwatt.cpu.time_bucket"] == "10ms-100ms"
            assert one.tags["taskwatt.queue.wait"] >= 0
            assert one.tags["span.kind"] == "consumer"


def test_from_any_attempt_of_a_task_all_others_are_found(order: list[JaegerSpan], backends: Backends) -> None:
    attempts = sorted((one for one in order if one.operation == "run/tests.bill"), key=lambda one: one.start_us)
    assert [one.tags["taskwatt.task.attempt"] for one in attempts] == [1, 2, 3]
    assert [one.tags["taskwatt.task.outcome"] for one in attempts] == ["retried", "retried", "useful"]
    assert not any("error" in one.tags for one in attempts)
    first, second, third = attempts
    assert second.links == [(first.trace_id, first.span_id)]
    assert third.links == [(second.trace_id, second.span_id)]
    (task_id,) = {one.tags["messaging.message.id"] for one in attempts}
    found = backends.jaeger.find(SERVICE, "run/tests.bill", messaging__message__id=task_id)
    assert found == attempts


def test_the_lists_stay_as_short_as_the_task_types_with_ten_thousand_ids(
    backends: Backends, start_shop: Callable[..., Worker]
) -> None:
    worker = start_shop(backends, "many", options=("--concurrency", "2"))
    for _ in range(10_000 // TYPES):
        for number in range(TYPES):
            worker.send(f"type_{number:03d}")
    prometheus, jaeger = backends.prometheus, backends.jaeger
    attempts = 'sum(celery_task_attempts_total{job="many"})'
    wait_for(lambda: prometheus.value(attempts) == 10_000, 120, "10,000 attempts in Prometheus")
    operations = {f"run/tests.type_{number:03d}" for number in range(TYPES)}
    wait_for(lambda: operations <= set(jaeger.operations("many")), 60, "every task type in Jaeger")
    unexpected = set(jaeger.operations("many")) - operations
    assert all(one.startswith("taskwatt.finding ") for one in unexpected)
    assert "many" in jaeger.services
    assert not [one for one in jaeger.services if one.startswith("many") and one != "many"]
    names = prometheus.query('count by (taskwatt_task_name) (celery_task_attempts_total{job="many"})')
    assert len(names) == TYPES
    assert prometheus.labels('celery_task_attempts_total{job="many"}') == {
        "celery_state",
        "instance",
        "job",
        "taskwatt_process_class",
        "taskwatt_task_name",
        "taskwatt_task_outcome",
    }


def test_without_a_collector_jaeger_and_prometheus_take_what_they_are_sent(
    backends: Backends, start_shop: Callable[..., Worker]
) -> None:
    traced = start_shop(
        backends,
        "traced",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{backends.jaeger.otlp}",
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_METRICS_EXPORTER="none",
    )
    metered = start_shop(
        backends,
        "metered",
        OTEL_TRACES_EXPORTER="none",
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{backends.prometheus.otlp}/v1/metrics",
    )
    for worker in (traced, metered):
        for _ in range(7):
            worker.send("burn", 0.001)
    wait_for(lambda: len(backends.jaeger.search("traced", "run/tests.burn")) == 7, 30, "the traces")
    wait_for(lambda: backends.prometheus.value('celery_task_attempts_total{job="metered"}') == 7, 30, "the metrics")
    assert "metered" not in backends.jaeger.services
    assert not backends.prometheus.query('celery_task_attempts_total{job="traced"}')


PROMISED = {
    "taskwatt_cpu_time_seconds_total": {
        "taskwatt_task_name",
        "taskwatt_task_outcome",
        "taskwatt_cpu_activity",
        "taskwatt_process_class",
    },
    "taskwatt_process_cpu_time_seconds_total": {"taskwatt_process_class"},
    "taskwatt_sched_run_delay_seconds_total": {"taskwatt_process_class"},
    "taskwatt_cpu_effective": set(),
    "taskwatt_agent_dropped_total": {"reason"},
    "celery_task_attempts_total": {
        "taskwatt_task_name",
        "taskwatt_task_outcome",
        "celery_state",
        "taskwatt_process_class",
    },
    "celery_task_duration_seconds_bucket": {"taskwatt_task_name", "taskwatt_task_outcome", "le"},
    "celery_task_queue_wait_seconds_bucket": {"taskwatt_task_name", "le"},
    "celery_queue_depth": {"messaging_destination_name"},
    "celery_queue_unacked": {"messaging_destination_name"},
    "celery_worker_slots": {"state"},
    "celery_worker_prefetched": set(),
    "celery_worker_eta": set(),
}


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("metric", PROMISED)
def test_prometheus_has_the_metric_under_its_documented_name_and_labels(backends: Backends, metric: str) -> None:
    series = f'{metric}{{job="{SERVICE}"}}'
    wait_for(lambda: backends.prometheus.labels(series), 30, metric)
    assert backends.prometheus.labels(series) == PROMISED[metric] | {"job", "instance"}
