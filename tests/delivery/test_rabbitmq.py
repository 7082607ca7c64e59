"""The same outcomes over RabbitMQ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.brokers import RabbitServer, rabbitmq_binary
from tests.support.processes import wait_for
from tests.support.receiver import ReceivedSpan, Receiver
from tests.support.worker import Worker


@pytest.fixture
def rabbit_server(tmp_path: Path) -> Iterator[RabbitServer]:
    if rabbitmq_binary() is None:
        pytest.skip("no rabbitmq-server here")
    folder = tmp_path / "rabbit"
    folder.mkdir()
    server = RabbitServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_every_outcome_is_counted_once_over_rabbitmq(
    rabbit_server: RabbitServer, tmp_path: Path, receiver: Receiver
) -> None:
    with Worker(
        rabbit_server.url,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_METRIC_EXPORT_INTERVAL="1000",
    ) as worker:
        worker.publish(*[("noop", [], {})] * 22, ("retry", [7], {}), *[("fail", [], {})] * 5)
        worker.publish(*[("ignore", [], {})] * 3, *[("reject", [], {})] * 2)
        worker.publish(("hang", [0.05], {}), ("kill_itself", [0.05], {}))
        wait_for(lambda: receiver.total("celery.task.attempts") >= 42, 60, "all attempts")
        wait_for(lambda: len(runs(receiver)) == 42, 30, "all spans")
        wait_for(lambda: receiver.metric("celery.queue.depth"), 30, "the queue's depth")
        assert worker.end() == 0
        assert worker.warnings == []
    metric = receiver.metric("celery.task.attempts")
    assert metric is not None
    counted = Counter[tuple[str, str]]()
    for point in metric.points:
        counted[point.attributes["taskwatt.task.outcome"], point.attributes["celery.state"]] += int(point.value)
    assert counted == {
        ("useful", "SUCCESS"): 23,
        ("retried", "RETRY"): 7,
        ("failed", "FAILURE"): 5,
        ("useful", "IGNORED"): 3,
        ("failed", "REJECTED"): 2,
        ("cancelled", "FAILURE"): 2,
    }
    ids = {span.span_id for span in receiver.spans}
    assert all(span.parent_id in ids for span in runs(receiver))


def runs(receiver: Receiver) -> list[ReceivedSpan]:
    return [span for span in receiver.spans if span.name.startswith("run/")]
