"""Records on disk, between the ring and the receivers: appended once, read back in order, whatever died meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskwatt import journal as module
from taskwatt.journal import Journal
from taskwatt.segments import layout
from taskwatt.segments.reader import Drained
from tests.support.segments import overwrite, record


def drained(sequence: int, segment: str = "agent/1-1.seg/7", user_data: bytes = b"") -> Drained:
    return Drained(segment, sequence, record(attempt_no=sequence), "shop.pay", "celery", "shop.cart", user_data)


def kept(journal: Journal, after: int = 0, limit: int = 10_000) -> list[tuple[int, int]]:
    return [(number, one.sequence) for number, one in journal.read(after, limit)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path)
    yield journal
    journal.close()


def reopened(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def chunks(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("journal-*.bin"))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 1000)


def test_a_new_journal_is_empty(journal: Journal, tmp_path: Path) -> None:
    journal.append([])
    assert (kept(journal), journal.last, journal.waiting, journal.dropped, list(tmp_path.iterdir())) == (
        [],
        0,
        0,
        0,
        [],
    )


def test_records_come_back_whole(journal: Journal) -> None:
    one = Drained("a/größe.seg/1", 2**64 - 1, record(depth=3), "日本", "", "p" * 600, b'{"x": 1}' * 1000)
    journal.append([one])
    assert list(journal.read(0, 10)) == [(1, one)]


def test_where_an_earlier_reading_stopped_makes_no_difference(journal: Journal) -> None:
    journal.append([drained(sequence) for sequence in range(1, 12)])
    for after, limit in ((0, 4), (4, 3), (2, 5), (0, 1), (10, 5), (7, 2), (3, 0), (4, 100)):
        last = min(11, after + limit)
        assert kept(journal, after, limit) == [(number, number) for number in range(after + 1, last + 1)]


def test_reading_goes_on_where_the_receiver_is_and_stops_at_its_limit(journal: Journal, small_chunks: None) -> None:
    for sequence in range(1, 24):
        journal.append([drained(sequence)])
    assert kept(journal, after=7, limit=5) == [(number, number) for number in range(8, 13)]
    assert kept(journal, after=23) == []
    assert kept(journal, limit=0) == []


def test_what_both_receivers_have_is_deleted_and_nothing_else(
    journal: Journal, tmp_path: Path, small_chunks: None
) -> None:
    for sequence in range(1, 24):
        journal.append([drained(sequence)])
    before = len(chunks(tmp_path))
    journal.accept(spans=20)
    only_spans = len(chunks(tmp_path))
    journal.accept(metrics=10)
    assert (before, only_spans) == (6, 6)
    assert kept(journal)[0][0] == 9
    assert journal.waiting == 3
    journal.accept(spans=23, metrics=23)
    assert len(chunks(tmp_path)) == 1


def test_a_mark_never_goes_back(journal: Journal) -> None:
    journal.append(drained(sequence) for sequence in range(1, 6))
    journal.accept(spans=4, metrics=3)
    journal.accept(spans=2)
    assert (journal.spans, journal.metrics, journal.waiting) == (4, 3, 1)


def test_beyond_its_bound_the_oldest_unsent_records_are_dropped_and_counted(tmp_path: Path, small_chunks: None) -> None:
    journal = Journal(tmp_path, max_bytes=3000)
    journal.append([drained(1)])
    journal.accept(spans=1)
    for sequence in range(2, 101):
        journal.append([drained(sequence)])
    numbers = [number for number, _ in kept(journal)]
    assert numbers == list(range(numbers[0], 101))
    assert journal.dropped == numbers[0] - 2  # the first had been sent
    assert sum(path.stat().st_size for path in chunks(tmp_path)) <= 3000
    journal.close()


def test_a_successor_knows_numbers_sequences_and_marks(journal: Journal, tmp_path: Path, small_chunks: None) -> None:
    for sequence in range(1, 24):
        journal.append([drained(sequence)])
    journal.append([drained(0, "agent/2-2.seg/7")])
    journal.accept(spans=20, metrics=12)
    after = reopened(tmp_path)
    assert (after.last, after.spans, after.metrics, after.waiting) == (24, 20, 12, 4)
    assert (after.highest, after.settled) == ({"agent/1-1.seg/7": 23}, {"agent/2-2.seg/7"})
    assert kept(after, after=20) == [(21, 21), (22, 22), (23, 23), (24, 0)]
    after.append([drained(25)])
    assert kept(after, after=23) == [(24, 0), (25, 25)]
    after.close()


def test_numbers_go_on_after_all_but_the_last_chunk_were_deleted(
    journal: Journal, tmp_path: Path, small_chunks: None
) -> None:
    for sequence in range(1, 24):
        journal.append([drained(sequence)])
    journal.accept(spans=23, metrics=23)
    after = reopened(tmp_path)
    after.append([drained(24)])
    assert (after.last, after.waiting, kept(after, after=23)) == (24, 1, [(24, 24)])
    after.close()


def test_a_successor_stays_within_the_bound_of_what_it_took_over(journal: Journal, tmp_path: Path) -> None:
    journal.append(drained(sequence) for sequence in range(1, 51))
    taken_over = Journal(tmp_path, max_bytes=3000)
    taken_over.append([drained(51)])
    assert (taken_over.dropped, kept(taken_over)) == (50, [(51, 51)])
    taken_over.close()


@pytest.mark.parametrize("cut", [1, 100, 10_000])
def test_a_torn_tail_is_left_out_and_what_follows_is_read(journal: Journal, tmp_path: Path, cut: int) -> None:
    journal.append([drained(1)])
    journal.append([drained(2)])
    (path,) = chunks(tmp_path)
    os.truncate(path, max(3, path.stat().st_size - cut))
    whole = 1 if cut < 10_000 else 0
    after = reopened(tmp_path)
    assert (after.last, kept(after)) == (whole, [(1, 1)][:whole])
    after.append([drained(7)])
    assert kept(after) == [*[(1, 1)][:whole], (whole + 1, 7)]
    again = reopened(tmp_path)
    assert kept(again) == kept(after)
    after.close()


def test_a_damaged_record_ends_its_chunk_and_no_other(journal: Journal, tmp_path: Path, small_chunks: None) -> None:
    for sequence in range(1, 10):
        journal.append([drained(sequence)])
    overwrite(chunks(tmp_path)[1], 20, b"\xff\xff")
    assert [number for number, _ in kept(reopened(tmp_path))] == [1, 2, 3, 4, 9]


def test_what_another_version_left_is_not_misread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(layout, "VERSION", layout.VERSION - 1)
        journal = Journal(tmp_path)
        journal.append([drained(1)._replace(payload=b"shorter"), drained(2)])
        journal.close()
    after = reopened(tmp_path)
    assert (after.last, kept(after)) == (0, [])
    after.append([drained(7)])
    assert kept(after) == [(1, 7)]
    after.close()


@pytest.mark.parametrize("garbage", [b"", b"short", b"x" * 100, b"\xff" * 16])
def test_marks_that_make_no_sense_never_hide_what_comes(journal: Journal, tmp_path: Path, garbage: bytes) -> None:
    journal.append([drained(1), drained(2)])
    (tmp_path / "marks").write_bytes(garbage)
    after = reopened(tmp_path)
    after.append([drained(3)])
    assert (3, 3) in kept(after, after=after.spans)
    assert after.waiting >= 1
    after.close()


def test_a_folder_with_other_files_in_it_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "journal-000000000004.bin").write_bytes(b"garbage")
    (tmp_path / "journal-x.bin").write_bytes(b"")
    (tmp_path / "journal-²².bin").write_bytes(b"")
    journal = Journal(tmp_path)
    journal.append([drained(1)])
    assert [sequence for _, sequence in kept(journal)] == [1]
    assert [sequence for _, sequence in kept(reopened(tmp_path))] == [1]
    journal.close()


def test_a_forgotten_segment_may_be_drained_from_its_beginning(journal: Journal) -> None:
    journal.append([drained(1), drained(0)])
    journal.forget("agent/1-1.seg/7")
    journal.forget("agent/never-seen")
    assert (journal.highest, journal.settled) == ({}, set())


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from taskwatt.journal import Journal
from tests.journal.test_journal import drained, kept
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]))
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
limit({first})
for sequence in range(1, 11):
    journal.append([drained(sequence)])
full = journal.last, journal.dropped
limit(1 << 20)
journal.append([drained(11)])
print(full, kept(journal), kept(Journal(Path(sys.argv[1]))) == kept(journal))
"""


@pytest.mark.parametrize(
    ("room", "printed"),
    [
        (100, "(0, 10) [(1, 11)] True\n"),
        (700, "(7, 3) [(1, 1), (2, 2), (3, 4), (4, 5), (5, 7), (6, 8), (7, 10), (8, 11)] True\n"),
    ],
)
def test_a_full_disk_drops_what_it_does_not_hold_and_counts_it(tmp_path: Path, room: int, printed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK.format(first=room), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == printed


def test_a_folder_that_is_gone_raises_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    journal = Journal(folder)
    journal.append([drained(1)])
    journal.accept(spans=1, metrics=1)
    assert (journal.last, journal.dropped, kept(journal)) == (0, 1, [])


def test_reading_while_another_thread_appends_meets_only_whole_records(journal: Journal, small_chunks: None) -> None:
    total = 1_000

    def write() -> None:
        for number in range(1, total + 1):
            journal.append([drained(number)])

    writing = threading.Thread(target=write)
    writing.start()
    after = 0
    while after < total:
        for number, one in journal.read(after, 64):
            assert (number, one.sequence) == (after + 1, after + 1)
            after = number
        journal.accept(spans=after, metrics=after)
    writing.join()
    assert (journal.waiting, journal.dropped) == (0, 0)
