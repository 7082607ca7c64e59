"""A stock application and two environment variables: every attempt arrives at a real receiver, once, as what it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tests.support.processes import wait_for
from tests.support.receiver import Receiver
from tests.support.worker import Worker


def test_every_outcome_is_counted_once(start_worker: Callable[..., Worker], receiver: Receiver) -> None:
    worker = start_worker(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_METRIC_EXPORT_INTERVAL="1000")
    for _ in range(22):
        worker.send("noop")
    worker.send("retry", 7)
    for _ in range(5):
        worker.send("fail")
    for _ in range(3):
        worker.send("ignore")
    for _ in range(2):
        worker.send("reject")
    worker.send("hang", 0.05)
    worker.send("kill_itself", 0.05)
    wait_for(lambda: receiver.total("celery.task.attempts") >= 42, 60, "all attempts")
    metric = receiver.metric("celery.task.attempts")
    assert metric is not None
    counted = Counter[tuple[str, str, str]]()
    for point in metric.points:
        key = (
            point.attributes["taskwatt.task.name"],
            point.attributes["taskwatt.task.outcome"],
            point.attributes["celery.state"],
        )
        counted[key] += int(point.value)
    assert counted == {
        ("tests.noop", "useful", "SUCCESS"): 22,
        ("tests.retry", "retried", "RETRY"): 7,
        ("tests.retry", "useful", "SUCCESS"): 1,
        ("tests.fail", "failed", "FAILURE"): 5,
        ("tests.ignore", "useful", "IGNORED"): 3,
        ("tests.reject", "failed", "REJECTED"): 2,
        ("tests.hang", "cancelled", "FAILURE"): 1,
        ("tests.kill_itself", "cancelled", "FAILURE"): 1,
    }
    wait_for(lambda: len([span for span in receiver.spans if span.name.startswith("run/")]) == 42, 30, "all spans")
