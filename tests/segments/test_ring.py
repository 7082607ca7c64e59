"""The ring between one process that writes and one that reads, also when either lags, tears or dies."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from taskwatt.observations import Cpu
from taskwatt.segments import Damaged, SegmentReader, SegmentWriter, layout
from taskwatt.segments.layout import Record
from taskwatt.segments.reader import Drained
from tests.support.segments import START_NS, child, die, finish, killed_process, overwrite, record

ROOM = layout.RING_SLOTS - layout.RING_MARGIN


@pytest.fixture
def segment(tmp_path: Path) -> SegmentWriter:
    return child(tmp_path / "1-1.seg")


@pytest.fixture
def reader(segment: SegmentWriter) -> SegmentReader:
    return SegmentReader(segment.path, segment.descriptor)


def numbers(records: list[Drained]) -> list[int]:
    return [Record.unpack(one.payload).attempt_no for one in records]


def slot(sequence: int) -> int:
    return layout.RING_AT + sequence % layout.RING_SLOTS * layout.SLOT


def test_a_new_segment_holds_nothing(reader: SegmentReader) -> None:
    assert (reader.drain(), reader.in_flight(), reader.cells(), reader.code(), reader.damaged) == ([], None, [], [], 0)


def test_records_come_once_in_order(segment: SegmentWriter, reader: SegmentReader) -> None:
    finish(segment, 1)
    finish(segment, 2)
    assert (numbers(reader.drain()), numbers(reader.drain())) == ([1, 2], [])


@pytest.mark.parametrize("seed", range(3))
def test_a_lagging_reader_misses_nothing_over_several_laps(
    segment: SegmentWriter, reader: SegmentReader, seed: int
) -> None:
    dice = random.Random(seed)
    written, read = 0, list[tuple[int, bytes]]()
    while written < 4 * layout.RING_SLOTS:
        for _ in range(dice.choice([0, 1, 7, 300, ROOM])):
            data = str(written + 1).encode() * dice.choice([0, 1, 5])
            offset, length = segment.spill(data) if data else (0, 0)
            if not segment.put(record(attempt_no=written + 1, spill_length=length, spill_at=offset), written + 1, 1.0):
                break
            written += 1
        limit = dice.choice([1, 100, layout.RING_SLOTS])
        read += [(Record.unpack(one.payload).attempt_no, one.user_data) for one in reader.drain(limit)]
        reader.commit()
    while more := reader.drain():
        read += [(Record.unpack(one.payload).attempt_no, one.user_data) for one in more]
    assert [number for number, _ in read] == list(range(1, written + 1))
    assert all(set(data.decode()) <= set(str(number)) for number, data in read)
    assert (reader.damaged, reader.spills_lost) == (0, 0)


def test_a_full_ring_refuses_and_takes_again_once_the_reader_has_committed(
    segment: SegmentWriter, reader: SegmentReader
) -> None:
    took = [segment.put(record(), number, 1.0) for number in range(1, ROOM + 3)]
    assert took == [True] * ROOM + [False, False]
    reader.drain()
    assert not segment.put(record(), 1, 1.0)
    reader.commit()
    assert segment.put(record(), 1, 1.0)


def test_cells_keep_exact_totals_of_what_the_ring_refused(segment: SegmentWriter, reader: SegmentReader) -> None:
    while finish(segment, 1):
        pass
    for number in range(2, 25):
        finish(segment, number, business=0.5, subprocesses=0.25)
    for number in range(25, 32):
        finish(segment, number, task="shop.mail", outcome="retried", state=2, gc=1.0)
    totals = [(cell.task, cell.outcome, cell.state, cell.attempts, cell.firsts, cell.cpu) for cell in reader.cells()]
    assert totals == [
        ("shop.pay", 1, 1, 24, 24, Cpu(business=0.25 + 23 * 0.5, subprocesses=23 * 0.25)),
        ("shop.mail", 2, 2, 7, 7, Cpu(business=7 * 0.25, gc=7.0)),
    ]
    assert (reader.counters().in_cells, reader.progress().finished_no) == (31, 31)


def test_attempts_that_find_no_cell_share_the_last_one(segment: SegmentWriter, reader: SegmentReader) -> None:
    keys = [(task, outcome, 1) for task in range(200) for outcome in (1, 2, 3)]
    for key in keys:
        segment.string(f"task {key[0]}")
        segment.overflow(key, 1, 1.0, (1.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0))
    cells = reader.cells()
    assert len(cells) == layout.CELL_SLOTS
    assert (cells[-1].task, cells[-1].attempts) == ("other", len(keys) - layout.CELL_SLOTS + 1)
    assert sum(cell.attempts for cell in cells) == len(keys)
    assert sum(cell.cpu.total for cell in cells) == len(keys) * 0.5


def test_a_cell_that_is_just_being_written_is_left_for_the_next_look(
    segment: SegmentWriter, reader: SegmentReader
) -> None:
    segment.overflow((segment.string("t"), 1, 1), 1, 1.0, (1.0, 0.0, *(0.0,) * 6))
    whole = segment.path.read_bytes()[layout.CELLS_AT : layout.CELLS_AT + layout.CELL.size]
    overwrite(segment.path, layout.CELLS_AT, whole[:40] + b"\xff" * 40)
    torn = reader.cells(), reader.damaged, reader.cells(ended=True), reader.damaged
    overwrite(segment.path, layout.CELLS_AT, whole)
    assert torn == ([], 0, [], 1)
    assert [cell.attempts for cell in reader.cells()] == [1]


def test_a_record_that_was_reserved_and_not_finished_is_counted_at_the_second_look(
    segment: SegmentWriter, reader: SegmentReader
) -> None:
    for number in (1, 2, 3):
        finish(segment, number)
    overwrite(segment.path, slot(2) + layout.HEAD.size + 20, b"\xff")
    looks = [(numbers(reader.drain()), reader.damaged) for _ in range(3)]
    assert looks == [([1], 0), ([3], 1), ([], 1)]


def test_a_record_that_was_only_late_is_read_at_the_second_look(segment: SegmentWriter, reader: SegmentReader) -> None:
    for number in (1, 2, 3):
        finish(segment, number)
    late = segment.path.read_bytes()[slot(2) : slot(2) + layout.SLOT]
    overwrite(segment.path, slot(2), bytes(layout.SLOT))
    first = numbers(reader.drain())
    overwrite(segment.path, slot(2), late)
    assert (first, numbers(reader.drain()), reader.damaged) == ([1], [2, 3], 0)


def test_what_a_dead_process_did_not_finish_is_counted_at_once(segment: SegmentWriter, reader: SegmentReader) -> None:
    for number in range(1, 7):
        finish(segment, number)
    for sequence in (1, 3, 4, 6):
        overwrite(segment.path, slot(sequence), bytes(8))
    assert (numbers(reader.drain(ended=True)), reader.damaged) == ([2, 5], 4)


def test_a_head_that_nobody_can_have_reached_costs_one_ring_of_damage(
    segment: SegmentWriter, reader: SegmentReader
) -> None:
    finish(segment, 1)
    overwrite(segment.path, layout.PROGRESS_AT, (2**64 - 1).to_bytes(8, "little"))
    assert numbers(reader.drain(ended=True)) == [1]
    assert reader.damaged == layout.RING_SLOTS - 1


def test_threads_write_at_the_same_moment_and_none_is_lost(segment: SegmentWriter, reader: SegmentReader) -> None:
    each, threads = 230, 4
    gate = threading.Barrier(threads)

    def write(thread: int) -> None:
        gate.wait()
        for number in range(each):
            data = f"{thread} {number}".encode()
            offset, length = segment.spill(data)
            assert segment.put(record(retries=thread, depth=number, spill_length=length, spill_at=offset), 1, 1.0)

    started = [threading.Thread(target=write, args=(thread,)) for thread in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    records = [(Record.unpack(one.payload), one.user_data.decode()) for one in reader.drain(ended=True)]
    assert Counter(one.retries for one, _ in records) == dict.fromkeys(range(threads), each)
    assert all(data == f"{one.retries} {one.depth}" for one, data in records)
    assert reader.damaged == 0


def test_everything_finished_is_read_after_the_writer_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "1-1.seg"
    killed_process(
        path,
        """
        for number in range(1, 24):
            finish(segment, number)
        begin(segment, 24, task="shop.stuck", start_ns=1_764_000_000_000_000_000)
        """,
    )
    reader = SegmentReader(path)
    assert not reader.alive()
    assert numbers(reader.drain(ended=True)) == list(range(1, 24))
    running = reader.in_flight(ended=True)
    assert running is not None
    assert (running.attempt_no, running.record.task) == (24, "shop.stuck")
    assert Record.unpack(running.record.payload).start_ns == START_NS
    reader.close()


def test_skipping_passes_over_what_a_predecessor_kept_and_never_goes_back(
    segment: SegmentWriter, reader: SegmentReader
) -> None:
    for number in range(1, 6):
        finish(segment, number)
    reader.skip_to(4)
    reader.skip_to(2)
    assert numbers(reader.drain()) == [4, 5]


def test_a_second_reader_begins_where_the_first_had_committed(segment: SegmentWriter, reader: SegmentReader) -> None:
    for number in range(1, 6):
        finish(segment, number)
    reader.drain(limit=2)
    reader.commit()
    reader.drain(limit=1)
    second = SegmentReader(segment.path, segment.descriptor)
    assert numbers(second.drain()) == [3, 4, 5]


def test_a_process_instrumented_anew_makes_a_segment_of_another_name(tmp_path: Path) -> None:
    names: set[str] = set()
    for _ in range(2):
        segment = child(tmp_path / "owner.seg")
        names.add(SegmentReader(segment.path, segment.descriptor).name)
        segment.close()
        segment.path.unlink()
    assert len(names) == 2


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (0, b"GARBAGE!"),
        (8, b"\xff\xff"),
        (layout.READER_AT, b"\xff" * 8),
    ],
)
def test_a_file_that_is_no_segment_of_this_version_is_named_damaged(
    segment: SegmentWriter, at: int, data: bytes
) -> None:
    overwrite(segment.path, at, data)
    with pytest.raises(Damaged, match=r"1-1\.seg"):
        SegmentReader(segment.path)


@pytest.mark.parametrize("size", [0, 10, layout.SIZE - 1, layout.SIZE + 1])
def test_a_file_of_the_wrong_length_is_named_damaged(segment: SegmentWriter, size: int) -> None:
    os.truncate(segment.path, size)
    with pytest.raises(Damaged, match=r"1-1\.seg"):
        SegmentReader(segment.path)


def test_a_link_is_not_followed(segment: SegmentWriter, tmp_path: Path) -> None:
    (tmp_path / "link.seg").symlink_to(segment.path)
    with pytest.raises(OSError, match="link"):
        SegmentReader(tmp_path / "link.seg")
    with pytest.raises(FileExistsError):
        child(tmp_path / "link.seg")


@pytest.mark.parametrize("seed", range(10))
def test_whatever_the_bytes_say_a_reader_answers(segment: SegmentWriter, seed: int) -> None:
    dice = random.Random(seed)
    for number in range(1, 50):
        finish(segment, number)
    begin_end = [(layout.PROGRESS_AT, 400), (layout.READER_AT + 8, 3000), (layout.STRINGS_AT, layout.SIZE)]
    die(segment)
    for _ in range(200):
        low, high = dice.choice(begin_end)
        overwrite(segment.path, dice.randrange(low, low + min(high, layout.SIZE - low)), dice.randbytes(1))
    try:
        reader = SegmentReader(segment.path)
    except Damaged:
        return
    found = reader.drain(ended=True)
    reader.in_flight(ended=True), reader.cells(ended=True), reader.code(), reader.counters(), reader.alive()
    reader.commit()
    reader.close()
    assert len(found) <= 49
