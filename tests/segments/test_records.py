"""A record carries every field there and back; what it cannot hold becomes the nearest it can, never an exception."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from taskwatt.observations import Attempt, Cpu, Publish
from taskwatt.segments import SegmentReader, layout
from taskwatt.segments.layout import Record
from taskwatt.segments.reader import Drained
from taskwatt.segments.records import Observed, decode, pack_task_id
from tests.support.segments import PLAIN, START_NS, TASK_ID, child, record


def decoded(**changed: Any) -> Observed | None:
    return decode(Drained("a/b", 1, record(**changed), "shop.pay", "celery", "", b""))


def attempt(**changed: Any) -> Attempt:
    found = decoded(**changed)
    assert isinstance(found, Attempt)
    return found


def test_every_field_of_an_attempt_arrives(tmp_path: Path) -> None:
    segment = child(tmp_path / "1-1.seg")
    reader = SegmentReader(segment.path, segment.descriptor)
    offset, length = segment.spill(b'{"name": "renamed"}')
    flags = layout.SAMPLED | layout.REDELIVERED | layout.EXPORTED
    names = {"task": segment.string("shop.pay"), "queue": segment.string("urgent")}
    ids = {"parent_span_id": b"p" * 8, "link_trace_id": b"l" * 16, "link_span_id": b"k" * 8}
    numbers = {"queue_wait": -0.25, "retry_delay": 3.0, "retries": 4, "depth": 5, "nesting": 6, "args_hash": 7}
    cpu = dict(zip(Cpu._fields, (1.0, 2.0, 4.0, 8.0, 16.0, 32.0), strict=True))
    sizes = {"body_size": 5 << 32, "max_rss": 6 << 32}
    ended = {"outcome": 2, "state": 2, "spill_length": length, "spill_at": offset}
    segment.put(record(flags=flags, **names, **ids, **numbers, **cpu, **sizes, **ended), 1, 1.0)
    (drained,) = reader.drain()
    segment.close()
    assert decode(drained) == Attempt(
        task="shop.pay",
        task_id=str(TASK_ID),
        outcome="retried",
        state="RETRY",
        start_ns=START_NS,
        duration_s=0.5,
        queue="urgent",
        queue_wait_s=-0.25,
        cpu=Cpu(1.0, 2.0, 4.0, 8.0, 16.0, 32.0),
        retries=4,
        nesting=6,
        redelivered=True,
        retry_delay_s=3.0,
        depth=5,
        args_hash=7,
        body_size=5 << 32,
        max_rss=6 << 32,
        trace_id=b"t" * 16,
        span_id=b"s" * 8,
        parent_span_id=b"p" * 8,
        link_trace_id=b"l" * 16,
        link_span_id=b"k" * 8,
        sampled=True,
        exported=True,
        user_data=b'{"name": "renamed"}',
    )


def test_every_field_of_a_publish_arrives(tmp_path: Path) -> None:
    segment = child(tmp_path / "1-1.seg")
    reader = SegmentReader(segment.path, segment.descriptor)
    names = {name: segment.string(name) for name in ("task", "queue", "publisher")}
    flags = layout.SAMPLED | layout.RETRY_PUBLISH
    segment.put(record(kind=layout.PUBLISH, flags=flags, parent_span_id=b"p" * 8, depth=3, **names), 0, 0.0)
    (drained,) = reader.drain()
    segment.close()
    assert decode(drained) == Publish(
        task="task",
        task_id=str(TASK_ID),
        queue="queue",
        start_ns=START_NS,
        duration_s=0.5,
        publisher="publisher",
        depth=3,
        retry=True,
        trace_id=b"t" * 16,
        span_id=b"s" * 8,
        parent_span_id=b"p" * 8,
        sampled=True,
        exported=False,
    )


INTEGERS = {name: value for name, value in PLAIN._asdict().items() if isinstance(value, int)}
FLOATS = [name for name, value in PLAIN._asdict().items() if isinstance(value, float)]


@pytest.mark.parametrize("value", [-1, -(2**70), 2**40, 2**64, 2**2000])
@pytest.mark.parametrize("name", INTEGERS)
def test_no_integer_is_too_large_or_too_small_to_be_written(name: str, value: int) -> None:
    kept = getattr(Record.unpack(record(**{name: value})), name)
    assert (
        (kept == value) or (kept == 0 and value < 0) or kept == max_of(name) or (name, value < 0) == ("start_ns", True)
    )


def max_of(name: str) -> int:
    return int(getattr(Record.unpack(record(**{name: 2**3000})), name))


def test_the_largest_that_a_field_holds_is_kept() -> None:
    largest = {name: max_of(name) for name in ("flags", "nesting", "retries", "depth", "body_size", "start_ns")}
    assert largest == {
        "flags": 2**8 - 1,
        "nesting": 2**16 - 1,
        "retries": 2**32 - 1,
        "depth": 2**32 - 1,
        "body_size": 2**64 - 1,
        "start_ns": 2**63 - 1,
    }


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e308, -0.0, 2**2000])
@pytest.mark.parametrize("name", FLOATS)
def test_no_float_fails_to_be_written(name: str, value: float) -> None:
    kept = getattr(Record.unpack(record(**{name: value})), name)
    assert kept == value or math.isnan(kept)


def test_numbers_of_a_wrong_type_are_written_as_nothing_beside_fields_that_hold() -> None:
    kept = Record.unpack(record(retries=1.5, task_id="text", depth=7))
    assert (kept.retries, kept.task_id, kept.depth) == (0, bytes(layout.TASK_ID_SIZE), 7)


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": 77},
        {"outcome": 200},
        {"state": 200},
        {"duration": math.inf},
        {"duration": math.nan},
        {"duration": -1.0},
        {"business": math.nan},
        {"gc": math.inf},
        {"agent": -1e300},
        {"start_ns": -1},
        {"start_ns": 2**63 - 1},
    ],
)
def test_a_record_that_makes_no_sense_is_no_observation(changed: dict[str, Any]) -> None:
    assert decoded(**changed) is None


@pytest.mark.parametrize("wait", [math.nan, math.inf, -math.inf, 1e300])
def test_a_wait_that_nobody_can_have_had_is_unknown(wait: float) -> None:
    assert (attempt(queue_wait=wait).queue_wait_s, attempt(retry_delay=wait).retry_delay_s) == (None, None)


def test_a_negative_wait_is_kept_for_what_it_says_about_the_clocks() -> None:
    assert attempt(queue_wait=-86_400.0).queue_wait_s == -86_400.0


def test_sizes_stay_within_what_opentelemetry_can_carry() -> None:
    found = attempt(body_size=2**64 - 1, max_rss=2**64 - 1)
    assert (found.body_size, found.max_rss) == (2**63 - 1, 2**63 - 1)


@pytest.mark.parametrize("task_id", ["", "nightly", TASK_ID.hex, "é" * 36, "x" * 35, "x" * 37, "x" * 10_000])
def test_an_id_of_another_length_than_a_uuid_is_not_packed(task_id: str) -> None:
    assert pack_task_id(task_id) is None


@pytest.mark.parametrize("task_id", [str(TASK_ID), str(TASK_ID).upper(), "x" * 36, "é" * 18])
def test_an_id_as_long_as_a_uuid_is_packed_and_comes_back(task_id: str) -> None:
    packed = pack_task_id(task_id)
    assert packed == task_id.encode()
    assert attempt(task_id=packed).task_id == task_id


@pytest.mark.parametrize(
    ("data", "task_id"),
    [
        (json.dumps({"id": "nightly", "name": "x"}).encode(), "nightly"),
        (b"", ""),
        (b"garbage", ""),
        (b"[1]", ""),
        (b'{"id": 7}', ""),
        (b"\xff", ""),
    ],
)
def test_a_spilled_id_is_read_from_the_spilled_data_or_unknown(data: bytes, task_id: str) -> None:
    found = decode(Drained("a/b", 1, record(flags=layout.ID_SPILLED), "t", "q", "", data))
    assert isinstance(found, Attempt)
    assert found.task_id == task_id


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_never_raise(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(50):
        decode(Drained("a/b", 1, dice.randbytes(layout.RECORD.size), "t", "q", "p", dice.randbytes(20)))
