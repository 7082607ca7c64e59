"""What the kernel says about processes and threads: CPU used, time spent waiting for a CPU, identity.

Everything is in seconds. A process or thread that is gone, belongs to somebody else, or runs on a system that does
not tell gives None; nothing here raises. No descriptor stays open: a pool child forked later inherits none of them.
Measured on Linux 6.18: `process_cpu` 1.3 us; `RunDelay.read` 12 us for a process with one thread, else 8 us and 8 us a
thread.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskwatt import procfs

if TYPE_CHECKING:
    import resource

PROC: Final = Path("/proc")
LINUX: Final = sys.platform.startswith("linux")

_CPUCLOCK_SCHED: Final = 2
_CPUCLOCK_THREAD: Final = 4
_SINCE_BOOT: Final = 7
"""CLOCK_BOOTTIME, which /proc/uptime shows and processes' starts are told by."""
_SINGLE_THREADED_LINKS: Final = 3
"""Links of /proc/<pid>/task with one thread in it: `.`, `..` and the thread."""

own_cpu = time.process_time
"""CPU seconds of this process, its exited threads included, its children not."""


def process_cpu(pid: int) -> float | None:
    """CPU seconds of a process, its exited threads included; also of a zombie (Linux)."""
    if LINUX and pid > 0:
        return _read_clock((~pid << 3) | _CPUCLOCK_SCHED)
    return _psutil_cpu(pid)


def thread_cpu(ident: int) -> float | None:
    """CPU seconds of a live thread of this process, by `threading.get_ident()`; None for one that has ended.

    An ident of no live thread must not reach pthreads (it reads freed memory), hence the look-up first.
    """
    clock = thread_clock(ident)
    return None if clock is None else _read_clock(clock)


def thread_clock(ident: int) -> int | None:
    """The clock to hand to `time.clock_gettime`, which raises OSError for it once the thread has ended."""
    if sys.platform == "darwin" or sys.platform == "win32":
        return None
    if ident not in sys._current_frames():  # pyright: ignore[reportPrivateUsage]  # documented, its underscore notwithstanding
        return None
    try:
        return time.pthread_getcpuclockid(ident)
    except (OSError, OverflowError, AttributeError):
        return None


class ThreadClocks:
    """CPU of the threads of this process that Python knows, added up; one that ended keeps what it was last seen with.

    Threads of ours have names that begin with `taskwatt`. 0.5 us a thread on Linux, where a thread's number is all it
    takes and one that is gone is an error.
    """

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}
        self.agent = 0.0
        self.others = 0.0

    def read(self) -> None:
        """Add what was used since the last call."""
        seen: dict[int, float] = {}
        for thread in threading.enumerate():
            number, used = thread.native_id, self._used(thread)
            if number is None or used is None:
                continue
            seen[number] = used
            before = self._seen.get(number, 0.0)
            gained = used - before if used >= before else used  # its number was given to a new thread
            if thread.name.startswith("taskwatt"):
                self.agent += gained
            else:
                self.others += gained
        self._seen = seen

    def _used(self, thread: threading.Thread) -> float | None:
        if LINUX and thread.native_id is not None:
            return _read_clock((~thread.native_id << 3) | _CPUCLOCK_SCHED | _CPUCLOCK_THREAD)
        return thread_cpu(thread.ident) if thread.ident is not None else None


def run_delay(pid: int, proc: Path = PROC) -> float | None:
    """Seconds that the live threads of a process have waited for a CPU; goes back when one ends, see `RunDelay`."""
    waits = _thread_delays(pid, proc)
    return sum(waits.values()) if waits else None


class RunDelay:
    """Run-queue delay of one process that never goes backwards: threads that ended keep what they had waited."""

    def __init__(self, pid: int, proc: Path = PROC) -> None:
        self._pid = pid
        self._proc = proc
        self._ended = 0.0
        self._threads: dict[int, float] = {}
        self._seen = False

    def read(self) -> float | None:
        """Seconds so far; None until the kernel told something. After the process ended: its last figure."""
        waits = _thread_delays(self._pid, self._proc) or {}
        for thread, before in self._threads.items():
            if waits.get(thread, -1.0) < before:  # ended, or its number was given to a new thread
                self._ended += before
        self._threads = waits
        self._seen = self._seen or bool(waits)
        return self._ended + sum(waits.values()) if self._seen else None


def start_time(pid: int, proc: Path = PROC) -> int | None:
    """Clock ticks from boot to the start of a process: with its pid, who it is. None when gone or unknown."""
    fields = _stat_fields(pid, proc)
    return int(fields[19]) if len(fields) > 19 and fields[19].isdigit() else None


def is_zombie(pid: int, proc: Path = PROC) -> bool:
    """Has the process ended without having been reaped?"""
    fields = _stat_fields(pid, proc)
    return bool(fields) and fields[0] in (b"Z", b"X")


def is_single_threaded(proc: Path = PROC) -> bool:
    """Has this process one thread, of Python's or of any library's? False where nobody tells."""
    try:
        return os.stat(f"{proc}/self/task").st_nlink == _SINGLE_THREADED_LINKS
    except OSError:
        return False


def max_rss(usage: resource.struct_rusage) -> int:
    """Largest resident size in bytes; Linux counts in kilobytes, macOS in bytes."""
    return usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024


def affinity(pid: int) -> frozenset[int] | None:
    """The CPUs that a process may run on; None when gone or unknown."""
    if sys.platform == "darwin" or sys.platform == "win32":
        return None
    try:
        return frozenset(os.sched_getaffinity(pid))
    except (OSError, OverflowError):
        return None


def cpu_count() -> int:
    """CPUs that this process may run on, quotas aside."""
    return len(affinity(0) or ()) or os.cpu_count() or 1


@lru_cache(maxsize=1)
def boot_id() -> str:
    """A UUID that changes with each boot; a constant made from the machine's boot time where there is none to read."""
    text = procfs.read(PROC / "sys/kernel/random/boot_id").decode("ascii", "replace").strip()
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return str(uuid.UUID(int=_boot_time() & (1 << 128) - 1))


def pid_namespace() -> int:
    """Inode of the pid namespace: the same pid in another one is another process. 0 where unknown."""
    try:
        return os.stat(PROC / "self/ns/pid").st_ino
    except OSError:
        return 0


def uptime_ticks(proc: Path = PROC) -> int | None:
    """Clock ticks since boot, comparable with `start_time`."""
    if LINUX and proc is PROC:
        return int(time.clock_gettime(_SINCE_BOOT) * os.sysconf("SC_CLK_TCK"))
    fields = procfs.read(proc / "uptime").split()
    try:
        return int(float(fields[0]) * os.sysconf("SC_CLK_TCK"))
    except (IndexError, ValueError, OSError):
        return None


def _read_clock(clock: int) -> float | None:
    if sys.platform == "win32":
        return None
    try:
        return time.clock_gettime(clock)
    except (OSError, OverflowError, TypeError):  # TypeError: a number too large, from Python 3.13 on
        return None


def _thread_delays(pid: int, proc: Path) -> dict[int, float] | None:
    """Delay by thread; None when the process is gone, empty where the kernel keeps no such figure."""
    task = f"{proc}/{pid}/task"
    try:
        single = os.stat(task).st_nlink == _SINGLE_THREADED_LINKS
        threads = [str(pid)] if single else os.listdir(task)
    except OSError:
        return None
    waits: dict[int, float] = {}
    for thread in threads:
        fields = procfs.read(f"{task}/{thread}/schedstat").split()
        # All zero means that the kernel was built without the figures: a thread that is seen has run.
        if len(fields) == 3 and fields != [b"0", b"0", b"0"] and fields[1].isdigit():
            waits[int(thread)] = int(fields[1]) / 1e9
    return waits


def _stat_fields(pid: int, proc: Path) -> list[bytes]:
    """/proc/<pid>/stat from field 3 (state) on: the name before it may hold blanks and brackets."""
    return procfs.read(f"{proc}/{pid}/stat").rpartition(b")")[2].split()


def _psutil_cpu(pid: int) -> float | None:
    try:
        import psutil

        times = psutil.Process(pid).cpu_times()
    except Exception:  # psutil.Error, a broken install, an impossible pid: unknown either way
        return None
    return float(times.user + times.system)


def _boot_time() -> int:
    try:
        import psutil

        return int(psutil.boot_time())
    except Exception:
        return 0
