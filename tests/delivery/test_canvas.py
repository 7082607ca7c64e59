"""Chains, groups and chords run as without the agent, and their spans hang together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group

from tests.support.brokers import RedisServer
from tests.support.processes import wait_for
from tests.support.receiver import ReceivedSpan, Receiver
from tests.support.worker import Worker

from .conftest import TRACED, worker_url


def signature(app: Celery, name: str, *args: Any, immutable: bool = False) -> Any:
    return app.signature(f"tests.{name}", args, immutable=immutable)


@pytest.fixture
def client() -> Iterator[Celery]:
    app = Celery(set_as_current=False)
    yield app
    app.close()


def tree(receiver: Receiver) -> dict[str, ReceivedSpan]:
    return {span.span_id: span for span in receiver.spans}


def above(span: ReceivedSpan, spans: dict[str, ReceivedSpan]) -> tuple[str, ...]:
    """Names from the span's parent up to its root."""
    names: list[str] = []
    while span.parent_id:
        span = spans[span.parent_id]
        names.append(span.name)
    return tuple(names)


def test_results_on_redis_and_every_canvas(
    broker: RedisServer, tmp_path: Path, receiver: Receiver, client: Celery
) -> None:
    url = worker_url(broker)
    client.conf.update(broker_url=url, result_backend=url)
    add: Any = partial(signature, client, "add")
    total = signature(client, "total")
    with Worker(
        url,
        tmp_path,
        app=TRACED,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_METRIC_EXPORT_INTERVAL="1000",
        TEST_RESULTS=url,
    ) as worker:
        assert chain(add(1, 2), add(3), add(4)).apply_async().get(timeout=60) == 10
        assert group(add(i, i) for i in range(7)).apply_async().get(timeout=60) == [0, 2, 4, 6, 8, 10, 12]
        assert chord([add(i, 1) for i in range(7)], total).apply_async().get(timeout=60) == 28
        assert signature(client, "replaced", 6).apply_async().get(timeout=60) == 7
        echoed = signature(client, "echo", "a").apply_async(kwargs={"b": [1, None]}).get(timeout=60)
        assert echoed == [["a"], {"b": [1, None]}]
        wait_for(lambda: receiver.total("celery.task.attempts") == 3 + 7 + 8 + 2 + 1, 60, "all attempts")
        assert worker.end() == 0
        assert worker.warnings == []
    spans = tree(receiver)
    step = ("apply_async/tests.add", "run/tests.add")
    assert Counter(above(span, spans) for span in receiver.named("run/tests.add")) == {
        (): 1 + 7 + 7,  # published by this process, which is not watched
        step: 1,
        step * 2: 1,
        ("apply_async/tests.add", "run/tests.replaced"): 1,
    }
    assert [above(span, spans) for span in receiver.named("run/tests.total")] == [
        ("apply_async/tests.total", "run/tests.add")
    ]
    replaced = receiver.named("run/tests.replaced")
    assert [(span.status, span.attributes["celery.state"]) for span in replaced] == [(0, "IGNORED")]
    heir = next(span for span in receiver.named("run/tests.add") if len(span.links) == 1)
    assert heir.links == ((replaced[0].trace_id, replaced[0].span_id),)


def test_a_chord_that_is_polled_for_counts_as_polling(tmp_path: Path, broker: RedisServer, receiver: Receiver) -> None:
    """A result backend that cannot count makes Celery ask again and again whether the chord's header is done."""
    url = worker_url(broker)
    results = tmp_path / "results"
    results.mkdir()
    with Worker(
        url,
        tmp_path,
        app=TRACED,
        options=("--concurrency", "2"),
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_METRIC_EXPORT_INTERVAL="1000",
        TEST_RESULTS=f"file://{results}",
    ) as worker:
        worker.app.conf.update(result_backend=f"file://{results}")
        header = [signature(worker.app, "add", 1), signature(worker.app, "wait_and_add", 3.0)]
        assert chord(header, signature(worker.app, "total")).apply_async().get(timeout=60) == 2
        wait_for(
            lambda: receiver.total("celery.task.attempts", taskwatt__task__name="tests.total") == 1, 60, "the body"
        )
        polled = receiver.total("celery.task.attempts", taskwatt__task__outcome="polling")
        unlocked = {"taskwatt__task__name": "celery.chord_unlock"}
        assert polled == receiver.total("celery.task.attempts", taskwatt__task__outcome="polling", **unlocked) >= 2
        assert receiver.total("celery.task.attempts", taskwatt__task__outcome="useful", **unlocked) == 1
        assert receiver.total("celery.task.attempts", taskwatt__task__outcome="retried") == 0
        polling = [
            span for span in receiver.named("run/celery.chord_unlock") if span.attributes["celery.state"] == "RETRY"
        ]
        assert {span.status for span in polling} == {0}
