"""The alerts about work that waits, each under its bug and under a load without it. Those about waste: test_storm."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.e2e.conftest import Backends
from tests.support.processes import wait_for
from tests.support.worker import Worker


def test_more_processes_than_cpus_raise_the_alert_and_one_that_is_half_busy_does_not(
    backends: Backends, start_shop: Callable[..., Worker]
) -> None:
    prometheus = backends.prometheus
    few = start_shop(backends, "few", options=("--concurrency", "1"))
    cpus = int(wait_for_value(backends, 'max(taskwatt_cpu_effective{job="few"})'))
    many = start_shop(backends, "crowd", options=("--concurrency", str(4 * cpus)))
    seen: set[str] = set()

    def rose() -> bool:
        for _ in range(20 * cpus):
            many.send("burn", 0.05)
        for _ in range(5):
            few.send("burn", 0.05)
        time.sleep(1)
        seen.update(prometheus.firing("few"))
        return "CeleryOversubscribed" in prometheus.firing("crowd")

    wait_for(rose, 90, "the alert")
    assert "CeleryOversubscribed" not in seen
    many.app.control.purge()


def test_a_backlog_that_ages_raises_the_alert_and_one_that_drains_does_not(
    backends: Backends, start_shop: Callable[..., Worker]
) -> None:
    slow = start_shop(backends, "slow", options=("--concurrency", "1", "-Q", "slow"))
    quick = start_shop(backends, "quick", options=("--concurrency", "1", "-Q", "quick"))
    silent = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
    # Few and long ones: what takes long to publish is no burst, and a busy machine publishes 100 a second.
    quick.publish(*[("sleep", [0.05], {"queue": "quick"})] * 500, **silent)
    alert = "CeleryBacklogAging"
    firing = 'ALERTS{alertname="CeleryBacklogAging",alertstate="firing",messaging_destination_name="%s"}'

    def rose() -> bool:
        slow.publish(*[("sleep", [0.3], {"queue": "slow"})] * 30, **silent)
        return backends.prometheus.value(firing % "slow") > 0

    wait_for(rose, 90, alert)
    oldest = "max_over_time(celery_queue_oldest_age_seconds{job='quick'}[5m])"
    wait_for(lambda: backends.prometheus.value(oldest) > 1, 30, "an age, which is asked for every 10 s")
    assert not backends.prometheus.query(f"max_over_time({firing % 'quick'}[5m])")
    slow.app.control.purge()


def test_telemetry_that_is_dropped_raises_the_alert_and_what_has_room_does_not(
    backends: Backends, start_shop: Callable[..., Worker]
) -> None:
    terse, wordy = (start_shop(backends, name, options=("--concurrency", "1")) for name in ("terse", "wordy"))

    def rose() -> bool:
        for _ in range(100):
            wordy.send("talk")
        terse.send("talk")
        return "TaskwattDropsTelemetry" in backends.prometheus.firing("wordy")

    wait_for(rose, 60, "the alert")
    dropped = backends.prometheus.query('taskwatt_agent_dropped_total{job="wordy"} > 0')
    assert [dict(labels)["reason"] for labels in dropped] == ["span_data"]
    assert "TaskwattDropsTelemetry" not in backends.prometheus.firing("terse")
    wordy.app.control.purge()


def wait_for_value(backends: Backends, expression: str) -> float:
    wait_for(lambda: backends.prometheus.value(expression), 30, expression)
    return backends.prometheus.value(expression)
