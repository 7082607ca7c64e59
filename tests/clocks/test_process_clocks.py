"""The kernel's figures for other processes and threads, read from real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from taskwatt import clocks

linux = pytest.mark.skipif(not clocks.LINUX, reason="reads /proc")

BURN = "import time\nwhile time.process_time() < {seconds}: pass\nprint('done', flush=True)\n{then}"


def burner(seconds: float, then: str = "input()") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", BURN.format(seconds=seconds, then=then)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    return process


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_another_process_s_cpu_is_read() -> None:
    with burner(0.3) as process:
        cpu = clocks.process_cpu(process.pid)
        process.communicate("\n")
    assert cpu is not None
    assert 0.3 <= cpu < 0.6


@linux
def test_a_zombie_still_tells_what_it_used_and_a_reaped_one_nothing() -> None:
    with burner(0.3, then="") as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert clocks.is_zombie(process.pid)
        cpu = clocks.process_cpu(process.pid)
        process.wait()
    assert cpu is not None
    assert 0.3 <= cpu < 0.6
    assert not clocks.is_zombie(process.pid)
    assert clocks.process_cpu(process.pid) is None


def test_a_pid_of_nobody_is_unknown_everywhere() -> None:
    pid = dead_pid()
    asked = (
        clocks.process_cpu(pid),
        clocks.run_delay(pid),
        clocks.start_time(pid),
        clocks.affinity(pid),
        clocks.RunDelay(pid).read(),
        clocks.is_zombie(pid),
    )
    assert asked == (None, None, None, None, None, False)


@pytest.mark.parametrize("pid", [-1, 2**40])
def test_an_impossible_pid_raises_nothing(pid: int) -> None:
    assert clocks.start_time(pid) is None
    assert clocks.run_delay(pid) is None
    assert clocks.affinity(pid) is None
    clocks.process_cpu(pid)


def test_own_cpu_agrees_with_the_clock_read_by_pid() -> None:
    before = clocks.own_cpu()
    by_pid = clocks.process_cpu(os.getpid())
    after = clocks.own_cpu()
    assert by_pid is not None
    assert before <= by_pid <= after


@linux
def test_a_thread_s_cpu_is_its_own_and_a_thread_that_ended_is_unknown() -> None:
    burnt, leave = threading.Event(), threading.Event()

    def burn() -> None:
        while time.thread_time() < 0.1:
            pass
        burnt.set()
        leave.wait()

    thread = threading.Thread(target=burn)
    thread.start()
    ident = thread.ident
    assert ident is not None
    burnt.wait()
    cpu = clocks.thread_cpu(ident)
    leave.set()
    thread.join()
    assert cpu is not None
    assert 0.1 <= cpu < 0.2
    assert clocks.thread_cpu(ident) is None


@linux
def test_identity_is_start_time_boot_and_namespace() -> None:
    with burner(0.0) as process:
        mine, other = clocks.start_time(os.getpid()), clocks.start_time(process.pid)
        process.communicate("\n")
    assert mine is not None
    assert other is not None
    assert mine <= other
    assert str(uuid.UUID(clocks.boot_id())) == clocks.boot_id()
    assert clocks.pid_namespace() == os.stat("/proc/self/ns/pid").st_ino


def write_stat(proc: Path, pid: int, name: str, start: int, state: str = "S") -> None:
    (proc / str(pid)).mkdir(parents=True, exist_ok=True)
    fields = [state, *["0"] * 18, str(start), *["0"] * 30]
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")


def test_a_process_name_full_of_brackets_does_not_shift_the_fields(tmp_path: Path) -> None:
    write_stat(tmp_path, 7, "evil) S 1 (", 4711, "Z")
    assert clocks.start_time(7, tmp_path) == 4711
    assert clocks.is_zombie(7, tmp_path)


def write_delay(proc: Path, pid: int, thread: int, seconds: float, line: str | None = None) -> None:
    folder = proc / str(pid) / "task" / str(thread)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schedstat").write_text(line or f"1000 {round(seconds * 1e9)} 5\n")


def end_thread(proc: Path, pid: int, thread: int) -> None:
    folder = proc / str(pid) / "task" / str(thread)
    (folder / "schedstat").unlink()
    folder.rmdir()


def test_run_delay_sums_all_threads_and_keeps_what_ended_ones_had_waited(tmp_path: Path) -> None:
    write_delay(tmp_path, 7, 7, 1.0)
    waits = clocks.RunDelay(7, tmp_path)
    seen = [waits.read()]
    write_delay(tmp_path, 7, 8, 0.5)
    seen.append(waits.read())
    end_thread(tmp_path, 7, 8)
    write_delay(tmp_path, 7, 7, 1.25)
    seen.append(waits.read())
    write_delay(tmp_path, 7, 8, 0.125)  # the number of the ended thread, given to a new one
    seen.append(waits.read())
    end_thread(tmp_path, 7, 8)
    end_thread(tmp_path, 7, 7)
    (tmp_path / "7/task").rmdir()
    seen += [waits.read(), waits.read()]
    assert seen == [1.0, 1.5, 1.75, 1.875, 1.875, 1.875]


def test_a_thread_number_that_is_reused_between_two_reads_never_turns_the_sum_back(tmp_path: Path) -> None:
    write_delay(tmp_path, 7, 7, 1.0)
    write_delay(tmp_path, 7, 8, 0.5)
    waits = clocks.RunDelay(7, tmp_path)
    before = waits.read()
    write_delay(tmp_path, 7, 8, 0.25)
    assert (before, waits.read()) == (1.5, 1.75)


@pytest.mark.parametrize("line", ["0 0 0\n", "\n", "garbage\n", "1 x 2\n"])
def test_a_kernel_that_keeps_no_run_delay_is_unknown_not_zero(tmp_path: Path, line: str) -> None:
    write_delay(tmp_path, 7, 7, 0.0, line)
    assert clocks.run_delay(7, tmp_path) is None
    assert clocks.RunDelay(7, tmp_path).read() is None


@linux
def test_no_descriptor_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    waits = clocks.RunDelay(os.getpid())
    waits.read()
    clocks.start_time(os.getpid())
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_are_added_up_ours_apart_and_one_that_ended_keeps_what_it_used() -> None:
    threads = clocks.ThreadClocks()
    threads.read()
    before = threads.agent, threads.others
    burned, leave = threading.Barrier(3), threading.Event()

    def burn(seconds: float) -> None:
        while time.thread_time() < seconds:
            pass
        burned.wait()
        leave.wait()

    started = [
        threading.Thread(target=burn, args=(seconds,), name=name)
        for name, seconds in (("taskwatt-test", 0.1), ("somebody", 0.2))
    ]
    for thread in started:
        thread.start()
    burned.wait()
    threads.read()
    leave.set()
    for thread in started:
        thread.join()
    threads.read()
    agent, others = threads.agent - before[0], threads.others - before[1]
    assert 0.1 <= agent < 0.15
    assert 0.2 <= others < 0.35


@linux
def test_a_process_has_one_thread_until_it_starts_another() -> None:
    count = (
        "import threading, time; from taskwatt import clocks; one = clocks.is_single_threaded();"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start();"
        "print(one, clocks.is_single_threaded())"
    )
    done = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "True False\n"
