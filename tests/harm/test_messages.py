"""Messages that nobody would send on purpose: the agent takes no offence and loses nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskwatt.export.context import env_sampler
from taskwatt.observations import Attempt
from taskwatt.segments import SegmentReader, SegmentWriter, layout
from taskwatt.segments.records import decode
from taskwatt_celery.attempt import Recorder
from taskwatt_celery.outcome import USEFUL
from tests.harm.conftest import StartWorker
from tests.harm.names import LONG_NAME
from tests.support.processes import wait_for
from tests.support.receiver import Receiver

SIGNED_TRACE = f"00--{'1' * 31}-{'2' * 16}-01"

ODD_HEADERS: dict[str, dict[str, Any]] = {
    "negative counters": {"retries": -1, "replaced_task_nesting": -5, "taskwatt_depth": -3},
    "huge counters": {"retries": 1 << 70, "replaced_task_nesting": 1 << 40, "taskwatt_depth": 1 << 80},
    "counters that are text": {"retries": "many", "replaced_task_nesting": "", "taskwatt_depth": "deep"},
    "counters that are lists": {"retries": [], "replaced_task_nesting": [1], "taskwatt_depth": [2]},
    "a publish time beyond any float": {"taskwatt_published": 10**400},
    "a publish time that is infinite": {"taskwatt_published": float("inf")},
    "a publish time that is no number": {"taskwatt_published": float("nan")},
    "a publish time that is text": {"taskwatt_published": "yesterday"},
    "an ETA at the edge of time": {"taskwatt_published": 1.0, "eta": "0001-01-01T00:00:00+23:59"},
    "an ETA that is no time": {"taskwatt_published": 1.0, "eta": "soon"},
    "a delivery without information": {"delivery_info": None},
    "a delivery that is a list": {"delivery_info": ["a", "b"]},
    "a routing key that is a number": {"delivery_info": {"routing_key": 5}},
    "a signed trace": {"traceparent": SIGNED_TRACE},
    "a signed span": {"traceparent": f"00-{'1' * 32}--{'2' * 15}-01"},
    "signed flags": {"traceparent": f"00-{'1' * 32}-{'2' * 16}--1"},
    "a spaced trace": {"traceparent": f"00- {'1_' * 15}1-+{'2' * 15}- 1"},
    "an all-zero trace": {"traceparent": f"00-{'0' * 32}-{'0' * 16}-01"},
    "a trace that is a list": {"traceparent": ["00"], "tracestate": 5, "baggage": {}},
    "a previous attempt that is odd": {"taskwatt_previous": "00-" + "-" * 60},
    "arguments that are odd": {"argsrepr": {"a": 1}, "kwargsrepr": "\ud800"},
}


@pytest.fixture
def recorder(tmp_path: Path, recorders: type[Recorder]) -> Iterator[Recorder]:
    writer = SegmentWriter(tmp_path / "1-1.seg", layout.CHILD, "worker")
    yield recorders(writer, env_sampler())
    writer.close()


@pytest.mark.parametrize("kind", ODD_HEADERS)
def test_odd_headers_are_measured_like_any_others(recorder: Recorder, kind: str) -> None:
    """The hook disables itself when it fails, so one such message would blind it for good."""
    task_id = "00000000-0000-0000-0000-000000000001"
    run = recorder.begin("tests.add", task_id, {"id": task_id, **ODD_HEADERS[kind]}, b"[]")
    recorder.end(run, USEFUL, 1, task_id)
    reader = SegmentReader(recorder.segment.path, recorder.segment.descriptor)
    (record,) = reader.drain()
    observed = decode(record)
    assert isinstance(observed, Attempt)
    assert (observed.task, observed.task_id) == ("tests.add", task_id)


@pytest.mark.parametrize("task_id", ["", "x" * 100_000, "\ud800", "0" * 36, 'quo"te', "ünïcode"])
def test_odd_task_ids_are_measured_like_any_others(recorder: Recorder, task_id: str) -> None:
    run = recorder.begin("tests.add", task_id, {"id": task_id}, b"[]")
    recorder.end(run, USEFUL, 1, task_id)
    reader = SegmentReader(recorder.segment.path, recorder.segment.descriptor)
    (record,) = reader.drain()
    observed = decode(record)
    assert isinstance(observed, Attempt)
    kept = "" if len(task_id) > layout.SPILL_MAX else task_id.encode("utf-8", "replace").decode()
    assert observed.task_id == kept


def test_bad_messages_and_a_name_of_ten_thousand_bytes(worker: StartWorker, receiver: Receiver) -> None:
    watched = worker(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_METRIC_EXPORT_INTERVAL="500")
    result = watched.app.send_task(LONG_NAME)
    assert (len(LONG_NAME) > 10_000, result.get(timeout=20)) == (True, "done")
    undecodable = watched.app.send_task("tests.add", (1, 2))
    undecodable.get(timeout=20)
    with watched.app.producer_pool.acquire() as producer:
        headers = {"lang": "py", "task": "tests.add", "id": "undecodable", "retries": 0, "root_id": "undecodable"}
        for body, kind in (
            (b"\x80\x04\x95 not json", "application/json"),
            (b"[[1, 2], {}", "application/json"),
            (b"cos\nsystem\n", "application/x-python-serialize"),
            (b"nothing", "application/x-no-such-thing"),
        ):
            producer.publish(
                body, routing_key="celery", content_type=kind, content_encoding="utf-8", headers=dict(headers)
            )
        producer.publish(json.dumps({"no": "task"}), routing_key="celery", content_type="application/json")
        producer.publish(
            json.dumps([[1, 2], {}, {}]),
            routing_key="celery",
            content_type="application/json",
            content_encoding="utf-8",
            headers={**headers, "id": "\ud800", "traceparent": SIGNED_TRACE},
        )
    watched.app.send_task("tests.no_such_task")
    for number in range(3):
        assert watched.app.AsyncResult(watched.send("add", number, 1)).get(timeout=20) == number + 1
    wait_for(lambda: len(receiver.named("run/tests.add")) >= 5, 20, "the spans of all that could be run")
    named = {point.attributes["taskwatt.task.name"] for point in _points(receiver, "celery.task.attempts")}
    (cut,) = {name for name in named if name != "tests.add"}
    assert (len(cut.encode()), cut[:50]) == (layout.STRING_MAX, LONG_NAME[:50])
    assert watched.warnings == []


def _points(receiver: Receiver, name: str) -> tuple[Any, ...]:
    wait_for(lambda: receiver.metric(name), 20, name)
    metric = receiver.metric(name)
    return metric.points if metric is not None else ()
