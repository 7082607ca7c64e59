"""A retry storm under the shipped sampling, and what people then find in Jaeger and Prometheus.

One storm for all tests here: 600 tasks that are retried at once until a minute has passed. It is over before the tests
about its whole life, which come last.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from redis import Redis

from tests.e2e.backends import JaegerSpan
from tests.e2e.conftest import Backends
from tests.support.processes import REPOSITORY, wait_for
from tests.support.worker import Worker

SERVICE = "storm"
FINDING = "taskwatt.finding retry_storm"
TASKS = 600
LASTS_S = 75
DECIDED_S = 25
"""The sampler decides after 10 s, the exporter's batch follows after 1."""


def documented(pattern: str, name: str) -> list[str]:
    """What stands in the docs for readers to paste."""
    found = re.findall(pattern, (REPOSITORY / "docs" / name).read_text(), re.DOTALL | re.MULTILINE)
    assert found
    return [one.strip() for one in found]


def short(text: str) -> str:
    return " ".join(text.split())[-60:]


@dataclass
class Storm:
    backends: Backends
    worker: Worker
    began: float

    def findings(self, **tags: str) -> list[JaegerSpan]:
        return self.backends.jaeger.find(SERVICE, FINDING, **tags)


@pytest.fixture(scope="module")
def storm(backends: Backends, start_shop: Callable[..., Worker]) -> Storm:
    worker = start_shop(backends, SERVICE, options=("--concurrency", "2"))
    began = time.time()
    for _ in range(TASKS):
        worker.send("charge", began + LASTS_S)
    return Storm(backends, worker, began)


def test_the_incident_is_found_by_operation_and_by_tag_while_it_lasts(storm: Storm) -> None:
    wait_for(lambda: storm.findings(), 60, "the incident in Jaeger")
    assert storm.backends.jaeger.search(SERVICE, FINDING)
    opened = storm.findings(taskwatt__finding__cause="retry_storm", taskwatt__incident__state="opened")[0]
    assert storm.findings(taskwatt__incident__id=opened.tags["taskwatt.incident.id"])[0] == opened
    bucket = opened.tags["taskwatt.cpu.wasted_cores_bucket"]
    assert storm.findings(taskwatt__cpu__wasted_cores_bucket=bucket)[0] == opened
    assert FINDING in storm.backends.jaeger.operations(SERVICE)


def test_the_incident_reads_as_sentences_and_is_red(storm: Storm) -> None:
    tags = storm.findings()[0].tags
    summary, next_step = tags["taskwatt.finding.summary"], tags["taskwatt.finding.next_step"]
    assert summary.startswith("tests.charge retries without backing off: ")
    assert summary.endswith(".")
    assert next_step.endswith(".")
    assert (tags["error"], tags["otel.status_description"], tags["span.kind"]) == (True, summary, "internal")
    assert tags["taskwatt.task.name"] == "tests.charge"


def test_its_metrics_are_in_prometheus_and_the_alerts_fire(storm: Storm) -> None:
    prometheus = storm.backends.prometheus
    expected = {"CeleryRetryStorm", "CeleryWastedCores", "TaskwattIncident"}
    wait_for(lambda: expected <= prometheus.firing(SERVICE), 60, "the alerts")
    share = 'sum(rate(celery_task_attempts_total{job="storm",taskwatt_task_outcome="retried"}[20s]))'
    assert prometheus.value(f'{share} / sum(rate(celery_task_attempts_total{{job="storm"}}[20s]))') > 0.9
    print(f"{prometheus.value(share):.0f} retried attempts a second")


@pytest.mark.parametrize("query", documented(r"```promql\n(.*?)```", "prometheus.md"), ids=short)
def test_the_query_of_the_docs_has_an_answer_in_prometheus(storm: Storm, query: str) -> None:
    asked = query.replace('job="shop"', f'job="{SERVICE}"').replace("[3m]", "[20s]")
    if "queue_wait" in query:
        storm.worker.publish(("burn", [0.001], {}), OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")
    wait_for(lambda: storm.backends.prometheus.query(asked), 30, query)


@pytest.mark.parametrize("command", documented(r"^(curl .*?)$", "jaeger.md"), ids=short)
def test_the_search_of_the_docs_has_an_answer_in_jaeger(storm: Storm, command: str) -> None:
    asked = command.replace("http://127.0.0.1:16686", storm.backends.jaeger.url).replace("=shop", f"={SERVICE}")
    assert json.loads(subprocess.check_output(shlex.split(asked)))["data"]


def test_the_monitor_tab_of_jaeger_has_the_calls_of_its_consumer(storm: Storm) -> None:
    jaeger = storm.backends.jaeger
    wait_for(lambda: jaeger.calls(SERVICE, "consumer") > 0, 60, "calls in Jaeger's Monitor tab")


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


def test_every_link_of_every_incident_span_resolves(storm: Storm) -> None:
    jaeger = storm.backends.jaeger
    found = jaeger.find(SERVICE, FINDING)
    links = {link for one in found for link in one.links}
    assert all(one.links for one in found)
    assert len(links) > len(found)
    wait_for(lambda: all(jaeger.has(*link) for link in links), DECIDED_S, f"all of {len(links)} links")
    for trace_id, span_id in links:
        (span,) = [one for one in jaeger.trace(trace_id) if one.span_id == span_id]
        assert span.tags["taskwatt.keep"] is True
        assert span.operation in {FINDING, "run/tests.charge"}


def test_jaeger_holds_a_bounded_part_of_the_storm(storm: Storm) -> None:
    traces = storm.backends.jaeger.search(SERVICE, "run/tests.charge")
    marked = {one.trace_id for trace in traces for one in trace if one.tags.get("taskwatt.keep")}
    attempts = storm.backends.prometheus.value('sum(celery_task_attempts_total{job="storm"})')
    spans = sum(len(trace) for trace in traces)
    print(
        f"{attempts:.0f} attempts of {TASKS} tasks: {len(traces)} traces, {len(marked)} of them marked, {spans} spans"
    )
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
    assert prometheus.firing("twin") == set()
    assert not [one for one in backends.jaeger.operations("twin") if one == FINDING]
