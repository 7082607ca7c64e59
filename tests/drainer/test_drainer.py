"""The drainer: each attempt once, whoever died in between, and every second of CPU booked somewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskwatt import clocks
from taskwatt.drainer import Collected, Counted, Death, Drainer, Settled, Totals
from taskwatt.journal import Journal
from taskwatt.observations import CoroutineTally, Cpu, Publish, Tallies
from taskwatt.segments import AgentDirectory, SegmentWriter, layout
from taskwatt.segments.records import decode
from taskwatt.segments.stall_records import put_stall
from taskwatt.segments.tallies import SUFFIX, TallyFile
from tests.support.segments import START_NS, begin, child, die, finish, killed_process, overwrite, record
from tests.support.stalls import STALL

ENDED_AS: dict[str, str] = {}


@pytest.fixture
def directory(tmp_path: Path) -> AgentDirectory:
    return AgentDirectory(tmp_path)


@pytest.fixture
def deaths() -> dict[int, Death]:
    return {}


def drainer_of(
    directory: AgentDirectory, deaths: dict[int, Death] | None = None, own: SegmentWriter | None = None
) -> Drainer:
    return Drainer(directory, Journal(directory.path), {} if deaths is None else deaths, ENDED_AS.get, own)


@pytest.fixture
def drainer(directory: AgentDirectory, deaths: dict[int, Death]) -> Iterator[Drainer]:
    drainer = drainer_of(directory, deaths)
    yield drainer
    drainer.close()
    drainer.journal.close()


@pytest.fixture
def segment(directory: AgentDirectory) -> SegmentWriter:
    return child(directory.path / "1-1.seg")


def counts(found: Collected) -> list[tuple[str, str]]:
    return [(one.attempt.task, one.attempt.outcome) for one in found.settled]


def test_finished_attempts_are_collected_once(drainer: Drainer, segment: SegmentWriter) -> None:
    finish(segment, 1)
    finish(segment, 2, task="shop.mail", outcome="retried", state=2)
    first, second = drainer.collect(), drainer.collect()
    assert (counts(first), counts(second)) == ([("shop.pay", "useful"), ("shop.mail", "retried")], [])
    assert drainer.journal.last == 2


def test_publishes_are_told_apart_from_attempts(drainer: Drainer, segment: SegmentWriter) -> None:
    segment.put(record(kind=layout.PUBLISH, task=segment.string("shop.pay"), queue=segment.string("q")), 0, 0.0)
    found = drainer.collect()
    assert [(type(one), one.task) for one in found.published] == [(Publish, "shop.pay")]
    assert found.settled == []


def test_stalls_are_neither_attempts_nor_publishes_and_are_kept_for_their_spans(
    drainer: Drainer, segment: SegmentWriter
) -> None:
    put_stall(segment, STALL)
    finish(segment, 1)
    found = drainer.collect()
    assert (found.stalls, counts(found), found.published, found.dropped) == ([STALL], [("shop.pay", "useful")], [], {})
    assert [decode(record) for _, record in drainer.journal.read(0, 1)] == [STALL]


def test_a_record_of_another_version_is_counted(drainer: Drainer, segment: SegmentWriter) -> None:
    segment.put(record(kind=99), 0, 0.0)
    finish(segment, 1)
    found = drainer.collect()
    assert (found.dropped, len(found.settled)) == ({"record": 1}, 1)


def test_a_drainer_that_died_between_keeping_and_committing_repeats_nothing(
    directory: AgentDirectory, segment: SegmentWriter
) -> None:
    for number in range(1, 6):
        finish(segment, number)
    first = drainer_of(directory)
    assert len(first.collect().settled) == 5
    first.journal.close()
    overwrite(segment.path, layout.READER_AT, (1).to_bytes(8, "little"))  # as though it had not committed
    finish(segment, 6)
    second = drainer_of(directory)
    found = second.collect()
    assert len(found.settled) == 1
    assert [one.sequence for _, one in second.journal.read(0, 100)] == [1, 2, 3, 4, 5, 6]


def test_a_drainer_that_died_before_keeping_loses_nothing(directory: AgentDirectory, segment: SegmentWriter) -> None:
    for number in range(1, 6):
        finish(segment, number)
    drainer_of(directory).close()
    assert len(drainer_of(directory).collect().settled) == 5


def test_a_dead_process_is_drained_to_its_last_word_and_cleared_away(
    drainer: Drainer, segment: SegmentWriter, directory: AgentDirectory
) -> None:
    finish(segment, 1)
    die(segment)
    found = drainer.collect()
    assert (counts(found), directory.segments(), drainer.processes) == ([("shop.pay", "useful")], [], [])
    assert drainer.journal.highest == {}


def test_a_killed_attempt_is_settled_with_what_the_kernel_had_charged(
    drainer: Drainer, segment: SegmentWriter, deaths: dict[int, Death]
) -> None:
    finish(segment, 1, business=0.5, cpu_at_exit=1.0)
    begin(segment, 2, task="shop.stuck", cpu=1.25, start_ns=START_NS)
    die(segment)
    died_ns = time.time_ns() + 1
    deaths[os.getpid()] = Death(1.55, 77 << 20, died_ns)
    found = drainer.collect()
    _, settled = found.settled
    assert (settled.attempt.task, settled.attempt.outcome, settled.attempt.state) == (
        "shop.stuck",
        "cancelled",
        "FAILURE",
    )
    assert tuple(settled.attempt.cpu) == pytest.approx((0.3, 0, 0, 0, 0, 0))
    assert settled.attempt.duration_s == pytest.approx((died_ns - START_NS) / 1e9)
    assert settled.attempt.max_rss == 77 << 20
    assert found.idle_cpu == {"worker": pytest.approx(1.55 - 0.5 - 0.3)}
    assert deaths == {}


def test_the_kernel_s_figure_is_the_sum_of_all_that_was_booked(
    drainer: Drainer, segment: SegmentWriter, deaths: dict[int, Death]
) -> None:
    segment.startup_cpu = 0.125
    finish(segment, 1, business=0.5, serialization=0.25, subprocesses=0.75)
    begin(segment, 2, cpu=1.0)
    die(segment)
    deaths[os.getpid()] = Death(2.0 + 0.75, 1, time.time_ns() + 1)
    found = drainer.collect()
    booked = sum(one.attempt.cpu.total - one.attempt.cpu.subprocesses for one in found.settled)
    assert found.kernel["worker"] == pytest.approx(2.0)
    assert booked + found.idle_cpu["worker"] == pytest.approx(2.0)


def test_a_killed_attempt_is_settled_once_also_across_a_death_of_the_drainer(
    directory: AgentDirectory, segment: SegmentWriter
) -> None:
    begin(segment, 1)
    die(segment)
    whole = segment.path.read_bytes()
    first = drainer_of(directory)
    assert counts(first.collect()) == [("shop.pay", "cancelled")]
    segment.path.write_bytes(whole)  # as though it had died before clearing away
    assert drainer_of(directory).collect().settled == []


def test_a_process_killed_right_after_its_record_has_no_killed_attempt(
    drainer: Drainer, segment: SegmentWriter
) -> None:
    progress = segment.path.read_bytes()[layout.PROGRESS_AT : layout.PROGRESS_AT + layout.PROGRESS.size]
    begin(segment, 1)
    finish(segment, 1)
    overwrite(segment.path, layout.PROGRESS_AT, progress)
    die(segment)
    assert counts(drainer.collect()) == [("shop.pay", "useful")]


def test_celery_s_word_for_a_killed_attempt_is_used(
    drainer: Drainer, segment: SegmentWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENDED_AS, "12345678-abcd-4678-9234-5678fedc5678", "REVOKED")
    begin(segment, 1)
    die(segment)
    (settled,) = drainer.collect().settled
    assert (settled.attempt.outcome, settled.attempt.state) == ("cancelled", "REVOKED")


def test_a_death_of_an_earlier_process_with_the_same_pid_is_not_this_one_s(
    drainer: Drainer, segment: SegmentWriter, deaths: dict[int, Death]
) -> None:
    deaths[os.getpid()] = Death(500.0, 1, time.time_ns() - 1_000_000_000)
    begin(segment, 1, cpu=0.0)
    die(segment)
    (settled,) = drainer.collect().settled
    assert settled.attempt.cpu.total == 0.0


def test_deaths_that_no_segment_asks_for_are_forgotten(drainer: Drainer, deaths: dict[int, Death]) -> None:
    now = time.time_ns()
    deaths.update({pid: Death(1.0, 1, now - 3_600_000_000_000) for pid in range(1000)})
    deaths[5000] = Death(1.0, 1, now)
    drainer.collect()
    assert list(deaths) == [5000]


def test_a_process_that_was_really_killed_is_settled_with_its_own_cpu(
    drainer: Drainer, directory: AgentDirectory, deaths: dict[int, Death]
) -> None:
    pid = killed_process(
        directory.path / "7-7.seg",
        """
        import time
        finish(segment, 1)
        begin(segment, 2, task="shop.stuck", cpu=time.process_time(), start_ns=time.time_ns())
        while time.process_time() < 0.5: pass
        """,
    )
    deaths[pid] = Death(0.5, 1 << 20, time.time_ns())
    found = drainer.collect()
    assert counts(found) == [("shop.pay", "useful"), ("shop.stuck", "cancelled")]
    assert 0.0 < found.settled[1].attempt.cpu.total < 0.5


def test_totals_of_a_full_ring_are_told_as_differences(drainer: Drainer, segment: SegmentWriter) -> None:
    drainer.collect()
    while finish(segment, 1):
        pass
    finish(segment, 2, business=1.0)
    first = drainer.collect()
    while finish(segment, 3):
        pass
    second, third = drainer.collect(), drainer.collect()
    assert first.totals == [Totals("worker", "shop.pay", "useful", "SUCCESS", 2, 2, Cpu(business=1.25))]
    assert second.totals == [Totals("worker", "shop.pay", "useful", "SUCCESS", 1, 1, Cpu(business=0.25))]
    assert third.totals == []
    assert first.dropped["span_ring_full"] == 2


def test_a_task_named_other_and_those_without_a_name_are_two_cells(drainer: Drainer, segment: SegmentWriter) -> None:
    named = segment.string("other")
    for key in ((named, 1, 1), (layout.NO_STRING, 1, 1)):
        segment.overflow(key, 1, 1.0, (1.0, 0.0, 0.5, *(0.0,) * 5))
    first = drainer.collect().totals
    segment.overflow((named, 1, 1), 2, 1.0, (1.0, 0.0, 0.5, *(0.0,) * 5))
    second = drainer.collect().totals
    assert [(one.task, one.attempts, one.cpu.total) for one in first] == [("other", 1, 0.5), ("other", 1, 0.5)]
    assert [(one.task, one.attempts, one.cpu.total) for one in second] == [("other", 1, 0.5)]


def test_a_live_process_shows_what_it_runs_and_for_how_long(drainer: Drainer, segment: SegmentWriter) -> None:
    idle = drainer.collect().live
    begin(segment, 1, task="shop.slow", start_ns=time.time_ns() - 5_000_000_000)
    (running,) = drainer.collect().live
    assert [(one.pid, one.task, one.running_s) for one in idle] == [(os.getpid(), "", 0.0)]
    assert (running.task, running.running_s >= 5.0, running.unbooked_s > 0.0) == ("shop.slow", True, True)


def test_the_draining_process_s_own_attempts_are_marked_and_its_cpu_is_left_to_the_agent(
    directory: AgentDirectory,
) -> None:
    own = child(directory.owner_segment, layout.OWNER)
    drainer = drainer_of(directory, own=own)
    finish(own, 1)
    begin(own, 2, task="shop.slow")
    found = drainer.collect()
    assert [(type(one), one.own) for one in found.settled] == [(Settled, True)]
    assert (found.kernel, found.idle_cpu) == ({}, {})
    assert [(one.pid, one.task) for one in found.live] == [(os.getpid(), "shop.slow")]
    drainer.close()
    begin(own, 3)  # its descriptor and its lock are still there
    own.close()


def test_a_garbage_segment_is_counted_once_and_hides_no_other(
    drainer: Drainer, directory: AgentDirectory, segment: SegmentWriter, caplog: pytest.LogCaptureFixture
) -> None:
    garbage = directory.path / "0-0.seg"
    garbage.write_bytes(os.urandom(layout.SIZE))
    os.utime(garbage, (1, 1))
    (directory.path / "link.seg").symlink_to("/etc/passwd")
    finish(segment, 1)
    first, second = drainer.collect(), drainer.collect()
    assert (len(first.settled), first.dropped, second.dropped) == (1, {"segment": 2}, {})
    assert len(caplog.records) == 2


def test_a_segment_that_is_still_being_made_is_waited_for(drainer: Drainer, directory: AgentDirectory) -> None:
    path = directory.path / "2-2.seg"
    path.touch()
    first = drainer.collect()
    path.unlink()
    made = child(path)
    finish(made, 1)
    assert (first.dropped, len(drainer.collect().settled)) == ({}, 1)
    made.close()


def test_a_segment_that_fails_while_it_is_read_takes_no_other_with_it(
    drainer: Drainer,
    directory: AgentDirectory,
    segment: SegmentWriter,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = child(directory.path / "0-0.seg")
    drainer.collect()

    def fail() -> None:
        raise OSError("Input/output error")

    monkeypatch.setattr(drainer._processes[broken.path].reader, "progress", fail, raising=True)
    finish(segment, 1)
    found = drainer.collect()
    assert (len(found.settled), found.dropped) == (1, {"segment": 1})
    assert [len(drainer.collect().live), len(caplog.records)] == [1, 1]
    broken.close()


def test_refusals_of_the_writer_are_told_as_differences(drainer: Drainer, segment: SegmentWriter) -> None:
    segment.spill(bytes(layout.SPILL_MAX + 1))
    segment.put(record(spill_at=0, spill_length=100), 0, 0.0)
    first = drainer.collect()
    segment.spill(bytes(layout.SPILL_MAX + 1))
    second, third = drainer.collect(), drainer.collect()
    assert [one.dropped.get("span_data") for one in (first, second, third)] == [2, 1, None]


def test_code_is_asked_for_in_every_process(drainer: Drainer, directory: AgentDirectory) -> None:
    segments = [child(directory.path / f"{number}-1.seg") for number in range(3)]
    drainer.collect()
    drainer.ask_for_code(START_NS)
    assert [one.asked_for_code_until() for one in segments] == [START_NS] * 3
    assert [(pid, name, role) for pid, name, role, _, _ in drainer.processes] == [(os.getpid(), "worker", 1)] * 3
    for one in segments:
        one.close()


def test_no_descriptor_stays_open(directory: AgentDirectory) -> None:
    before = len(os.listdir("/proc/self/fd")) if clocks.LINUX else 0
    segments = [child(directory.path / f"{number}-1.seg") for number in range(5)]
    drainer = drainer_of(directory)
    for one in segments:
        finish(one, 1)
    drainer.collect()
    for one in segments[:3]:
        die(one)
    drainer.collect()
    drainer.close()
    drainer.journal.close()
    for one in segments[3:]:
        one.close()
    assert (len(os.listdir("/proc/self/fd")) if clocks.LINUX else 0) == before


def tally(steps: int) -> Tallies:
    return Tallies({"shop.fetch": CoroutineTally("task", steps=steps)}, {}, {}, carrier="pure Python")


def test_what_loops_counted_in_a_child_is_read_with_its_segment(drainer: Drainer, segment: SegmentWriter) -> None:
    file = TallyFile(segment.path.with_suffix(SUFFIX))
    file.write(tally(7))
    told = [*drainer.collect().counted, *drainer.collect().counted]
    file.write(tally(9))
    told += drainer.collect().counted
    file.close()
    name = told[0].source
    assert told == [
        Counted(name, tally(7), anew=True, ended=False),
        Counted(name, tally(7), anew=False, ended=False),
        Counted(name, tally(9), anew=True, ended=False),
    ]


def test_the_last_word_of_a_dead_child_s_loops_is_read_and_its_file_goes(
    drainer: Drainer, segment: SegmentWriter
) -> None:
    file = TallyFile(segment.path.with_suffix(SUFFIX))
    file.write(tally(23))
    file.close()
    die(segment)
    assert [(one.tallies, one.ended) for one in drainer.collect().counted] == [(tally(23), True)]
    assert (drainer.collect().counted, file.path.exists()) == ([], False)


def test_what_loops_of_a_dead_child_left_torn_is_a_counted_drop(drainer: Drainer, segment: SegmentWriter) -> None:
    file = TallyFile(segment.path.with_suffix(SUFFIX))
    file.write(tally(7))
    file.close()
    overwrite(file.path, 100, b"torn")
    die(segment)
    assert drainer.collect().dropped == {"damaged": 1}
