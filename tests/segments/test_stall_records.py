"""A stall carries every field there and back, and what is too long or damaged costs its stack, not the stall."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from taskwatt.observations import STALL_CAUSES, Stall
from taskwatt.segments import SegmentReader, layout
from taskwatt.segments.reader import Drained
from taskwatt.segments.records import Observed, decode
from taskwatt.segments.stall_records import put_stall
from tests.support.segments import child, record
from tests.support.stalls import CODE, STALL


def there_and_back(tmp_path: Path, stall: Stall) -> Observed | None:
    segment = child(tmp_path / "1-1.seg")
    reader = SegmentReader(segment.path, segment.descriptor)
    assert put_stall(segment, stall)
    (drained,) = reader.drain()
    segment.close()
    return decode(drained)


@pytest.mark.parametrize("cause", STALL_CAUSES)
def test_every_field_of_a_stall_arrives(tmp_path: Path, cause: Any) -> None:
    assert there_and_back(tmp_path, STALL._replace(cause=cause)) == STALL._replace(cause=cause)


@pytest.mark.parametrize("stall", [STALL, STALL._replace(code=None, stack="")])
def test_the_row_of_a_stall_arrives_with_its_code_and_without(tmp_path: Path, stall: Stall) -> None:
    routed = stall._replace(row="GET /report/{id}")
    assert there_and_back(tmp_path, routed) == routed


def test_a_stall_that_nobody_saw_has_no_code(tmp_path: Path) -> None:
    unseen = STALL._replace(code=None, stack="")
    assert there_and_back(tmp_path, unseen) == unseen


def test_figures_that_are_not_known_stay_unknown(tmp_path: Path) -> None:
    found = there_and_back(tmp_path, STALL._replace(run_delay_s=math.nan, others_cpu_s=math.nan))
    assert isinstance(found, Stall)
    assert math.isnan(found.run_delay_s)
    assert math.isnan(found.others_cpu_s)


def test_a_stack_that_is_too_long_loses_its_outer_frames(tmp_path: Path) -> None:
    frames = [f'File "/shop/{"deep/" * 40}{number}.py", line {number}, in step' for number in range(300)]
    found = there_and_back(tmp_path, STALL._replace(stack="\n".join(frames)))
    assert isinstance(found, Stall)
    kept = found.stack.splitlines()
    assert 20 < len(kept) < 60
    assert (kept, found.code) == (frames[-len(kept) :], CODE)


def test_names_that_are_no_text_arrive_as_text(tmp_path: Path) -> None:
    found = there_and_back(tmp_path, STALL._replace(code=CODE._replace(file="/shop/\udcff.py"), stack="in \udcff"))
    assert isinstance(found, Stall)
    assert (found.code, found.stack) == (CODE._replace(file="/shop/?.py"), "in ?")


def test_a_full_ring_takes_no_stall(tmp_path: Path) -> None:
    segment = child(tmp_path / "1-1.seg")
    taken = [put_stall(segment, STALL._replace(code=None, stack="")) for _ in range(layout.RING_SLOTS)]
    segment.close()
    assert taken == sorted(taken, reverse=True)
    assert not taken[-1]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"[1, 2]",
        b'{"a": 1}',
        json.dumps(["f", "x.py", 1, 0.5, 1, "without a row"]).encode(),
        json.dumps(["f", "x.py", -1, 0.5, 1, "", ""]).encode(),
        json.dumps(["f", "x.py", 1, 5.0, 1, "", ""]).encode(),
        json.dumps(["f", "x.py", 2**70, 0.5, 1, "", ""]).encode(),
        json.dumps(["f", "x.py", "one", 0.5, 1, "", ""]).encode(),
    ],
)
def test_damaged_code_costs_the_code_only(data: bytes) -> None:
    found = decode(Drained("a/b", 1, record(kind=layout.STALL, outcome=1), "t", "MainThread", "web", data))
    assert isinstance(found, Stall)
    assert (found.task, found.cause, found.code, found.stack) == ("t", "blocking", None, "")


def test_an_unknown_cause_is_no_observation() -> None:
    assert decode(Drained("a/b", 1, record(kind=layout.STALL, outcome=99), "t", "l", "web", b"")) is None
