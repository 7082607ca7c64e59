"""Every metric of the public contract reaches a real receiver, with its unit, description and attribute keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeter

from taskwatt.export.metrics import Instruments
from tests.support.processes import wait_for
from tests.support.receiver import Receiver
from tests.support.worker import Worker

TASK, OUTCOME, CLASS = "taskwatt.task.name", "taskwatt.task.outcome", "taskwatt.process.class"
QUEUE = "messaging.destination.name"

CONTRACT: dict[str, tuple[str, set[str]]] = {
    "celery.queue.depth": ("{message}", {QUEUE}),
    "celery.queue.oldest_age": ("s", {QUEUE}),
    "celery.queue.unacked": ("{message}", {QUEUE}),
    "celery.task.attempts": ("{attempt}", {TASK, OUTCOME, CLASS, "celery.state"}),
    "celery.task.duration": ("s", {TASK, OUTCOME}),
    "celery.task.queue_wait": ("s", {TASK}),
    "celery.worker.eta": ("{message}", set()),
    "celery.worker.prefetched": ("{message}", set()),
    "celery.worker.slots": ("{slot}", {"state"}),
    "taskwatt.agent.dropped": ("{record}", {"reason"}),
    "taskwatt.cpu.effective": ("{cpu}", set()),
    "taskwatt.cpu.time": ("s", {TASK, OUTCOME, "taskwatt.cpu.activity", CLASS}),
    "taskwatt.incident.active": ("{incident}", {"taskwatt.finding.cause", "taskwatt.finding.severity"}),
    "taskwatt.process.cpu.time": ("s", {CLASS}),
    "taskwatt.sched.run_delay": ("s", {CLASS}),
}
NOOPS = 23


@pytest.fixture(scope="module")
def receiver(
    start_traced: Callable[..., Worker], module_receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Receiver:
    """After a backlog behind a task that waits, a message with an ETA, and a storm of retries."""
    opened = tmp_path_factory.mktemp("gate") / "opened"
    receiver = module_receiver
    worker = start_traced(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_METRIC_EXPORT_INTERVAL="1000",
        OTEL_SERVICE_NAME="shop",
    )
    worker.publish(
        ("noop", [], {"countdown": 600}),
        ("wait_for_file", [str(opened)], {}),
        *[("noop", [], {})] * NOOPS,
        OTEL_METRIC_EXPORT_INTERVAL="60000",
    )
    wait_for(lambda: receiver.total("celery.queue.depth") > 0, 30, "a backlog")
    wait_for(lambda: receiver.total("celery.queue.oldest_age") > 0, 30, "the age of its head")
    wait_for(lambda: receiver.total("celery.queue.unacked") > 0, 30, "what the worker holds")
    wait_for(lambda: receiver.total("celery.worker.prefetched") > 0, 30, "what it has not started")
    wait_for(lambda: receiver.total("celery.worker.eta") == 1, 30, "a message that waits for its ETA")
    opened.touch()
    wait_for(lambda: receiver.total("celery.task.attempts", taskwatt__task__name="tests.noop") == NOOPS, 60, "all")
    for _ in range(3):
        worker.send("retry", 100_000, 0, 0.02)
    storm = {"taskwatt__finding__cause": "retry_storm"}
    wait_for(lambda: receiver.total("taskwatt.incident.active", **storm) == 1, 90, "the storm's incident")
    return receiver


class Declaring(NoOpMeter):
    """Notes what is declared on it."""

    def __init__(self) -> None:
        super().__init__("declaring")
        self.names: set[str] = set()

    def create_histogram(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.names.add(name)

    def create_observable_counter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.names.add(name)

    def create_observable_gauge(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.names.add(name)

    create_counter = create_gauge = create_observable_up_down_counter = create_up_down_counter = create_histogram


def declared() -> set[str]:
    """Those of event loops have tests of their own: none runs in this worker (`tests/export_metrics`)."""
    meter = Declaring()
    Instruments(meter, None)  # type: ignore[arg-type]  # nothing is observed here
    return {name for name in meter.names if not name.startswith("asyncio.")}


def ours(receiver: Receiver) -> Sequence[Any]:
    exports = list(receiver.metric_exports)
    return [one for export in exports for one in export if one.resource["service.name"] == "shop"]


def test_every_declared_metric_is_exported_and_no_other(receiver: Receiver) -> None:
    assert declared() == CONTRACT.keys()
    assert {metric.name for metric in ours(receiver) if metric.points} == CONTRACT.keys()


@pytest.mark.parametrize("name", sorted(CONTRACT))
def test_a_metric_has_its_unit_a_description_and_only_its_attribute_keys(receiver: Receiver, name: str) -> None:
    found = [metric for metric in ours(receiver) if metric.name == name]
    keys = {tuple(sorted(point.attributes)) for metric in found for point in metric.points}
    unit, expected = CONTRACT[name]
    assert ({metric.unit for metric in found}, keys) == ({unit}, {tuple(sorted(expected))})
    assert {metric.description.endswith(".") for metric in found} == {True}


def test_histograms_hold_every_attempt(receiver: Receiver) -> None:
    noop = {"taskwatt__task__name": "tests.noop"}
    assert receiver.total("celery.task.duration", taskwatt__task__outcome="useful", **noop) == NOOPS
    assert receiver.total("celery.task.queue_wait", **noop) == NOOPS
    metric = receiver.metric("celery.task.duration")
    assert metric is not None
    waited = next(point for point in metric.points if point.attributes[TASK] == "tests.wait_for_file")
    wait_for(lambda: receiver.named("run/tests.wait_for_file"), 30, "its span")
    span = receiver.named("run/tests.wait_for_file")[0]
    assert waited.value == 1
    assert waited.sum == pytest.approx((span.end_ns - span.start_ns) / 1e9, abs=1e-6)


def test_the_slots_are_the_pools(receiver: Receiver) -> None:
    exports = [metric for metric in ours(receiver) if metric.name == "celery.worker.slots" and metric.points]
    states = [{point.attributes["state"]: point.value for point in metric.points} for metric in exports]
    assert {sum(state.values()) for state in states} == {1}
    assert {tuple(sorted(state)) for state in states} == {("busy", "idle")}
    assert 1 in {state["busy"] for state in states}


def test_the_storm_is_the_incident(receiver: Receiver) -> None:
    finding = next(span for span in receiver.spans if span.name == "taskwatt.finding retry_storm")
    assert finding.attributes["taskwatt.task.name"] == "tests.retry"
    assert (finding.parent_id, finding.kind) == ("", 1)
    wait_for(lambda: in_an_incident(receiver, finding.attributes["taskwatt.incident.id"]), 30, "a marked attempt")


def in_an_incident(receiver: Receiver, incident: str) -> bool:
    return any(span.attributes.get("taskwatt.incident.id") == incident for span in receiver.named("run/tests.retry"))
