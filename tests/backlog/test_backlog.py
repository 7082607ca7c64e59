"""Depth, unacked and head age on a real broker, and what the broker is left with afterwards."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from taskwatt_celery.backlog import (
    HEAD_EVERY_S,
    Backlog,
    NoBacklog,
    QueueDepth,
    RedisBacklog,
    VirtualBacklog,
    own_connection,
    published_at,
    reader_for,
)


@pytest.fixture
def app(broker: Any) -> Iterator[Celery]:
    application = Celery("shop", broker=broker.url, set_as_current=False)
    yield application
    application.close()


def send(app: Celery, count: int, queue: str = "orders", published: float | None = None, priority: int = 0) -> None:
    headers = {} if published is None else {"taskwatt_published": published}
    for _ in range(count):
        app.send_task("shop.charge", queue=queue, headers=headers, priority=priority)


def measured(app: Celery, *queues: str) -> list[QueueDepth]:
    depths = Backlog(app, lambda: queues)
    try:
        return depths.measure()
    finally:
        depths.close()


def test_every_queue_is_counted_and_an_empty_one_is_zero(app: Celery) -> None:
    send(app, 23)
    send(app, 7, "mails")
    assert measured(app, "orders", "mails", "none") == [
        QueueDepth("orders", 23, 0, None),
        QueueDepth("mails", 7, 0, None),
        QueueDepth("none", 0, 0, None),
    ]


def test_without_a_list_the_queues_that_the_worker_consumes_are_counted(app: Celery) -> None:
    app.send_task("shop.charge")
    depths = Backlog(app)
    assert depths.measure() == [QueueDepth("celery", 1, 0, None)]
    depths.close()


def test_all_priorities_are_summed_under_the_user_s_steps_separator_and_prefix(app: Celery, broker: Any) -> None:
    app.conf.broker_transport_options = {"priority_steps": [0, 2, 5], "sep": "|", "global_keyprefix": "shop:"}
    for priority, count in ((0, 3), (2, 5), (9, 7)):
        send(app, count, priority=priority, published=time.time() - 100 * (priority + 1))
    assert broker.client.llen("shop:orders|5") == 7
    (depth,) = measured(app, "orders")
    assert (depth.ready, depth.unacked) == (15, 0)
    assert depth.oldest_age_s == pytest.approx(1000, abs=30)


def test_taken_and_unacknowledged_messages_are_counted_apart(app: Celery) -> None:
    send(app, 5)
    with app.connection_for_read() as connection:
        taken = connection.SimpleQueue("orders")
        taken.get(timeout=5)
        taken.get(timeout=5)
        assert measured(app, "orders") == [QueueDepth("orders", 3, 2, None)]


def test_the_age_is_that_of_the_oldest_message_and_is_read_anew_only_after_a_while(app: Celery) -> None:
    at = [0.0]
    with app.connection_for_read() as connection:
        mine = own_connection(connection)
        reader = RedisBacklog(mine, clock=lambda: at[0], wall=lambda: 5000.0 + at[0])
        send(app, 1, published=4900.0)
        send(app, 1, published=4990.0)
        ages = [reader.measure(["orders"])[0].oldest_age_s]
        at[0] = HEAD_EVERY_S - 1
        ages.append(reader.measure(["orders"])[0].oldest_age_s)
        at[0] = HEAD_EVERY_S
        ages.append(reader.measure(["orders"])[0].oldest_age_s)
        mine.release()
    assert ages == [100.0, 100.0, 110.0]


def test_the_broker_is_left_as_it_was(app: Celery, broker: Any) -> None:
    send(app, 3)
    before = {key: broker.client.dump(key) for key in broker.client.scan_iter()}
    clients = len(broker.client.client_list())
    depths = Backlog(app, lambda: ["orders", "never_declared"])
    depths.measure()
    during = len(broker.client.client_list())
    depths.close()
    assert {key: broker.client.dump(key) for key in broker.client.scan_iter()} == before
    assert during == clients + 1


def test_a_broker_that_goes_away_is_one_log_line_and_comes_back(
    app: Celery, broker: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr("taskwatt_celery.backlog.time.monotonic", lambda: now[0])
    depths = Backlog(app, lambda: ["orders"])
    seen: list[Any] = [depths.measure()]
    broker.stop()
    with caplog.at_level(logging.WARNING, "taskwatt"):
        seen += [depths.measure(), depths.measure()]
        now[0] = 1.0
        seen.append(depths.measure())
    errors = depths.errors
    broker.start()
    now[0] = 2.0
    seen.append(depths.measure())
    now[0] = 3.0
    seen.append(depths.measure())
    depths.close()
    nothing: list[QueueDepth] = []
    up = [QueueDepth("orders", 0, 0, None)]
    assert seen == [up, nothing, nothing, nothing, nothing, up]
    assert errors == 2
    assert [record.name for record in caplog.records] == ["taskwatt"]


def test_a_url_that_makes_no_sense_is_counted_and_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    depths = Backlog(Celery(broker="nonsense://x", set_as_current=False), lambda: ["orders"])
    assert (depths.measure(), depths.errors) == ([], 1)


def test_a_virtual_transport_is_counted_by_kombu_and_no_queue_is_made() -> None:
    with Connection("memory://") as connection:
        queue = connection.SimpleQueue("taskwatt_test_orders")
        for _ in range(7):
            queue.put({})
        reader = reader_for(connection)
        assert isinstance(reader, VirtualBacklog)
        assert reader.measure(["taskwatt_test_orders", "taskwatt_test_none"]) == [
            QueueDepth("taskwatt_test_orders", 7, None, None)
        ]
        channel: Any = connection.default_channel
        assert not channel._has_queue("taskwatt_test_none")
        queue.clear()
        queue.close()


def test_a_transport_whose_counting_may_create_queues_is_left_alone() -> None:
    sqs: Any = SimpleNamespace(transport=SimpleNamespace(driver_type="sqs"))
    assert isinstance(reader_for(sqs), NoBacklog)


@pytest.mark.parametrize(
    ("message", "published"),
    [
        (json.dumps({"headers": {"taskwatt_published": 17.5}, "body": ""}).encode(), 17.5),
        (json.dumps({"headers": {"taskwatt_published": "x"}}).encode(), None),
        (json.dumps({"headers": {"taskwatt_published": True}}).encode(), None),
        (json.dumps({"headers": {}}).encode(), None),
        (json.dumps({"headers": None}).encode(), None),
        (b"[1]", None),
        (b"\xff\x00", None),
        (b"", None),
        (None, None),
    ],
)
def test_a_head_that_is_not_ours_has_no_age(message: bytes | None, published: float | None) -> None:
    assert published_at(message) == published
