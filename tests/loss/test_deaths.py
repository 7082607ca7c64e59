"""However an attempt, its process or its worker ends: it is counted once, and has one span."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from taskwatt.journal import Journal
from tests.loss.books import Told, Truth, nothing_is_lost
from tests.loss.conftest import StartWorker
from tests.support.processes import wait_for
from tests.support.receiver import Receiver
from tests.support.worker import Worker

SOON = "taskwatt.agent.RECOVER_EVERY_S=1.0"
"""A survivor looks for dead agents each second instead of twice a minute."""


def busy_children(worker: Worker) -> list[psutil.Process]:
    """The pool children, once they exist."""
    wait_for(lambda: len(worker.children) >= 2, 30, "two children")
    return worker.children


def tell_to_end(worker: Worker, number: signal.Signals) -> None:
    """As who waits for it would: again when it does not listen.

    Celery 5.7 may wait for ever when SIGQUIT interrupts it while it hands out a task, with or without an agent: its
    handler waits for the result of the task that it keeps from being handed out.
    """
    for _ in range(2):
        worker.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(20)
            return
    worker.end(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_nothing_is_lost_when_a_busy_worker_is_told_to_end(
    start: StartWorker, truth: Truth, told: Told, number: signal.Signals
) -> None:
    worker = start()
    for _ in range(101):
        worker.send("finish", 0.01)
    truth.wait_for_finished(53)
    tell_to_end(worker, number)
    nothing_is_lost(truth, told, 53)
    assert not list((worker.directory / "agents").glob("*/*.seg"))


def test_nothing_is_lost_when_children_are_recycled(start: StartWorker, truth: Truth, told: Told) -> None:
    worker = start("--concurrency", "2", "--max-tasks-per-child", "7")
    for _ in range(97):
        worker.send("finish")
    truth.wait_for_finished(97)
    assert len(truth.pids) >= 97 // 7
    nothing_is_lost(truth, told, 97)


def kill_idle_children(worker: Worker, truth: Truth) -> None:
    for _ in range(53):
        worker.send("finish")
    truth.wait_for_finished(53)
    for child in busy_children(worker):
        child.kill()


def kill_busy_children(worker: Worker, truth: Truth) -> None:
    for _ in range(41):
        worker.send("finish", 0.01)
    worker.send("finish", 60)
    worker.send("finish", 60)
    truth.wait_for_finished(41)
    wait_for(lambda: len(truth.began) == 43, 30, "two attempts in flight")
    for child in busy_children(worker):
        child.kill()


def let_tasks_exit(worker: Worker, truth: Truth) -> None:
    for _ in range(5):
        for _ in range(7):
            worker.send("finish")
        worker.send("finish_and_exit")
        worker.send("finish_and_kill")
    truth.wait_for_finished(45)


def let_tasks_outlive_their_limit(worker: Worker, truth: Truth) -> None:
    for _ in range(2):
        for _ in range(11):
            worker.send("finish")
        worker.send("outlive")
    wait_for(lambda: len(truth.began) == 24, 30, "every attempt")


@pytest.mark.parametrize(
    "ends", [kill_idle_children, kill_busy_children, let_tasks_exit, let_tasks_outlive_their_limit]
)
def test_nothing_is_lost_when_children_die(
    start: StartWorker, truth: Truth, told: Told, ends: Callable[[Worker, Truth], None]
) -> None:
    worker = start()
    ends(worker, truth)
    nothing_is_lost(truth, told, 24)
    before = len(truth.finished)
    for _ in range(13):
        worker.send("finish")
    truth.wait_for_finished(before + 13)
    nothing_is_lost(truth, told, before + 13)


def test_nothing_is_lost_when_children_are_spawned(start: StartWorker, truth: Truth, told: Told) -> None:
    worker = start("--concurrency", "2", "--pool-start-method", "spawn", "--max-tasks-per-child", "23")
    commands = [" ".join(child.cmdline()) for child in busy_children(worker)]
    assert sum("spawn_main" in command for command in commands) >= 2, commands
    for _ in range(61):
        worker.send("finish")
    truth.wait_for_finished(61)
    nothing_is_lost(truth, told, 61)


@pytest.mark.parametrize("interval", ["1000", "60000"])
def test_nothing_is_lost_when_the_main_process_is_killed_and_started_again(
    start: StartWorker, truth: Truth, told: Told, interval: str
) -> None:
    worker = start(OTEL_METRIC_EXPORT_INTERVAL=interval)
    for _ in range(61):
        worker.send("finish", 0.01)
    truth.wait_for_finished(61)
    worker.send("finish", 60)
    wait_for(lambda: len(truth.began) == 62, 30, "an attempt in flight")
    worker.end(signal.SIGKILL)
    killed_ns = time.time_ns()
    worker.start()
    for _ in range(7):
        worker.send("finish")
    truth.wait_for_finished(68)
    worker.end()
    nothing_is_lost(truth, told, 69)
    (interrupted,) = [one for one in told.receiver.spans if one.attributes["taskwatt.task.outcome"] == "cancelled"]
    assert interrupted.end_ns <= killed_ns


def test_nothing_is_lost_when_the_successor_is_killed_as_well(start: StartWorker, truth: Truth, told: Told) -> None:
    worker = start(OTEL_METRIC_EXPORT_INTERVAL="60000")
    for round_no in (1, 2):
        for _ in range(31):
            worker.send("finish")
        truth.wait_for_finished(31 * round_no)
        wait_for(lambda: told.spans.keys() >= truth.finished, 30, "all spans")  # so that only the count can be lost
        worker.end(signal.SIGKILL)
        worker.start()
    worker.end()
    nothing_is_lost(truth, told, 62)


def test_nothing_is_lost_when_main_processes_are_killed_while_the_collector_refuses(
    start: StartWorker, truth: Truth, told: Told, receiver: Receiver
) -> None:
    receiver.refusing = True
    worker = start()
    for round_no in (1, 2):
        for _ in range(31):
            worker.send("finish")
        truth.wait_for_finished(31 * round_no)
        worker.end(signal.SIGKILL)
        receiver.refusing = round_no == 1
        worker.start()
    worker.end()
    nothing_is_lost(truth, told, 62)


@pytest.mark.parametrize("interval", ["1000", "60000"])
def test_nothing_is_lost_when_a_worker_on_the_same_directory_outlives_a_killed_one(
    start: StartWorker, truth: Truth, told: Told, interval: str
) -> None:
    environ = {"OTEL_METRIC_EXPORT_INTERVAL": interval, "TEST_CONSTANTS": SOON}
    other = start("--concurrency", "1", "--hostname", "other@%h", "--queues", "elsewhere", **environ)
    one = start("--concurrency", "2", "--hostname", "one@%h", **environ)
    for _ in range(151):
        one.send("finish", 0.01)
    truth.wait_for_finished(60)
    one.end(signal.SIGKILL)
    wait_for(lambda: len(list((one.directory / "agents").iterdir())) == 1, 30, "one directory")
    wait_for(lambda: told.spans.keys() >= truth.began, 30, "all spans")
    assert tasks_in_the_windows_of(other) == set()  # it did not happen now, and not there
    other.end()
    nothing_is_lost(truth, told, 60)


def tasks_in_the_windows_of(worker: Worker) -> set[str]:
    rows = worker.document()["ledger"]["rows"]
    assert rows
    return {row["task"] for row in rows} - {""}


def test_two_workers_on_one_directory_leave_each_other_alone(start: StartWorker, truth: Truth, told: Told) -> None:
    one = start("--concurrency", "2", "--hostname", "one@%h", TEST_CONSTANTS=SOON)
    other = start("--concurrency", "2", "--hostname", "other@%h", TEST_CONSTANTS=SOON)
    for _ in range(101):
        one.send("finish", 0.02)
    truth.wait_for_finished(101)
    nothing_is_lost(truth, told, 101)
    assert "taskwatt recovered" not in one.log
    one.end()
    other.end()
    nothing_is_lost(truth, told, 101)
    assert list((one.directory / "agents").iterdir()) == []


def test_a_record_that_is_no_spans_is_in_nobodys_way(
    start: StartWorker, truth: Truth, told: Told, receiver: Receiver
) -> None:
    receiver.refusing = True
    worker = start()
    for _ in range(7):
        worker.send("finish")
    truth.wait_for_finished(7)
    (folder,) = (worker.directory / "agents").iterdir()
    wait_for(lambda: Journal(folder).last == 7, 30, "the attempts in the journal")
    worker.end(signal.SIGKILL)
    journal = Journal(folder)
    (_, record) = next(iter(journal.read(0, 1)))
    journal.append([record._replace(sequence=100, user_data=b'{"events": [["hostile", %d, {}]]}' % (1 << 70))])
    journal.append([record._replace(sequence=101)])
    journal.close()
    receiver.refusing = False
    worker.start()
    wait_for(lambda: told.spans.keys() >= truth.finished, 30, "all spans")
    wait_for(lambda: told.dropped.get("span") == 1, 30, "a counted drop")
    wait_for(lambda: told.counted == 9, 30, "a count of every record")
