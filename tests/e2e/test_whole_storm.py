"""What is left of the storm when it is over, and the same work without the bug. After the tests that use the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

from redis import Redis

from tests.e2e.conftest import Backends
from tests.e2e.storm import FINDING, LASTS_S, SERVICE, TASKS, WASTE_ALERTS, Storm
from tests.support.processes import wait_for
from tests.support.worker import Worker

DECIDED_S = 25
"""The sampler decides after 10 s, the exporter's batch follows after 1."""


def test_few_segments_tell_its_life_each_linked_to_the_one_before(storm: Storm) -> None:
    def states() -> list[str]:
        return [one.tags["taskwatt.incident.state"] for one in storm.findings()]

    wait_for(lambda: states()[-1] == "resolved", LASTS_S + 120, "the end of the incident")
    found = storm.findings()
    ids = {one.tags["taskwatt.incident.id"] for one in found}
    assert states() == ["opened", "ongoing", "resolved"]
    assert found == storm.findings(taskwatt__incident__id=ids.pop())
    assert not ids
    for before, after in pairwise(found):
        assert after.links[0] == (before.trace_id, before.span_id)
    assert "error" not in found[-1].tags


def test_every_link_of_every_incident_span_resolves(storm: Storm, state: Callable[[str], None]) -> None:
    jaeger = storm.backends.jaeger
    state(f"storm: {storm.attempts / LASTS_S:.0f} attempts a second")
    found = jaeger.find(SERVICE, FINDING)
    links = {link for one in found for link in one.links}
    assert all(one.links for one in found)
    assert len(links) > len(found)
    wait_for(lambda: all(jaeger.has(*link) for link in links), DECIDED_S, f"all of {len(links)} links")
    for trace_id, span_id in links:
        (span,) = [one for one in jaeger.trace(trace_id) if one.span_id == span_id]
        assert span.tags["taskwatt.keep"] is True
        assert span.operation in {FINDING, "run/tests.charge"}


def test_jaeger_holds_a_bounded_part_of_the_storm(storm: Storm, state: Callable[[str], None]) -> None:
    traces = storm.backends.jaeger.search(SERVICE, "run/tests.charge")
    marked = {one.trace_id for trace in traces for one in trace if one.tags.get("taskwatt.keep")}
    spans = sum(len(trace) for trace in traces)
    held = f"{len(traces)} traces, {len(marked)} of them marked, {spans} spans"
    state(f"storm: of {storm.attempts} attempts of {TASKS} tasks Jaeger holds {held}")
    assert len(marked) <= 2 + (LASTS_S + 30) / 10
    # A tenth by trace id, within five standard deviations, and what is marked.
    assert len(traces) <= TASKS * 0.1 + 5 * (TASKS * 0.1 * 0.9) ** 0.5 + len(marked)


def test_the_same_work_without_the_bug_is_quiet(
    storm: Storm, backends: Backends, start_shop: Callable[..., Worker]
) -> None:
    worker = start_shop(backends, "twin", options=("--concurrency", "2"))
    redis = Redis.from_url(worker.broker)
    until = time.time() + 20
    while time.time() < until:
        for _ in range(100):
            worker.send("burn", 0.004)
        wait_for(lambda: redis.llen("celery") < 100, 30, "the burst to drain")
    redis.close()
    prometheus = backends.prometheus
    wait_for(lambda: prometheus.value('sum(celery_task_attempts_total{job="twin"})') >= 500, 30, "the twin's metrics")
    waste = 'taskwatt_cpu_time_seconds_total{job="twin",taskwatt_task_outcome!~"useful|none"}'
    assert prometheus.value(f"sum({waste})") == 0
    # Of waste; whether its threads wait for a CPU depends on who else runs here.
    assert not prometheus.firing("twin") & WASTE_ALERTS
    assert not [one for one in backends.jaeger.operations("twin") if one == FINDING]
