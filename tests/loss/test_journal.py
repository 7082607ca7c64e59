"""The journal: whatever happens to its disk, its reader and its bound, a record is kept or counted."""

from __future__ import annotations

import resource
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from taskwatt.journal import CHUNK_BYTES, Journal
from taskwatt.segments.reader import Drained


def record(number: int, size: int = 100) -> Drained:
    return Drained("agent/child.seg", number, bytes(size), "tests.finish", "celery", "", b"")


@contextmanager
def files_of_at_most(size: int) -> Generator[None]:
    """A disk that fills up: what exceeds `size` bytes of a file is not written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def numbers(journal: Journal) -> list[int]:
    """Sequence numbers of everything that is unsent, as a receiver that takes all of it gets them."""
    found: list[int] = []
    while records := journal.unsent(50):
        found.extend(one.sequence for _, one in records)
        journal.accept(spans=records[-1][0])
    return found


def test_what_is_appended_while_others_are_sent_is_sent_as_well(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    total = 5003
    found: list[int] = []

    def append() -> None:
        for number in range(1, total + 1):
            journal.append([record(number)])

    writer = threading.Thread(target=append)
    writer.start()
    while writer.is_alive():
        found.extend(numbers(journal))
    found.extend(numbers(journal))
    assert found == list(range(1, total + 1))
    assert journal.dropped == 0


def test_a_batch_in_the_receivers_hands_is_not_counted_as_dropped_when_its_chunk_goes(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_bytes=CHUNK_BYTES * 3 // 2)
    size = CHUNK_BYTES // 10
    journal.append(record(number, size) for number in range(1, 11))
    first = journal.unsent(5)
    journal.append(record(number, size) for number in range(11, 21))
    assert (len(first), journal.dropped) == (5, 5)
    journal.accept(spans=5)
    assert numbers(journal) == list(range(11, 21))
    assert journal.dropped == 5


def test_a_batch_that_was_refused_counts_as_dropped_once_its_chunk_is_gone(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_bytes=CHUNK_BYTES * 3 // 2)
    size = CHUNK_BYTES // 10
    journal.append(record(number, size) for number in range(1, 11))
    journal.unsent(5)
    journal.append(record(number, size) for number in range(11, 21))
    assert numbers(journal) == list(range(11, 21))
    assert journal.dropped == 10


def test_after_a_full_disk_the_journal_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([record(1)])
    with files_of_at_most(0):
        for number in (2, 3, 4):
            journal.append([record(number)])
    journal.append([record(5)])
    journal.append([record(6)])
    journal.accept(spans=1, metrics=1)
    assert journal.dropped == 3
    assert numbers(journal) == [5, 6]
    journal.close()
    assert [one.sequence for _, one in Journal(tmp_path).read(0, 10)] == [5, 6]


def test_a_disk_that_fills_up_within_a_record_leaves_no_torn_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with files_of_at_most(1000):
        for number in range(1, 12):
            journal.append([record(number)])
    kept = 11 - journal.dropped
    assert 0 < kept < 11
    journal.append([record(12)])
    found = numbers(journal)
    assert len(found) == kept + 1
    assert found[-1] == 12


def test_a_full_disk_does_not_erase_how_far_the_receivers_are(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(record(number) for number in range(1, 8))
    journal.accept(spans=5, metrics=3)
    with files_of_at_most(0):
        journal.accept(spans=7, metrics=7)
    journal.close()
    successor = Journal(tmp_path)
    assert (successor.spans, successor.metrics, successor.last) == (5, 3, 7)


def test_what_a_torn_file_held_is_counted_and_its_numbers_are_not_given_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([record(1)] + [record(2, 60_000)] * 5)
    journal.append([record(3)])
    journal.accept(metrics=7)
    journal.close()
    last = max(tmp_path.glob("journal-*.bin"))
    last.write_bytes(b"torn")
    successor = Journal(tmp_path)
    successor.append([record(4)])
    assert successor.last == 8
    assert numbers(successor) == [1, 2, 2, 2, 2, 2, 4]
    assert successor.dropped == 1


def test_one_burst_does_not_exceed_the_bound(tmp_path: Path) -> None:
    journal = Journal(tmp_path, max_bytes=2 * CHUNK_BYTES)
    journal.append(record(number, CHUNK_BYTES // 10) for number in range(1, 101))
    assert sum(path.stat().st_size for path in tmp_path.glob("journal-*.bin")) <= 2 * CHUNK_BYTES + CHUNK_BYTES // 10
    assert len(numbers(journal)) + journal.dropped == 100
