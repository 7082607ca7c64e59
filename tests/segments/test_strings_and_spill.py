"""Names and variable-length data beside the records: bounded, and what does not fit is counted, never in the way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from taskwatt.segments import SegmentReader, SegmentWriter, layout
from tests.support.segments import begin, child, finish, overwrite, record


@pytest.fixture
def segment(tmp_path: Path) -> SegmentWriter:
    return child(tmp_path / "1-1.seg")


@pytest.fixture
def reader(segment: SegmentWriter) -> SegmentReader:
    return SegmentReader(segment.path, segment.descriptor)


@pytest.mark.parametrize("name", ["", "shop.pay", "größe.é", "a\0", "日本" * 30, "x" * layout.STRING_MAX])
def test_a_name_arrives_as_it_is(segment: SegmentWriter, reader: SegmentReader, name: str) -> None:
    finish(segment, 1, task=name)
    assert [one.task for one in reader.drain()] == [name]


def test_long_names_are_cut_and_stay_apart(segment: SegmentWriter, reader: SegmentReader) -> None:
    names = [f"{'日本' * 5_000}{number}" for number in range(3)]
    for number, name in enumerate(names):
        finish(segment, number + 1, task=name)
    found = [one.task for one in reader.drain()]
    assert len(set(found)) == 3
    assert all(len(name.encode()) <= layout.STRING_MAX and name.startswith("日本日本") for name in found)


def test_a_name_that_utf8_cannot_carry_is_written_all_the_same(segment: SegmentWriter, reader: SegmentReader) -> None:
    finish(segment, 1, task="bad\udcff")
    assert [one.task for one in reader.drain()] == ["bad?"]


def test_names_beyond_the_table_are_other_and_counted_once_each(segment: SegmentWriter, reader: SegmentReader) -> None:
    fit = layout.STRINGS_SIZE // (2 + layout.STRING_MAX)
    names = [f"{number:0{layout.STRING_MAX}d}" for number in range(fit + 10)]
    for _ in range(2):
        for name in names:
            segment.string(name)
    for number, name in enumerate(names):
        finish(segment, number + 1, task=name)
    assert [one.task for one in reader.drain()] == names[:fit] + ["other"] * 10
    assert reader.counters().strings_refused == 10


def test_refused_names_cost_a_bounded_memory(segment: SegmentWriter, reader: SegmentReader) -> None:
    for number in range(20_000):
        segment.string(f"generated.{number}")
    assert reader.counters().strings_refused == 4096
    assert segment.string("one more") == layout.NO_STRING


def test_a_name_is_the_same_number_from_any_thread(segment: SegmentWriter) -> None:
    gate, seen = threading.Barrier(4), list[tuple[int, ...]]()

    def ask() -> None:
        gate.wait()
        seen.append(tuple(segment.string(f"task {number}") for number in range(500)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 1
    assert sorted(seen[0]) == list(range(500))


@pytest.mark.parametrize("data", [b"", b"x", bytes(layout.SPILL_MAX)])
def test_spilled_data_arrives(segment: SegmentWriter, reader: SegmentReader, data: bytes) -> None:
    offset, length = segment.spill(data)
    segment.put(record(spill_at=offset, spill_length=length), 1, 1.0)
    assert [one.user_data for one in reader.drain()] == [data]


def test_too_much_data_is_refused_and_counted_and_its_record_kept(
    segment: SegmentWriter, reader: SegmentReader
) -> None:
    offset, length = segment.spill(bytes(layout.SPILL_MAX + 1))
    segment.put(record(spill_at=offset, spill_length=length), 1, 1.0)
    assert [one.user_data for one in reader.drain()] == [b""]
    assert (offset, length, reader.counters().spills_refused, reader.spills_lost) == (0, 0, 1, 0)


def test_data_overwritten_before_it_was_read_is_counted_and_its_record_kept(
    segment: SegmentWriter, reader: SegmentReader
) -> None:
    expected = list[bytes]()
    for number in range(24):
        expected.append(str(number).encode().ljust(4096, b"."))
        offset, length = segment.spill(expected[-1])
        segment.put(record(spill_at=offset, spill_length=length), 1, 1.0)
    kept = [one.user_data for one in reader.drain()]
    lost = sum(data == b"" for data in kept)
    assert kept == [b""] * lost + expected[lost:]
    assert lost == 24 - layout.SPILL_SIZE // (4096 + 4)
    assert (reader.spills_lost, reader.damaged) == (lost, 0)


def test_spilled_data_goes_on_fitting_when_its_records_found_no_room(
    segment: SegmentWriter, reader: SegmentReader
) -> None:
    while finish(segment, 1):
        pass
    for number in range(100):
        segment.spill(bytes(2048))
        assert not finish(segment, number + 2)
    reader.drain()
    reader.commit()
    offset, length = segment.spill(b"news")
    segment.put(record(spill_at=offset, spill_length=length), 1, 1.0)
    assert [one.user_data for one in reader.drain()] == [b"news"]


@pytest.mark.parametrize(
    ("length", "at"), [(3, 0), (layout.SPILL_SIZE + 1, 0), (100, layout.SPILL_SIZE - 50), (65_535, 1)]
)
def test_a_claim_to_data_outside_of_the_area_is_counted(
    segment: SegmentWriter, reader: SegmentReader, length: int, at: int
) -> None:
    segment.put(record(spill_length=length, spill_at=at), 1, 1.0)
    assert [one.user_data for one in reader.drain()] == [b""]
    assert reader.spills_lost == 1


def test_looking_at_what_runs_takes_nothing_from_what_is_read_later(
    segment: SegmentWriter, reader: SegmentReader
) -> None:
    first = segment.spill(b"first")
    segment.put(record(spill_at=first[0], spill_length=first[1]), 1, 1.0)
    second = segment.spill(b'{"id": "nightly"}')
    begin(segment, 2, spill_at=second[0], spill_length=second[1])
    running = reader.in_flight()
    assert running is not None
    assert running.record.user_data == b'{"id": "nightly"}'
    assert [one.user_data for one in reader.drain()] == [b"first"]


def test_strings_of_a_torn_table_are_other(segment: SegmentWriter, reader: SegmentReader) -> None:
    finish(segment, 1, task="shop.pay")
    overwrite(segment.path, layout.STRINGS_AT, b"\xff\xff")
    assert [one.task for one in reader.drain()] == ["other"]
