"""What a pool child's event loops counted, through the file beside its segment."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import pytest

from taskwatt.observations import (
    DELAY_BUCKETS,
    ENDED,
    READY_BUCKETS,
    CoroutineTally,
    ExecutorTally,
    InterpreterTally,
    LoopTally,
    Tallies,
)
from taskwatt.segments.tallies import ENTRIES, SIZE, Snapshot, TallyFile, TallyReader

FULL = Tallies(
    {
        "shop.serve": CoroutineTally(
            "task", 101, 0.5, 0.25, 2.0, 0.75, 11, 13, 5, 2, 1, 3, 4, 6, 50, 0.125, 23, 19, 8, 7, 3, 2, 1, 77, 5, 4,
            9, 6, ("poll", "shop.py", 3), ("serve", "shop.py", 1), ((4, 0.5), (9, 0.25)),
        ),
        "shop.Protocol.data_received": CoroutineTally("io", steps=3),
    },
    {
        "MainThread": LoopTally(
            "uvloop", True, 30, 1.5, 0.5, 0.25, 0.125, tuple(map(float, range(len(DELAY_BUCKETS) + 1))),
            tuple(map(float, range(len(READY_BUCKETS) + 1))), 9, 5, 0.875, 0.5, "protocol callbacks are not seen",
        )
    },
    {"to_thread": ExecutorTally(7, 0.25, 2)},
    InterpreterTally(5, 0.25, 10.0, 3.0, 0.5, "crunch"),
    "pure Python: " + "the accelerator is not installed here, " * 5,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "7-7.tallies"


def written(path: Path, *snapshots: Tallies) -> TallyReader:
    file = TallyFile(path)
    for one in snapshots:
        file.write(one)
    file.close()
    return TallyReader(path)


def test_everything_that_was_counted_arrives(path: Path) -> None:
    assert written(path, FULL).read() == Snapshot(FULL, anew=True)


def test_the_same_snapshot_is_known_again(path: Path) -> None:
    file = TallyFile(path)
    reader = TallyReader(path)
    file.write(FULL)
    told = [reader.read(), reader.read()]
    file.write(FULL)
    assert [*told, reader.read()] == [Snapshot(FULL, True), Snapshot(FULL, False), Snapshot(FULL, True)]
    file.close()


def test_an_unknown_run_queue_delay_stays_unknown(path: Path) -> None:
    read = written(path, Tallies({}, {"MainThread": LoopTally("asyncio", run_delay_s=math.nan)}, {})).read()
    assert read is not None
    assert math.isnan(read.tallies.loops["MainThread"].run_delay_s)


def test_types_beyond_the_file_are_added_up_and_none_goes_back(path: Path) -> None:
    """Who got an entry keeps it, whatever comes later."""
    file = TallyFile(path)
    reader = TallyReader(path)
    many = {f"shop.t{number}": CoroutineTally("task", steps=number) for number in range(1, 501)}
    for order in (list(many), list(reversed(many))):
        file.write(Tallies({name: many[name] for name in order}, {}, {}))
        read = reader.read()
        assert read is not None
        steps = {name: one.steps for name, one in read.tallies.coroutines.items()}
        assert len(steps) < ENTRIES
        assert sum(steps.values()) == sum(range(1, 501))
        assert steps["shop.t1"] == 1
    file.close()


def test_a_loop_that_has_ended_is_no_longer_told(path: Path) -> None:
    file = TallyFile(path)
    reader = TallyReader(path)
    told = []
    for loops in ({"MainThread": LoopTally("asyncio")}, {ENDED: LoopTally("asyncio")}):
        file.write(Tallies({}, loops, {}))
        told.append(reader.read())
    file.close()
    assert [list(one.tallies.loops) for one in told if one is not None] == [["MainThread"], [ENDED]]


def test_long_names_stay_apart(path: Path) -> None:
    names = ["é" * 100 + end for end in "ab"]
    read = written(path, Tallies({name: CoroutineTally("task", steps=1) for name in names}, {}, {})).read()
    assert read is not None
    assert [one.steps for one in read.tallies.coroutines.values()] == [1, 1]


def test_a_file_that_is_just_being_written_says_what_it_said_before(path: Path) -> None:
    reader = written(path, FULL)
    before = reader.read()
    assert before is not None
    tear(path)
    assert reader.read() == Snapshot(before.tallies, anew=False)
    assert reader.damaged == 0


def test_what_a_dead_child_left_torn_is_counted_and_the_rest_is_taken(path: Path) -> None:
    reader = written(path, FULL)
    tear(path)
    read = reader.read(ended=True)
    assert read is not None
    assert (list(read.tallies.coroutines), read.tallies.loops, reader.damaged) == (
        ["shop.Protocol.data_received"],
        FULL.loops,
        1,
    )


def tear(path: Path) -> None:
    """Change a byte of the first entry."""
    with path.open("r+b") as file:
        file.seek(400)
        byte = file.read(1)[0]
        file.seek(400)
        file.write(bytes([byte ^ 0xFF]))


def test_figures_that_no_process_can_have_are_left_out(path: Path) -> None:
    bad = {f"bad {value}": CoroutineTally("task", cpu_s=value) for value in (math.inf, math.nan, -1.0, 1e300)}
    reader = written(path, Tallies({**bad, "shop.serve": CoroutineTally("task", steps=1)}, {}, {}))
    read = reader.read()
    assert read is not None
    assert (read.tallies.coroutines, reader.damaged) == ({"shop.serve": CoroutineTally("task", steps=1)}, 4)


@pytest.mark.parametrize("content", [b"", b"twtally1", bytes(SIZE), b"x" * SIZE, b"x" * (2 * SIZE)])
def test_a_file_of_another_kind_says_nothing(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    reader = TallyReader(path)
    assert (reader.read(), reader.damaged, reader.read(ended=True), reader.damaged) == (None, 0, None, 1)


def test_without_a_file_there_is_nothing(path: Path) -> None:
    assert TallyReader(path).read() is None
    os.mkfifo(path)
    assert TallyReader(path).read() is None


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_never_more_than_left_out(path: Path, seed: int) -> None:
    dice = random.Random(seed)
    reader = written(path, FULL)
    data = bytearray(path.read_bytes())
    for _ in range(400):
        data[dice.randrange(8, SIZE)] = dice.randrange(256)
    path.write_bytes(data)
    read = reader.read(ended=True)
    assert read is not None
    assert read.tallies.coroutines.keys() <= FULL.coroutines.keys()
    assert reader.damaged > 0


def test_a_second_file_of_the_same_process_is_refused(path: Path) -> None:
    file = TallyFile(path)
    with pytest.raises(FileExistsError):
        TallyFile(path)
    file.close()
