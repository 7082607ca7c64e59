"""A retry storm while it lasts: what people find in Jaeger and Prometheus. Its whole life: test_whole_storm."""

from __future__ import annotations

import json
import shlex
import subprocess

import pytest

from tests.e2e.documents import documented, short
from tests.e2e.storm import FINDING, SERVICE, WASTE_ALERTS, Storm
from tests.support.processes import wait_for


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
    wait_for(lambda: prometheus.firing(SERVICE) >= WASTE_ALERTS, 60, "the alerts")
    share = 'sum(rate(celery_task_attempts_total{job="storm",taskwatt_task_outcome="retried"}[20s]))'
    assert prometheus.value(f'{share} / sum(rate(celery_task_attempts_total{{job="storm"}}[20s]))') > 0.9
    print(f"{prometheus.value(share):.0f} retried attempts a second")


def test_the_exemplars_of_its_durations_lead_to_traces_that_were_kept(storm: Storm) -> None:
    """One trace in ten is: the others must not be shown."""
    prometheus, jaeger = storm.backends.prometheus, storm.backends.jaeger
    shown = f'celery_task_duration_seconds_bucket{{job="{SERVICE}"}}'
    wait_for(lambda: prometheus.exemplars(shown), 60, "exemplars in Prometheus")

    def dropped() -> list[tuple[str, str]]:
        return [ids for ids in prometheus.exemplars(shown) if not jaeger.has(*ids)]

    wait_for(lambda: not dropped(), 60, "their spans in Jaeger")


@pytest.mark.parametrize("query", documented(r"```promql\n(.*?)```", "prometheus.md", "shop"), ids=short)
def test_the_query_of_the_docs_has_an_answer_in_prometheus(storm: Storm, query: str) -> None:
    asked = query.replace('job="shop"', f'job="{SERVICE}"').replace("[3m]", "[20s]")
    if "queue_wait" in query:
        storm.worker.publish(("burn", [0.001], {}), OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")
    wait_for(lambda: storm.backends.prometheus.query(asked), 30, query)


@pytest.mark.parametrize("command", documented(r"^(curl .*?)$", "jaeger.md", "shop"), ids=short)
def test_the_search_of_the_docs_has_an_answer_in_jaeger(storm: Storm, command: str) -> None:
    asked = command.replace("http://127.0.0.1:16686", storm.backends.jaeger.url).replace("=shop", f"={SERVICE}")
    assert json.loads(subprocess.check_output(shlex.split(asked)))["data"]


def test_the_monitor_tab_of_jaeger_has_the_calls_of_its_consumer(storm: Storm) -> None:
    jaeger = storm.backends.jaeger
    wait_for(lambda: jaeger.calls(SERVICE, "consumer") > 0, 60, "calls in Jaeger's Monitor tab")
